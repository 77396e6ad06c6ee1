"""A verification set (``lfw.bin`` and its like) as a source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facepack.convert.formats.pairs.pair_set import PairSource
from facepack.convert.formats.pairs.pickles import read_bin, set_name
from facepack.convert.source import Entry, OwnPart, Refusal
from facepack.convert.source_file import file_name, require_file
from facepack.store.format import NO_IDENTITY
from facepack.store.record import Buffer, SourceRecord


class BinPart(OwnPart):
    """Some distinct images of a ``.bin``; they have no identity, and are called by their number."""

    remedy = "fetch the set again; the pairs of this image are left out"

    def __init__(self, start: int, images: Sequence[Buffer], numbers: list[int], file: str) -> None:
        self.start, self.stop = start, start + len(images)
        self._images = images
        self._numbers = numbers  # of each in the set, where it is used first
        self._file = file

    def read(self, keep: np.ndarray | None = None) -> Iterator[SourceRecord | Refusal]:
        """The images."""
        for index, image in enumerate(self._images):
            if keep is None or keep[index]:
                yield SourceRecord(self.start + index, image, NO_IDENTITY)

    def entries(self) -> Iterator[Entry]:
        """Neither label nor name."""
        return (Entry(NO_IDENTITY, None) for _ in self._images)

    def _refuse(self, row: int, name: str | None, reason: str, remedy: str) -> Refusal:
        number = str(self._numbers[row])
        return Refusal(self.start + row, self._file, None, number, reason, remedy)


class BinSource(PairSource):
    """The distinct images of a ``.bin``, in the order of their first use, and its pairs.

    Args:
        path: the ``.bin`` file.
        data: its content, where it is no file of its own but, say, in an archive; ``path`` then
            only names it.

    Raises:
        SourceError: the file is malformed, or asks for what a pickle of images has no need of.
    """

    kind = "bin"

    def __init__(self, path: Path, *, data: bytes | None = None) -> None:
        if data is None:
            require_file(path)
        self._path = path
        self.name = set_name(path)
        self._bytes = path.stat().st_size if data is None else len(data)
        loaded = read_bin(path, data)
        super().__init__(path.name, loaded.issame)
        self._numbers = self._find_first_uses(loaded.images)
        self.images = [loaded.images[number] for number in self._numbers]

    def __len__(self) -> int:
        return len(self.images)

    def describe(self) -> dict[str, Any]:
        """File name and size, pairs, and a hash of all images and flags."""
        return {
            "kind": self.kind,
            "file": file_name(self._path),
            "bytes": self._bytes,
            "images": len(self.images),
            **super().describe(),
        }

    def sizes(self) -> np.ndarray:
        """Bytes of each distinct image."""
        return np.fromiter(map(len, self.images), np.uint32, len(self.images))

    def part(self, start: int, stop: int) -> BinPart:
        """The distinct images ``[start, stop)``."""
        return BinPart(
            start,
            [bytes(image) for image in self.images[start:stop]],
            self._numbers[start:stop],
            file_name(self._path),
        )
