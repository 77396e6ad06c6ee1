"""Databases whose records hold their own labels: msgpack, pickles, Datums."""

from __future__ import annotations

import json
import os
import pickle
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepack.convert.formats.kv.keys import Keys
from facepack.convert.formats.kv.msgpack_value import find_msgpack, pack_msgpack, read_msgpack
from facepack.convert.formats.kv.source import KvSource
from facepack.convert.formats.kv.value import read_value
from facepack.convert.source import Entry, Refusal
from facepack.errors import DecodeError, SourceError
from facepack.store.format import MAX_LABEL
from facepack.store.record import SourceRecord

MakeJpeg = Callable[..., bytes]
Pack = Callable[[Any], bytes]

PYTHON_2_KEYS = b"(lp0\nS'0'\np1\naS'1'\np2\na."  # pickle.dumps(["0", "1"]) there


def make_database(path: Path, values: dict[bytes, bytes]) -> Path:
    with lmdb.open(str(path), subdir=False, map_size=64 << 20, lock=False, lib_version=0) as env:
        with env.begin(write=True) as transaction:
            for key, value in values.items():
                transaction.put(key, value)
    return path


def make_labelled(
    path: Path, pairs: Sequence[tuple[bytes, Any]], dumps: Pack, **others: bytes
) -> Path:
    """As trainers write it; ``others`` replace or join ``keys``, ``len``, ``classnum``."""
    values = {str(k).encode(): dumps(pair) for k, pair in enumerate(pairs)}
    own = {"keys": dumps(list(values)), "len": dumps(len(pairs)), **others}
    return make_database(path, values | {f"__{k}__".encode(): v for k, v in own.items()})


def records(source: KvSource) -> list[SourceRecord | Refusal]:
    return [
        record for _, start, stop in source.groups() for record in source.part(start, stop).read()
    ]


def told(source: KvSource) -> list[tuple[str | None, int, bytes]]:
    """Name, label and image of each record, none of which is refused."""
    found = records(source)
    assert all(isinstance(record, SourceRecord) for record in found), found
    return [(record.name, record.label, bytes(record.image)) for record in found]  # type: ignore[union-attr]


