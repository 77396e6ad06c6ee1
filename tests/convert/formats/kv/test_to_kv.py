"""F2C's layout as a sink, read back by a plain reader and by the kv source."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import numpy as np
import pytest

from facepack.convert.formats.kv import lmdb_sink
from facepack.convert.formats.kv import writer as kv_writer
from facepack.convert.formats.kv.msgpack_sink import MsgpackSink, convert_to_msgpack
from facepack.convert.formats.kv.sink import KvSink, convert_to_kv
from facepack.convert.formats.kv.source import KvSource
from facepack.convert.formats.kv.writer import KvItem, KvWriter
from facepack.convert.formats.pairs.pickles import write_bin
from facepack.convert.formats.pairs.source import BinSource
from facepack.convert.formats.rec.recordio import pack_header
from facepack.convert.formats.rec.source import RecSource
from facepack.convert.options import ConvertOptions
from facepack.convert.source import Entry, Group, Refusal
from facepack.errors import PackError, SourceError
from facepack.store.checks import ImageCheck
from facepack.store.record import SourceRecord

MakeRec = Callable[..., Path]
MakeJpeg = Callable[..., bytes]
Row = tuple[str, int, bytes]


class ListSource:
    """Records of a list as a source, and as its only part."""

    kind = "list"
    content = "train"
    classes: int | None = None
    channels = None
    parallel = True
    table_names: tuple[str, ...] = ()

    def __init__(self, rows: Sequence[tuple[str | None, int, bytes]], start: int = 0) -> None:
        self.rows = rows
        self.start, self.stop = start, start + len(rows)
        self.notices: list[str] = []

    def __len__(self) -> int:
        return len(self.rows)

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "records": len(self)}

    def groups(self) -> list[Group]:
        half = len(self) // 2
        return [Group("one", 0, half), Group("two", half, len(self))]

    def sizes(self) -> np.ndarray:
        return np.asarray([len(image) for _, _, image in self.rows], np.uint32)

    def part(self, start: int, stop: int) -> ListSource:
        return ListSource(self.rows[start:stop], start)

    def tables(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        return {}

    def read(self, keep: np.ndarray | None = None) -> Iterator[SourceRecord]:
        for place, (name, label, image) in enumerate(self.rows):
            yield SourceRecord(self.start + place, image, label, name)

    def entries(self) -> Iterator[Entry]:
        return (Entry(label, name) for name, label, _ in self.rows)

    def refuse(self, record: SourceRecord, reason: str) -> Refusal:
        return Refusal(record.ordinal, "list", None, record.name, reason, "leave it out")

    def identity_names(self) -> dict[int, str]:
        return {}


def read_rows(out: Path) -> list[Row]:
    """Key, label and image of each line, read as F2C does: ``lmdb`` and field 4 of the Datum."""
    rows = []
    environment = lmdb.open(
        str(out / "faces.lmdb"), readonly=True, lock=False, max_readers=10, meminit=False
    )
    with environment, environment.begin() as transaction:
        for line in (out / "faces.kv").read_text().splitlines():
            key, label = line.strip().split(" ")
            value = transaction.get(key.encode())
            assert value[0] == 4 << 3 | 2
            size = shift = 0
            at = 1
            while True:
                size |= (value[at] & 127) << shift
                at, shift = at + 1, shift + 7
                if value[at - 1] < 128:
                    break
            assert len(value) == at + size
            rows.append((key, int(label), value[at:]))
    return rows


def make_rows(make_jpeg: MakeJpeg, count: int = 40) -> list[Row]:
    return [(f"db_{i // 5}_{i % 5}", i // 5, make_jpeg(i)) for i in range(count)]


def files(out: Path) -> set[str]:
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith(".facepack/")}


def test_a_rec_becomes_a_database_and_a_kv_file(
    make_rec: MakeRec, make_jpeg: MakeJpeg, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = convert_to_kv(RecSource(make_rec(20)), out, ConvertOptions())
    expected = [(f"train_{i // 5}_{i % 5}", i // 5, make_jpeg(i)) for i in range(20)]
    assert read_rows(out) == expected
    assert files(out) == {"faces.lmdb/data.mdb", "faces.kv"}
    assert (result.found, result.packed, result.quarantined) == (20, 20, 0)
    assert (result.identities, result.classes, result.pairs) == (4, 4, None)
    assert result.payload_bytes == sum(len(image) for _, _, image in expected)
    assert result.file_bytes == sum((out / name).stat().st_size for name in files(out))
    data = (out / "faces.lmdb" / "data.mdb").read_bytes()
    assert data[20:24] == (1).to_bytes(4, "little")  # the format that every LMDB reads


def test_a_round_trip_keeps_images_labels_and_keys(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    rows = make_rows(make_jpeg, 10)
    rows[3] = ("../weird/é.jpg", 7, rows[3][2])
    rows.append(rows[4])  # a line may come twice
    rows.append((rows[5][0], 8, rows[5][2]))
    convert_to_kv(ListSource(rows), tmp_path / "one", ConvertOptions())
    assert read_rows(tmp_path / "one") == rows
    convert_to_kv(KvSource([tmp_path / "one"]), tmp_path / "two", ConvertOptions())
    assert read_rows(tmp_path / "two") == rows
    assert (tmp_path / "one/faces.kv").read_bytes() == (tmp_path / "two/faces.kv").read_bytes()


@pytest.mark.parametrize("name", ["caffe-field4", "ffc-field1"])
def test_real_databases_survive_a_round_trip(shared: Path, tmp_path: Path, name: str) -> None:
    source = KvSource([shared / "ffc-lmdb" / name])
    result = convert_to_kv(source, tmp_path / "out", ConvertOptions(check=ImageCheck(decode=True)))
    assert (result.packed, result.identities) == (200, 40)
    found = [
        (record.name, record.label, bytes(record.image))
        for record in source.part(0, 200).read()
        if isinstance(record, SourceRecord)
    ]
    assert read_rows(tmp_path / "out") == found
    kv = (shared / "ffc-lmdb" / name / "faces.kv").read_bytes()
    assert (tmp_path / "out" / "faces.kv").read_bytes() == kv


def test_names_that_cannot_be_keys_are_replaced(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    images = [make_jpeg(i) for i in range(9)]
    names = [None, "a b", "x", "x", "one_0_1", "k" * 600, "two_0_5", "", "x"]
    rows = list(zip(names, [0] * 8 + [1], images, strict=True))
    convert_to_kv(ListSource(rows), tmp_path / "out", ConvertOptions())
    found = read_rows(tmp_path / "out")
    assert [image for _, _, image in found] == images
    # Of the first group are the first four; j counts the label's records in all groups.
    assert [key for key, _, _ in found] == [
        "one_0_0",
        "one_0_1",
        "x",
        "one_0_3",
        "two_0_4",  # one_0_1 is taken
        "two_0_5",
        "two_0_6",  # two_0_5 is taken
        "two_0_7",
        "two_1_0",
    ]


def test_a_taken_fallback_gets_a_number(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    with KvWriter(tmp_path / "db", map_size=1 << 20) as writer:
        batch = [
            KvItem("a_0_1", "a_0_0", b"first"),
            KvItem(None, "a_0_1", b"second"),
            KvItem("a_0_1", "a_0_1", b"third"),
        ]
        keys = writer.put(batch)
        assert keys == ["a_0_1", "a_0_1_2", "a_0_1_3"]
        assert writer.put(batch) == keys and writer.put(batch[1:]) == keys[1:]
        assert writer.has(key.encode() for key in keys)
        assert not writer.has([b"a_0_1", b"a_0_2"])


def test_records_without_identity_are_counted(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    rows = [("a", -1, make_jpeg(0)), ("b", 5, make_jpeg(1)), ("c", -1, make_jpeg(2))]
    source = ListSource(rows)
    result = convert_to_kv(source, tmp_path / "out", ConvertOptions())
    assert (result.identities, result.classes) == (1, 6)
    assert result.notices == [
        "2 of 3 records have no identity: faces.kv gives them the label -1, which F2C's trainer "
        "cannot use"
    ]
    assert read_rows(tmp_path / "out") == rows
    labels = [entry.label for entry in KvSource([tmp_path / "out"]).part(0, 3).entries()]
    assert labels == [-1, 5, -1]
    nobody = ListSource([rows[0], rows[2]])  # as a verification set
    assert convert_to_kv(nobody, tmp_path / "nobody", ConvertOptions()).notices == [
        "no record has an identity: trainers, which this format is for, cannot use it; facepack "
        "eval takes a set of pairs as a pack (…2lmdb) or .bin"
    ]


def test_bad_records_are_set_aside(make_rec: MakeRec, make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    folder = make_rec(10, bad={2: pack_header(0, 3) + b"nothing"})
    result = convert_to_kv(RecSource(folder), tmp_path / "out", ConvertOptions())
    assert (result.found, result.packed, result.quarantined) == (10, 9, 1)
    assert [image for _, _, image in read_rows(tmp_path / "out")] == [
        make_jpeg(i) for i in range(10) if i != 2
    ]
    assert b'"key": "3"' in (tmp_path / "out" / "quarantine.jsonl").read_bytes()
    with pytest.raises(SourceError, match="--strict"):
        convert_to_kv(RecSource(folder), tmp_path / "strict", ConvertOptions(strict=True))
    rows = [("a", 100_000_000, make_jpeg(0)), ("b", 1, make_jpeg(1))]
    result = convert_to_kv(ListSource(rows), tmp_path / "labels", ConvertOptions())
    assert (result.packed, result.quarantined) == (1, 1)
    empty = make_rec(5, "bad", bad={i: pack_header(0, i + 1) + b"nothing" for i in range(5)})
    with pytest.raises(SourceError, match=r"no record at all .* train\.rec: record 0"):
        convert_to_kv(RecSource(empty), tmp_path / "none", ConvertOptions())
    assert not (tmp_path / "none" / "faces.kv").exists()


def test_tables_of_an_evaluation_set_are_kept(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    images: list[bytes] = [make_jpeg(i % 7) for i in range(20)]
    images[4] = images[11] = b"nothing"
    write_bin(tmp_path / "x.bin", images, [i % 2 == 0 for i in range(10)])
    result = convert_to_kv(BinSource(tmp_path / "x.bin"), tmp_path / "out", ConvertOptions())
    assert (result.packed, result.quarantined, result.pairs) == (7, 1, 8)
    stored = [image for _, _, image in read_rows(tmp_path / "out")]
    pairs = np.load(tmp_path / "out" / "pairs.npy", allow_pickle=False)
    found = [(stored[a], stored[b], bool(same)) for a, b, same in pairs.tolist()]
    expected = [(images[2 * i], images[2 * i + 1], i % 2 == 0) for i in range(10)]
    assert found == [row for row in expected if b"nothing" not in row]
    others = ListSource(make_rows(make_jpeg, 5))
    convert_to_kv(others, tmp_path / "out", ConvertOptions(overwrite=True))
    assert files(tmp_path / "out") == {"faces.lmdb/data.mdb", "faces.kv"}


# Interruptions ----------------------------------------------------------------------------------


def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KvSink, "span_records", 7)
    monkeypatch.setattr(lmdb_sink, "_BATCH_RECORDS", 3)


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 8, 14])
def test_an_interrupted_conversion_is_completed(
    make_jpeg: MakeJpeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    small_steps(monkeypatch)
    rows: list[tuple[str | None, int, bytes]] = list(make_rows(make_jpeg))
    for i in (1, 2, 9, 20, 22, 33):
        rows[i] = (None, *rows[i][1:])
    rows[30] = ("db_0_0", *rows[30][1:])  # another's name
    source, out = ListSource(rows), tmp_path / "out"
    convert_to_kv(source, tmp_path / "whole", ConvertOptions())
    put, calls = KvWriter.put, 0

    def stopping(self: KvWriter, batch: list[KvItem]) -> list[str]:
        nonlocal calls
        calls += 1
        keys = put(self, batch)
        if calls == stop:
            raise KeyboardInterrupt
        return keys

    with monkeypatch.context() as patch:
        patch.setattr(KvWriter, "put", stopping)
        with pytest.raises(KeyboardInterrupt):
            convert_to_kv(source, out, ConvertOptions())
        assert not (out / "faces.kv").exists()
        with pytest.raises(PackError, match="--resume completes it"):
            convert_to_kv(source, out, ConvertOptions())
        result = convert_to_kv(source, out, ConvertOptions(resume=True))
    assert result.packed == 40 and result.identities == 8
    assert (out / "faces.kv").read_bytes() == (tmp_path / "whole" / "faces.kv").read_bytes()
    assert read_rows(out) == read_rows(tmp_path / "whole")


def test_resuming_writes_no_finished_span_again(
    make_jpeg: MakeJpeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_steps(monkeypatch)
    source, out = ListSource(make_rows(make_jpeg)), tmp_path / "out"
    part, read = source.part, []

    def noting(start: int, stop: int) -> ListSource:
        if stop - start != 8:  # so many records are looked at beforehand
            read.append(start)
            if len(read) == 4:
                raise SourceError("the source vanished")
        return part(start, stop)

    monkeypatch.setattr(source, "part", noting)
    with pytest.raises(SourceError, match="vanished"):
        convert_to_kv(source, out, ConvertOptions())
    convert_to_kv(source, out, ConvertOptions(resume=True))
    assert read == [0, 7, 14, 20, 20, 27, 34]
    before = (out / "faces.kv").stat().st_mtime_ns
    result = convert_to_kv(source, out, ConvertOptions(resume=True))
    assert len(read) == 7 and result.packed == 40
    assert (out / "faces.kv").stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["kv", "gone", "short", "all"])
def test_resuming_a_finished_target_makes_good_what_is_missing(
    make_jpeg: MakeJpeg, tmp_path: Path, damage: str
) -> None:
    rows = make_rows(make_jpeg)
    out = tmp_path / "out"
    convert_to_kv(ListSource(rows), out, ConvertOptions())
    data = out / "faces.lmdb" / "data.mdb"
    if damage == "kv":
        (out / "faces.kv").unlink()
    elif damage == "gone":
        data.unlink()
    elif damage == "short":
        with data.open("r+b") as file:
            file.truncate(data.stat().st_size - 4096)
    else:
        shutil.rmtree(out / "faces.lmdb")
        (out / "faces.kv").write_text("x")
    convert_to_kv(ListSource(rows), out, ConvertOptions(resume=True))
    assert read_rows(out) == rows


def test_a_lost_database_is_written_again_on_resume(
    make_jpeg: MakeJpeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_steps(monkeypatch)
    rows, out = make_rows(make_jpeg), tmp_path / "out"
    finish = KvSink.finish

    def stop(*_: object) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(KvSink, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        convert_to_kv(ListSource(rows), out, ConvertOptions())
    monkeypatch.setattr(KvSink, "finish", finish)
    (out / "faces.lmdb" / "data.mdb").unlink()
    (out / "faces.kv.part-0123abcd").touch()
    convert_to_kv(ListSource(rows), out, ConvertOptions(resume=True))
    assert read_rows(out) == rows
    assert files(out) == {"faces.lmdb/data.mdb", "faces.kv"}


def test_a_map_that_is_too_small_grows(
    make_jpeg: MakeJpeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = partial(kv_writer.KvWriter, map_size=1)
    monkeypatch.setattr(lmdb_sink, "KvWriter", lambda folder, map_size: small(folder))
    monkeypatch.setattr(kv_writer, "_ROUND", 4096 * 16)
    monkeypatch.setattr(lmdb_sink, "_BATCH_RECORDS", 30)
    sizes: list[int] = []
    rounded = kv_writer._rounded

    def noting(size: int) -> int:
        sizes.append(rounded(size))
        return sizes[-1]

    monkeypatch.setattr(kv_writer, "_rounded", noting)
    rows = [(f"k{i}", 0, make_jpeg(i, size=64)) for i in range(150)]
    result = convert_to_kv(ListSource(rows), tmp_path / "out", ConvertOptions())
    assert result.packed == 150 and read_rows(tmp_path / "out") == rows
    assert len(sizes) > 2 and sizes == sorted(sizes)


def test_a_full_disk_is_reported_as_that(
    make_jpeg: MakeJpeg, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmdb_sink, "_BATCH_RECORDS", 20)
    rows = [(f"k{i}", 0, make_jpeg(i, size=128)) for i in range(200)]
    source, out = ListSource(rows), small_disk / "out"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(3_500_000))
    with pytest.raises(PackError, match=r"MB are needed and .* MB are free"):
        convert_to_kv(source, out, ConvertOptions())
    # The space may also go while the database is written.
    with monkeypatch.context() as patch:
        patch.setattr(source, "sizes", lambda: np.zeros(len(rows), np.uint32))
        with pytest.raises(PackError, match=r"the disk is full: free some space, .* --resume"):
            convert_to_kv(source, out, ConvertOptions(resume=True))
    ballast.unlink()
    convert_to_kv(source, out, ConvertOptions(resume=True))
    assert read_rows(out) == rows


# Other people's files ---------------------------------------------------------------------------


def test_overwriting_removes_what_was_written_and_nothing_else(
    make_jpeg: MakeJpeg, tmp_path: Path
) -> None:
    rows, out = make_rows(make_jpeg), tmp_path / "out"
    convert_to_kv(ListSource(rows), out, ConvertOptions())
    (out / "notes.txt").write_text("mine")
    (out / "faces.lmdb" / "notes.txt").write_text("mine")
    with pytest.raises(PackError, match="--overwrite replaces it"):
        convert_to_kv(ListSource(rows[:5]), out, ConvertOptions())
    convert_to_kv(ListSource(rows[:5]), out, ConvertOptions(overwrite=True))
    assert read_rows(out) == rows[:5]
    mine = {"notes.txt", "faces.lmdb/notes.txt"}
    assert files(out) == {"faces.lmdb/data.mdb", "faces.kv"} | mine
    with KvWriter(out / "faces.lmdb", map_size=1 << 20) as writer:
        assert not writer.has([rows[7][0].encode()])  # the old database is gone


def test_a_folder_of_someone_else_is_left_alone(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    rows, out = make_rows(make_jpeg), tmp_path / "out"
    (out / "faces.lmdb").mkdir(parents=True)
    (out / "faces.lmdb" / "data.mdb").write_bytes(b"mine")
    for options in (ConvertOptions(), ConvertOptions(overwrite=True), ConvertOptions(resume=True)):
        with pytest.raises(PackError, match="not empty"):
            convert_to_kv(ListSource(rows), out, options)
    assert (out / "faces.lmdb" / "data.mdb").read_bytes() == b"mine"
    assert files(out) == {"faces.lmdb/data.mdb"}


def test_a_read_only_target_is_reported(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert_to_kv(ListSource(make_rows(make_jpeg)), out, ConvertOptions())
    (out / "faces.lmdb").rename(out / "moved")
    (out / "faces.lmdb").write_text("a file in its place")
    with pytest.raises(PackError, match="cannot write"):
        convert_to_kv(ListSource(make_rows(make_jpeg)), out, ConvertOptions(resume=True))


def test_what_a_killed_run_did_not_tidy_up_is_removed(
    make_jpeg: MakeJpeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = ListSource(make_rows(make_jpeg)), tmp_path / "out"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(KvSink, "state_files", killed)
        with pytest.raises(KeyboardInterrupt):
            convert_to_kv(source, out, ConvertOptions())
    convert_to_kv(source, out, ConvertOptions(resume=True))
    left = sorted(path.name for path in (out / ".facepack").iterdir())
    assert left == ["done.json", "plan.json"]


# In msgpack -------------------------------------------------------------------------------------


def read_msgpack(out: Path) -> tuple[list[Row], int]:
    """Records and classes, as the loader of face_analysis_pytorch reads them."""
    with lmdb.open(str(out / "faces.lmdb"), readonly=True, lock=False) as env, env.begin() as txn:
        keys = msgpack.loads(txn.get(b"__keys__"))
        assert msgpack.loads(txn.get(b"__len__")) == len(keys) == txn.stat()["entries"] - 3
        found = [(key.decode(), *msgpack.loads(txn.get(key))[::-1]) for key in keys]
        return found, msgpack.loads(txn.get(b"__classnum__"))


def test_a_database_in_msgpack(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    rows = make_rows(make_jpeg, 300)
    rows[7] = ("broken", 1, b"no image")
    source = ListSource(rows)
    result = convert_to_msgpack(source, tmp_path / "out", ConvertOptions())
    kept = [(label, image) for k, (_, label, image) in enumerate(rows) if k != 7]
    found, classes = read_msgpack(tmp_path / "out")
    assert found == [(str(k), *pair) for k, pair in enumerate(kept)]
    assert classes == result.classes == 60 and (result.packed, result.quarantined) == (299, 1)
    assert files(tmp_path / "out") == {"faces.lmdb/data.mdb", "quarantine.jsonl"}
    again = KvSource([tmp_path / "out"])
    assert again.classes == 60 and again.notices == []
    part = again.part(0, len(again))
    assert [(record.label, bytes(record.image)) for record in part.read()] == kept
    half = ListSource([("a", -1, make_jpeg(1)), ("b", 0, make_jpeg(2))])
    convert_to_msgpack(half, tmp_path / "half", ConvertOptions())
    assert "1 of 2 records have no identity: they have the label -1" in half.notices[-1]


@pytest.mark.parametrize("batch", [1, 3, 5, 9, 11])
def test_a_database_in_msgpack_is_completed(
    make_jpeg: MakeJpeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(MsgpackSink, "span_records", 7)
    monkeypatch.setattr(lmdb_sink, "_BATCH_RECORDS", 3)
    rows = make_rows(make_jpeg, 20)
    rows[4] = ("broken", 1, b"no image")
    out = tmp_path / "out"
    convert_to_msgpack(ListSource(rows), tmp_path / "whole", ConvertOptions())
    put, done = KvWriter.put, 0

    def dies(self: KvWriter, items: list[KvItem]) -> list[str]:
        nonlocal done
        done += 1
        if done == batch:
            raise KeyboardInterrupt
        return put(self, items)

    monkeypatch.setattr(KvWriter, "put", dies)
    with pytest.raises(KeyboardInterrupt):
        convert_to_msgpack(ListSource(rows), out, ConvertOptions())
    monkeypatch.setattr(KvWriter, "put", put)
    convert_to_msgpack(ListSource(rows), out, ConvertOptions(resume=True))
    assert read_msgpack(out) == read_msgpack(tmp_path / "whole")
    with pytest.raises(PackError, match="--overwrite"):
        convert_to_kv(ListSource(rows), out, ConvertOptions())
