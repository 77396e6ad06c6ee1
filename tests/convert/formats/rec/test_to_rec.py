"""Any source into a ``.rec``."""

from __future__ import annotations

import errno
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import facepack
from facepack.convert.formats.pack.sink import PackOptions, convert_to_pack
from facepack.convert.formats.pack.source import PackSource
from facepack.convert.formats.pairs.pickles import write_bin
from facepack.convert.formats.pairs.source import BinSource
from facepack.convert.formats.rec import sink as to_rec
from facepack.convert.formats.rec.index import read_index
from facepack.convert.formats.rec.layout import read_layout
from facepack.convert.formats.rec.recordio import (
    MAX_CLASS,
    Header,
    RecordReader,
    RecordWriter,
    pack_header,
    unpack_header,
)
from facepack.convert.formats.rec.sink import convert_to_rec, float32_below
from facepack.convert.formats.rec.source import RecSource
from facepack.convert.options import ConvertOptions
from facepack.convert.source import Source
from facepack.errors import PackError, SourceError
from facepack.store.checks import ImageCheck
from facepack.store.record import SourceRecord

MakeRec = Callable[..., Path]
MakeJpeg = Callable[..., bytes]

FILES = ("train.rec", "train.idx", "property")


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def pack(source: Source, out: Path, **options: object) -> PackSource:
    convert_to_pack(source, out, PackOptions(**options))  # type: ignore[arg-type]
    return PackSource(out)


class Reader:
    """Reads a ``.rec`` by its index, as arcface_torch's and the older data set classes do."""

    def __init__(self, folder: Path) -> None:
        keys, offsets = read_index(folder / "train.idx")
        self._offsets = dict(zip(keys.tolist(), offsets.tolist(), strict=True))
        self._reader = RecordReader(folder / "train.rec")

    def at(self, key: int) -> Header:
        return unpack_header(bytes(self._reader.read_at(self._offsets[key])))

    def images(self) -> list[tuple[float, bytes]]:
        """arcface_torch: the images are the keys from 1 up to the header's first label."""
        header = self.at(0)
        assert header.flag > 0
        found = map(self.at, range(1, int(header.labels[0])))
        return [(header.labels[0], bytes(header.image)) for header in found]

    def ranges(self) -> list[tuple[int, int]]:
        """The readers of 2018: the images are those that the identity records tell of."""
        first, end = map(int, self.at(0).labels)
        found = (self.at(key) for key in range(first, end))
        return [(int(header.labels[0]), int(header.labels[1])) for header in found]


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("order", ["shuffled", "identity"])
def test_a_rec_comes_back_byte_for_byte(
    make_rec: MakeRec, tmp_path: Path, vector: bool, order: str
) -> None:
    folder = make_rec(100, vector=vector)
    (folder / "property").write_text("20,32,32\n")
    for source in (RecSource(folder), pack(RecSource(folder), tmp_path / "pack", order=order)):
        out = tmp_path / source.kind
        result = convert_to_rec(source, out, ConvertOptions())
        assert files(out) == files(folder)
        assert (result.found, result.packed, result.identities, result.classes) == (
            100,
            100,
            20,
            20,
        )
        assert result.file_bytes == sum(map(len, files(out).values())) and not result.notices


