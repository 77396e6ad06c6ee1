"""A verification set (``lfw.bin`` and its like) as a source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from facepack.convert.pickles import read_bin
from facepack.convert.source import Refusal, Span, cut, file_name, require_file, shard_stem
from facepack.shard import SourceRecord

_REMEDY = "fetch the set again; the pairs of this image are left out"


class BinSource:
    """The distinct images of a ``.bin``, in the order of their first use, and its pairs.

    Verification sets repeat images (lfw.bin has 7,701 different ones among 12,000); each is stored,
    and embedded, once.

    Args:
        path: the ``.bin`` file.

    Raises:
        SourceError: the file is malformed, or asks for what a pickle of images has no need of.
    """

    kind = "bin"
    content = "pairs"
    classes: int | None = None

    def __init__(self, path: Path) -> None:
        require_file(path)
        self._path = path
        self._bytes = path.stat().st_size
        loaded = read_bin(path)
        self.issame = np.asarray(loaded.issame, bool)
        distinct: dict[bytes, int] = {}
        digest = xxhash.xxh3_128()
        self.images: list[Any] = []
        use = []
        for image in loaded.images:
            own = xxhash.xxh3_128_digest(image)
            digest.update(own)
            at = distinct.setdefault(own, len(self.images))
            if at == len(self.images):
                self.images.append(image)
            use.append(at)
        self.uses = np.asarray(use, np.int64)  # (2P,) distinct image of each place
        self._digest = digest.hexdigest()
        self.notices: list[str] = []

    def __len__(self) -> int:
        return len(self.images)

    def describe(self) -> dict[str, Any]:
        """File name and size, pairs, and a hash of all images and flags."""
        return {
            "kind": self.kind,
            "file": file_name(self._path),
            "bytes": self._bytes,
            "images": len(self.images),
            "pairs": len(self.issame),
            "content_xxh3_128": self._digest,
            "issame_xxh3_128": xxhash.xxh3_128_hexdigest(self.issame.tobytes()),
        }

    @property
    def payload_bytes(self) -> int:
        """Bytes of all distinct images."""
        return sum(map(len, self.images))

    def spans(self, *, records: int, size: int) -> list[Span]:
        """One span a shard; a verification set nearly always makes one."""
        sizes = np.fromiter(map(len, self.images), np.int64, len(self.images))
        return cut(shard_stem(self._path.stem), sizes, records=records, size=size)

    def read(self, start: int, stop: int) -> Iterator[SourceRecord | Refusal]:
        """The distinct images ``[start, stop)``; they have no identity."""
        for ordinal in range(start, stop):
            yield SourceRecord(ordinal, self.images[ordinal], -1)

    def refuse(self, record: SourceRecord, reason: str) -> Refusal:
        """The refusal of an image, by its first place in the set."""
        place = int(np.argmax(self.uses == record.ordinal))
        return Refusal(record.ordinal, file_name(self._path), None, str(place), reason, _REMEDY)

    def identity_name(self, label: int) -> str | None:
        """None: a verification set tells same from different, not who it is."""
        return None

    def tables(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """``pairs``: unsigned integers (P, 3), positions of both images and 1 for the same person.

        Pairs of refused images are left out, with a notice.
        """
        columns = [positions[self.uses[0::2]], positions[self.uses[1::2]], self.issame]
        pairs = np.stack(columns, axis=1)
        whole = pairs.min(axis=1, initial=0) >= 0
        if not whole.all():
            self.notices.append(
                f"{self._path.name}: {np.count_nonzero(~whole)} of {len(whole)} pairs are left out "
                "because an image of theirs was refused: later folds shift, so that results do not "
                "compare with published ones"
            )
        narrow = np.min_scalar_type(max(len(positions) - 1, 1)).newbyteorder("<")
        return {"pairs": pairs[whole].astype(narrow)}
