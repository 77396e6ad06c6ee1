"""Images on pages: made anew, small, and held in the page."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from facepack.view.sheet import thumbnail

_SIDE = 112  # pixels
_QUALITY = 88


@dataclass(frozen=True, kw_only=True)
class PageImage:
    """An image on a page: its key, and a small JPEG of it or why there is none."""

    key: str
    jpeg: bytes = b""
    reason: str = ""

    @classmethod
    def from_pixels(cls, key: str, pixels: np.ndarray) -> PageImage:
        """Of uint8 RGB (height, width, 3): a browser is not handed what strangers encoded."""
        buffer = io.BytesIO()
        thumbnail(pixels, _SIDE).save(buffer, "JPEG", quality=_QUALITY)
        return cls(key=key, jpeg=buffer.getvalue())
