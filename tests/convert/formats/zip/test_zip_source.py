"""Zips read as a source, against CPython's zipfile, the slow and obvious twin."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facepack import images
from facepack.convert import workers
from facepack.convert.formats.zip import directory as zip_directory
from facepack.convert.formats.zip import part as zip_part
from facepack.convert.formats.zip.source import ZipSource
from facepack.convert.source import Refusal
from facepack.convert.spans import cut_spans, payload_bytes
from facepack.errors import SourceError
from facepack.store.record import SourceRecord

MakeJpeg = Callable[..., bytes]
FaceZip = Callable[..., Path]


class Unseekable(io.RawIOBase):
    """A stream that cannot go back: sizes and CRC have to follow the data."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.data += bytes(data)
        return len(data)


class Cp437Info(zipfile.ZipInfo):
    """A member whose name is not UTF-8."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.filename.encode("cp437"), self.flag_bits


@pytest.fixture
def face_zip(tmp_path: Path) -> FaceZip:
    """``face_zip(members, name="0_0.zip", method=…)``: a zip of ``{name: bytes}``."""

    def make(
        members: dict[str, bytes],
        name: str = "0_0.zip",
        method: int = zipfile.ZIP_STORED,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", method) as archive:
            for member, data in members.items():
                archive.writestr(member, data)
        return path

    return make


def faces(count: int, prefix: str = "set/p", size: int = 300) -> dict[str, bytes]:
    """What only a zip looks at: bytes that need be no images, three for each identity."""
    rng = np.random.default_rng(count)
    return {f"{prefix}{i // 3}/{i}.jpg": rng.bytes(size + i % 7) for i in range(count)}


def read_all(source: ZipSource, step: int | None = None) -> list[SourceRecord | Refusal]:
    records: list[SourceRecord | Refusal] = []
    for _, start, stop in source.groups():
        for first in range(start, stop, step or max(stop - start, 1)):
            part = pickle.loads(pickle.dumps(source.part(first, min(first + (step or stop), stop))))
            records += list(part.read())
    assert [record.ordinal for record in records] == list(range(len(source)))
    return records


def refusals(source: ZipSource) -> list[Refusal]:
    return [record for record in read_all(source) if isinstance(record, Refusal)]


def twin(paths: list[Path]) -> list[tuple[str, bytes, str]]:
    """Name, bytes and identity of each image."""
    found = []
    for path in paths:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.filename.lower().endswith((".jpg", ".png")):
                    identity = info.filename.split("/")[-2]
                    found.append((info.filename, archive.read(info), identity))
    return found


def check_against_twin(
    paths: list[Path], step: int | None = None, level: int | None = None
) -> None:
    source = ZipSource(paths, identity_level=level)
    expected = twin(paths)
    order = sorted({identity for _, _, identity in expected}, key=lambda name: name.encode())
    assert source.classes == len(order)
    records = [record for record in read_all(source, step) if isinstance(record, SourceRecord)]
    assert [(r.name, bytes(r.image), order[r.label]) for r in records] == expected
    assert source.sizes().tolist() == [len(data) for _, data, _ in expected]
    assert payload_bytes(source) == sum(len(data) for _, data, _ in expected)
    for _, start, stop in source.groups():
        part = source.part(start, stop)
        entries = list(part.entries())
        assert entries == [(r.label, r.name) for r in records[start:stop]]
        names = part.identity_names()
        assert names == {r.label: order[r.label] for r in records[start:stop]}


def random_zip(path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zip with all that zipfile can write: zip64, data descriptors, comments, a prefix."""
    rng = np.random.default_rng(seed)
    stream = Unseekable()
    target = stream if rng.random() < 0.4 else io.BytesIO()
    with monkeypatch.context() as patch:
        wide = rng.random() < 0.4
        if wide:  # zip64 fields where they would not be needed
            patch.setattr(zipfile, "ZIP64_LIMIT", int(rng.integers(0, 2000)))
            patch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
        with zipfile.ZipFile(target, "w") as archive:  # type: ignore[arg-type]
            for i in range(int(rng.integers(1, 40))):
                identity = rng.choice(["a", "b0", "b", "Ω", "日本", "ä ö", "0_0_0000001"])
                kind = rng.choice([".jpg", ".JPG", ".png", ".txt"], p=[0.6, 0.2, 0.1, 0.1])
                info = (Cp437Info if identity == "ä ö" else zipfile.ZipInfo)(
                    f"{'x/' * int(rng.integers(3))}{identity}/{i}{kind}"
                )
                info.compress_type = int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
                if rng.random() < 0.2:
                    info.extra = b"\x99\x99\x04\x00abcd"
                if rng.random() < 0.1:
                    info.extra += b"\x98\x98\x00\x20" + bytes(0x2000)
                if rng.random() < 0.3:
                    info.comment = rng.bytes(int(rng.integers(20)))
                with archive.open(info, "w", force_zip64=wide or rng.random() < 0.3) as member:
                    member.write(rng.bytes(int(rng.integers(500))) * int(rng.integers(1, 4)))
                if rng.random() < 0.1:
                    archive.writestr(f"folder{i}/", b"")
            if rng.random() < 0.5:
                archive.comment = rng.bytes(int(rng.integers(60)))
            if rng.random() < 0.3:  # another order than that of the data
                archive.filelist.reverse()
    data = stream.data or target.getvalue()  # type: ignore[attr-defined]
    prefix = rng.bytes(int(rng.integers(5000))) if rng.random() < 0.4 else b""
    path.write_bytes(prefix + data)


