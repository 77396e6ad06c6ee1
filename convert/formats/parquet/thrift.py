"""Thrift's compact protocol, as far as Parquet describes itself in it.

Source: Apache Thrift, ``doc/specs/thrift-compact-protocol.md``.
"""

from __future__ import annotations

from typing import Any

_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 12
_INTEGERS = (4, 5, 6)
_DEEPEST = 16  # values within values; Parquet has some eight
_LONGEST_VARINT = 10  # bytes


def read_struct(data: memoryview, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """The structure that begins at byte ``at``, and the byte behind it.

    Its fields by number: booleans, integers, lists, structures, and the bytes of whatever else.

    Raises:
        ValueError: there is none, or it has what Parquet's have not.
        IndexError: the bytes end before it does.
    """
    fields: dict[int, Any] = {}
    number = 0
    while (head := data[at]) != _STOP:
        at += 1
        kind = head & 0x0F
        if head >> 4:
            number += head >> 4
        else:
            number, at = _integer(data, at)
        if kind in (_TRUE, _FALSE):
            fields[number] = kind == _TRUE
        else:
            fields[number], at = _value(data, at, kind, depth + 1)
    return fields, at + 1


def _value(data: memoryview, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if depth > _DEEPEST:
        raise ValueError(f"byte {at}: values lie too deep in each other")
    if kind in _INTEGERS:
        return _integer(data, at)
    if kind == _STRUCT:
        return read_struct(data, at, depth)
    if kind == _LIST:
        return _list(data, at, depth)
    if kind == _BINARY:
        size, at = read_varint(data, at)
    elif kind in (_TRUE, _FALSE, _BYTE):  # a boolean here is one of a list
        size = 1
    elif kind == _DOUBLE:
        size = 8
    else:
        raise ValueError(f"byte {at}: a value of type {kind}")
    if size > len(data) - at:
        raise IndexError
    return data[at : at + size], at + size


def _list(data: memoryview, at: int, depth: int) -> tuple[list[Any], int]:
    head = data[at]
    at += 1
    count = head >> 4
    if count == 0x0F:
        count, at = read_varint(data, at)
    values = []
    for _ in range(count):  # each takes a byte at least, so that a count too great ends with them
        value, at = _value(data, at, head & 0x0F, depth + 1)
        values.append(value)
    return values, at


def _integer(data: memoryview, at: int) -> tuple[int, int]:
    value, at = read_varint(data, at)
    return value >> 1 ^ -(value & 1), at


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at byte ``at``, and the byte behind it; as :func:`read_struct`."""
    value = 0
    for place in range(_LONGEST_VARINT):
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError(f"byte {at}: a number has no end")
