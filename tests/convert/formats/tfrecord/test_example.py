"""Examples: the fast parser against the one for all, and both against Google's own."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matrix.makers import example, submessage, varint

from facepack.convert.formats.tfrecord.example import Feature, find_usual, read_example
from facepack.errors import DecodeError

IMAGE = b"\xff\xd8\xff" + bytes(300)
USUAL = {"image/encoded": IMAGE, "image/filename": b"7/1.jpg", "image/source_id": 12_345}

Values = dict[bytes, tuple[str, list[Any]]]


def read(data: bytes) -> Values:
    """What :func:`read_example` finds, its views as bytes."""
    return {name: plain(feature) for name, feature in read_example(memoryview(data)).items()}


def plain(feature: Feature) -> tuple[str, list[Any]]:
    values = [bytes(v) if isinstance(v, memoryview) else v for v in feature.values]
    return feature.kind, values


def read_usual(data: bytes, *, before: bytes = b"xyz", behind: bytes = b"\n\n\n") -> Values | None:
    """What :func:`find_usual` finds, with other bytes around."""
    whole = memoryview(before + data + behind)
    found = find_usual(whole, len(before), len(before) + len(data))
    if found is None:
        return None
    return {
        name: ("int64", [value])
        if isinstance(value, int)
        else ("bytes", [bytes(whole[slice(*value)])])
        for name, value in found.items()
    }


@pytest.mark.parametrize("packed", [True, False])
def test_what_trainers_write_is_usual(packed: bool) -> None:
    data = example(USUAL, packed=packed)
    assert read(data) == read_usual(data)
    assert read(data) == {
        b"image/encoded": ("bytes", [IMAGE]),
        b"image/filename": ("bytes", [b"7/1.jpg"]),
        b"image/source_id": ("int64", [12_345]),
    }


def feature(name: str, kind: int, values: bytes) -> bytes:
    return submessage(1, submessage(1, name.encode()) + submessage(2, submessage(kind, values)))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", {}),
        (submessage(1, b""), {}),
        (example({"a": -1}), {b"a": ("int64", [-1])}),
        (example({"a": 2**62}), {b"a": ("int64", [2**62])}),
        (example({"a": 0.5}), {b"a": ("float", [0.5])}),
        (example({"n" * 200: 3}), {b"n" * 200: ("int64", [3])}),
        # several values, packed and not, in one list or two
        (submessage(1, feature("a", 3, submessage(1, b"\x01\x02"))), {b"a": ("int64", [1, 2])}),
        (submessage(1, feature("a", 3, b"\x08\x01\x08\x02")), {b"a": ("int64", [1, 2])}),
        (
            submessage(1, feature("a", 1, submessage(1, b"x") + submessage(1, b""))),
            {b"a": ("bytes", [b"x", b""])},
        ),
        (
            submessage(1, feature("a", 2, b"\x0d" + struct.pack("<f", 2) * 1)),
            {b"a": ("float", [2.0])},
        ),
        # no list, an empty one, and another in its place
        (submessage(1, submessage(1, submessage(1, b"a"))), {b"a": ("", [])}),
        (submessage(1, feature("a", 1, b"")), {b"a": ("bytes", [])}),
        (example({"a": b"x"}) + example({"a": 5}), {b"a": ("int64", [5])}),
        (
            submessage(
                1,
                submessage(
                    1, submessage(1, b"a") + submessage(2, submessage(1, b"") + submessage(3, b""))
                ),
            ),
            {b"a": ("int64", [])},
        ),
        # fields that nobody knows
        (varint(9 << 3) + b"\x05" + example({"a": 5}), {b"a": ("int64", [5])}),
    ],
)
def test_what_is_unusual_is_read_as_well(data: bytes, expected: Values) -> None:
    assert read(data) == expected
    assert read_usual(data) in (None, expected)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"\x0a", "the number that begins at byte 1 has no end"),
        (b"\x0a\x05abc", "field 1 claims 5 bytes, 3 are left"),
        (example(USUAL)[:-1], "not a whole"),
        (b"\x0b", "type 3"),
        (submessage(1, b"\x0a\0" * 300), "more than 256 fields"),
        (b"".join(example({str(k): 1}) for k in range(9)), "more than 8 fields"),
        (submessage(1, feature("a", 3, b"\x08\x01" * 70_000)), "more than 65536"),
        (submessage(1, feature("a", 3, submessage(1, b"\x01" * 70_000))), "more than 65536"),
        (submessage(1, feature("a", 2, submessage(1, bytes(5)))), "floats of 5 bytes"),
        (submessage(1, feature("a", 2, submessage(1, bytes(400_000)))), "floats of 400,000"),
    ],
)
def test_what_is_no_example_is_refused_in_words(data: bytes, complaint: str) -> None:
    with pytest.raises(DecodeError, match=complaint):
        read(data)
    assert read_usual(data) is None


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.one_of(
            st.integers(-(2**63), 2**63 - 1), st.binary(max_size=300), st.floats(width=32)
        ).filter(lambda value: value == value),
        max_size=6,
    ),
    st.booleans(),
)
def test_examples_are_read_as_they_were_written(
    features: dict[str, bytes | int | float], packed: bool
) -> None:
    data = example(features, packed=packed)
    kinds = {bytes: "bytes", int: "int64", float: "float"}
    expected = {name.encode(): (kinds[type(value)], [value]) for name, value in features.items()}
    assert read(data) == expected
    assert read_usual(data) in (None, expected)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """``data`` with a few bytes changed, left out or put in near its ends, where numbers are."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.choice([rng.randrange(len(out)), rng.randrange(min(60, len(out)))])
        action = rng.randrange(3)
        if action == 0:
            out[at] = rng.choice([rng.randrange(256), out[at] ^ 1 << rng.randrange(8)])
        elif action == 1 and len(out) > 1:
            del out[at]
        else:
            out.insert(at, rng.choice([0, 8, 10, 18, 26, 128, 255]))
    return bytes(out)


