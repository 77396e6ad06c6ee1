"""Glint360K as it is published: one ``.tar.gz`` in seven pieces, each with its MD5 sum.

Source: the sums that InsightFace publishes beside the download (Partial FC).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from facepack.errors import SourceError

MD5 = {
    "glint360k_00": "cf7433cbb915ac422230ba33176f4625",
    "glint360k_01": "589a5ea3ab59f283d2b5dd3242bc027a",
    "glint360k_02": "8d54fdd5b1e4cd55e1b9a714d76d1075",
    "glint360k_03": "cd7f008579dbed9c5af4d1275915d95e",
    "glint360k_04": "64666b324911b47334cc824f5f836d4c",
    "glint360k_05": "a318e4d32493dd5be6b94dd48f9943ac",
    "glint360k_06": "c3ae1dcbecea360d2ec2a43a7b6f1d94",
}
"""The published sum of each piece, by its name."""


def check_pieces(names: Sequence[str]) -> None:
    """Make sure that these file names, if any is a published one, are all seven in their order.

    Raises:
        SourceError: a piece is missing, or not in its place.
    """
    if not any(name in MD5 for name in names):
        return
    missing = [name for name in MD5 if name not in names]
    if missing:
        raise SourceError(
            f"{', '.join(missing)} of Glint360K's seven pieces not given: the archive can only be "
            "read as a whole; pass all seven, or the folder that holds them"
        )
    if list(names) != list(MD5):
        raise SourceError(
            f"the pieces are given as {', '.join(names)}; pass Glint360K's seven pieces alone and "
            "in order, or the folder that holds them"
        )


class PublishedSum:
    """Compares a file with its published MD5, as its bytes go by; one without any is not hashed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._digest = hashlib.md5(usedforsecurity=False) if name in MD5 else None

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._digest is not None:
            self._digest.update(data)

    def check(self) -> None:
        """Compare, once all bytes were taken.

        Raises:
            SourceError: they are not what was published.
        """
        if self._digest is None or self._digest.hexdigest() == MD5[self._name]:
            return
        raise SourceError(
            f"{self._name}: its MD5 is {self._digest.hexdigest()}, the published one "
            f"{MD5[self._name]}: the file is damaged or not complete; fetch this piece again"
        )
