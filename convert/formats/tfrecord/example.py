"""Protobuf ``Example`` messages, in which TensorFlow's trainers keep images and their labels.

``Example`` has ``Features`` in field 1, which has in field 1, as often as there are features, a map
entry: 1 the name, 2 a ``Feature``. This is one of: 1 a list of bytes, 2 of floats, 3 of integers;
their values are in field 1. Of what repeats the last counts, as for every reader of protobuf.

Two parsers read them: :func:`read_example` takes any, and :func:`find_usual` those that have one
value for each feature and no odd field, as nearly all have, in a third of the time. Google's own
protobuf is faster by far, and cannot be required beside TensorFlow's versions of it.

Source: TensorFlow ``tensorflow/core/example/example.proto`` and ``feature.proto`` (2.20).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from facepack.convert.protobuf import read_fields, read_varint
from facepack.errors import DecodeError

_MESSAGE = "tf.train.Example"
_MOST_FEATURES = 256
_MOST_VALUES = 65_536  # numbers of a feature; each costs time, even if it is skipped
_MOST_FIELDS = 8  # of a message that has one or two
_BYTES, _FLOATS, _INTEGERS = 1, 2, 3  # fields of a Feature
_ONE = 0x0A  # field 1, bytes
_SIGN = 1 << 63

Value = memoryview | float | int


class Feature(NamedTuple):
    """The values of a feature: all bytes, floats or integers."""

    kind: str  # "bytes", "float" or "int64"; empty where no list is set
    values: list[Value]


_EMPTY = Feature("", [])


def read_example(data: memoryview) -> dict[bytes, Feature]:
    """The features of a serialized ``Example``, by name.

    Raises:
        DecodeError: it is none, or has more features or values than any of an image.
    """
    features: dict[bytes, Feature] = {}
    for message in _messages(data, 1):
        for entry in _messages(message, 1, most=_MOST_FEATURES):
            name, feature = b"", _EMPTY
            for number, content in _few_fields(entry):
                if number == 1 and not isinstance(content, int):
                    name = bytes(content)
                elif number == 2 and not isinstance(content, int):
                    feature = _read_feature(content)
            features[name] = feature
            if len(features) > _MOST_FEATURES:
                raise DecodeError(f"more than {_MOST_FEATURES} features: not of an image")
    return features


def _few_fields(
    data: memoryview, most: int = _MOST_FIELDS
) -> Iterator[tuple[int, int | memoryview]]:
    for count, field in enumerate(read_fields(data, _MESSAGE), start=1):
        if count > most:
            raise DecodeError(f"a message with more than {most} fields: not of an image")
        yield field


def _messages(data: memoryview, number: int, most: int = _MOST_FIELDS) -> Iterator[memoryview]:
    """The bytes of each field ``number``."""
    for field, content in _few_fields(data, most):
        if field == number and not isinstance(content, int):
            yield content


def _read_feature(data: memoryview) -> Feature:
    feature = _EMPTY
    for number, content in _few_fields(data):
        if isinstance(content, int) or number not in (_BYTES, _FLOATS, _INTEGERS):
            continue
        kind = {_BYTES: "bytes", _FLOATS: "float", _INTEGERS: "int64"}[number]
        values = _read_values(number, content)
        # The same list in two pieces is one list; another one takes its place.
        feature = Feature(kind, feature.values + values if kind == feature.kind else values)
    return feature


def _read_values(list_field: int, data: memoryview) -> list[Value]:
    """The values of a list; those of numbers may be packed into one field."""
    values: list[Value] = []
    for number, content in _few_fields(data, _MOST_VALUES):
        if number != 1:
            continue
        if list_field == _INTEGERS:
            at = 0
            while not isinstance(content, int) and at < len(content):
                value, at = read_varint(content, at, _MESSAGE)
                values.append(_signed(value))
                _limit(values)
            if isinstance(content, int):
                values.append(_signed(content))
        elif isinstance(content, int):
            continue
        elif list_field == _BYTES:
            values.append(content)
        elif len(content) > 4 * _MOST_VALUES or len(content) % 4:
            raise DecodeError(f"a list of floats of {len(content):,} bytes: not of an image")
        else:
            values += struct.unpack(f"<{len(content) // 4}f", content)
        _limit(values)
    return values


def _limit(values: list[Value]) -> None:
    if len(values) > _MOST_VALUES:
        raise DecodeError(f"a feature of more than {_MOST_VALUES} values: not of an image")


def _signed(value: int) -> int:
    """A varint as protobuf's int64: what has more bits is cut to 64."""
    value &= 2 * _SIGN - 1
    return value - 2 * _SIGN if value & _SIGN else value


def find_usual(data: memoryview, at: int, end: int) -> dict[bytes, tuple[int, int] | int] | None:
    """The features of an ``Example`` that has one value, bytes or a number, for each.

    As :func:`read_example`, where there is nothing odd; None where there might be. The message lies
    in ``data`` from ``at`` to ``end``.

    Returns:
        By name, the bounds of bytes in ``data``, or the number.
    """
    found: dict[bytes, tuple[int, int] | int] = {}
    try:
        if data[at] != _ONE:
            return None
        size, at = _read_small(data, at + 1)
        if at + size != end:
            return None
        while at < end:
            if data[at] != _ONE:
                return None
            size, at = _read_small(data, at + 1)
            entry_end = at + size
            if entry_end > end or data[at] != _ONE:
                return None
            size, at = _read_small(data, at + 1)
            name = bytes(data[at : at + size])
            at += size
            if data[at] != 2 << 3 | 2:
                return None
            size, at = _read_small(data, at + 1)
            kind = data[at]
            if at + size != entry_end:
                return None
            size, at = _read_small(data, at + 1)
            if at + size != entry_end:
                return None
            tag = data[at]
            if tag == _ONE:  # bytes, or numbers that are packed
                size, at = _read_small(data, at + 1)
                if at + size != entry_end:
                    return None
            if kind == _INTEGERS << 3 | 2:
                value, at = _read_small(data, at if tag == _ONE else at + 1)
                if at != entry_end or tag not in (_ONE, 1 << 3):
                    return None
                found[name] = value
            elif kind == _BYTES << 3 | 2 and tag == _ONE:
                found[name] = at, entry_end
            else:
                return None
            at = entry_end
    except IndexError:
        return None
    return found if len(found) <= _MOST_FEATURES else None


def _read_small(data: memoryview, at: int) -> tuple[int, int]:
    """A varint of up to four bytes, and the byte behind it; IndexError where there is none."""
    first = data[at]
    if first < 0x80:
        return first, at + 1
    second = data[at + 1]
    if second < 0x80:
        return first & 0x7F | second << 7, at + 2
    third = data[at + 2]
    if third < 0x80:
        return first & 0x7F | (second & 0x7F) << 7 | third << 14, at + 3
    fourth = data[at + 3]
    if fourth < 0x80:
        return first & 0x7F | (second & 0x7F) << 7 | (third & 0x7F) << 14 | fourth << 21, at + 4
    raise IndexError(at)