@pytest.mark.parametrize("seed", range(60))
def test_random_zips_read_as_zipfile_reads_them(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / "0_0.zip", tmp_path / "0_1.zip"]
    random_zip(paths[0], 2 * seed, monkeypatch)
    random_zip(paths[1], 2 * seed + 1, monkeypatch)
    if not twin(paths):
        pytest.skip("this seed makes no image")
    check_against_twin(paths, level=-1)  # they lie at several depths
    if seed % 2:  # no bound of a block, batch or run may show
        monkeypatch.setattr(zip_directory, "_BLOCK", 100)
        monkeypatch.setattr(zip_part, "_DIRECTORY_BYTES", 150)
        monkeypatch.setattr(zip_part, "_BATCH_BYTES", (700, 900))
        monkeypatch.setattr(zip_part, "_RUN", 600)
        check_against_twin(paths, step=7, level=-1)


def test_webface(shared: Path) -> None:
    paths = [shared / "webface-zips" / f"{name}.zip" for name in ("0_0", "0_1", "1_0", "2_0")]
    check_against_twin(paths)
    source = ZipSource(paths)
    assert [group.stem for group in source.groups()] == ["0_0", "0_1", "1_0", "2_0"]
    assert source.notices == []


def test_a_folder_gives_its_zips_by_name(face_zip: FaceZip, tmp_path: Path) -> None:
    for name in ("1/1_0.zip", "0/0_1.ZIP", "0_0.zip", "0/notes.txt"):
        face_zip(faces(2, prefix=f"set/{name[-7:-4]}_"), f"data/{name}")
    source = ZipSource([tmp_path / "data"])
    assert [group.stem for group in source.groups()] == ["0_0", "0_1", "1_0"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"empty: has no \.zip in it; pass zips"):
        ZipSource([tmp_path / "empty"])


def test_zips_share_identities_but_no_shard(face_zip: FaceZip) -> None:
    first = face_zip({"p1/1.jpg": b"1", "p3/1.jpg": b"2"})
    second = face_zip({"p2/1.jpg": b"3", "p3/1.jpg": b"4"}, "0_1.zip")
    source = ZipSource([first, second])
    labels = [r.label for r in read_all(source) if isinstance(r, SourceRecord)]
    assert labels == [0, 2, 1, 2]
    assert source.notices == [
        "identities in more than one zip: 1; folders of one name are taken for one person"
    ]
    spans = cut_spans(source, records=10, size=1 << 20)
    assert [(span.name, span.start, span.stop) for span in spans] == [("0_0", 0, 2), ("0_1", 2, 4)]
    assert source.part(1, 2).identity_names() == {2: "p3"}


