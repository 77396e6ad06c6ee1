"""The wire format of protobuf (protobuf.dev, "Encoding"), as far as formats of images need it.

A field is a varint ``number << 3 | type``, then a varint (type 0), 8 bytes (1), a length and so
many bytes (2), or 4 bytes (5).
"""

from __future__ import annotations

from collections.abc import Iterator

from facepack.errors import DecodeError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

_FIXED_SIZES = {FIXED64: 8, FIXED32: 4}
_LONGEST_VARINT = 10  # bytes


def read_fields(data: memoryview, message: str) -> Iterator[tuple[int, int | memoryview]]:
    """Number and content of each field: an integer, or the bytes of anything else.

    Raises:
        DecodeError: it is none.
    """
    at = 0
    while at < len(data):
        start = at
        tag, at = read_varint(data, at, message)
        number, kind = tag >> 3, tag & 7
        if not number:
            raise DecodeError(f"not a {message}: byte {start} begins a field of number 0")
        if kind == VARINT:
            value, at = read_varint(data, at, message)
            yield number, value
            continue
        if kind == BYTES:
            size, at = read_varint(data, at, message)
        elif kind in _FIXED_SIZES:
            size = _FIXED_SIZES[kind]
        else:
            raise DecodeError(f"not a {message}: byte {start} begins a field of type {kind}")
        if size > len(data) - at:
            raise DecodeError(
                f"not a whole {message}: field {number} claims {size:,} bytes, {len(data) - at:,} "
                "are left"
            )
        yield number, data[at : at + size]
        at += size


def read_varint(data: memoryview, at: int, message: str) -> tuple[int, int]:
    """The number that begins at byte ``at``, and the byte behind it; as :func:`read_fields`."""
    value = 0
    for number, byte in enumerate(data[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return value, at + number + 1
    raise DecodeError(f"not a {message}: the number that begins at byte {at} has no end")


def pack_varint(value: int) -> bytes:
    """``value``, which is not negative, as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
