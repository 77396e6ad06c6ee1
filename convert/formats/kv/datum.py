"""Protobuf ``Datum`` values, in which Caffe and F2C keep images in LMDB files.

Two messages of that name are about. Caffe's (``caffe.proto``): 1 channels, 2 height, 3 width,
4 data, 5 label, 6 float_data, 7 encoded; the data are an encoded image, or raw pixels (channels,
height, width) in BGR order. F2C's has nothing but the encoded image: in field 1 as their tool
writes it, in field 4 as the reader they ship wants it. Field 1 tells them apart: a number is
Caffe's, bytes are F2C's.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from facepack import images
from facepack.convert.protobuf import BYTES, pack_varint, read_fields
from facepack.errors import DecodeError
from facepack.images import image_format
from facepack.store.record import Buffer

_LABEL, _FLOAT_DATA = 5, 6
_MOST_FIELDS = 64  # of a message that has seven; each costs time, even if it is skipped
_IMAGE_TAG = 4 << 3 | BYTES
_PNG_LEVEL = 1  # of zlib: a fifth of the time of its default, for 4 % more bytes


@dataclass(frozen=True, kw_only=True)
class Datum:
    """What a ``Datum`` says of its image."""

    # (channels, height, width) of raw pixels; zeros where they are not stated
    shape: tuple[int, int, int] = (0, 0, 0)
    encoded: bool = False  # whether Caffe's flag says that the data are an encoded image
    data: Buffer = b""  # the encoded image, or raw pixels; empty if there are none
    label: int | None = None  # Caffe's, if it has one

    def image(self) -> Buffer:
        """The encoded image; raw pixels become a PNG, in RGB or greyscale, without loss.

        Raises:
            DecodeError: there is none, or the pixels are not what the Datum says of them.
        """
        if not len(self.data):
            raise DecodeError("its Datum holds no image: neither field 4 nor field 1 has bytes")
        raw = math.prod(self.shape)
        if self.encoded or not raw:
            return self.data
        if len(self.data) == raw:
            return _png(self.data, self.shape)
        if image_format(self.data) is None:
            channels, height, width = self.shape
            raise DecodeError(
                f"its Datum tells of {channels}×{height}×{width} raw pixels, {raw:,} bytes, and "
                f"holds {len(self.data):,}"
            )
        return self.data


def pack_datum(image: Buffer) -> bytes:
    """A Datum with the encoded image in field 4, as F2C's shipped reader wants it."""
    return b"".join([bytes([_IMAGE_TAG]), pack_varint(len(image)), image])


def read_datum(value: Buffer) -> Datum:
    """Read a serialized Datum of Caffe or F2C; a field that repeats counts as it was last.

    Raises:
        DecodeError: not a protobuf message, or a Datum whose pixels are floats.
    """
    numbers = dict.fromkeys((1, 2, 3, 7), 0)
    label = None
    data: dict[int, Buffer] = {}
    for count, (field, content) in enumerate(read_fields(memoryview(value), "Datum"), start=1):
        if count > _MOST_FIELDS:
            raise DecodeError(f"more than {_MOST_FIELDS} fields: not a Datum")
        if field == _FLOAT_DATA:
            raise DecodeError("its Datum holds pixels as floats; only bytes are taken")
        if isinstance(content, int):
            if field in numbers:
                numbers[field] = content
            elif field == _LABEL:  # int32, so that what is negative is written as 64 bits
                label = content - (content >> 63 << 64)
        elif field in (1, 4):
            data[field] = content
    return Datum(
        shape=(numbers[1], numbers[2], numbers[3]),
        encoded=bool(numbers[7]),
        data=data.get(4) or data.get(1) or b"",
        label=label,
    )


def _png(data: Buffer, shape: tuple[int, int, int]) -> bytes:
    channels, height, width = shape
    if channels not in (1, 3):
        raise DecodeError(f"its Datum holds raw pixels of {channels} channels; 1 or 3 are taken")
    if height * width > images.MAX_PIXELS:
        raise DecodeError(
            f"{width}×{height} pixels; at most {images.MAX_PIXELS} are taken, unless the "
            "environment variable FACEPACK_MAX_PIXELS says more"
        )
    planes = np.frombuffer(data, np.uint8).reshape(shape)
    pixels = planes[0] if channels == 1 else np.ascontiguousarray(planes[::-1].transpose(1, 2, 0))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()