def test_a_zip_without_images_makes_an_empty_group(face_zip: FaceZip) -> None:
    paths = [
        face_zip({"readme.txt": b""}, "a.zip"),
        face_zip(faces(3), "b.zip"),
        face_zip({}, "c.zip"),
    ]
    source = ZipSource(paths)
    assert source.groups() == [("a", 0, 0), ("b", 0, 3), ("c", 3, 3)]
    assert source.notices[1:] == ["zips without an image by its name: 2 (a.zip …)"]
    assert len(read_all(source)) == 3
    assert list(source.part(0, 0).read()) == list(source.part(3, 3).read()) == []


def test_zips_of_other_things_than_images(face_zip: FaceZip) -> None:
    path = face_zip({"faces_emore/": b"", "faces_emore/train.rec": b"x"})
    found = r"no image by its name in 1 zip \(1 members .* first 'faces_emore/train\.rec'\)"
    with pytest.raises(SourceError, match=rf"0_0\.zip: {found}.*unpack .*rec2lmdb"):
        ZipSource([path])
    with pytest.raises(SourceError, match=r"no image by its name in 1 zip: members need names"):
        ZipSource([face_zip({})])


def test_one_zip_given_twice(face_zip: FaceZip) -> None:
    path = face_zip(faces(3))
    with pytest.raises(SourceError, match=r"0_0\.zip: is given twice; pass each file once"):
        ZipSource([path, path.parent])


def test_a_folder_may_hold_hidden_zips_and_folders_called_so(
    face_zip: FaceZip, tmp_path: Path
) -> None:
    face_zip(faces(3), "all/0_0.zip")
    (tmp_path / "all/._0_0.zip").write_bytes(b"a fork of macOS")
    (tmp_path / "all/old.zip").mkdir()
    source = ZipSource([tmp_path / "all"])
    assert source.groups() == [("0_0", 0, 3)] and source.notices == []


def test_a_zip_that_is_not_all_of_its_file_is_told(face_zip: FaceZip, tmp_path: Path) -> None:
    """A zip that is cut short may end with a whole one that it holds."""
    inner = face_zip(faces(3), "inner.zip").read_bytes()
    outer = face_zip({**faces(6), "inner.zip": inner}, "outer.zip").read_bytes()
    cut = tmp_path / "cut.zip"
    cut.write_bytes(outer[: outer.index(inner) + len(inner) + 7])
    source = ZipSource([cut])
    assert len(source) == 3
    before = outer.index(inner)
    (notice,) = source.notices
    assert f"cut.zip: {before:,} bytes before the zip and 7 behind it were passed over" in notice


def test_what_is_no_image_is_counted(face_zip: FaceZip) -> None:
    others = {"README.txt": b"", "__MACOSX/set/p0/._0.jpg": b"x", "set/p0/Thumbs.db": b""}
    source = ZipSource([face_zip({**others, "set/": b"", **faces(3)})])
    assert len(source) == 3
    assert source.notices == [
        "2 members that are no images by their names were passed over, first 'README.txt'",
        "1 members, hidden, or put beside images by a system (._x.jpg, __MACOSX, @eaDir), were "
        "passed over, first '__MACOSX/set/p0/._0.jpg'",
    ]
    assert source.passed_over == 3


