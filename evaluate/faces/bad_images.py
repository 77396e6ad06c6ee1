"""Images that do not decode: what is said of them, and when there is nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from facepack.errors import DecodeError

OnBadImage = Literal["raise", "skip"]

_KINDS = 4  # of reasons that are told apart

BAD_IMAGES = "bad images"
"""Under which a result counts them."""


def bad_notice(reasons: Sequence[str], images: int) -> str:
    """What to say of bad images, of ``images``, by the ``reasons`` of all, in order.

    The first of each kind is told in full, with how many there are.
    """
    kinds: dict[str, list[str]] = {}
    for reason in reasons:
        kinds.setdefault(_kind(reason), []).append(reason)
    told = f"{len(reasons):,} of {images:,} images cannot be decoded and have no embedding"
    if len(kinds) == 1:
        return f"{told}, first {reasons[0]}"
    shown = [f"{len(each):,} such as {each[0]}" for each in [*kinds.values()][:_KINDS]]
    if others := sum(map(len, [*kinds.values()][_KINDS:])):
        shown.append(f"{others:,} of other kinds")
    return f"{told}: {'; '.join(shown)}"


def _kind(reason: str) -> str:
    """A reason without what is of one image alone: its name in front, numbers, and details."""
    _, found, rest = reason.partition(": ")
    return re.sub(r"\d[\d,.]*", "N", rest.partition(": ")[0] if found else reason)


def require_one_image(bad: Mapping[int, str], images: int) -> None:
    """A DecodeError if all images are bad: then it is not they that are wrong."""
    if len(bad) == images:
        raise DecodeError(f"none of {images:,} images can be embedded, first {bad[min(bad)]}")
