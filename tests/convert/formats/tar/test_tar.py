"""Tars as a source: what is found in them, by which names, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from facepack import images
from facepack.convert.formats.pairs.pickles import write_bin
from facepack.convert.formats.pairs.source import BinSource
from facepack.convert.formats.rec.recordio import RecordWriter, pack_header
from facepack.convert.formats.rec.source import RecSource
from facepack.convert.formats.tar import look as tar_look
from facepack.convert.formats.tar import spool
from facepack.convert.formats.tar.headers import Member, member_header, padded, read_member
from facepack.convert.formats.tar.source import TarSource
from facepack.convert.formats.tar.stream import Files
from facepack.convert.source import Refusal, Source
from facepack.convert.spans import cut_spans
from facepack.errors import SourceError
from facepack.store.record import SourceRecord

MakeRec = Callable[..., Path]
MakeJpeg = Callable[..., bytes]
FORMATS = {"v7": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def make_tar(
    path: Path, members: Sequence[tuple[str, bytes]], *, form: int = tarfile.PAX_FORMAT
) -> Path:
    mode = "w:gz" if path.suffix in (".gz", ".tgz") else "w"
    with tarfile.open(path, mode, format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def cut(path: Path, count: int) -> list[Path]:
    """Cut a file into pieces, remove it, and name them."""
    data = path.read_bytes()
    size = -(-len(data) // count)
    path.unlink()
    pieces = []
    for k in range(count):
        pieces.append(path.with_name(f"faces_{k:02d}"))
        pieces[-1].write_bytes(data[k * size : (k + 1) * size])
    return pieces


def read(source: Source, step: int = 1000) -> list[SourceRecord | Refusal]:
    """All records, through parts as a worker has them."""
    found: list[SourceRecord | Refusal] = []
    for span in cut_spans(source, records=step, size=1 << 30):
        part = source.part(span.start, span.stop)
        found += (pickle.loads(pickle.dumps(part)) if source.parallel else part).read()
    return found


def plain(record: SourceRecord | Refusal) -> Any:
    if isinstance(record, Refusal):
        return record
    return record.ordinal, bytes(record.image), record.label, record.name, record.extra


# Headers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_headers_are_those_that_tarfile_reads(tmp_path: Path, form: int) -> None:
    path = tmp_path / "a.tar"
    long = "d" * 90 + "/" + "e" * 80
    with tarfile.open(path, "w", format=form) as tar:
        for k, name in enumerate(["a.jpg", long + ".jpg", "ü/ö.jpg", "f" * 100]):
            info = tarfile.TarInfo(name)
            info.size = 700 * k
            tar.addfile(info, io.BytesIO(bytes(700 * k)))
        for kind, name in [
            (tarfile.DIRTYPE, "folder"),
            (tarfile.SYMTYPE, "soft"),
            (tarfile.LNKTYPE, "hard"),
            (tarfile.FIFOTYPE, "pipe"),
            (tarfile.CHRTYPE, "device"),
            (tarfile.CONTTYPE, "contiguous"),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "g" * (150 if form != tarfile.USTAR_FORMAT else 50)
            tar.addfile(info)
    with tarfile.open(path) as tar:
        expected = [(info.name, info.isreg(), info.offset_data, info.size) for info in tar]
    found = []
    with Files.look_at([path]).open() as stream:
        while member := read_member(stream):
            name = member.name.decode().rstrip("/")
            found.append((name, member.regular, member.data, member.size))
            stream.seek(member.end)
    assert found == expected


class Bytes:
    """A reader of bytes, as headers need it."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    @property
    def position(self) -> int:
        return self._file.tell()

    def read(self, count: int) -> bytes:
        return self._file.read(count)

    def skip(self, count: int) -> None:
        self._file.seek(count, io.SEEK_CUR)

    def name_byte(self, position: int) -> str:
        return f"x.tar: byte {position}"


@pytest.mark.parametrize("size", [0, 1, 8 << 30, 1 << 40])
@pytest.mark.parametrize("name", ["a.jpg", "b" * 100, "c/" * 60 + "d.cls", "ü.jpg", "e" * 300])
def test_headers_that_are_written_are_read_by_tarfile(name: str, size: int) -> None:
    header = member_header(name, size)
    with tarfile.open(fileobj=io.BytesIO(header + bytes(1024))) as tar:
        info = tar.next()
    assert info is not None
    assert (info.name, info.size, info.mode, info.mtime) == (name, size, 0o644, 0)
    assert (info.uid, info.gid, info.uname, info.gname) == (0, 0, "", "")
    member = read_member(Bytes(header))
    assert member == Member(name.encode(), True, 0, len(header), size)