def test_the_magic_within_an_image(make_rec: MakeRec, make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    magic = b"\x0a\x23\xd7\xce"
    jpeg = make_jpeg(3)
    padded = jpeg[:2] + b"\xff\xfe\x00\x12" + b"ab" + magic + magic + b"abcdef" + jpeg[2:]
    folder = make_rec(10, bad={3: pack_header(0, 4) + padded})
    source = pack(RecSource(folder), tmp_path / "pack")
    convert_to_rec(source, tmp_path / "out", ConvertOptions())
    assert (tmp_path / "out" / "train.rec").read_bytes() == (folder / "train.rec").read_bytes()
    assert Reader(tmp_path / "out").images()[3] == (0, padded)


def test_readers_find_every_image(make_rec: MakeRec, make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    convert_to_rec(RecSource(make_rec(23)), tmp_path / "out", ConvertOptions())
    reader = Reader(tmp_path / "out")
    assert reader.images() == [(i // 5, make_jpeg(i)) for i in range(23)]
    assert reader.ranges() == [(1, 6), (6, 11), (11, 16), (16, 21), (21, 24)]
    layout = read_layout(tmp_path / "out")
    assert (len(layout), layout.classes, layout.image_size) == (23, 5, (32, 32))
    assert layout.keys.tolist() == list(range(1, 24)) and not layout.notices


def test_a_header_behind_the_images_comes_first(
    make_rec: MakeRec, make_jpeg: MakeJpeg, tmp_path: Path
) -> None:
    folder = make_rec(10)
    with RecordWriter(folder / "train.rec", folder / "train.idx") as writer:
        for i in range(10):
            writer.write(i + 1, pack_header(i // 5, i + 1) + make_jpeg(i))
        writer.write(0, pack_header([11, 13], 0))
        for k in range(2):
            writer.write(11 + k, pack_header([5 * k + 1, 5 * k + 6], 11 + k))
    source = pack(RecSource(folder), tmp_path / "pack")
    convert_to_rec(source, tmp_path / "out", ConvertOptions())
    mine, its = Reader(tmp_path / "out"), Reader(folder)
    assert [mine.at(key) for key in range(13)] == [its.at(key) for key in range(13)]
    assert (tmp_path / "out" / "train.idx").read_text().startswith("0\t0\n1\t40\n")


def test_keys_that_are_one_to_n_are_kept(
    make_rec: MakeRec, make_jpeg: MakeJpeg, tmp_path: Path
) -> None:
    folder = make_rec(10)
    keys = [3, 9, 1, 10, 2, 4, 8, 7, 5, 6]
    for first, kept in ((0, True), (1, False)):
        with RecordWriter(folder / "train.rec", folder / "train.idx") as writer:
            for key in keys:
                writer.write(key + first, pack_header((key - 1) // 5, key) + make_jpeg(key))
        out = tmp_path / f"out{first}"
        result = convert_to_rec(RecSource(folder), out, ConvertOptions())
        found = Reader(out).images()
        if kept:
            assert found == [((key - 1) // 5, make_jpeg(key)) for key in range(1, 11)]
            assert Reader(out).ranges() == [(1, 6), (6, 11)] and not result.notices
        else:
            assert [image for _, image in found] == [make_jpeg(key) for key in keys]
            assert "numbered anew" in result.notices[0]
        order = [record.image for record in RecSource(out).part(0, 10).read()]  # type: ignore[union-attr]
        assert [bytes(image) for image in order] == [make_jpeg(key) for key in keys]


def test_strewn_identities_have_no_records(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    with facepack.PackWriter(tmp_path / "pack") as writer:
        for i in range(10):
            writer.add(make_jpeg(i), i % 3)
    result = convert_to_rec(PackSource(tmp_path / "pack"), tmp_path / "out", ConvertOptions())
    reader = Reader(tmp_path / "out")
    assert reader.images() == [(i % 3, make_jpeg(i)) for i in range(10)]
    assert reader.at(0).labels == (11, 11) and reader.ranges() == []
    assert result.notices[0].startswith("there are no identity records, for the images")
    assert (tmp_path / "out" / "property").read_text() == "3,32,32\n"
    assert RecSource(tmp_path / "out").classes == 3


def test_images_without_identity(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    faces = [make_jpeg(i % 7, 32 if i % 7 else 64) for i in range(20)]
    write_bin(tmp_path / "lfw.bin", faces, [True, False] * 5)
    source = pack(BinSource(tmp_path / "lfw.bin"), tmp_path / "pack")
    result = convert_to_rec(source, tmp_path / "out", ConvertOptions())
    assert result.notices == ["7 images have no identity: the label is -1"]
    assert (result.pairs, result.identities, result.classes) == (10, 0, 0)
    images = Reader(tmp_path / "out").images()
    assert {label for label, _ in images} == {-1.0}
    for i, (a, b, same) in enumerate(np.load(tmp_path / "out" / "pairs.npy").tolist()):
        assert (images[a][1], images[b][1]) == (faces[2 * i], faces[2 * i + 1])
        assert same == (i % 2 == 0)
    assert set(files(tmp_path / "out")) == {"train.rec", "train.idx", "pairs.npy"}


def test_sizes_that_differ(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    with facepack.PackWriter(tmp_path / "pack", classes=9) as writer:
        writer.add(make_jpeg(0, 64), 0)
        writer.add(make_jpeg(1, 32), 1)
    result = convert_to_rec(PackSource(tmp_path / "pack"), tmp_path / "out", ConvertOptions())
    assert "property has that of the first, 64×64" in result.notices[0]
    assert (tmp_path / "out" / "property").read_text() == "9,64,64\n"


def test_refused_records_leave_no_gap(
    make_rec: MakeRec, make_jpeg: MakeJpeg, tmp_path: Path
) -> None:
    folder = make_rec(20, bad={3: b"short", 7: pack_header(1, 8) + b"no image"})
    out = tmp_path / "out"
    result = convert_to_rec(RecSource(folder), out, ConvertOptions())
    assert (result.packed, result.quarantined) == (18, 2)
    kept = [i for i in range(20) if i not in (3, 7)]
    assert Reader(out).images() == [(i // 5, make_jpeg(i)) for i in kept]
    assert Reader(out).at(4).id == 5  # what the record said of itself
    assert len((out / "quarantine.jsonl").read_text().splitlines()) == 2
    with pytest.raises(SourceError, match=r"record 3 at byte .*--strict"):
        convert_to_rec(RecSource(folder), tmp_path / "strict", ConvertOptions(strict=True))
    bad = make_rec(3, "bad", bad=dict.fromkeys(range(3), b"short"))
    with pytest.raises(SourceError, match="no record at all can be used"):
        convert_to_rec(RecSource(bad), tmp_path / "none", ConvertOptions())


@pytest.mark.parametrize(
    ("label", "extra", "reason"),
    [
        (MAX_CLASS + 1, {}, "label 16777216: a .rec holds"),
        (0, {"id": -1}, "id -1: a .rec holds whole numbers from 0 to"),
        (0, {"id": float("inf")}, "id inf"),
        (0, {"id2": 1 << 64}, "id2 18446744073709551616"),
        (0, {"flag": 1 << 40}, "flag 1099511627776"),
        (0, {"flag": 0.5}, "flag 0.5"),
    ],
)
def test_what_a_record_cannot_hold(
    make_rec: MakeRec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    label: int,
    extra: dict[str, int],
    reason: str,
) -> None:
    source = RecSource(make_rec(5))
    records = list(source.part(0, 5).read())
    assert isinstance(records[2], SourceRecord)
    records[2] = SourceRecord(2, records[2].image, label, None, extra)  # type: ignore[arg-type]
    part = source.part(0, 5)
    monkeypatch.setattr(part, "read", lambda: iter(records))
    monkeypatch.setattr(source, "part", lambda start, stop: part)
    result = convert_to_rec(source, tmp_path / "out", ConvertOptions())
    assert (result.packed, result.quarantined) == (4, 1)
    assert reason in (tmp_path / "out" / "quarantine.jsonl").read_text()


def test_labels_of_other_sources_make_a_vector() -> None:
    extra = {"label_2": 0.5, "label_1": 7, "label_x": 3, "key": 9}
    header = to_rec._header_of(SourceRecord(0, b"", 3, None, extra), 12)
    assert unpack_header(header)[:4] == (3, (3, 7, 0.5), 12, 0)
    header = to_rec._header_of(SourceRecord(0, b"", 3, None, {"flag": 3, "label_1": 1.0}), 12)
    assert header == pack_header([3, 1, float("nan")], 12)


@pytest.mark.parametrize(
    ("number", "below"),
    [
        (2, 2),
        ((1 << 24) - 1, (1 << 24) - 1),
        (1 << 24, 1 << 24),
        ((1 << 24) + 1, 1 << 24),
        ((1 << 24) + 2, (1 << 24) + 2),
        ((1 << 24) + 3, (1 << 24) + 2),  # the nearest is 1 above
        (17_091_658, 17_091_658),
        (42_474_558, 42_474_556),
        (42_474_559, 42_474_556),  # the nearest is 1 above
    ],
)
def test_a_header_never_tells_of_more_images_than_there_are(number: int, below: int) -> None:
    assert float32_below(number) == below
    assert struct.unpack("<f", struct.pack("<f", below))[0] == below


def test_a_header_beyond_float32(
    make_rec: MakeRec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 2^24 images are more than a test can write: let float32 end at 16 instead.
    monkeypatch.setattr(to_rec, "float32_below", lambda number: number - number % 16)
    monkeypatch.setattr(to_rec, "_EXACT", 16)
    result = convert_to_rec(RecSource(make_rec(20)), tmp_path / "out", ConvertOptions())
    reader = Reader(tmp_path / "out")
    assert reader.at(0).labels == (16, 16)
    assert len(reader.images()) == 15 and reader.at(20).image
    assert "cannot be told in float32" in result.notices[0]
    assert result.notices[1].startswith("the header record tells of 15 of the 20 images")


@pytest.fixture
def spans_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_rec.RecSink, "span_records", 10)


@pytest.mark.usefixtures("spans_of_ten")
def test_an_interrupted_run_ends_the_same(
    make_rec: MakeRec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_rec(25, bad={12: b"short", 20: b"short"})
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # which is slow
    convert_to_rec(RecSource(folder), tmp_path / "whole", ConvertOptions())
    whole = files(tmp_path / "whole")
    for event, function in ((os, "fsync"), (ImageCheck, "look"), (Path, "replace")):
        real, last, done = getattr(event, function), 0, False
        while not done:
            calls = 0

            def stop(*args: object, last: int = last, real: object = real) -> object:
                nonlocal calls
                calls += 1
                if calls > last:
                    raise KeyboardInterrupt
                return real(*args)  # type: ignore[operator]

            out = tmp_path / f"{function}{last}"
            with monkeypatch.context() as patch:
                patch.setattr(event, function, stop)
                try:
                    convert_to_rec(RecSource(folder), out, ConvertOptions())
                    done = True
                except KeyboardInterrupt:
                    pass
            state = out / ".facepack"
            if (state / "plan.json").exists() and not (state / "done.json").exists():
                with pytest.raises(PackError, match="--resume"):
                    convert_to_rec(RecSource(folder), out, ConvertOptions())
            convert_to_rec(RecSource(folder), out, ConvertOptions(resume=True))
            assert files(out) == whole, (function, last)
            assert {file.name for file in state.iterdir()} == {"plan.json", "done.json"}
            last += 1
        assert last > 8


@pytest.mark.usefixtures("spans_of_ten")
def test_a_resumed_run_does_not_begin_anew(
    make_rec: MakeRec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = RecSource(make_rec(35))
    look, out = ImageCheck.look, tmp_path / "out"
    seen = []

    def full_at(check: ImageCheck, image: bytes) -> object:
        seen.append(image)
        if len(seen) == 28:
            raise OSError(errno.ENOSPC, "full")
        return look(check, image)

    monkeypatch.setattr(ImageCheck, "look", full_at)
    with pytest.raises(PackError, match="the disk is full: free some space"):
        convert_to_rec(source, out, ConvertOptions())
    assert set(files(out)) == set()
    convert_to_rec(source, out, ConvertOptions(resume=True))
    assert len(seen) == 28 + 15
    assert len(Reader(out).images()) == 35
    # What an interrupted run wrote and is no longer there is written anew.
    monkeypatch.setattr(ImageCheck, "look", look)
    for name in FILES:
        (out / name).unlink()
        convert_to_rec(source, out, ConvertOptions(resume=True))
        assert len(Reader(out).images()) == 35


def test_overwriting_removes_only_what_is_ours(
    make_rec: MakeRec, make_jpeg: MakeJpeg, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_bin(tmp_path / "x.bin", [make_jpeg(i) for i in range(4)], [True, False])
    convert_to_rec(BinSource(tmp_path / "x.bin"), out, ConvertOptions())
    (out / "notes").write_text("mine")
    source = RecSource(make_rec(10))
    with pytest.raises(PackError, match="a finished result: --overwrite replaces it"):
        convert_to_rec(source, out, ConvertOptions())
    with pytest.raises(PackError, match="another plan"):
        convert_to_rec(source, out, ConvertOptions(resume=True))
    convert_to_rec(source, out, ConvertOptions(overwrite=True))
    assert set(files(out)) == {*FILES, "notes"}
    shutil.rmtree(out / ".facepack")
    with pytest.raises(PackError, match="is not empty"):
        convert_to_rec(source, out, ConvertOptions(overwrite=True))


def test_writing_on_behind_what_is_there(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    def write(writer: RecordWriter, keys: range) -> None:
        for key in keys:
            writer.write(key, pack_header(key, key) + make_jpeg(key))

    whole, parts = tmp_path / "whole.rec", tmp_path / "parts.rec"
    with RecordWriter(whole, whole.with_suffix(".idx")) as writer:
        write(writer, range(9))
    with RecordWriter(parts, parts.with_suffix(".idx")) as writer:
        write(writer, range(5))
        keep = writer.sync()
        write(writer, range(7, 9))  # is cut off
    with RecordWriter(parts, parts.with_suffix(".idx"), keep=keep) as writer:
        write(writer, range(5, 9))
    for suffix in (".rec", ".idx"):
        assert parts.with_suffix(suffix).read_bytes() == whole.with_suffix(suffix).read_bytes()


@pytest.mark.parametrize("name", ["lfw-rec", "cfp-rec"])
def test_real_sets_come_back(shared: Path, tmp_path: Path, name: str) -> None:
    folder = shared / name
    source = pack(RecSource(folder), tmp_path / "pack")
    convert_to_rec(source, tmp_path / "out", ConvertOptions())
    if name == "lfw-rec":
        for file in FILES:
            assert (tmp_path / "out" / file).read_bytes() == (folder / file).read_bytes()
        return
    mine, its = read_layout(tmp_path / "out"), read_layout(folder)
    assert mine.keys.tolist() == its.keys.tolist()
    readers = [RecordReader(layout.rec) for layout in (mine, its)]
    for a, b in zip(readers[0].iter_at(mine.offsets), readers[1].iter_at(its.offsets), strict=True):
        assert a == b
    assert Reader(tmp_path / "out").ranges() == Reader(folder).ranges()