def test_zips_that_several_processes_look_at_are_the_same(
    face_zip: FaceZip, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for number in range(5):
        others = {f"README{number}.txt": b"", "__MACOSX/a.jpg": b"x"}
        members = faces(4 + number, prefix=f"set/{number % 2}p") | others
        paths.append(face_zip(members, f"{number}.zip"))

    def told() -> object:
        source = ZipSource(paths)
        records = [r for r in read_all(source) if isinstance(r, SourceRecord)]
        found = [(r.name, bytes(r.image), r.label) for r in records]
        return source.describe(), source.notices, source.passed_over, found

    here = told()
    monkeypatch.setattr(workers, "_WORTH_A_PROCESS", 1)
    with workers.started_early(paths, 2, [ZipSource.__module__]):
        assert told() == here
        paths[3].write_bytes(b"no zip")
        with pytest.raises(SourceError, match=r"3\.zip"):
            ZipSource(paths)


def test_what_systems_leave_is_no_identity(face_zip: FaceZip) -> None:
    clutter = ("._q/1.jpg", "__MACOSX/p0/._0.jpg", "p0/@eaDir/0.jpg/SYNO_THUMB.jpg", "p0/._0.jpg",
               "#recycle/p9/0.jpg", ".thumbs/p0/0.jpg", ".hidden.jpg", "@eaDir\\p.jpg")  # fmt: skip
    good = faces(4, prefix="p")
    mixed = dict(list(zip(clutter, [b"x"] * 8, strict=True))[:5]) | good
    source = ZipSource([face_zip(mixed | dict.fromkeys(clutter, b"x"))])
    assert len(source) == 4 and source.classes == 2 and source.passed_over == 8
    assert [r.name for r in read_all(source) if isinstance(r, SourceRecord)] == list(good)


@pytest.mark.parametrize("folder_entry", [True, False])
def test_backslashes_of_old_net_are_separators(folder_entry: bool, face_zip: FaceZip) -> None:
    names = ["set\\p1\\0.jpg", "set\\p0\\0.jpg", "set\\ü\\1.jpg"]
    folders = dict.fromkeys(["set\\", "set\\p1\\"] if folder_entry else [], b"")
    source = ZipSource([face_zip({**folders, **{name: name.encode() for name in names}})])
    records = [r for r in read_all(source) if isinstance(r, SourceRecord)]
    assert [(r.label, r.name) for r in records] == [
        (1, "set/p1/0.jpg"),
        (0, "set/p0/0.jpg"),
        (2, "set/ü/1.jpg"),
    ]
    assert [bytes(r.image).decode() for r in records] == names
    assert source.part(0, 3).identity_names() == {0: "p0", 1: "p1", 2: "ü"}
    (notice,) = source.notices
    assert "3 folders below it are the identities" in notice


@pytest.mark.parametrize(
    "name",
    [
        "../../p/evil.jpg",
        "p/../evil.jpg",
        "/etc/evil.jpg",
        "C:/p/evil.jpg",
        "q/p\\evil.jpg",
        "..\\..\\p\\evil.jpg",
        "\\\\server\\p\\evil.jpg",
        "C:\\p\\evil.jpg",
        "p\\..\\evil.jpg",
        "p//evil.jpg",
        "./p/evil.jpg",
    ],
)
def test_unsafe_names_are_refused_and_nothing_is_written(
    name: str, face_zip: FaceZip, tmp_path: Path
) -> None:
    path = face_zip({"p/0.jpg": b"0", name: b"evil", "p/1.jpg": b"1"}, "in/0_0.zip")
    source = ZipSource([path])
    good, refusal, last = read_all(source)
    assert isinstance(good, SourceRecord) and isinstance(last, SourceRecord)
    assert isinstance(refusal, Refusal)
    assert refusal.key == (name if "/" in name else name.replace("\\", "/"))
    assert "its name is absolute, or has a backslash" in refusal.reason
    assert list(source.part(0, 3).entries())[1] == (-1, refusal.key)
    assert [entry.name for entry in tmp_path.rglob("*")] == ["in", "0_0.zip"]


def test_a_nul_in_a_name_is_refused(face_zip: FaceZip) -> None:
    path = face_zip({"p/0.jpg": b"0", "p/a_b.jpg": b"1"})
    path.write_bytes(path.read_bytes().replace(b"a_b", b"a\0b"))
    (refusal,) = refusals(ZipSource([path]))
    assert "a NUL" in refusal.reason


def test_names_that_tell_no_identity(face_zip: FaceZip) -> None:
    long = "x" * 256
    path = face_zip({"0.jpg": b"0", "p/1.jpg": b"1", f"{long}/2.jpg": b"2", "ü/3.jpg": b"3"})
    path.write_bytes(path.read_bytes().replace("ü".encode(), b"\xfc\xfc"))
    root, longest, no_utf8 = refusals(ZipSource([path]))
    assert root.reason == "it lies in no folder, whose name would be its identity"
    assert "256 bytes; at most 255" in longest.reason
    assert no_utf8.reason == "its name is said to be UTF-8 and is not"
    assert no_utf8.key == "\\xfc\\xfc/3.jpg" and json.dumps(no_utf8.as_json())


def test_no_identity_at_all(face_zip: FaceZip) -> None:
    with pytest.raises(SourceError, match=r"none of 2 images in 1 zip.*like identity/image\.jpg"):
        ZipSource([face_zip({"0.jpg": b"0", "1.jpg": b"1"})])


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_second_of_two_names_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "0_0.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for data in (b"first", b"second", b"third"):
            archive.writestr("p/0.jpg", data)
            archive.writestr(f"p/{data.decode()}.jpg", data)
    source = ZipSource([path])
    assert [refusal.ordinal for refusal in refusals(source)] == [2, 4]
    assert {refusal.reason for refusal in refusals(source)} == {
        "a member before it has the same name"
    }
    assert bytes(next(source.part(0, 1).read()).image) == b"first"  # type: ignore[union-attr]
    # A part that does not hold the first one knows it too.
    assert isinstance(next(source.part(2, 3).read()), Refusal)


def test_keep_passes_over_the_rest(face_zip: FaceZip) -> None:
    source = ZipSource([face_zip(faces(50), method=zipfile.ZIP_DEFLATED)])
    keep = np.random.default_rng(0).random(40) < 0.3
    records = list(source.part(5, 45).read(keep))
    assert [record.ordinal for record in records] == (np.flatnonzero(keep) + 5).tolist()
    assert records == [read_all(source)[record.ordinal] for record in records]
    assert list(source.part(5, 45).read(np.zeros(40, bool))) == []


def test_what_sinks_refuse_has_its_place(face_zip: FaceZip) -> None:
    path = face_zip(faces(5))
    path.write_bytes(b"stub" + path.read_bytes())
    part = ZipSource([path]).part(2, 5)
    record = list(part.read())[1]
    assert isinstance(record, SourceRecord)
    refusal = part.refuse(record, "no JPEG")
    assert (refusal.ordinal, refusal.file, refusal.key) == (3, "0_0.zip", "set/p1/3.jpg")
    assert path.read_bytes()[refusal.offset :].startswith(b"PK\x03\x04")
    assert b"set/p1/3.jpg" in path.read_bytes()[refusal.offset :][:60]


def test_damage_is_found_by_the_crc(face_zip: FaceZip) -> None:
    members = faces(9)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = face_zip(members, method=method)
        data = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
        data[infos[2].header_offset + 60] ^= 1  # an image
        data[infos[4].header_offset] ^= 1  # a local header's magic
        data[infos[6].header_offset + 33] ^= 1  # a local header's name
        path.write_bytes(data)
        found = refusals(ZipSource([path]))
        assert [(r.ordinal, r.offset) for r in found] == [
            (i, infos[i].header_offset) for i in (2, 4, 6)
        ]
        assert "CRC-32" in found[0].reason or "inflate" in found[0].reason
        assert found[1].reason == "no local header begins here"
        assert found[2].reason == "its local header has another name"


def patch_entry(path: Path, number: int, at: int, value: int, width: int) -> None:
    """Set a field of an entry of the directory."""
    data = bytearray(path.read_bytes())
    start = data.find(b"PK\x01\x02")
    for _ in range(number):
        start = data.find(b"PK\x01\x02", start + 1)
    data[start + at : start + at + width] = value.to_bytes(width, "little")
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("at", "value", "width", "reason"),
    [
        (8, 0x20, 2, "it is a patch to another file"),
        (10, 9, 2, "method 9 (deflate64); read are 0 and 8"),
        (10, 77, 2, "method 77 (unknown)"),
        (20, 299, 4, "299 bytes in the zip cannot hold its 301"),
        (24, 0xFFFFFFF0, 4, "at most 67,108,864 are taken"),
        (24, 0xFFFFFFFF, 4, "its zip64 field is missing or too short"),
        (42, 0x7FFFFFFF, 4, "it should begin at byte 2147483647; the file has"),
    ],
)
def test_entries_that_cannot_be(
    at: int, value: int, width: int, reason: str, face_zip: FaceZip
) -> None:
    path = face_zip(faces(4))
    patch_entry(path, 1, at, value, width)
    (refusal,) = refusals(ZipSource([path]))
    assert refusal.ordinal == 1 and reason in refusal.reason and refusal.remedy