def test_base_256_sizes_and_signed_checksums_are_read() -> None:
    info = tarfile.TarInfo("é" * 20)
    info.size = 9 << 30
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    assert block[124] == 0x80
    assert read_member(Bytes(bytes(block))).size == 9 << 30  # type: ignore[union-attr]
    block[148:156] = b" " * 8
    signed = sum(byte - 256 if byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % signed
    assert read_member(Bytes(bytes(block))) is not None


def test_a_v7_header_with_a_slash_is_a_folder() -> None:
    block = bytearray(member_header("folder/", 0))
    block[148:156], block[156:265] = b" " * 8, bytes(109)
    block[148:156] = b"%06o\0 " % sum(block)
    assert not read_member(Bytes(bytes(block))).regular  # type: ignore[union-attr]


def pax(records: bytes) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    return info.tobuf() + records + bytes(-len(records) % 512)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x" * 512, "byte 0: no header of a member"),
        (pax(b"9 path=a\n"), "byte 1024: no header"),
        (pax(b"8 path=a\n"), "the pax record is malformed at its byte 0"),
        (pax(b"0 path=a\n"), "the pax record is malformed"),
        (pax(b"99 path=a\n"), "the pax record is malformed"),
        (pax(b"11 size=-1\n") + member_header("a", 0), r"the size in the pax record is b'-1'"),
        (pax(b"22 GNU.sparse.major=1\n") + member_header("a.jpg", 0), "is stored as a sparse file"),
        (pax(bytes((1 << 20) + 1)), "1048577 bytes; allowed are 1 MiB"),
        (pax(b"9 path=a\n") * 5000, "without end before a member"),
    ],
)
def test_headers_that_lie_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read_member(Bytes(data + bytes(1024)))


def test_a_gnu_sparse_member_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a/1.jpg")
    info.type = tarfile.GNUTYPE_SPARSE
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(SourceError, match=r"a\.tar: byte 0: a/1\.jpg is stored as a sparse file"):
        TarSource([tmp_path / "a.tar"])


def told_by(source: Source) -> list[str]:
    """The notices, but for that of the room that is not there."""
    return [notice for notice in source.notices if "inflated twice" not in notice]


# A .rec in archives ------------------------------------------------------------------------------


def rec_members(folder: Path, order: Sequence[str]) -> list[tuple[str, bytes]]:
    return [(f"set/{name}", (folder / name).read_bytes()) for name in order]


