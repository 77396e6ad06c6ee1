"""A verification set (``lfw.bin`` and its like) as a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from facepack.convert.formats.pairs.pair_set import HeldPart, PairSource, held_sizes
from facepack.convert.formats.pairs.pickles import read_bin, set_name
from facepack.convert.source_file import file_name, require_file


class BinSource(PairSource):
    """The distinct images of a ``.bin``, in the order of their first use, and its pairs.

    ``data`` is its content where it is no file of its own but, say, in an archive; ``path`` then
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
        return held_sizes(self.images)

    def part(self, start: int, stop: int) -> HeldPart:
        """The distinct images ``[start, stop)``; refusals call them by their first number."""
        images = [bytes(image) for image in self.images[start:stop]]
        keys = list(map(str, self._numbers[start:stop]))
        return HeldPart(start, file_name(self._path), images, keys, [None] * len(images))
