"""Variables of MATLAB's files (.mat, Level 5), as far as lists of images and identities need them.

The format is MathWorks' "MAT-File Format" (Level 5, which MATLAB writes since version 5 and with
``-v7`` compressed). ``scipy.io.loadmat`` reads all of it; this reads numbers, text and cells of
these, which spares an evaluation a dependency of 100 MB for two lists.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from facepack.errors import EvaluationError
from facepack.reading import read_bytes

Value = np.ndarray | str | list["Value"]
"""Numbers, a text, or the cells of a cell array."""

_HEADER = 128
_LARGEST = 1 << 28  # bytes of a compressed variable once it is inflated
_DEPTH = 4  # of cells in cells
_MATRIX, _COMPRESSED = 14, 15
_CELL, _CHAR = 1, 4
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8"}
_NUMBERS[13] = "u8"
_TEXTS = {1: "latin-1", 2: "latin-1", 16: "utf-8"}  # 4 and 17 are UTF-16 in the file's byte order
_NUMERIC_CLASSES = range(6, 16)  # double, single, int8 … uint64


def read_matlab(path: Path) -> dict[str, Value]:
    """The variables of a ``.mat`` file by name; other kinds than numbers, texts, cells are absent.

    Arrays have MATLAB's shape, (n, 1) for a column; the cells of a cell array are a flat list in
    MATLAB's order, down the columns.

    Raises:
        EvaluationError: it cannot be read, or is no Level 5 file.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        raise EvaluationError(
            f"{path}: cannot be read: {error.strerror}; check the name"
        ) from error
    try:
        return _parse(data)
    except (ValueError, struct.error, zlib.error) as error:
        raise EvaluationError(
            f"{path}: is no .mat file of Level 5, or damaged: {error}: fetch it again, or save it "
            "anew in MATLAB with -v7"
        ) from error


def _parse(data: bytes) -> dict[str, Value]:
    # Version 7.3 puts HDF5 behind a header of the same form.
    if data[124:128] in (b"\x00\x02IM", b"\x02\x00MI") or data[:8] == b"\x89HDF\r\n\x1a\n":
        raise ValueError("it is of version 7.3, which is HDF5")
    if data[126:128] not in (b"IM", b"MI"):
        raise ValueError("it has not the header of Level 5")
    order = "<" if data[126:128] == b"IM" else ">"
    variables = {}
    for kind, body in _elements(data[_HEADER:], order):
        if kind == _COMPRESSED:
            kind, body = next(_elements(_inflate(body), order), (0, b""))
        if kind == _MATRIX:
            name, value = _matrix(body, order, _DEPTH)
            if value is not None:
                variables[name] = value
    return variables


def _inflate(body: bytes) -> bytes:
    inflater = zlib.decompressobj()
    data = inflater.decompress(body, _LARGEST)
    if not inflater.eof:
        raise ValueError(f"a variable of more than {_LARGEST:,} bytes, or cut short")
    return data


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Kind and content of each data element, which begin at multiples of eight bytes."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(order + "II", data, at)
        if kind >> 16:  # a small element: size and kind in the first four bytes, content behind
            kind, size, start, stop = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        else:
            start = at + 8
            # Compressed elements alone are not padded.
            stop = start + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if start + size > len(data):
            raise ValueError(f"an element of {size:,} bytes where {len(data) - start:,} are left")
        yield kind, data[start : start + size]
        at = stop


def _matrix(body: bytes, order: str, depth: int) -> tuple[str, Value | None]:
    """Name and value of an array; None for one that is of no interest here."""
    parts = list(_elements(body, order))
    if len(parts) < 3:
        raise ValueError(f"an array of {len(parts)} elements")
    kind = struct.unpack_from(order + "I", parts[0][1])[0] & 0xFF
    shape = tuple(np.frombuffer(parts[1][1], order + "i4").tolist())
    name = parts[2][1].decode("latin-1")
    rest = parts[3:]
    if kind == _CELL:
        if not depth:
            raise ValueError(f"cells nested more than {_DEPTH} deep")
        cells = [_matrix(part, order, depth - 1)[1] for _, part in rest]
        return name, [np.empty(0) if cell is None else cell for cell in cells]
    if kind not in (_CHAR, *_NUMERIC_CLASSES) or not rest:
        return name, None
    stored, content = rest[0]
    if kind == _CHAR:
        sixteen = "utf-16-le" if order == "<" else "utf-16-be"
        text = content.decode(_TEXTS.get(stored, sixteen), "replace")
        if len(shape) == 2 and shape[0] > 1 and len(text) == shape[0] * shape[1]:
            # A matrix of characters: a text a row, filled up with blanks, stored down the columns.
            return name, [text[row :: shape[0]].rstrip() for row in range(shape[0])]
        return name, text
    if stored not in _NUMBERS:
        raise ValueError(f"numbers of the unknown kind {stored}")
    values = np.frombuffer(content, order + _NUMBERS[stored])
    if min(shape, default=0) < 0 or values.size != np.prod(shape, dtype=object):
        raise ValueError(f"{values.size} numbers for the shape {shape}")
    return name, values.reshape(shape, order="F")