@pytest.fixture(params=["kept", "inflated again", "inflated again in order"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What becomes of what is inflated: is there room for it, else are archives small?"""
    if request.param != "kept":
        monkeypatch.setattr(spool, "room", lambda folder: 0)
    if request.param == "inflated again in order":
        monkeypatch.setattr(tar_look, "_MOST_AGAIN", 0)
    return str(request.param)


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("pieces", [1, 7])
def test_a_rec_in_pieces_gives_what_it_gives_unpacked(
    make_rec: MakeRec, tmp_path: Path, suffix: str, pieces: int, vector: bool, kept: str
) -> None:
    folder = make_rec(60, vector=vector, bad={9: b"short", 12: pack_header(-7, 13) + b"x"})
    order = ["property", "train.idx", "train.rec"] if vector else ["train.rec", "train.idx"]
    paths = [make_tar(tmp_path / f"a{suffix}", rec_members(folder, order))]
    if pieces > 1:
        paths = cut(paths[0], pieces)
    if not vector:
        (folder / "property").unlink()
    unpacked, source = RecSource(folder), TarSource(paths)
    assert source.parallel == (kept != "inflated again in order" or suffix == ".tar")
    assert source.classes == unpacked.classes and told_by(source) == unpacked.notices == []
    assert source.groups() == unpacked.groups() and len(source) == len(unpacked) == 60
    assert source.sizes().tolist() == unpacked.sizes().tolist()
    expected = [plain(record) for record in read(unpacked)]
    assert [plain(record) for record in read(source, 13)] == expected
    assert sum(isinstance(record, Refusal) for record in expected) == 2
    entries = list(unpacked.part(5, 20).entries())
    assert list(source.part(5, 20).entries()) == entries
    keep = np.arange(20) % 3 == 0
    some = [plain(record) for record in source.part(20, 40).read(keep)]
    assert some == [row for row, kept in zip(expected[20:40], keep, strict=True) if kept]


def test_records_of_several_parts_are_joined(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    magic = b"\x0a\x23\xd7\xce"
    payloads = [
        pack_header(3, 1) + make_jpeg(0) + magic * 5,
        pack_header(4, 2) + bytes(-len(pack_header(4, 2)) % 4) + magic + b"ab" + magic * 2,
        pack_header(0, 0xCED7230ACED7230A) + magic,  # the first part ends inside the header
        magic + magic,
        pack_header([float("nan"), 1], 4, 5),
        pack_header(5, 6) + b"x",
    ]
    with RecordWriter(tmp_path / "train.rec", tmp_path / "train.idx") as writer:
        for key, payload in enumerate(payloads, start=1):
            writer.write(key, payload)
    members = [("train.rec", (tmp_path / "train.rec").read_bytes())]
    source = TarSource([make_tar(tmp_path / "a.tar", members)])
    (tmp_path / "train.idx").unlink()
    unpacked = RecSource(tmp_path)
    assert [plain(r) for r in read(source)] == [plain(r) for r in read(unpacked)]
    assert any("no .idx beside it" in notice for notice in source.notices)


def test_an_index_that_omits_records_is_completed_and_a_wrong_one_is_not_used(
    make_rec: MakeRec, tmp_path: Path
) -> None:
    folder = make_rec(20)
    members = dict(rec_members(folder, ["train.rec", "train.idx"]))
    lines = members["set/train.idx"].splitlines(keepends=True)
    members["set/train.idx"] = b"".join(lines[:5] + lines[8:])
    (folder / "train.idx").write_bytes(members["set/train.idx"])
    path = make_tar(tmp_path / "a.tar", list(members.items()))
    source = TarSource([path])
    assert [plain(r) for r in read(source)] == [plain(r) for r in read(RecSource(folder))]
    assert len(source) == 20 and any("its .idx omits 3 images" in n for n in source.notices)
    source, twin = TarSource([path], only_indexed=True), RecSource(folder, only_indexed=True)
    assert [plain(r) for r in read(source)] == [plain(r) for r in read(twin)]
    assert len(source) == 17
    assert any("announces 20 images, 17 were found" in notice for notice in source.notices)
    members["set/train.idx"] = b"1\t4\n"
    source = TarSource([make_tar(tmp_path / "b.tar", list(members.items()))])
    assert len(source) == 20 and any("its .idx is not used" in n for n in source.notices)
    with pytest.raises(SourceError, match="and --only-indexed goes by it: leave that option out"):
        TarSource([tmp_path / "b.tar"], only_indexed=True)
    tree = make_tar(tmp_path / "tree.tar", [("ann/0.jpg", b"image")])
    with pytest.raises(SourceError, match=r"--only-indexed is for a \.rec and its \.idx"):
        TarSource([tree], only_indexed=True)
    members["set/train.idx"] = b"1 4\n"
    with pytest.raises(SourceError, match=r"train.idx: line 1 is '1 4'"):
        TarSource([make_tar(tmp_path / "c.tar", list(members.items()))])


def test_a_broken_rec_is_named_by_its_byte(make_rec: MakeRec, tmp_path: Path) -> None:
    folder = make_rec(20)
    offset = int((folder / "train.idx").read_text().splitlines()[7].split("\t")[1])
    data = bytearray((folder / "train.rec").read_bytes())
    data[offset] ^= 1
    path = make_tar(tmp_path / "a.tar", [("train.rec", bytes(data))])
    with pytest.raises(SourceError, match=rf"a.tar: byte \d+: train.rec: byte {offset}: no part"):
        TarSource([path])
    path = make_tar(tmp_path / "a.tar", [("train.rec", bytes(data[:100]))])
    with pytest.raises(SourceError, match="a record that reaches over the end"):
        TarSource([path])
    path = make_tar(tmp_path / "a.tar", [("list.rec", pack_header(1, 1))])
    with pytest.raises(SourceError, match=r"list.rec: byte 0: no part of a record"):
        TarSource([path])


def test_a_rec_without_images_or_a_second_one_is_told(make_rec: MakeRec, tmp_path: Path) -> None:
    folder = make_rec(10)
    rec = (folder / "train.rec").read_bytes()
    two = make_tar(tmp_path / "two.tar", [("a/train.rec", rec), ("b/val.rec", rec)])
    with pytest.raises(SourceError, match=r"a/train.rec and b/val.rec: choose one .* --member"):
        TarSource([two])
    source = TarSource([two], member="val.rec")
    assert len(source) == 10 and source.groups()[0].stem == "val"
    assert source.tables(np.arange(10)) == {}
    with RecordWriter(tmp_path / "x.rec", tmp_path / "x.idx") as writer:
        writer.write(0, pack_header([1, 2], 0))
    blank = make_tar(tmp_path / "b.tar", [("x.rec", (tmp_path / "x.rec").read_bytes())])
    with pytest.raises(SourceError, match="none of its 1 records holds an image"):
        TarSource([blank])


def test_a_pointer_in_place_of_a_rec_is_told(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n"
    path = make_tar(tmp_path / "a.tar", [("g/train.rec", pointer)])
    with pytest.raises(SourceError, match=r"g/train\.rec: is a pointer of Git LFS.*git lfs pull"):
        TarSource([path])


def test_large_records_are_refused_unread(
    make_rec: MakeRec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_rec(10, bad={3: pack_header(0, 4) + bytes(50_000)})
    paths = [make_tar(tmp_path / "a.tar", rec_members(folder, ["train.rec", "train.idx"]))]
    source = TarSource(paths)
    monkeypatch.setattr(images, "MAX_BYTES", 40_000)
    assert source.sizes()[3] == 0
    refused = read(source)[3]
    assert isinstance(refused, Refusal) and "at most 40,000 are taken" in refused.reason
    assert "FACEPACK_MAX_IMAGE_BYTES" in refused.remedy and refused.key == "4"


# Images in archives ------------------------------------------------------------------------------


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_a_tree_is_labelled_by_folder(
    tmp_path: Path, make_jpeg: MakeJpeg, form: int, suffix: str
) -> None:
    names = ["t/zoe/1.jpg", "t/ann/1.jpg", "t/ann/2.x.PNG", f"t/{'m' * 80}/{'n' * 90}.jpeg"]
    members = [(name, make_jpeg(k)) for k, name in enumerate(names)]
    first = make_tar(tmp_path / f"a{suffix}", members[:3], form=form)
    second = make_tar(tmp_path / f"b{suffix}", members[3:], form=form)
    source = TarSource([first, second])
    assert [(group.stem, group.start, group.stop) for group in source.groups()] == [
        ("a", 0, 3),
        ("b", 3, 4),
    ]
    records = [r for r in read(source) if isinstance(r, SourceRecord)]
    assert [(r.label, r.name) for r in records] == list(zip([2, 0, 0, 1], names, strict=True))
    assert [r.image for r in records] == [image for _, image in members]
    assert source.sizes().tolist() == [len(image) for _, image in members]
    (notice,) = told_by(source)
    assert "3 folders below it are the identities" in notice
    assert source.classes == 3 and source.tables(np.arange(4)) == {}
    assert source.part(0, 3).identity_names() == {0: "ann", 2: "zoe"}
    assert list(source.part(1, 3).entries()) == [(0, names[1]), (0, names[2])]
    # A gzipped stream is read in order; going back begins anew.
    assert [plain(r) for r in source.part(0, 1).read()] == [plain(records[0])]


@pytest.mark.parametrize("packed", [False, True])
def test_samples_are_labelled_by_their_members(
    tmp_path: Path, make_jpeg: MakeJpeg, packed: bool
) -> None:
    image = make_jpeg(0)
    members = [
        ("./p/000.cls", b" 7\n"),
        ("./p/000.jpg", image),
        ("001.jpg", image),
        ("001.seg.png", image),
        ("001.json", json.dumps({"label": 3, "caption": "x"}).encode()),
        ("002.webp", image),
        ("002.json", b'{"label": "cat"}'),
        ("003.jpg", image),
        ("003.cls", b"cat"),
        ("004.jpg", image),
        ("004.cls", b"-1"),
        ("005.json", b'{"label": 1}'),
        ("006.cls", b"9" * 100),
        ("006.png", image),
        ("007.jpg", image),
        ("007.json", b'{"label": 5}'),
        ("007.cls", b"6"),
    ]
    source = TarSource([make_tar(tmp_path / ("a.tgz" if packed else "a.tar"), members)])
    found = read(source)
    labels = [r.label if isinstance(r, SourceRecord) else r.reason[:20] for r in found]
    assert labels == [
        7,
        3,
        "its sample has anoth",
        "its label is a text,",
        "its label is a text,",
        -1,
        "its .cls holds no cl",
        6,
    ]
    names = [r.name if isinstance(r, SourceRecord) else r.key for r in found]
    assert names == ["p/000", "001", "001.seg.png", "002", "003", "004", "006", "007"]
    assert [entry.name for entry in source.part(0, 8).entries()] == names
    assert source.classes is None and source.part(0, 8).identity_names() == {}
    refused = found[3]
    assert isinstance(refused, Refusal) and refused.file.startswith("a.t") and refused.offset


def test_a_sample_does_not_reach_into_the_next_archive(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    first = make_tar(tmp_path / "a.tar", [("1.jpg", make_jpeg(0)), ("1.cls", b"4")])
    second = make_tar(tmp_path / "b.tar", [("1.jpg", make_jpeg(1)), ("1.cls", b"5")])
    labels = [r.label for r in read(TarSource([first, second])) if isinstance(r, SourceRecord)]
    assert labels == [4, 5]


def test_what_is_passed_over_is_told(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    path = make_tar(
        tmp_path / "a.tar",
        [
            ("ann/1.jpg", make_jpeg(0)),
            ("ann/._1.jpg", b"fork"),
            ("ann/README.txt", b"hello"),
            ("loose.jpg", make_jpeg(1)),
            ("x/ann/2.jpg", make_jpeg(2)),
            ("sets/lfw.bin", b"whatever"),
        ],
    )
    with tarfile.open(path, "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo("ann/3.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("../../escape/4.jpg"))
    source = TarSource([path])
    text = "\n".join(source.notices)
    assert "4 links, folders, devices or pipes were passed over, first 'ann/3.jpg'" in text
    assert "1 files, hidden, or put beside images by a system" in text
    assert "first 'ann/._1.jpg'" in text
    assert "1 files that are no images by their names were passed over" in text
    assert "`facepack tar2lmdb a.tar OUT --member sets/lfw.bin`" in text
    assert "1 of 4 images lie deeper, as in 'ann' of level 2" in text
    told = "\n".join(TarSource([path], identity_level=-1).notices)
    assert "1 name of folders occurs at several places" in told and "deeper" not in told
    found = read(source)
    assert [r.name if isinstance(r, SourceRecord) else r.key for r in found] == [
        "ann/1.jpg",
        "loose.jpg",
        "x/ann/2.jpg",
        "../../escape/4.jpg",
    ]
    assert isinstance(found[1], Refusal) and "lies in no folder" in found[1].reason


def test_a_rec_goes_before_images(make_rec: MakeRec, tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    rec = (make_rec(5) / "train.rec").read_bytes()
    members = [("ann/1.jpg", make_jpeg(9)), ("train.rec", rec)]
    source = TarSource([make_tar(tmp_path / "a.tar", members)])
    assert len(source) == 5
    assert "1 images outside train.rec were passed over, first 'ann/1.jpg'" in source.notices


def test_images_that_claim_too_much_are_refused_unread(
    tmp_path: Path, make_jpeg: MakeJpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 50_000)
    members = [("a/1.jpg", make_jpeg(0)), ("a/2.jpg", bytes(50_001)), ("b/3.jpg", make_jpeg(1))]
    source = TarSource([make_tar(tmp_path / "a.tar", members)])
    assert source.sizes()[1] == 0
    first, second, third = read(source)
    assert isinstance(first, SourceRecord) and isinstance(third, SourceRecord)
    assert isinstance(second, Refusal) and "50,001 bytes; at most 50,000" in second.reason
    assert "FACEPACK_MAX_IMAGE_BYTES" in second.remedy and second.key == "a/2.jpg"


def test_a_terabyte_that_is_claimed_is_no_terabyte(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(member_header("a/1.jpg", 1 << 40) + bytes(2048))
    with pytest.raises(SourceError, match=r"a/1.jpg is not complete: a.tar: .*cut short"):
        TarSource([path])


# Pieces and archives -----------------------------------------------------------------------------


def test_pieces_may_be_cut_anywhere(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    members = [(f"{k}/1.jpg", make_jpeg(k)) for k in range(6)]
    path = make_tar(tmp_path / "a.tar", members)
    expected = [plain(r) for r in read(TarSource([path]))]
    data = path.read_bytes()
    middle = 512 + padded(len(members[0][1]))
    for place in (1, 511, 512, 513, middle, middle + 512, len(data) - 10_000, len(data) - 512):
        for k, piece in enumerate((data[:place], data[place:])):
            (tmp_path / f"p_{k:02d}").write_bytes(piece)
        source = TarSource([tmp_path / "p_00", tmp_path / "p_01"])
        assert [plain(r) for r in read(source, 2)] == expected
        assert [group.stem for group in source.groups()] == ["p"]


def test_a_folder_stands_for_its_tars(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    for name in ("s-001.tar", "s-000.tar"):
        make_tar(tmp_path / name, [(f"{name}/1.jpg", make_jpeg(0))])
    (tmp_path / "README").touch()
    source = TarSource([tmp_path])
    assert [group.stem for group in source.groups()] == ["s-000", "s-001"]
    assert told_by(source) == [
        f"{tmp_path}: 1 files that are no tars by their names were passed over, first 'README'"
    ]
    (tmp_path / "none").mkdir()
    with pytest.raises(SourceError, match="the folder holds no tar"):
        TarSource([tmp_path / "none"])


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_shard_that_is_cut_short_is_named(
    tmp_path: Path, make_jpeg: MakeJpeg, suffix: str
) -> None:
    paths = [
        make_tar(tmp_path / f"{k}{suffix}", [(f"{j}/{k}.jpg", make_jpeg(j)) for j in range(9)])
        for k in range(2)
    ]
    whole = paths[0].read_bytes()
    paths[0].write_bytes(whole[: len(whole) // 3])
    with pytest.raises(SourceError, match=rf"0{suffix}: byte \d+: the file is cut short, for 1"):
        TarSource(paths)
    with pytest.raises(SourceError, match=r"is not complete: .*0.tar|0.tar.*ends inside"):
        TarSource(paths[:1])


def test_an_archive_without_its_end_is_read_with_a_notice(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    image = make_jpeg(0)
    path = tmp_path / "a.tar"
    path.write_bytes(member_header("a/1.jpg", len(image)) + image + bytes(-len(image) % 512))
    source = TarSource([path])
    assert len(source) == 1 and "ends without the mark" in source.notices[0]


def test_damaged_headers_and_strangers_are_named(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    path = make_tar(tmp_path / "a.tar", [(f"{k}/1.jpg", make_jpeg(k)) for k in range(3)])
    data = bytearray(path.read_bytes())
    second = 512 + padded(len(make_jpeg(0)))
    data[second + 3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(SourceError, match=rf"a.tar: byte {second}: no header of a member"):
        TarSource([path])
    for name, content in [("a.jpg", make_jpeg(0)), ("b.gz", gzip.compress(b"x" * 3000))]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceError, match=f"{name}: begins neither as a tar"):
            TarSource([tmp_path / name])
    (tmp_path / "zero").write_bytes(bytes(10_240))
    with pytest.raises(SourceError, match=r"the archives hold no image and no .rec"):
        TarSource([tmp_path / "zero"])


def test_an_archive_that_changes_stops_the_conversion(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    members = [(f"{k}/1.jpg", make_jpeg(k)) for k in range(3)]
    path = make_tar(tmp_path / "a.tar", members)
    source = TarSource([path])
    size = path.stat().st_size
    make_tar(path, [members[2], members[0], members[1]])
    assert path.stat().st_size == size
    with pytest.raises(SourceError, match="changed while it was read"):
        read(source)
    path.unlink()
    with pytest.raises(SourceError, match="No such file"):
        read(source)


def test_two_sources_describe_themselves_differently(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    members = [(f"{k}/1.jpg", make_jpeg(k)) for k in range(3)]
    path = make_tar(tmp_path / "a.tar", members)
    described = TarSource([path]).describe()
    assert json.loads(json.dumps(described)) == described
    assert str(tmp_path) not in json.dumps(described)
    assert TarSource([path]).describe() == described
    make_tar(path, [("9/1.jpg", members[0][1]), *members[1:]])
    assert TarSource([path]).describe() != described
    packed = make_tar(tmp_path / "b.tgz", members)
    digest = xxhash.xxh3_128_hexdigest(packed.read_bytes())
    stated = ["b.tgz", packed.stat().st_size, digest]
    assert TarSource([packed]).describe()["files"] == [stated]


# Archives joined in one file ---------------------------------------------------------------------


def joined(
    tmp_path: Path, make_jpeg: MakeJpeg, kinds: Sequence[str], *between: bytes
) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Archives of these suffixes as one run of bytes, ``between`` behind each; and all images."""
    stored, images = b"", []
    for k, (suffix, behind) in enumerate(zip(kinds, between, strict=True)):
        rows = [(f"{k}{j % 2}/{j}.jpg", make_jpeg(10 * k + j)) for j in range(4)]
        stored += make_tar(tmp_path / f"part{suffix}", rows).read_bytes() + behind
        images += rows
    return stored, images


JOINED = [(".tar", ".tar"), (".tar.gz", ".tar.gz"), (".tar.gz", ".tar"), (".tar",) * 3]


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("pieces", [1, 2, 3, 7])
@pytest.mark.parametrize("padding", [0, 512, 5000])
@pytest.mark.parametrize("kinds", JOINED, ids="+".join)
def test_archives_joined_in_one_file_are_all_read(
    tmp_path: Path, make_jpeg: MakeJpeg, kinds: Sequence[str], padding: int, pieces: int
) -> None:
    zeros = [bytes(padding)] * len(kinds)
    stored, images = joined(tmp_path, make_jpeg, kinds, *zeros)
    (tmp_path / "all.tar").write_bytes(stored)
    paths = [tmp_path / "all.tar"] if pieces == 1 else cut(tmp_path / "all.tar", pieces)
    source = TarSource(paths)
    records = [record for record in read(source, 3) if isinstance(record, SourceRecord)]
    assert [(record.name, record.image) for record in records] == images
    assert told_by(source) == [] and len(source.groups()) == len(kinds)


def test_refused_images_of_joined_archives_are_named_by_their_byte_in_the_file(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    first = make_tar(tmp_path / "a.tar", [("p/1.jpg", make_jpeg(0))]).read_bytes()
    second = make_tar(tmp_path / "b.tar", [("loose.jpg", make_jpeg(1))]).read_bytes()
    (tmp_path / "ab.tar").write_bytes(first + second)
    refused = read(TarSource([tmp_path / "ab.tar"]))[1]
    assert isinstance(refused, Refusal) and refused.offset == len(first)


def test_a_sample_does_not_reach_into_a_joined_archive(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    stored = b""
    for k in range(3):
        members = [("1.jpg", make_jpeg(k)), ("1.cls", b"%d" % k)]
        stored += make_tar(tmp_path / "part.tar", members).read_bytes()
    (tmp_path / "all.tar").write_bytes(stored)
    source = TarSource([tmp_path / "all.tar"])
    labels = [record.label for record in read(source) if isinstance(record, SourceRecord)]
    assert labels == [0, 1, 2] and told_by(source) == []


def test_zeros_before_an_archive_are_passed_over(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    path = make_tar(tmp_path / "a.tar", [("p/1.jpg", make_jpeg(0))])
    path.write_bytes(bytes(1536) + path.read_bytes())
    assert len(TarSource([path])) == 1


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("kind", [".tar", ".tar.gz"])
@pytest.mark.parametrize("alone", [False, True])
def test_what_follows_and_is_no_tar_is_told(
    tmp_path: Path, make_jpeg: MakeJpeg, kind: str, alone: bool
) -> None:
    stored, images = joined(tmp_path, make_jpeg, [kind], b"and more")
    paths = [tmp_path / f"x{kind}"]
    paths[0].write_bytes(stored)
    if not alone:  # the next file is read nevertheless
        paths.append(make_tar(tmp_path / "y.tar.gz", images))
    source = TarSource(paths)
    assert [r.image for r in read(source) if isinstance(r, SourceRecord)] == [
        image for _, image in images * (1 if alone else 2)
    ]
    (notice,) = told_by(source)
    assert notice.startswith(f"x{kind}: 8 bytes behind the end of an archive are no tar")


def test_an_archive_behind_what_is_no_tar_is_never_lost_in_silence(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    path = tmp_path / "x.tar"
    for junk, count in [(b"\1" * 1024, None), (b"junk", 10_244)]:
        stored, _ = joined(tmp_path, make_jpeg, [".tar", ".tar"], junk, b"")
        path.write_bytes(stored)
        if count is None:  # whole blocks, as after a hole
            with pytest.raises(SourceError, match=r"x\.tar: zeros end an archive, but it goes on"):
                TarSource([path])
        else:
            (notice,) = TarSource([path]).notices
            assert f"{len(stored) // 2 + 2:,} bytes behind the end of an archive" in notice


def test_a_hole_in_an_archive_is_damage(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    path = make_tar(tmp_path / "a.tar", [(f"p/{k}.jpg", make_jpeg(k)) for k in range(6)])
    data = bytearray(path.read_bytes())
    second = 512 + padded(len(make_jpeg(0)))
    data[second : second + 1024] = bytes(1024)
    path.write_bytes(bytes(data))
    with pytest.raises(SourceError, match="zeros end an archive, but it goes on"):
        TarSource([path])


@pytest.mark.usefixtures("kept")
def test_gzipped_data_that_end_inside_an_archive_are_damage(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    # Several members, as parallel compressors write them, of which one has a wrong first byte.
    plain = make_tar(tmp_path / "a.tar", [(f"p/{k}.jpg", make_jpeg(k)) for k in range(6)])
    data = plain.read_bytes()
    members = [gzip.compress(data[at : at + 3000]) for at in range(0, len(data), 3000)]
    (tmp_path / "b.tar.gz").write_bytes(b"".join(members))
    expected = [
        record.image for record in read(TarSource([plain])) if not isinstance(record, Refusal)
    ]
    found = read(TarSource([tmp_path / "b.tar.gz"]))
    assert [record.image for record in found if not isinstance(record, Refusal)] == expected
    members[1] = b"\x1e" + members[1][1:]
    (tmp_path / "b.tar.gz").write_bytes(b"".join(members))
    with pytest.raises(SourceError, match="the gzipped data end inside the archive"):
        TarSource([tmp_path / "b.tar.gz"])


# Verification sets -------------------------------------------------------------------------------


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_set_in_an_archive_is_that_set(
    tmp_path: Path, make_jpeg: MakeJpeg, make_rec: MakeRec, suffix: str
) -> None:
    write_bin(tmp_path / "lfw.bin", [make_jpeg(k // 2) for k in range(12)], [True, False] * 3)
    rec = (make_rec(5) / "train.rec").read_bytes()
    members = [("g/train.rec", rec), ("g/lfw.bin", (tmp_path / "lfw.bin").read_bytes())]
    path = make_tar(tmp_path / f"a{suffix}", members)
    unpacked = BinSource(tmp_path / "lfw.bin")
    for member in ("g/lfw.bin", "lfw.bin"):
        source = TarSource([path], member=member)
        assert (source.kind, source.content, source.table_names) == ("tar", "pairs", ("pairs",))
        assert len(source) == len(unpacked) == 6 and source.groups() == unpacked.groups()
        assert [plain(r) for r in source.part(0, 6).read()] == [
            plain(r) for r in unpacked.part(0, 6).read()
        ]
        positions = unpacked.uses[:6]
        assert (source.tables(positions)["pairs"] == unpacked.tables(positions)["pairs"]).all()
        assert source.describe() == TarSource([path], member=member).describe()
    with pytest.raises(SourceError, match=r"hold none of this name; there are: g/train.rec, g/lfw"):
        TarSource([path], member="agedb_30.bin")
    with pytest.raises(SourceError, match=r"only a .rec or a .bin"):
        TarSource([path], member="a.jpg")


# Real faces --------------------------------------------------------------------------------------


def test_real_faces_in_seven_pieces(tmp_path: Path, shared: Path) -> None:
    folder = tmp_path / "glint360k"
    shutil.copytree(shared / "lfw-rec", folder, copy_function=shutil.copyfile)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", compresslevel=1) as tar:
        tar.add(folder, "glint360k")
    source, unpacked = TarSource(cut(tmp_path / "a.tar.gz", 7)), RecSource(folder)
    assert source.classes == unpacked.classes
    for found, expected in zip(read(source, 4000), read(unpacked), strict=True):
        assert plain(found) == plain(expected)


def test_labels_without_an_image_are_told(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    members = [
        *((f"p/{k}.jpg", make_jpeg(k)) for k in range(3)),
        *((f"p/{k}.cls", b"7") for k in range(2)),
    ]
    source = TarSource([make_tar(tmp_path / "a.tar", members)])
    assert "2 labels (.cls, or .json with a label) have no image beside them" in source.notices[0]


def test_no_identity_is_called_after_the_folder_above(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    members = [("p/1.jpg", make_jpeg(0)), ("p/../2.jpg", make_jpeg(1)), ("../3.jpg", make_jpeg(2))]
    source = TarSource([make_tar(tmp_path / "a.tar", members)])
    assert source.part(0, 3).identity_names() == {0: "p"}
    assert [isinstance(record, Refusal) for record in read(source)] == [False, True, True]


def test_archives_whose_names_end_alike_have_shards_of_their_own(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    paths = [tmp_path / f"set_{k:02d}" for k in range(3)]
    for k, path in enumerate(paths):
        make_tar(path, [(f"p{k}/1.jpg", make_jpeg(k))])
    source = TarSource(paths)
    assert [group.stem for group in source.groups()] == ["set", "set_2", "set_3"]
    assert len(cut_spans(source, records=10, size=1 << 20)) == 3
    with pytest.raises(SourceError, match="set_00: is given twice"):
        TarSource([tmp_path, paths[0]])


def test_archives_without_an_image_are_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no image and no \.rec; pass archives that do"):
        TarSource([make_tar(tmp_path / "a.tar", [("README", b"x")])])


def test_hidden_files_of_a_folder_are_no_tars(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    make_tar(tmp_path / "a.tar", [("p/1.jpg", make_jpeg(0))])
    (tmp_path / "._a.tar").write_bytes(b"a fork of macOS")
    source = TarSource([tmp_path])
    assert len(source) == 1 and source.notices == []
