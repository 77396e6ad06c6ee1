"""F2C's databases as a source: the text, finding pairs, reading values."""

from __future__ import annotations

import pickle
import shutil
import struct
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import lmdb
import msgpack
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from facepack import images
from facepack.convert.formats.kv import data as kv_data
from facepack.convert.formats.kv import index as kv_index
from facepack.convert.formats.kv.datum import pack_datum
from facepack.convert.formats.kv.index import is_plain_key, read_kv
from facepack.convert.formats.kv.source import KvPart, KvSource
from facepack.convert.source import Entry, Group, Refusal
from facepack.convert.spans import cut_spans, payload_bytes
from facepack.errors import SourceError
from facepack.store.record import SourceRecord

MakeJpeg = Callable[..., bytes]
Line = tuple[str, int]


def make_database(path: Path, values: dict[str, bytes], *, subdir: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), map_size=64 << 20, subdir=subdir, lock=False, lib_version=0) as env:
        with env.begin(write=True) as transaction:
            for key, value in values.items():
                transaction.put(key.encode(), value)
    return path


def make_kv(path: Path, lines: Iterable[Line]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key} {label}\n" for key, label in lines))
    return path


@pytest.fixture
def make_pair(tmp_path: Path, make_jpeg: MakeJpeg) -> Callable[..., Path]:
    """``make_pair("a", count=20)``: a folder with faces.lmdb and faces.kv, five images a label."""

    def make(name: str = "a", count: int = 20, stem: str = "faces") -> Path:
        lines = [(f"{name}_{i // 5}_{i % 5}", i // 5) for i in range(count)]
        folder = tmp_path / name
        values = {key: pack_datum(make_jpeg(i)) for i, (key, _) in enumerate(lines)}
        make_database(folder / f"{stem}.lmdb", values)
        make_kv(folder / f"{stem}.kv", lines)
        return folder

    return make


def records(source: KvSource) -> list[SourceRecord | Refusal]:
    return [
        record for _, start, stop in source.groups() for record in source.part(start, stop).read()
    ]


# The text ---------------------------------------------------------------------------------------


def keys_of(path: Path) -> tuple[list[str], list[int]]:
    index = read_kv(path)
    keys = [key.decode() for key in index]
    assert [bytes(index.keys(i, i + 1).key_bytes).decode() for i in range(len(index))] == keys
    joined = index.keys(0, len(index))
    assert joined.key_bytes.decode() == "".join(keys)
    assert joined.key_ends.tolist() == np.cumsum([len(key.encode()) for key in keys]).tolist()
    return keys, index.labels.tolist()


def naive_kv(path: Path) -> tuple[list[str], list[int]]:
    with path.open() as file:
        words = [line.strip().split(" ") for line in file if line.strip()]
    return [key for key, _ in words], [int(label) for _, label in words]


@pytest.mark.parametrize("block", [7, 64, 1 << 20])
def test_a_kv_file_is_read_as_a_plain_loop_reads_it(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_index, "_BLOCK", block)
    path = tmp_path / "a.kv"
    for text in (
        "a 0\n",
        "a 0\nb 1",
        "a 0\r\nbb 12\r\n\r\n",
        "\n\na 0\n\n\nb 99999999\n",
        "../up 3\n/abs/x.jpg 000000004\nnone -1\nnone -0000001\nsame 5\nsame 6\n",
        "müller_0_1 3\nplain 4\n名_1 5\n",
        "k" * 511 + " 7\n",
        "".join(f"db_{i // 3}_{i % 3} {i // 3}\n" for i in range(500)),
    ):
        path.write_bytes(text.encode())
        assert keys_of(path) == naive_kv(path)
    path.write_text("")
    assert len(read_kv(path)) == 0


@pytest.mark.parametrize(
    "line",
    [
        b"key",
        b"key ",
        b" 3",
        b"key  3",
        b" key 3",
        b"key 3 ",
        b"key 3 4",
        b"key\t3",
        b"key x",
        b"key 1.0",
        b"key +1",
        b"key -",
        b"key -2",
        b"key -0",
        b"key --1",
        b"key 1-",
        b"key 100000000",
        b"key 0000000001",
        b"ke\0y 1",
        b"key\x7f 1",
        b"k\xff 1",
        "k\u200b 1".encode(),
        "key \u0663".encode(),
        b"k" * 512 + b" 1",
        b"k" * 2000,
    ],
)
def test_a_malformed_line_is_named(
    line: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.kv"
    for block in (16, 1 << 20):
        monkeypatch.setattr(kv_index, "_BLOCK", block)
        for after in (b"", b"\n", b"\nd 2\n"):
            path.write_bytes(b"a 0\r\n\nb 1\nc 1\n" + line + after)
            with pytest.raises(SourceError, match=r"a\.kv: line 5 is .* expected a key without"):
                read_kv(path)


plain_lines = st.lists(
    st.tuples(st.text("ab_-01/é\u00a0 ", min_size=1, max_size=4), st.integers(-2, 10**9)),
    min_size=1,
    max_size=6,
).map(lambda lines: "".join(f"{key} {label}\n" for key, label in lines).encode())


@given(st.one_of(plain_lines, st.text("ab- \t019\x7f", max_size=30).map(str.encode)))
@example(b"a -\n")
def test_the_fast_parser_agrees_with_the_slow_one(text: bytes) -> None:
    text = kv_index._tidy(text)
    if not text:
        return
    fast, slow = kv_index._parse(text), kv_index._parse_slowly(text)
    assert (fast is None) == (slow is None)
    if fast is not None and slow is not None:
        assert fast[0] == slow[0]
        assert fast[1].tolist() == slow[1].tolist() and fast[2].tolist() == slow[2].tolist()


def test_a_plain_key_is_printable() -> None:
    assert all(is_plain_key(key) for key in ("a", "db_0_1", "a/b.jpg", "é", "k" * 511))
    bad = ("", "a b", "a\n", "a\tb", "\u200b", "\u00a0", "\udcff", "k" * 512, "é" * 256)
    assert not any(is_plain_key(key) for key in bad)


# Finding pairs ----------------------------------------------------------------------------------


def test_pairs_are_found_by_looking(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    a, b = make_pair("a"), make_pair("b", 10)
    data, kv = a / "faces.lmdb", a / "faces.kv"
    for paths in (
        [a],
        [data, kv],
        [kv, data],
        [data],
        [data / "data.mdb", kv],
        [data / "data.mdb"],
    ):
        source = KvSource(paths)
        assert len(source) == 20 and source.groups() == [Group("faces", 0, 20)]
    for paths in ([a, b], [data, kv, b], [a, b / "faces.kv", b / "faces.lmdb"]):
        assert KvSource(paths).groups() == [Group("faces", 0, 20), Group("faces_2", 20, 30)]
    shutil.copytree(data, b / "more.lmdb")
    shutil.copy(kv, b / "more.kv")
    assert [group.stem for group in KvSource([b]).groups()] == ["faces", "more"]


def test_a_database_is_a_folder_or_a_file_and_its_kv_beside_or_inside(
    make_pair: Callable[..., Path], tmp_path: Path
) -> None:
    a = make_pair("a")
    (a / "faces.kv").rename(a / "faces.lmdb" / "ms1m_kv.txt")  # as F2C's own tool leaves it
    for paths in ([a], [a / "faces.lmdb"]):
        assert KvSource(paths).groups() == [Group("ms1m", 0, 20)]
    flat = tmp_path / "flat"
    flat.mkdir()
    shutil.copy(a / "faces.lmdb" / "data.mdb", flat / "v1.2.mdb")
    shutil.copy(a / "faces.lmdb" / "ms1m_kv.txt", flat / "v1.2.kv")
    source = KvSource([flat])
    assert source.groups() == [Group("v1.2", 0, 20)]
    assert [record.ordinal for record in records(source)] == list(range(20))


def test_what_makes_no_pair_is_refused(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    a = make_pair("a")
    data, kv = a / "faces.lmdb", a / "faces.kv"
    empty = tmp_path / "empty"
    empty.mkdir()

    def refused(paths: list[Path], complaint: str) -> None:
        with pytest.raises(SourceError, match=complaint):
            KvSource(paths)

    refused([], "no path is given")
    refused([tmp_path / "gone"], "gone: is not there")
    refused([empty], "holds no LMDB database: expected folders with NAME.lmdb beside NAME.kv")
    refused([kv], "faces.kv: is no LMDB database, and none follows it")
    refused([kv, kv], "faces.kv: is no LMDB database, and none follows it")
    shutil.copy(kv, a / "faces_kv.txt")
    refused([a], r"found faces.kv, faces_kv.txt: expected one kv file, faces.kv beside it")
    assert len(KvSource([data, kv])) == 20
    kv.unlink()
    (a / "faces_kv.txt").unlink()
    refused([a], r"faces.lmdb: expected one kv file, faces.kv beside it: .* no labels of their own")
    kv.write_text("\n")
    refused([a], "faces.kv: has no lines")
    (a / "pack.json").touch()
    refused([a], "is a pack of facepack: convert it with an lmdb2")


# Values -----------------------------------------------------------------------------------------


def test_records_have_key_label_and_image(
    make_pair: Callable[..., Path], make_jpeg: MakeJpeg
) -> None:
    source = KvSource([make_pair("a")])
    found = records(source)
    assert [record.ordinal for record in found] == list(range(20))
    for i, record in enumerate(found):
        assert isinstance(record, SourceRecord)
        assert (record.label, record.name) == (i // 5, f"a_{i // 5}_{i % 5}")
        assert bytes(record.image) == make_jpeg(i)
    part = source.part(7, 15)
    assert [record.ordinal for record in part.read()] == list(range(7, 15))
    assert list(part.entries())[:2] == [Entry(1, "a_1_2"), Entry(1, "a_1_3")]
    assert part.identity_names() == {} and source.tables(np.arange(20)) == {}
    keep = np.arange(8) % 3 == 0
    assert [record.ordinal for record in part.read(keep)] == [7, 10, 13]
    again: KvPart = pickle.loads(pickle.dumps(part))
    assert list(again.read()) == list(part.read())


def test_a_part_pickles_small(make_pair: Callable[..., Path]) -> None:
    source = KvSource([make_pair("a", 200)])
    assert len(pickle.dumps(source.part(0, 10))) < len(pickle.dumps(source.part(0, 200)))
    assert len(pickle.dumps(source.part(0, 200))) < 1000 + 200 * 28


def test_labels_of_several_pairs_are_offset(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    labels = {"a": [0, 0, 4], "b": [-1, -1], "c": [0, 2], "d": [0]}
    for name, own in labels.items():
        keys = [f"k{i}" for i in range(len(own))]
        make_database(tmp_path / f"{name}.lmdb", dict.fromkeys(keys, make_jpeg(0)))
        make_kv(tmp_path / f"{name}.kv", zip(keys, own, strict=True))
    offset = [record.label for record in records(KvSource([tmp_path]))]
    assert offset == [0, 0, 4, -1, -1, 5, 7, 8]
    plain = [record.label for record in records(KvSource([tmp_path], offset_labels=False))]
    assert plain == [0, 0, 4, -1, -1, 0, 2, 0]
    make_kv(tmp_path / "b.kv", [("k0", 99_999_999)])
    with pytest.raises(SourceError, match=r"b\.kv: behind the 5 identities .* reach 100000004"):
        KvSource([tmp_path])


def test_bad_values_are_refused_each_by_itself(
    tmp_path: Path, make_jpeg: MakeJpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        "good": pack_datum(make_jpeg(0)),
        "bare": make_jpeg(1),
        "broken": b"\x22\xff\x01abc",
        "large": pack_datum(make_jpeg(2, size=256)),
    }
    make_database(tmp_path / "x.lmdb", values)
    lines = [("good", 0), ("missing", 0), ("broken", 0), ("large", 1), ("bare", 1), ("good", 2)]
    make_kv(tmp_path / "x.kv", lines)
    monkeypatch.setattr(images, "MAX_BYTES", len(values["large"]) - 1)
    source = KvSource([tmp_path])
    found = records(source)
    refused = [record for record in found if isinstance(record, Refusal)]
    assert [(record.ordinal, record.key) for record in refused] == [
        (1, "missing"),
        (2, "broken"),
        (3, "large"),
    ]
    reasons = [record.reason for record in refused]
    assert reasons[0] == "the database has no such key" and "x.kv" in refused[0].remedy
    assert "field 4 claims 255 bytes" in reasons[1]
    assert f"has {len(values['large']):,} bytes" in reasons[2]
    assert "FACEPACK_MAX_IMAGE_BYTES" in refused[2].remedy
    kept = [record for record in found if isinstance(record, SourceRecord)]
    assert [(record.name, record.label) for record in kept] == [
        ("good", 0),
        ("bare", 1),
        ("good", 2),
    ]
    refusal = source.part(4, 6).refuse(kept[1], "too dark")
    assert (refusal.ordinal, refusal.file, refusal.key) == (4, "x.lmdb", "bare")


def test_values_are_read_in_batches(
    make_pair: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = KvSource([make_pair("a")])
    whole = records(source)
    monkeypatch.setattr(kv_data, "_BATCH_BYTES", 1)
    assert records(source) == whole


def test_two_parts_of_one_database_are_read_at_once(make_pair: Callable[..., Path]) -> None:
    source = KvSource([make_pair("a", 100)])
    counts: list[int] = []

    def read(start: int) -> None:
        counts.append(sum(1 for _ in source.part(start, start + 50).read()))

    one = source.part(0, 50).read()
    next(one)
    threads = [threading.Thread(target=read, args=(start,)) for start in (0, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [50, 50] and sum(1 for _ in one) == 49


def test_sizes_follow_the_file(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    small, large = make_jpeg(0), make_jpeg(1, size=128)
    values = {f"k{i}": small if i % 3 else large for i in range(128)}
    make_database(tmp_path / "x.lmdb", values)
    make_kv(tmp_path / "x.kv", ((key, 0) for key in [*values, "missing"]))
    source = KvSource([tmp_path])
    assert source.sizes().tolist() == [*map(len, values.values()), 0]
    assert payload_bytes(source) == sum(map(len, values.values()))
    spans = cut_spans(source, records=1000, size=sum(map(len, values.values())) // 2)
    assert [span.name for span in spans] == ["x-000", "x-001", "x-002"]


def test_a_description_tells_sources_apart(
    make_pair: Callable[..., Path], make_jpeg: MakeJpeg
) -> None:
    folder = make_pair("a")
    first = KvSource([folder]).describe()
    assert first == KvSource([folder]).describe()
    assert str(folder) not in str(first) and first["images"] == 20
    assert KvSource([folder], offset_labels=False).describe() != first
    lines = (folder / "faces.kv").read_text()
    (folder / "faces.kv").write_text(lines.replace("a_0_0 0", "a_0_0 3"))
    assert KvSource([folder]).describe() != first
    (folder / "faces.kv").write_text(lines)
    make_database(folder / "faces.lmdb", {"a_0_0": pack_datum(make_jpeg(99))})
    assert KvSource([folder]).describe() != first


# Damage -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("transactions", [1, 2])
def test_a_truncated_database_is_refused(
    make_pair: Callable[..., Path], make_jpeg: MakeJpeg, transactions: int
) -> None:
    folder = make_pair("a")
    data = folder / "faces.lmdb" / "data.mdb"
    before = data.stat().st_size
    if transactions == 2:  # the first meta page is the newer one now
        make_database(folder / "faces.lmdb", {f"n{i}": make_jpeg(1, size=64) for i in range(40)})
        assert data.stat().st_size > before
        KvSource([folder])
        with data.open("r+b") as file:
            file.truncate(before)
    else:
        with data.open("r+b") as file:
            file.truncate(before - 4096)
    with pytest.raises(SourceError, match=r"its meta page tells of [\d,]+: it is truncated"):
        KvSource([folder])


def test_what_is_no_database_is_refused(make_pair: Callable[..., Path]) -> None:
    data = make_pair("a") / "faces.lmdb" / "data.mdb"
    for content in (b"", b"text", b"\0" * 8192):
        data.write_bytes(content)
        with pytest.raises(SourceError, match=r"data\.mdb: .*pass a database that LMDB 0\.9 wrote"):
            KvSource([data.parent.parent])


def newer_root(data: bytes) -> int:
    """Where the newer of two meta pages keeps the number of the root page."""
    metas = [data.find(b"\xde\xc0\xef\xbe", start) for start in (0, 4096)]
    newer = max(metas, key=lambda at: data[at + 128 : at + 136][::-1])
    return newer + 24 + 48 + 40


def test_named_databases_are_told_from_damage(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    path = tmp_path / "a.lmdb"
    with lmdb.open(str(path), subdir=False, max_dbs=1, map_size=1 << 20) as database:
        inner = database.open_db(b"images")
        with database.begin(write=True) as transaction:
            transaction.put(b"0", msgpack.packb((make_jpeg(0), 3)), db=inner)
    with pytest.raises(SourceError, match=r"a\.lmdb: its records lie in named databases.*mdb_dump"):
        KvSource([path])
    with (
        lmdb.open(str(path), subdir=False, map_size=1 << 20) as database,
        database.begin(write=True) as transaction,
    ):
        transaction.put(b"0", msgpack.packb((make_jpeg(0), 3)))
    source = KvSource([path])
    assert source.notices == ["a.lmdb: named databases in it (1) are not read"]
    assert len(source) == 1


def test_a_tree_that_leads_nowhere_is_refused(make_pair: Callable[..., Path]) -> None:
    folder = make_pair("a")
    data = folder / "faces.lmdb" / "data.mdb"
    with data.open("r+b") as file:  # the root points behind the file
        file.seek(newer_root(data.read_bytes()))
        file.write((10**6).to_bytes(8, "little"))
    with pytest.raises(SourceError, match=r"data\.mdb: no record can be found .*lmdb verify"):
        KvSource([folder])


@pytest.mark.parametrize(
    ("bounds", "faults"), [((9, 9), 1), ((4094, 4096), 341)], ids=["none", "too-many"]
)
def test_a_damaged_page_costs_its_own_records_and_no_others(
    make_pair: Callable[..., Path], bounds: tuple[int, int], faults: int
) -> None:
    folder = make_pair("a", 1000)
    whole = records(KvSource([folder]))
    path = folder / "faces.lmdb" / "data.mdb"
    data = bytearray(path.read_bytes())
    pages = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    leaves = [k for k, page in enumerate(pages) if int.from_bytes(page[10:12], "little") == 2]
    assert len(leaves) > 3
    struct.pack_into("<HH", data, leaves[1] * 4096 + 12, *bounds)  # that no page has
    path.write_bytes(data)
    source = KvSource([folder])
    found = records(source)
    refused = [record.ordinal for record in found if isinstance(record, Refusal)]
    assert 1 <= len(refused) <= 400
    assert [record for record in found if isinstance(record, SourceRecord)] == [
        record for record in whole if record.ordinal not in refused
    ]
    (notice,) = [notice for notice in source.notices if "damaged" in notice]
    assert f"{faults} of its pages and records are damaged, the first: page {leaves[1]}" in (
        notice.replace(" and were passed over", "")
    )


def test_values_that_share_bytes_are_not_read(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    """A thousand keys of one large value would take a thousand times the file to read."""
    values = {f"k{i}": make_jpeg(i, size=128) for i in range(8)}
    path = make_database(tmp_path / "x.lmdb", values) / "data.mdb"
    make_kv(tmp_path / "x.kv", ((key, 0) for key in values))
    data = bytearray(path.read_bytes())
    nodes = [data.find(key.encode()) for key in values]  # a large value's page stands behind
    for at in nodes[1:]:
        data[at + 2 : at + 10] = data[nodes[0] + 2 : nodes[0] + 10]
    path.write_bytes(data)
    found = records(KvSource([tmp_path]))
    assert [isinstance(record, Refusal) for record in found].count(False) == 1
    assert "runs into another one" in str(
        next(record for record in found if isinstance(record, Refusal))
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 1 << 20), st.integers(0, 255), st.integers(1, 8)), max_size=6
    ),
    st.booleans(),
)
@example([(144, 1, 1)], False)  # a database of no records
def test_hostile_pages_do_no_harm(
    hostile: Path, changes: list[tuple[int, int, int]], structure: bool
) -> None:
    """Whatever the pages say of each other: what is read is refused in words, or is a record."""
    data = bytearray(hostile.with_name("whole.mdb").read_bytes())
    for place, byte, count in changes:
        at = place % len(data)
        if structure:  # headers, pointers and nodes' heads: the beginning of a page, or its end
            at = at // 4096 * 4096 + (place % 24)
        data[at : at + count] = bytes([byte]) * min(count, len(data) - at)
    hostile.write_bytes(data)
    try:
        source = KvSource([hostile.parent])
        assert len(records(source)) == len(source)
    except SourceError:
        pass


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    values = {f"k{i:03}": bytes([0xFF, 0xD8, 0xFF]) * (40 if i % 5 else 2000) for i in range(150)}
    make_database(folder / "made", values)
    (folder / "made" / "data.mdb").rename(folder / "whole.mdb")
    (folder / "x.lmdb").mkdir()
    make_kv(folder / "x.lmdb" / "x.kv", ((key, 0) for key in values))
    (folder / "whole.mdb").rename(folder / "x.lmdb" / "whole.mdb")
    return folder / "x.lmdb" / "data.mdb"


def test_a_database_that_changes_or_vanishes_stops_the_run(
    make_pair: Callable[..., Path], make_jpeg: MakeJpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_data, "_BATCH_BYTES", 1)
    folder = make_pair("a")
    source = KvSource([folder])
    reading = source.part(0, 20).read()
    next(reading)
    data = folder / "faces.lmdb" / "data.mdb"
    with data.open("ab") as file:
        file.write(bytes(4096))
    with pytest.raises(SourceError, match=r"data\.mdb: had .* start anew with --overwrite"):
        list(reading)
    with pytest.raises(SourceError, match="start anew with --overwrite"):
        list(source.part(0, 20).read())
    data.unlink()
    with pytest.raises(SourceError, match=r"can no longer be read .* --resume"):
        list(source.part(0, 20).read())


# Real faces -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "field"), [("caffe-field4", 4), ("ffc-field1", 1)])
def test_real_databases_read_as_lmdb_alone_reads_them(shared: Path, name: str, field: int) -> None:
    folder = shared / "ffc-lmdb" / name
    found = records(KvSource([folder]))
    lines = (folder / "faces.kv").read_text().splitlines()
    assert len(found) == len(lines) == 200
    with (
        lmdb.open(str(folder / "faces.lmdb"), readonly=True, lock=False) as env,
        env.begin() as transaction,
    ):
        for line, record in zip(lines, found, strict=True):
            key, label = line.split(" ")
            value = transaction.get(key.encode())
            assert isinstance(record, SourceRecord)
            assert (record.name, record.label) == (key, int(label))
            # A tag and a length of two bytes, then the JPEG.
            assert value[0] == field << 3 | 2 and value[3:] == bytes(record.image)


def test_records_without_a_line_are_told(make_pair: Callable[..., Path]) -> None:
    folder = make_pair("a", 20)
    make_kv(folder / "faces.kv", [(f"a_{i // 5}_{i % 5}", i // 5) for i in range(12)])
    source = KvSource([folder])
    assert len(source) == 12
    assert source.notices == [
        "faces.kv has 12 lines for the 20 records of faces.lmdb: those without a line were passed "
        "over"
    ]


def test_a_database_is_taken_once(make_pair: Callable[..., Path]) -> None:
    folder = make_pair("a", 20)
    with pytest.raises(SourceError, match=r"data\.mdb: is given twice"):
        KvSource([folder, folder / "faces.lmdb"])


def test_a_byte_order_mark_is_no_part_of_the_first_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.kv"
    path.write_bytes(b"\xef\xbb\xbfa 0\nb 1\n")
    assert keys_of(path) == (["a", "b"], [0, 1])
    path.write_bytes(b"\xef\xbb\xbfa  0\nb 1\n")
    with pytest.raises(SourceError, match="line 1 is 'a  0'"):
        read_kv(path)
