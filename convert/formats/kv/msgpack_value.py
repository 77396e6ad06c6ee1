"""Values ``[image, label]`` in msgpack, as face_analysis_pytorch and its descendants keep images.

An image is a byte string (or, of msgpack before 1.0, a string), a label a whole number, perhaps as
a float. Two parsers read them: :func:`read_msgpack` takes any value and tells every fault, and
:func:`find_msgpack` takes usual ones by the thousand, and leaves the rest to the other.
``msgpack.unpackb``, which they replace, copies each image, and makes room for what an array's head
claims before it looks whether that is there.

Source: the msgpack specification; ``data/data_loader_train_lmdb.py`` of
vitoralbiero/face_analysis_pytorch and HaiyuWu/SOTA-Face-Recognition-Train-and-Test.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

import msgpack
import numpy as np

from facepack.convert.whole_numbers import as_whole
from facepack.errors import DecodeError
from facepack.store.format import MAX_LABEL
from facepack.store.record import Buffer

PAIR = 0x92  # an array of two elements
_ARRAYS = range(0x90, 0xA0)
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # bytes of their lengths
_WHOLE = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_FLOATS = {0xCA: Struct(">f"), 0xCB: Struct(">d")}
_SIGNED = {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}


class LabelledImage(NamedTuple):
    """What a value holds: an encoded image, and its label if it has one of its own."""

    image: Buffer
    label: int | None


class LabelledImages(NamedTuple):
    """What usual values hold, of many that lie in one piece of memory."""

    usual: np.ndarray  # bool (n,): whether the value is one of these; the others mean nothing here
    starts: np.ndarray  # where each image begins: int64 (n,)
    stops: np.ndarray  # where it ends
    labels: np.ndarray  # int64 (n,)


def begins_msgpack(value: Buffer) -> bool:
    """Whether ``value`` begins as an array of msgpack does."""
    return len(value) > 0 and (value[0] in _ARRAYS or value[0] in (0xDC, 0xDD))


def pack_msgpack(image: Buffer, label: int) -> bytes:
    """The value of a record."""
    packed: bytes = msgpack.packb((image, label))
    return packed


def read_msgpack(value: memoryview) -> LabelledImage:
    """Image and label of a value.

    Raises:
        DecodeError: it is not an array of these two.
    """
    if not len(value) or value[0] != PAIR:
        raise DecodeError("not a msgpack array of two, an image and its label")
    width = _BYTES.get(value[1], 0) if len(value) > 1 else 0
    if not width:
        raise DecodeError("a msgpack array whose first element is no byte string: no encoded image")
    start = 2 + width
    stop = start + int.from_bytes(value[2:start], "big")
    if stop >= len(value):
        raise DecodeError(
            f"its image claims {stop - start:,} bytes, {max(len(value) - start, 0):,} are left "
            "with the label"
        )
    return LabelledImage(value[start:stop], _read_whole(value[stop:]))


def _read_whole(data: memoryview) -> int:
    """The number that ``data``, which is not empty, is in msgpack."""
    code = data[0]
    width = _WHOLE.get(code) or _SIGNED.get(code) or 0
    if len(data) == 1 + width:
        if code <= 0x7F or code >= 0xE0:
            return code if code <= 0x7F else code - 0x100
        if width:
            return int.from_bytes(data[1:], "big", signed=code in _SIGNED)
    found: object = bytes(data[:16])
    if code in _FLOATS and len(data) == 1 + _FLOATS[code].size:
        (found,) = _FLOATS[code].unpack(data[1:])
        whole = as_whole(found)
        if isinstance(whole, int):
            return whole
    raise DecodeError(f"its label is no whole number of msgpack, but {found!r}")


def find_msgpack(data: memoryview, starts: np.ndarray, stops: np.ndarray) -> LabelledImages:
    """The values in ``data``, which is not empty, at ``starts`` to ``stops``, both int64 (n,)."""
    octets = np.frombuffer(data, np.uint8)

    def at(places: np.ndarray) -> np.ndarray:
        """The bytes there; what lies behind the memory is not used, whatever it is."""
        return octets[np.minimum(places, len(octets) - 1)].astype(np.int64)

    def number(places: np.ndarray, widths: np.ndarray) -> np.ndarray:
        """The big-endian numbers there, of 1, 2 or 4 bytes."""
        value = np.zeros(len(places), np.int64)
        for k in range(4):
            value = np.where(k < widths, value << 8 | at(places + k), value)
        return value

    code = at(starts + 1)
    width = np.select([code == 0xC4, code == 0xC5, code == 0xC6], [1, 2, 4], 0)
    begins = starts + 2 + width
    ends = begins + number(starts + 2, width)
    code = at(ends)
    tail = np.select([code <= 0x7F, code == 0xCC, code == 0xCD, code == 0xCE], [0, 1, 2, 4], -1)
    labels = np.where(tail == 0, code, number(ends + 1, np.maximum(tail, 0)))
    usual = (at(starts) == PAIR) & (width > 0) & (tail >= 0) & (labels <= MAX_LABEL)
    # The sum is right only if every part of it was: what is longer or shorter is told by the other.
    usual &= ends + 1 + tail == stops
    return LabelledImages(usual, begins, ends, labels)