# What is read -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dumps",
    [
        msgpack.packb,
        lambda value: msgpack.packb(value, use_bin_type=False),
        *(lambda value, p=p: pickle.dumps(value, p) for p in (3, 4, 5)),
    ],
    ids=["msgpack", "old-msgpack", "pickle-3", "pickle-4", "pickle-5"],
)
def test_image_and_label_come_as_they_were_written(
    dumps: Pack, tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    labels = [0, 1, 127, 128, 255, 256, 65_535, 65_536, MAX_LABEL, -1, 5, 5]
    pairs = [(make_jpeg(k), label) for k, label in enumerate(labels)]
    path = make_labelled(tmp_path / "ms1m.lmdb", pairs, dumps, classnum=dumps(4))
    source = KvSource([path])
    expected = [(str(k), label, image) for k, (image, label) in enumerate(pairs)]
    assert told(source) == expected
    assert source.classes == 4 and source.notices == []
    assert [group.stem for group in source.groups()] == ["ms1m"]
    assert list(source.part(2, 5).entries()) == [
        Entry(n, str(k)) for k, n in [*enumerate(labels)][2:5]
    ]
    assert source.sizes().tolist() == [len(dumps(pair)) for pair in pairs]
    first = source.describe()
    assert first == KvSource([path]).describe() and str(tmp_path) not in json.dumps(first)
    path.unlink()
    make_labelled(path, [pairs[1], *pairs[1:]], dumps, classnum=dumps(4))
    assert KvSource([path]).describe() != first


def test_arrays_of_encoded_bytes_and_numbers_of_numpy(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    image = make_jpeg(1)
    flat = np.frombuffer(image, np.uint8)
    pairs = [
        (flat, np.int64(3)),
        (flat[:, None], np.uint8(4)),
        (flat[None], True),
        (bytearray(image), 5),
        (flat, np.array(6)),
        (image, np.array([7], np.uint16)),
    ]
    path = make_labelled(tmp_path / "a.lmdb", pairs, pickle.dumps)
    assert [row[1:] for row in told(KvSource([path]))] == [
        (3, image),
        (4, image),
        (1, image),
        (5, image),
        (6, image),
        (7, image),
    ]


def test_datums_with_labels_need_no_list(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    images = [make_jpeg(k) for k in range(12)]
    values = {b"%d" % k: datum(image, k // 3) for k, image in enumerate(images)}
    path = make_database(tmp_path / "d.lmdb", values)
    # Numbers are in their order, though LMDB has "10" before "2".
    assert told(KvSource([path])) == [(str(k), k // 3, image) for k, image in enumerate(images)]
    assert KvSource([path]).classes is None
    (tmp_path / "d.kv").write_text("3 7\n1 8\n")  # goes before what records say
    source = KvSource([path])
    assert told(source) == [("3", 7, images[3]), ("1", 8, images[1])]
    assert "2 lines for the 12 records" in source.notices[0]


def datum(image: bytes, label: int | None) -> bytes:
    """Caffe's, with the image encoded."""
    size = len(image)
    stated = b"" if label is None else b"\x28" + bytes([label])
    return bytes([0x22, size & 127 | 128, size >> 7]) + image + stated + b"\x38\x01"


@pytest.mark.parametrize("several", [False, True])
def test_a_datum_without_a_label_has_label_0_where_none_states_that(
    several: bool, tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    """Writers by proto3 leave zeros out; where others are stated, what is missing is missing.

    An image by itself is no Datum, and has no label all the same.
    """
    images = [make_jpeg(k) for k in range(200)]
    labels = [k % 4 or None for k in range(200)]

    def database(name: str, **other: bytes) -> KvSource:
        values = {b"%d" % k: datum(images[k], labels[k]) for k in range(200)}
        values |= {key.encode(): value for key, value in other.items()}
        path = make_database(tmp_path / f"{name}.lmdb", values)
        first = make_labelled(tmp_path / f"{name}-1.lmdb", [(images[0], 6)], msgpack.packb)
        return KvSource([first, path] if several else [path])

    shift = 7 if several else 0
    left_out = database("left-out")
    expected = [(str(k), shift + (labels[k] or 0), images[k]) for k in range(200)]
    assert told(left_out)[several:] == expected
    start = len(left_out) - 200
    assert [entry.label for entry in left_out.part(start, start + 5).entries()] == [
        shift + k % 4 for k in range(5)
    ]
    assert "a Datum without a label has label 0" in left_out.notices[-1]
    # One record of all, which is none of those that are looked at first.
    stated = database("stated", **{"105": datum(images[105], 0)})
    refused = [record for record in records(stated) if isinstance(record, Refusal)]
    assert len(refused) == 50 and {each.reason for each in refused} == {
        "it has no label of its own"
    }
    assert not stated.notices and stated.describe() != left_out.describe()
    plain = [
        r for r in records(database("plain", **{"105": images[105]})) if isinstance(r, Refusal)
    ]
    assert [each.key for each in plain] == ["105"]


@pytest.mark.parametrize("dumps", [msgpack.packb, pickle.dumps], ids=["msgpack", "pickle"])
def test_the_list_of_keys_says_which_records_count_and_in_what_order(
    dumps: Pack, tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    pairs = [(make_jpeg(k), k) for k in range(12)]
    for number, keys in enumerate(
        ([b"7", b"11", b"0"], ["7", "11", "0"], [7, 11, 0], [b"7", b"gone", b"0"])
    ):
        path = make_labelled(tmp_path / f"{number}.lmdb", pairs, dumps, keys=dumps(keys))
        source = KvSource([path])
        names = [record.name for record in records(source) if isinstance(record, SourceRecord)]
        refused = [record for record in records(source) if isinstance(record, Refusal)]
        assert names == (["7", "0"] if refused else ["7", "11", "0"])
        assert [(each.key, each.reason) for each in refused] == [
            ("gone", "the database has no such key")
        ] * (number == 3)
        assert "names 3 of its 12 records" in source.notices[0]
        assert "__len__ is 12, but 3 records count" in source.notices[1]


def test_keys_as_python_2_pickled_them(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    pairs = [(make_jpeg(k), k) for k in range(2)]
    path = make_labelled(tmp_path / "a.lmdb", pairs, pickle.dumps, keys=PYTHON_2_KEYS)
    assert [name for name, *_ in told(KvSource([path]))] == ["0", "1"]


def test_labels_of_several_databases_are_offset(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    own = {"a": [0, 4, -1], "b": [1, -1], "c": [0, 2]}
    for name, labels in own.items():
        pairs = [(make_jpeg(k), label) for k, label in enumerate(labels)]
        make_labelled(tmp_path / f"{name}.lmdb", pairs, msgpack.packb, classnum=msgpack.packb(9))
    paths = [tmp_path / f"{name}.lmdb" for name in own]
    source = KvSource(paths)
    assert [label for _, label, _ in told(source)] == [0, 4, -1, 6, -1, 7, 9]
    assert [entry.label for entry in source.part(3, 5).entries()] == [6, -1]
    assert source.classes is None
    kept = KvSource(paths, offset_labels=False)
    assert [label for _, label, _ in told(kept)] == [0, 4, -1, 1, -1, 0, 2]
    (tmp_path / "b.kv").write_text("0 3\n1 0\n")
    assert [label for _, label, _ in told(KvSource(paths))] == [0, 4, -1, 8, 5, 9, 11]


def test_label_0_of_datums_without_one_is_counted_where_no_other_label_is(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    """The next database's labels begin behind it, not with it."""
    image = make_jpeg(0)
    none = datum(image, None) + b"\x28" + b"\xff" * 9 + b"\x01"
    first = make_database(tmp_path / "a.lmdb", {b"0": datum(image, None), b"1": none})
    second = make_labelled(tmp_path / "b.lmdb", [(image, 0)], msgpack.packb)
    assert [label for _, label, _ in told(KvSource([first, second]))] == [0, -1, 1]


def test_a_label_that_is_too_large_behind_others_is_refused(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    image = make_jpeg(0)
    first = make_labelled(tmp_path / "a.lmdb", [(image, 4)], msgpack.packb)
    for dumps in (msgpack.packb, pickle.dumps):
        pairs = [(image, MAX_LABEL - 5), (image, MAX_LABEL - 4), (image, -1)]
        second = make_labelled(tmp_path / f"{dumps.__name__}.lmdb", pairs, dumps)
        _, fits, large, none = records(KvSource([first, second]))
        assert isinstance(fits, SourceRecord) and fits.label == MAX_LABEL
        assert isinstance(large, Refusal) and "behind the 5 identities" in large.reason
        assert isinstance(none, SourceRecord) and none.label == -1


@pytest.mark.parametrize(
    "value",
    [
        *(pickle.dumps((b"image", 3.0), protocol) for protocol in range(6)),
        *(pickle.dumps((b"image", kind(3))) for kind in (np.float16, np.float32, np.float64)),
        pickle.dumps([b"image", np.array([3.0], ">f8")]),
        msgpack.packb([b"image", 3.0]),
        msgpack.packb([b"image", 3.0], use_single_float=True),
    ],
)
def test_a_whole_number_may_be_a_float(value: bytes) -> None:
    found = read_value(memoryview(value), pickled=value[0] != 0x92)
    assert (bytes(found.image), found.label) == (b"image", 3) and type(found.label) is int


@pytest.mark.parametrize("dumps", [msgpack.packb, pickle.dumps])
def test_labels_that_are_floats(tmp_path: Path, make_jpeg: MakeJpeg, dumps: Pack) -> None:
    pairs = [(make_jpeg(k), label) for k, label in enumerate([0.0, 2.0, 2.0, -1.0])]
    source = KvSource([make_labelled(tmp_path / "a.lmdb", pairs, dumps)])
    assert [label for _, label, _ in told(source)] == [0, 2, 2, -1]
    assert [entry.label for entry in source.part(0, 4).entries()] == [0, 2, 2, -1]


# What is refused --------------------------------------------------------------------------------


class Harm:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harmed",)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (
            pickle.dumps((Harm(), 1)),
            r"names posix\.system, which could run code .* nothing was run",
        ),
        (pickle.dumps((np.zeros((8, 8, 3), np.uint8), 1)), "an array of 3 axes"),
        (pickle.dumps((np.zeros(8, np.float32), 1)), "its image is a float32 array"),
        (pickle.dumps((np.zeros(8, np.complex64), 1)), "an array of dtype"),
        (pickle.dumps((np.zeros(8, np.uint16), 1)), "its image is a uint16 array"),
        (pickle.dumps({"image": b"x", "label": 1}), "opcode EMPTY_DICT"),
        (pickle.dumps([b"x"] * 3), "a list of 3 elements; expected a pair"),
        (pickle.dumps(("x", 1)), "its image is text"),
        (pickle.dumps((b"x", "Zoë")), "its label is text; expected a whole number"),
        (pickle.dumps((b"x", 1.5)), "its label is 1.5; expected a whole number"),
        (pickle.dumps((b"x", np.float32(np.nan))), "its label is nan; expected a whole number"),
        (pickle.dumps((b"x", np.array([np.inf]))), "its label is inf; expected a whole number"),
        (pickle.dumps((b"x", 10**30)), "its label is 1000000000000000000000000000000; allowed"),
        (pickle.dumps((b"x", -2)), "its label is -2; allowed are 0 to"),
        (pickle.dumps([[b"x"]] * 400), "more values than a file of this size should have"),
        (pickle.dumps((b"x", 1))[:-4], "a frame of 9 bytes, 5 are left"),
        (msgpack.packb([b"x", 1, b"mask"]), "not a msgpack array of two"),
        (msgpack.packb([b"x"]), "not a msgpack array of two"),
        (msgpack.packb([[1], 1]), "whose first element is no byte string"),
        (msgpack.packb([b"x", "1"]), "its label is no whole number"),
        (msgpack.packb([b"x", 1.5]), r"its label is no whole number of msgpack, but 1\.5"),
        (msgpack.packb([b"x", np.nan]), "its label is no whole number of msgpack, but nan"),
        (msgpack.packb([b"x", 1e30]), r"its label is 10{12}\d+; allowed"),
        (msgpack.packb([b"x", -2.0]), "its label is -2; allowed"),
        (msgpack.packb([b"x", 2**64 - 1]), "its label is 18446744073709551615; allowed"),
        (msgpack.packb([b"x", 1]) + b"\0", "its label is no whole number"),
        (b"\x92\xc6\xff\xff\xff\xffxx", "its image claims 4,294,967,295 bytes, 2 are left"),
        (b"\x92", "whose first element is no byte string"),
        (b"\x92\xc5", r"its image claims 0 bytes, 0 are left"),
        (b"\xdd\xff\xff\xff\xff", "not a msgpack array of two"),
    ],
)
def test_a_value_that_is_no_image_with_its_label(
    value: bytes, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DecodeError, match=complaint) as raised:
        read_value(memoryview(value))
    assert ("encode each image" in (raised.value.remedy or "")) == (
        "array" in complaint and "msgpack" not in complaint
    )
    assert not (tmp_path / "harmed").exists()


def test_a_bad_value_is_refused_by_itself(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    pairs = [(make_jpeg(k), k) for k in range(6)]
    good = [msgpack.packb(pair) for pair in pairs]
    values = {b"%d" % k: value for k, value in enumerate(good)}
    values |= {b"1": pickle.dumps((Harm(), 1)), b"2": good[2][:-30], b"4": pairs[4][0], b"5": b""}
    values[b"__keys__"] = msgpack.packb(sorted(values))
    source = KvSource([make_database(tmp_path / "a.lmdb", values)])
    found = records(source)
    assert [isinstance(record, Refusal) for record in found] == [
        False,
        True,
        True,
        False,
        True,
        True,
    ]
    reasons = [record.reason for record in found if isinstance(record, Refusal)]
    assert "posix.system" in reasons[0] and "are left with the label" in reasons[1]
    assert reasons[2] == "it has no label of its own" and "holds no image" in reasons[3]
    assert [entry.label for entry in source.part(0, 6).entries()] == [0, -1, -1, 3, -1, -1]


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        (b"\0\0\0\0\1\0\0\0", "__keys__: byte 0: 0x00 is no opcode; expected .* pyarrow.serialize"),
        (b"\xdd\xff\xff\xff\xff\xa1x", "__keys__: .*expected a list of keys"),
        (msgpack.packb([b"0", None]), "an element that is no key"),
        (msgpack.packb([b"0", [b"1"]]), "expected a list of keys"),
        (msgpack.packb([b"0", {}]), "an element that is no key"),
        (msgpack.packb([b"0", b"k" * 512]), "expected a list of keys"),
        (pickle.dumps([b"0", b""]), "an element that is no key"),
        (pickle.dumps([b"0", None]), "opcode NONE"),
        (pickle.dumps([Harm()]), "opcode STACK_GLOBAL"),
        (pickle.dumps([b"0", b"1"])[:-1], "is cut short"),
        (msgpack.packb([]), "lists no records"),
    ],
)
def test_a_list_of_keys_that_is_none(
    keys: bytes, complaint: str, tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    pairs = [(make_jpeg(k), k) for k in range(2)]
    path = make_labelled(tmp_path / "a.lmdb", pairs, msgpack.packb, keys=keys)
    with pytest.raises(SourceError, match=rf"a\.lmdb: .*{complaint}"):
        KvSource([path])


# Twins ------------------------------------------------------------------------------------------

values = st.one_of(
    st.builds(
        pack_msgpack,
        st.binary(max_size=300),
        st.integers(-(2**63), 2**64 - 1) | st.integers(0, 300),
    ),
    st.binary(max_size=12).map(lambda tail: b"\x92\xc4" + tail),
    st.binary(max_size=40),
)


@given(st.lists(values, min_size=1, max_size=8))
def test_the_fast_parser_agrees_with_the_slow_one(listed: list[bytes]) -> None:
    ends = np.cumsum([len(value) for value in listed])
    starts = ends - [len(value) for value in listed]
    data = memoryview(b"".join(listed))
    if not data:
        return
    found = find_msgpack(data, starts, ends)
    for k, value in enumerate(listed):
        try:
            slow = read_value(memoryview(value)) if value[:1] == b"\x92" else None
        except DecodeError:
            slow = None
        if found.usual[k]:
            assert slow is not None
            assert bytes(data[found.starts[k] : found.stops[k]]) == bytes(slow.image)
            assert found.labels[k] == slow.label
        elif slow is not None:  # what trainers do not write
            assert slow.label is not None
            assert slow.label < 0 or value[1] in (0xD9, 0xDA, 0xDB) or value[1] == 0xC4


@given(st.binary(max_size=300), st.integers(-(2**63), 2**64 - 1))
def test_a_value_is_read_as_msgpack_reads_it(image: bytes, label: int) -> None:
    value = pack_msgpack(image, label)
    assert [*map(bytes, read_msgpack(memoryview(value))[:1])] == msgpack.unpackb(value)[:1]
    assert read_msgpack(memoryview(value)).label == msgpack.unpackb(value)[1]


@given(
    st.lists(st.binary(min_size=1, max_size=5), unique=True, max_size=40),
    st.lists(st.binary(min_size=1, max_size=5), max_size=40),
    st.randoms(),
)
def test_keys_are_found_as_by_a_table(
    own: list[bytes], others: list[bytes], chance: random.Random
) -> None:
    wanted = own + others
    chance.shuffle(wanted)
    table = {key: row for row, key in enumerate(own)}
    keys = Keys.of(own)
    assert list(keys) == own and keys.lengths().tolist() == [*map(len, own)]
    assert keys.find(Keys.of(wanted)).tolist() == [table.get(key, -1) for key in wanted]
    assert [keys.row_of(key) for key in wanted] == [table.get(key) for key in wanted]
    rows = np.array([table[key] for key in wanted if key in table], np.int64)
    assert list(keys.take(rows)) == [own[row] for row in rows]


# Mutated values ---------------------------------------------------------------------------------


def mutated(value: bytes, chance: random.Random) -> bytes:
    """``value`` with some bytes changed, cut or doubled; heads and tails more than others."""
    data = bytearray(value)
    for _ in range(chance.randint(1, 4)):
        near = chance.choice((12, 40, len(data)))
        at = chance.randrange(min(near, len(data)) or 1)
        at = chance.choice((at, max(len(data) - 1 - at, 0)))
        match chance.randrange(5):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del data[at : at + chance.randint(1, 8)]
            case 2:
                data[at:at] = bytes(chance.choices(range(256), k=chance.randint(1, 8)))
            case 3:
                data[at : at + 4] = chance.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
            case 4:
                data[at:at] = data[: chance.randint(1, 16)]
    return bytes(data)


@pytest.mark.parametrize(
    "dumps",
    [
        msgpack.packb,
        pickle.dumps,
        lambda pair: pickle.dumps((np.frombuffer(pair[0], np.uint8), pair[1])),
    ],
    ids=["msgpack", "pickle", "array"],
)
def test_mutated_values_are_read_or_refused(dumps: Pack, make_jpeg: MakeJpeg) -> None:
    whole = dumps((make_jpeg(0), 3))
    for seed in range(1500):
        value = mutated(whole, random.Random(seed))
        try:
            image, label = read_value(memoryview(value), pickled=dumps is not msgpack.packb)
            assert len(image) <= len(value) and (label is None or -1 <= label <= MAX_LABEL)
        except DecodeError as error:
            assert str(error)
