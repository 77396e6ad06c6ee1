"""What an image must pass to be packed, and the changes that may be asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from facepack import encoding, images
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
from facepack.store.record import Buffer, RecordRun, SourceRecord

COLORS = ("keep", "refuse", "convert")


@dataclass(frozen=True, kw_only=True)
class ImageCheck:
    """How closely images are looked at."""

    decode: bool = False  # decode every image instead of reading its header
    # (height, width) in pixels that every image must have; None allows any
    size: tuple[int, int] | None = None
    # what becomes of images that are not three-channel RGB or YCbCr (greyscale, CMYK, palette,
    # transparency): keep packs them as they are, refuse sets them aside, convert encodes them anew
    # (encode_as())
    color: str = "keep"
    # the order of the colours in the images, rgb; or bgr, red and blue swapped, which convert puts
    # right; else they are packed as they are. None: as the source states it, or rgb
    channels: str | None = None
    # (height, width) in pixels at which images of another size are encoded anew, in three channels;
    # those of another shape are set aside, as faces must not be stretched
    resize: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.channels not in (None, *images.CHANNEL_ORDERS):
            orders = ", ".join(images.CHANNEL_ORDERS)
            raise PackError(f"channels {self.channels!r}: allowed are {orders}")
        if self.color not in COLORS:
            raise PackError(f"color {self.color!r}: allowed are {', '.join(COLORS)}")
        for name, size in (("size", self.size), ("resize", self.resize)):
            if size is not None and min(size) < 1:
                raise PackError(f"{name} {size}: allowed are a height and a width from 1")
        if self.resize is not None and self.resize[0] * self.resize[1] > images.MAX_PIXELS:
            raise PackError(f"resize {self.resize}: at most {images.MAX_PIXELS} pixels are decoded")

    def as_json(self) -> dict[str, Any]:
        """As the plan holds it."""
        return {
            **{"decode": self.decode, "size": self.size and list(self.size), "color": self.color},
            **fmt.channels_field(self.channels or "rgb"),
            **({} if self.resize is None else {"resize": list(self.resize)}),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ImageCheck:
        """What :meth:`as_json` gave."""
        size, resize = value["size"], value.get("resize")
        return cls(
            decode=value["decode"],
            size=size and tuple(size),
            color=value["color"],
            channels=value.get(fmt.CHANNELS),
            resize=resize and tuple(resize),
        )

    @property
    def stored_channels(self) -> str:
        """The order of the colours in what is stored."""
        return "rgb" if self.color == "convert" else self.channels or "rgb"

    @property
    def encodes(self) -> bool:
        """Whether images may be stored as others than they were."""
        return self.color == "convert" or self.resize is not None

    @property
    def resized_bytes(self) -> int:
        """The most bytes, about, of an image that is resized; 0 where none is."""
        return 0 if self.resize is None else 3 * self.resize[0] * self.resize[1]

    @property
    def _swaps(self) -> bool:
        """Whether all images are encoded anew, to put their colours right."""
        return self.color == "convert" and self.channels == "bgr"

    def look(self, image: Buffer) -> tuple[Buffer, ImageHeader]:
        """The image to store, the same object unless it is encoded anew, and its header.

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
        size = self._new_size(header)
        converts = self.color == "convert" and (self.channels == "bgr" or header.channels != 3)
        if not (size or converts):
            return image, header
        # Resized alone, it keeps the order of colours that the others have: a pack has one.
        pixels = decode(image, self.channels or "rgb" if converts else "rgb")
        if size:
            pixels = encoding.resize(pixels, size)
        image = encoding.encode_as(header.format, pixels)
        return image, read_header(image)

    def _has_wanted_size(self, header: ImageHeader) -> bool:
        return self.resize is None or (header.height, header.width) == self.resize

    def _new_size(self, header: ImageHeader) -> tuple[int, int] | None:
        """The size that an image is to be brought to; None: it stays as it is.

        Raises:
            UnwantedImageError: it has another shape, by a pixel or more of what it would become.
        """
        if self.resize is None or self._has_wanted_size(header):
            return None
        height, width = self.resize
        if abs(header.width * height - width * header.height) >= max(header.height, header.width):
            raise UnwantedImageError(
                f"it has {header.width}×{header.height} pixels, and at {width}×{height} its face "
                "would be stretched: crop or align it first"
            )
        return self.resize

    def look_at_run(
        self, data: memoryview, starts: np.ndarray, stops: np.ndarray
    ) -> list[ImageHeader | None]:
        """The header of each image that :meth:`look` would take as it is, where quickly told.

        They lie in ``data`` from ``starts`` (n,) to ``stops`` (n,).
        """
        if self.decode or self._swaps or (stops - starts).max(initial=0) > images.MAX_BYTES:
            return [None] * len(starts)
        headers = known_headers(data, starts, stops)
        if self.size is None and self.resize is None and self.color == "keep":
            return headers
        return [header if header and self._takes(header) else None for header in headers]

    def _takes(self, header: ImageHeader) -> bool:
        size_fits = self.size is None or (header.height, header.width) == self.size
        size_fits = size_fits and self._has_wanted_size(header)
        return size_fits and (header.channels == 3 or self.color == "keep")


def take_usual(
    run: RecordRun, check: ImageCheck, take: Callable[[RecordRun, list[ImageHeader]], None]
) -> Iterator[SourceRecord]:
    """Hand the usual records of ``run``, those that follow each other at once, to ``take``.

    The others are yielded, each in its turn: images that ``check`` must look at by themselves, and
    labels that no index holds.
    """
    headers = check.look_at_run(run.data, run.starts, run.stops)
    usual = np.array([header is not None for header in headers], bool)
    usual &= (run.labels >= fmt.NO_IDENTITY) & (run.labels <= fmt.MAX_LABEL)
    start = 0
    for stop in [*np.flatnonzero(~usual).tolist(), len(run)]:
        if stop > start:
            take(run[start:stop], headers[start:stop])  # type: ignore[arg-type]
        if stop < len(run):
            yield from run[stop : stop + 1].records()
        start = stop + 1


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