def test_a_member_beyond_the_end_of_the_file(face_zip: FaceZip) -> None:
    path = face_zip(faces(2))
    for at in (20, 24):
        patch_entry(path, 1, at, 5000, 4)
    (refusal,) = refusals(ZipSource([path]))
    assert refusal.reason == "it reaches beyond the end of the file"


def test_other_compression_is_named(face_zip: FaceZip) -> None:
    (refusal,) = refusals(ZipSource([face_zip(faces(1), method=zipfile.ZIP_BZIP2)]))
    assert "method 12 (bzip2)" in refusal.reason and "without compression" in refusal.remedy


def test_bombs_are_not_inflated(face_zip: FaceZip, monkeypatch: pytest.MonkeyPatch) -> None:
    path = face_zip({"p/0.jpg": b"0", "p/1.jpg": bytes(1 << 20)}, method=zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(images, "MAX_BYTES", 1000)
    made: list[int] = []
    monkeypatch.setattr(
        zip_part, "_inflate", lambda data, size: made.append(size) or zlib.decompress(data, -15)
    )
    source = ZipSource([path])
    (refusal,) = refusals(source)
    assert made == [1] and source.sizes().tolist() == [1, 0]
    assert refusal.reason == "1,048,576 bytes, 1,033 in the zip; at most 1,000 are taken"
    assert "FACEPACK_MAX_IMAGE_BYTES" in refusal.remedy


@pytest.mark.parametrize(
    ("claimed", "reason"),
    [
        (100, "it inflates to more than the 100 bytes that it claims"),
        (0, "it inflates to more than the 0 bytes that it claims"),
        (1 << 21, "its data end after 1,048,576 of 2,097,152 bytes"),
    ],
)
def test_a_stream_of_another_length(claimed: int, reason: str, face_zip: FaceZip) -> None:
    path = face_zip({"p/1.jpg": bytes(1 << 20)}, method=zipfile.ZIP_DEFLATED)
    patch_entry(path, 0, 24, claimed, 4)
    (refusal,) = refusals(ZipSource([path]))
    assert refusal.reason == reason


def test_a_stream_without_an_end(face_zip: FaceZip) -> None:
    path = face_zip({"p/1.jpg": b"ab" * 500}, method=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path) as archive:
        (info,) = archive.infolist()
    patch_entry(path, 0, 20, info.compress_size - 1, 4)
    (refusal,) = refusals(ZipSource([path]))
    assert refusal.reason.startswith("its data end after 1,000 of 1,000 bytes")


def test_a_source_that_changes_stops_the_run(
    face_zip: FaceZip, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = face_zip(faces(5))
    part = ZipSource([path]).part(0, 5)
    whole = path.read_bytes()
    path.write_bytes(whole + b"more")
    with pytest.raises(SourceError, match=r"0_0\.zip changed while it was read.*--resume"):
        list(part.read())
    path.write_bytes(bytes(len(whole)))
    with pytest.raises(SourceError, match="no whole entry of its directory begins here"):
        list(part.entries())
    path.unlink()
    with pytest.raises(SourceError, match=r"0_0\.zip: cannot be read: No such file"):
        list(part.read())
    path.write_bytes(whole)
    records = part.read()
    with monkeypatch.context() as patch:

        def fail(descriptor: int, count: int, offset: int) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        patch.setattr(os, "pread", fail, raising=False)
        with pytest.raises(SourceError, match=r"byte \d+: cannot be read: .*--resume"):
            next(records)
        patch.setattr(os, "pread", lambda descriptor, count, offset: b"")
        with pytest.raises(SourceError, match=r"byte \d+: the file ends here, it had"):
            next(part.read())


def test_two_sources_are_told_apart(face_zip: FaceZip, tmp_path: Path) -> None:
    members = faces(5)
    one = ZipSource([face_zip(members)]).describe()
    assert one == ZipSource([tmp_path / "0_0.zip"]).describe()
    assert str(tmp_path) not in json.dumps(one)
    changed = {**members, "set/p0/0.jpg": bytes(300)}
    assert one != ZipSource([face_zip(changed)]).describe()
    renamed = {name.replace("p0", "q0"): data for name, data in members.items()}
    assert one != ZipSource([face_zip(renamed)]).describe()


def test_a_part_knows_its_own_records_only(face_zip: FaceZip) -> None:
    source = ZipSource([face_zip(faces(3000, size=1))])
    whole = len(pickle.dumps(source.part(0, 3000)))
    small = len(pickle.dumps(source.part(1000, 1010)))
    assert small < 1500 and whole < 3000 * 20
