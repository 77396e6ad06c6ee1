"""Protobuf ``Datum`` values, in which Caffe and F2C keep images in LMDB files.

Two messages of that name are about. Caffe's (``caffe.proto``): 1 channels, 2 height, 3 width,
4 data, 5 label, 6 float_data, 7 encoded; the data are an encoded image, or raw pixels (channels,
height, width) in BGR order. F2C's has nothing but the encoded image: in field 1 as their tool
writes it, in field 4 as the reader they ship wants it. Field 1 tells them apart: a number is
Caffe's, bytes are F2C's.

The wire format is read by hand (protobuf.dev, "Encoding"): a field is a varint ``number << 3 |
type``, then a varint (type 0), 8 bytes (1), a length and so many bytes (2), or 4 bytes (5).
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from facepack import images
from facepack.errors import DecodeError
from facepack.images import image_format
from facepack.store.record import Buffer

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_FLOAT_DATA = 6
_LONGEST_VARINT = 10  # bytes
_MOST_FIELDS = 64  # of a message that has seven; each costs time, even if it is skipped
_IMAGE_TAG = 4 << 3 | _BYTES
_PNG_LEVEL = 1  # of zlib: a fifth of the time of its default, for 4 % more bytes


@dataclass(frozen=True, kw_only=True)
class Datum:
    """What a ``Datum`` says of its image.

    Attributes:
        shape: (channels, height, width) of raw pixels; zeros where they are not stated.
        encoded: whether Caffe's flag says that the data are an encoded image.
        data: the encoded image, or raw pixels; empty if there are none.
    """

    shape: tuple[int, int, int] = (0, 0, 0)
    encoded: bool = False
    data: Buffer = b""

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


def datum_image(value: Buffer) -> Buffer:
    """The encoded image of an LMDB value: one that is an image itself, or holds a Datum.

    No Datum begins like an image: the tags of its seven fields are all below the first byte of any
    image format.

    Raises:
        DecodeError: it is neither, or the Datum holds no image.
    """
    return value if image_format(value) is not None else read_datum(value).image()


def pack_datum(image: Buffer) -> bytes:
    """A Datum with the encoded image in field 4, as F2C's shipped reader wants it."""
    return b"".join([bytes([_IMAGE_TAG]), _varint(len(image)), image])


def read_datum(value: Buffer) -> Datum:
    """Read a serialized Datum of Caffe or F2C; a field that repeats counts as it was last.

    Raises:
        DecodeError: not a protobuf message, or a Datum whose pixels are floats.
    """
    numbers = dict.fromkeys((1, 2, 3, 7), 0)
    data: dict[int, Buffer] = {}
    for count, (field, content) in enumerate(_fields(memoryview(value)), start=1):
        if count > _MOST_FIELDS:
            raise DecodeError(f"more than {_MOST_FIELDS} fields: not a Datum")
        if field == _FLOAT_DATA:
            raise DecodeError("its Datum holds pixels as floats; only bytes are taken")
        if isinstance(content, int):
            if field in numbers:
                numbers[field] = content
        elif field in (1, 4):
            data[field] = content
    return Datum(
        shape=(numbers[1], numbers[2], numbers[3]),
        encoded=bool(numbers[7]),
        data=data.get(4) or data.get(1) or b"",
    )


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and content of each field: an integer, or the bytes of anything else."""
    at = 0
    while at < len(data):
        start = at
        tag, at = _read_varint(data, at)
        number, kind = tag >> 3, tag & 7
        if not number:
            raise DecodeError(f"not a Datum: byte {start} begins a field of number 0")
        if kind == _VARINT:
            value, at = _read_varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _read_varint(data, at)
        elif kind in _FIXED_SIZES:
            size = _FIXED_SIZES[kind]
        else:
            raise DecodeError(f"not a Datum: byte {start} begins a field of type {kind}")
        if size > len(data) - at:
            raise DecodeError(
                f"not a whole Datum: field {number} claims {size:,} bytes, {len(data) - at:,} are "
                "left"
            )
        yield number, data[at : at + size]
        at += size


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at byte ``at``, and the byte behind it."""
    value = 0
    for number, byte in enumerate(data[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return value, at + number + 1
    raise DecodeError(f"not a Datum: the number that begins at byte {at} has no end")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


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
