"""The directory of a zip: found, streamed, and damaged in every way."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xxhash

from facepack import images
from facepack.convert.formats.zip.directory import find_directory, walk
from facepack.convert.formats.zip.names import (
    CLUTTER,
    FOLDER,
    LABEL,
    OTHER,
    REFUSED,
    FolderIndex,
    folder_of,
)
from facepack.convert.formats.zip.source import ZipSource
from facepack.convert.source import Refusal
from facepack.convert.source_file import SourceFile
from facepack.errors import SourceError
from facepack.store.record import SourceRecord

END = struct.Struct("<4s4H2LH")


def zip_bytes(
    count: int = 6, *, comment: bytes = b"", zip64: bool = False, method: int = zipfile.ZIP_STORED
) -> bytes:
    rng = np.random.default_rng(count)
    target = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        if zip64:
            patch.setattr(zipfile, "ZIP64_LIMIT", 100)
            patch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
        with zipfile.ZipFile(target, "w", method) as archive:
            for i in range(count):
                with archive.open(f"set/p{i // 2}/{i}.jpg", "w", force_zip64=zip64) as member:
                    member.write(rng.bytes(20) * 10)
            archive.comment = comment
    return target.getvalue()


def open_zip(tmp_path: Path, data: bytes) -> ZipSource:
    (tmp_path / "0_0.zip").write_bytes(data)
    return ZipSource([tmp_path / "0_0.zip"])


def with_end(data: bytes, **values: int) -> bytes:
    """``data`` with other values in its end record."""
    fields = dict(zip(("disk", "start", "here", "count", "size", "offset"), [0] * 6, strict=True))
    magic, *old, comment = END.unpack(data[-END.size :])
    fields = {**dict(zip(fields, old, strict=True)), **values}
    return data[: -END.size] + END.pack(magic, *fields.values(), comment)


@pytest.mark.parametrize("prefix", [b"", b"MZ stub of a program"])
@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize(
    "comment", [b"", b"a comment", b"PK\x05\x06" + bytes(30), b"x" * 0xFFFF], ids=len
)
def test_where_the_directory_lies(
    prefix: bytes, zip64: bool, comment: bytes, tmp_path: Path
) -> None:
    data = zip_bytes(comment=comment, zip64=zip64)
    path = tmp_path / "0_0.zip"
    path.write_bytes(prefix + data)
    with SourceFile(path) as file:
        directory = find_directory(file)
        assert directory.start == (prefix + data).index(b"PK\x01\x02")
        assert (directory.shift, directory.count) == (len(prefix), 6)
        digest = xxhash.xxh3_128()
        (members,) = walk(file, directory, digest.update)
    body = (prefix + data)[directory.start : directory.start + directory.size]
    assert digest.digest() == xxhash.xxh3_128_digest(body)
    assert members.names == [f"set/p{i // 2}/{i}.jpg".encode() for i in range(6)]
    assert members.size.tolist() == members.packed.tolist() == [200] * 6
    for place, offset in zip(members.entry_offsets.tolist(), members.offset.tolist(), strict=True):
        assert body[place:].startswith(b"PK\x01\x02")
        assert data[offset:].startswith(b"PK\x03\x04")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"disk": 1}, "is one piece of a zip of several; join them first: zip -s 0"),
        ({"start": 1}, "is one piece"),
        ({"here": 3}, "is one piece"),
        ({"size": 1 << 31}, "its directory should have 2147483648 bytes from byte"),
        ({"offset": 0xFFFFFFFF}, "from byte 4294967295 on"),
        ({"here": 60000, "count": 60000}, "claims 60000 members in a directory of 348 bytes"),
        ({"here": 5, "count": 5}, "has 6 members, its end states 5"),
        ({"size": 347, "offset": 0}, "no whole entry of its directory begins here"),
        ({"size": 300, "here": 5, "count": 5}, "no whole entry"),
        ({"size": 290, "here": 5, "count": 5}, None),  # a zip whose first entry is not counted
    ],
)
def test_ends_that_lie(values: dict[str, int], message: str | None, tmp_path: Path) -> None:
    data = with_end(zip_bytes(), **values)
    if message is None:
        records = list(open_zip(tmp_path, data).part(0, 5).read())
        assert all(isinstance(record, Refusal) for record in records)
        return
    with pytest.raises(SourceError, match=message) as error:
        open_zip(tmp_path, data)
    assert "0_0.zip" in str(error.value)


def test_counts_of_16_bits_may_be_reduced(tmp_path: Path) -> None:
    entries = b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *[0] * 9, 9, *[0] * 6) + b"%05d.jpg" % i
        for i in range(65539)
    )
    end = END.pack(b"PK\x05\x06", 0, 0, 3, 3, len(entries), 0, 0)
    (tmp_path / "0_0.zip").write_bytes(entries + end)
    with SourceFile(tmp_path / "0_0.zip") as file:
        found = [len(members) for members in walk(file, find_directory(file), len)]
    assert sum(found) == 65539 and len(found) > 1


@pytest.mark.parametrize("data", [b"", b"PK", b"no zip" * 100, END.pack(b"PK\x05\x06", *[0] * 7)])
def test_what_is_no_zip(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"is no zip, or is cut short|no image by its name"):
        open_zip(tmp_path, data)
    with pytest.raises(SourceError, match="No such file"):
        ZipSource([tmp_path / "absent.zip"])


def test_a_billion_members_in_a_kilobyte(tmp_path: Path) -> None:
    data = zip_bytes(zip64=True)
    at = data.index(b"PK\x06\x06")
    tracemalloc.start()
    for count, size in ((10**9, 348), (10**9, 46 * 10**9), (1 << 63, 1 << 63)):
        lie = data[: at + 24] + struct.pack("<3Q", count, count, size) + data[at + 48 :]
        with pytest.raises(SourceError, match=r"claims 1000000000 members|its directory should"):
            open_zip(tmp_path, lie)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_zip64_ends_that_lie(tmp_path: Path) -> None:
    data = zip_bytes(zip64=True)
    locator = data.index(b"PK\x06\x07")
    disks = data[: locator + 16] + b"\2" + data[locator + 17 :]
    with pytest.raises(SourceError, match="is one piece"):
        open_zip(tmp_path, disks)
    record = data.replace(b"PK\x06\x06", b"PK\x06\x05")
    with pytest.raises(SourceError, match="its zip64 end record is not at byte"):
        open_zip(tmp_path, record)


@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_zips_raise_nothing_else(
    zip64: bool, method: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 1 << 16)
    whole = zip_bytes(zip64=zip64, method=method)
    originals = {(r.name, bytes(r.image)) for r in open_zip(tmp_path, whole).part(0, 6).read()}
    rng = np.random.default_rng(zip64)
    tail = whole.index(b"PK\x01\x02")
    tracemalloc.start()
    for trial in range(240):
        data = bytearray(whole)
        if trial % 8 == 0:
            del data[int(rng.integers(len(data))) :]
        else:
            # One flip is always found; more of them only have to be survived.
            flips = 1 if trial % 2 else int(rng.integers(2, 20))
            for at in rng.integers(tail if trial % 3 else 0, len(data), flips):
                data[at] = rng.choice([0, 1, 0xFF, int(data[at]) ^ 1 << int(rng.integers(8))])
        try:
            source = open_zip(tmp_path, bytes(data))
            part = source.part(0, len(source))
            records = list(part.read())
            assert len(list(part.entries())) == len(records) == len(source)
        except SourceError as error:
            assert "0_0.zip" in str(error)
            continue
        found = {(r.name, bytes(r.image)) for r in records if isinstance(r, SourceRecord)}
        if trial % 2:
            assert found <= originals
    # Two blocks of 16 MiB that reading uses again, and little beside them.
    assert tracemalloc.get_traced_memory()[1] < 48 << 20
    tracemalloc.stop()


def test_the_fast_numbering_is_the_slow_one() -> None:
    rng = np.random.default_rng(0)
    folders = [b"", b"p/", b"x/p/", b"x/", b"../p/", b"/p/", b"q/.r/", b"\xff/", b"C:/", b"p//"]
    files = [b"1.jpg", b"2.jpg", b"3.jpg", b"4.png", b".jpg", b"5.jpeg", b"jpeg", b"6.txt", b"",
             b".7.jpg", b"a\\b.jpg", b"\xe4.jpg", b"x.webp", b"webp", b"J.JPG", b"1.cls", b"1.JSON",
             b"cls"]  # fmt: skip
    plain = ([folders[1], folders[2]], files[:4] + files[5:7] + files[12:])
    for trial in range(300):
        some_folders, some_files = plain if trial % 2 else (folders, files)
        names = [
            some_folders[i] + some_files[j]
            for i, j in zip(
                rng.integers(len(some_folders), size=30),
                rng.integers(len(some_files), size=30),
                strict=True,
            )
        ]
        flags = [int(flag) for flag in rng.choice([0, 0x800], 30)]
        index = FolderIndex()
        codes = index.number(names, flags).tolist()
        known = list(index.numbers)
        for name, flag, code in zip(names, flags, codes, strict=True):
            path = name if b"/" in name or b"\xe4" in name else name.replace(b"\\", b"/")
            *above, base = path.split(b"/")
            if above and not base:
                assert code == FOLDER
                continue
            if any(part[:1] == b"." and part != b".." for part in (*above, base)):
                assert code == CLUTTER
                continue
            if not base.lower().endswith((b".jpg", b".jpeg", b".png", b".webp")):
                assert code == (LABEL if base.lower().endswith((b".cls", b".json")) else OTHER)
                continue
            try:
                folder = folder_of(name, flag)
            except ValueError:
                assert code == REFUSED
            else:
                assert known[code] == folder
