"""What a loader asks of the images that it loads: a pack has it, and so may anything else."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np
import xxhash


class ImageSource(Protocol):
    """Encoded, labelled images by position; :class:`facepack.Pack` is one."""

    @property
    def path(self) -> Path:
        """Where they lie."""

    @property
    def content_id(self) -> str:
        """Tells their content from any other, wherever they lie."""

    @property
    def labels(self) -> np.ndarray:
        """int64 (len(self),); -1 means no identity."""

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) of the images in pixels; None where sizes differ."""

    @property
    def channels(self) -> str:
        """The order of the colours in what is encoded, ``rgb`` or ``bgr``; loaders give RGB."""

    def __len__(self) -> int: ...

    def key(self, index: int, /) -> str:
        """What messages call the image at a position."""

    def views(
        self, positions: Sequence[int] | np.ndarray, /
    ) -> AbstractContextManager[list[memoryview]]:
        """The encoded images at ``positions``, valid inside the ``with``; for any thread."""


def pack_of(source: ImageSource) -> str:
    """The ``pack_id`` of the pack that a source's keys number the records of; else empty."""
    return str(getattr(source, "pack_id", ""))


class ChosenImages:
    """Some images of a source, at ``positions`` (n,), in an order of their own."""

    def __init__(self, source: ImageSource, positions: np.ndarray) -> None:
        self._source = source
        self._positions = positions
        self.path = source.path
        self.labels = np.asarray(source.labels)[positions]
        self.image_size, self.channels = source.image_size, source.channels
        digest = xxhash.xxh3_128(source.content_id.encode())
        digest.update(positions.astype("<i8").tobytes())
        self.content_id = digest.hexdigest()
        self.pack_id = pack_of(source)

    def __len__(self) -> int:
        return len(self._positions)

    def key(self, index: int) -> str:
        """The image's key in the source."""
        return self._source.key(int(self._positions[index]))

    def views(
        self, positions: Sequence[int] | np.ndarray
    ) -> AbstractContextManager[list[memoryview]]:
        """As the source's."""
        return self._source.views(self._positions[np.asarray(positions, np.int64)])
