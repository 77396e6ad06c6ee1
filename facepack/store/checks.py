"""What an image must pass to be packed, and the one change that may be asked for."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from facepack import images
from facepack.errors import DecodeError, PackError, UnwantedImageError
from facepack.images import (
    ImageHeader,
    check_decodes,
    check_image,
    decode,
    known_headers,
    read_header,
)
from facepack.store import format as fmt
from facepack.store.record import Buffer

COLORS = ("keep", "refuse", "convert")
_QUALITY = 95  # of a JPEG whose colours were converted


@dataclass(frozen=True, kw_only=True)
class ImageCheck:
    """How closely images are looked at.

    Attributes:
        decode: decode every image instead of reading its header.
        size: (height, width) in pixels that every image must have; None allows any.
        color: what becomes of images that are not three-channel RGB or YCbCr (greyscale, CMYK,
            palette, transparency): ``keep`` packs them as they are, ``refuse`` sets them aside,
            ``convert`` encodes them anew, a JPEG as JPEG (quality 95, 4:4:4), others as PNG.
        channels: the order of the colours in the images, ``rgb``; or ``bgr``, red and blue swapped,
            which ``convert`` puts right; else they are packed as they are. None: as the source
            states it, or ``rgb``.
    """

    decode: bool = False
    size: tuple[int, int] | None = None
    color: str = "keep"
    channels: str | None = None

    def __post_init__(self) -> None:
        if self.channels not in (None, *images.CHANNEL_ORDERS):
            orders = ", ".join(images.CHANNEL_ORDERS)
            raise PackError(f"channels {self.channels!r}: allowed are {orders}")
        if self.color not in COLORS:
            raise PackError(f"color {self.color!r}: allowed are {', '.join(COLORS)}")
        if self.size is not None and min(self.size) < 1:
            raise PackError(f"size {self.size}: allowed are a height and a width from 1")

    def as_json(self) -> dict[str, Any]:
        """As the plan holds it."""
        return {
            **{"decode": self.decode, "size": self.size and list(self.size), "color": self.color},
            **fmt.channels_field(self.channels or "rgb"),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ImageCheck:
        """What :meth:`as_json` gave."""
        size = value["size"]
        return cls(
            decode=value["decode"],
            size=size and tuple(size),
            color=value["color"],
            channels=value.get(fmt.CHANNELS),
        )

    @property
    def stored_channels(self) -> str:
        """The order of the colours in what is stored."""
        return "rgb" if self.color == "convert" else self.channels or "rgb"

    @property
    def _swaps(self) -> bool:
        """Whether all images are encoded anew, to put their colours right."""
        return self.color == "convert" and self.channels == "bgr"

    def look(self, image: Buffer) -> tuple[Buffer, ImageHeader]:
        """The image to store, the same bytes unless colours are converted, and its header.

        Raises:
            DecodeError: it cannot be decoded, or is too large.
            UnwantedImageError: it is not what was asked for.
        """
        require_size(image)
        header = check_decodes(image) if self.decode else check_image(image)
        if self.size is not None and (header.height, header.width) != self.size:
            height, width = self.size
            raise UnwantedImageError(
                f"it has {header.width}×{header.height} pixels, not the {width}×{height} asked for"
            )
        if header.channels != 3 and self.color == "refuse":
            raise UnwantedImageError(f"it has {header.channels} colour channels, not 3")
        if self._swaps or (header.channels != 3 and self.color == "convert"):
            image = _encode(decode(image, self.channels or "rgb"), header.format)
            header = read_header(image)
        return image, header

    def look_at_run(
        self, data: memoryview, starts: np.ndarray, stops: np.ndarray
    ) -> list[ImageHeader | None]:
        """The header of each image that :meth:`look` would take as it is, where quickly told.

        Args:
            data: memory that holds the images.
            starts: (n,), where each begins in it.
            stops: (n,), where it ends.
        """
        if self.decode or self._swaps or (stops - starts).max(initial=0) > images.MAX_BYTES:
            return [None] * len(starts)
        headers = known_headers(data, starts, stops)
        if self.size is None and self.color == "keep":
            return headers
        return [header if header and self._takes(header) else None for header in headers]

    def _takes(self, header: ImageHeader) -> bool:
        size_fits = self.size is None or (header.height, header.width) == self.size
        return size_fits and (header.channels == 3 or self.color == "keep")


def require_size(image: Buffer) -> None:
    """Make sure that an image has no more bytes than are taken.

    Raises:
        DecodeError: it has.
    """
    if len(image) > images.MAX_BYTES:
        raise DecodeError(
            f"{len(image):,} bytes; at most {images.MAX_BYTES:,} are taken, unless the environment "
            "variable FACEPACK_MAX_IMAGE_BYTES says more"
        )


def _encode(pixels: np.ndarray, like: str) -> bytes:
    if like == "jpeg":
        encoded: bytes = simplejpeg.encode_jpeg(
            pixels, quality=_QUALITY, colorspace="RGB", colorsubsampling="444"
        )
        return encoded
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