def test_the_fast_parser_says_nothing_else_of_damaged_examples() -> None:
    rng = random.Random(0)
    data = example({**USUAL, "image/encoded": IMAGE[:40]})
    told = 0
    for _ in range(10_000):
        message = mutated(data, rng)
        found = read_usual(message)
        if found is not None:
            assert found == read(message)
            told += 1
    assert told > 1_000


@pytest.fixture(scope="module")
def google() -> Callable[[bytes], Values | None]:
    """Google's own parser; None of what it refuses."""
    pool = pytest.importorskip("google.protobuf.descriptor_pool")
    from google.protobuf import descriptor_pb2, message_factory
    from google.protobuf.message import DecodeError as GoogleError

    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    for name, kind in (("BytesList", 12), ("FloatList", 2), ("Int64List", 3)):
        message = file.message_type.add(name=name)
        message.field.add(name="value", number=1, label=3, type=kind)
    message = file.message_type.add(name="Feature")
    message.oneof_decl.add(name="kind")
    for number, (name, kind) in enumerate(
        (("bytes", "BytesList"), ("float", "FloatList"), ("int64", "Int64List")), start=1
    ):
        message.field.add(
            name=name, number=number, label=1, type=11, type_name=f".t.{kind}", oneof_index=0
        )
    message = file.message_type.add(name="Features")
    entry = message.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=1, type=9)
    entry.field.add(name="value", number=2, label=1, type=11, type_name=".t.Feature")
    message.field.add(
        name="feature", number=1, label=3, type=11, type_name=".t.Features.FeatureEntry"
    )
    message = file.message_type.add(name="Example")
    message.field.add(name="features", number=1, label=1, type=11, type_name=".t.Features")
    descriptors = pool.DescriptorPool()
    descriptors.Add(file)
    kind = message_factory.GetMessageClass(descriptors.FindMessageTypeByName("t.Example"))

    def parse(data: bytes) -> Values | None:
        try:
            parsed = kind.FromString(data)
        except GoogleError:
            return None
        found = {}
        for name, feature in parsed.features.feature.items():
            which = feature.WhichOneof("kind")
            values = list(getattr(feature, which).value) if which else []
            found[name.encode()] = (which or "", values)
        return found

    return parse


def test_all_that_google_reads_is_read_alike(google: Callable[[bytes], Values | None]) -> None:
    rng = random.Random(1)
    base = example({"a": b"\xff\xd8" * 9, "b": 300, "c": -7, "d": 1.5})
    compared = 0
    for _ in range(10_000):
        data = mutated(base, rng)
        expected = google(data)
        if expected is None:
            continue
        try:
            found = read(data)
        except DecodeError:
            # Groups (types 3 and 4), and more than 64 bits, are nothing that anyone writes.
            continue
        # Google's drops whole entries that have a field of another number.
        assert {*map(repr, expected.items())} <= {*map(repr, found.items())}, data
        compared += 1
    assert compared > 500
