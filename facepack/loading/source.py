"""What a loader asks of the images that it loads: a pack has it, and so may anything else."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np


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
