"""Members that are read together give what they give one by one."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facepack.convert.formats.tar import headers
from facepack.convert.formats.tar import images as tar_images
from facepack.convert.formats.tar import look as tar_look
from facepack.convert.formats.tar.headers import (
    BLOCK,
    Member,
    Members,
    member_header,
    padded,
    read_member,
    usual_members,
    usual_names,
)
from facepack.convert.formats.tar.source import TarSource
from facepack.convert.formats.tar.stream import Files
from facepack.convert.source import Refusal
from facepack.errors import SourceError
from facepack.store.record import RecordRun, SourceRecord

FORMS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def members_one_by_one(path: Path) -> list[Member]:
    found = []
    with Files.look_at([path]).open() as stream:
        while stream.peek(1):
            try:
                member = read_member(stream)
            except SourceError:
                break
            if member is None:
                break
            found.append(member)
            stream.seek(member.end)
    return found


def archive(path: Path, seed: int, form: int) -> bytes:
    rng = np.random.default_rng(seed)
    with tarfile.open(path, "w", format=form) as tar:
        for number in range(60):
            info = tarfile.TarInfo(f"f/{number}.jpg")
            if rng.random() < 0.1:
                info.name = f"{80 * 'p'}/{int(rng.integers(9, 50)) * 'n'}{number}"
            elif rng.random() < 0.05:
                info.type, info.linkname = tarfile.SYMTYPE, "x"
            elif rng.random() < 0.05:
                info.name += "é"
            elif rng.random() < 0.3:  # in pax a record of times, as webdataset's writer has it
                info.mtime = 1.7e9 + float(rng.random())
            elif rng.random() < 0.05:
                info.pax_headers = {"mtime": "1.5", "comment": "no time"}
            info.size = 0 if info.type == tarfile.SYMTYPE else int(rng.integers(0, 3000))
            tar.addfile(info, io.BytesIO(rng.bytes(info.size)))
    return path.read_bytes()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("seed", range(4))
def test_usual_members_are_the_members(tmp_path: Path, seed: int, form: int) -> None:
    data = archive(tmp_path / "a.tar", seed, form)
    members = members_one_by_one(tmp_path / "a.tar")
    assert len(members) == 60
    together = 0
    for k, first in enumerate(members):
        stop = min(len(data), first.begin + 9000)
        found = usual_members(data, first.begin, stop)
        together += len(found.names)
        expected = members[k : k + len(found.names)]
        assert found.names == [member.name for member in expected]
        assert found.begins == [member.begin for member in expected]
        assert found.headers == [member.data - BLOCK for member in expected]
        assert found.sizes == [member.size for member in expected]
        assert all(m.regular and m.end <= stop for m in expected)
        assert {m.data - m.begin for m in expected} <= {BLOCK, 3 * BLOCK}
    assert together > 60


@pytest.mark.parametrize("byte", [0, 5, 99, 100, 124, 130, 135, 148, 153, 154, 156, 257, 345, 400])
def test_a_byte_that_is_changed_makes_no_other_member(tmp_path: Path, byte: int) -> None:
    sizes = [700, 0, 100]
    whole = b"".join(member_header(f"{k}.jpg", n) + bytes(padded(n)) for k, n in enumerate(sizes))
    for value in range(256):
        data = bytearray(whole)
        data[1536 + byte] = value
        (tmp_path / "a.tar").write_bytes(data)
        found = usual_members(bytes(data), 0, len(data))
        expected = members_one_by_one(tmp_path / "a.tar")[: len(found.names)]
        assert found.names == [member.name for member in expected]
        assert found.sizes == [member.size for member in expected]
        block = np.frombuffer(data, np.uint8, BLOCK, 1536)[None]
        (name,) = usual_names(block, np.array([0]))
        assert name is None or (name == b"1.jpg" or byte < 100)


@pytest.mark.parametrize(
    ("field", "usual"),
    [
        (b"a.jpg", True),
        (b"n" * 100, True),
        (b"n" * 99 + b"/", False),
        (b"a/", False),
        (b"", False),
        (b"a.jpg\0behind", False),
        (b"a.jpg\0" + b"b" * 94, False),
        (b"\0a.jpg", False),
    ],
)
def test_which_names_are_usual(tmp_path: Path, field: bytes, usual: bool) -> None:
    block = bytearray(member_header("x", 5))
    block[:100] = field.ljust(100, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "a.tar").write_bytes(block + b"image".ljust(512, b"\0"))
    (member,) = members_one_by_one(tmp_path / "a.tar")  # also where it is not usual
    assert usual_names(np.frombuffer(block, np.uint8)[None], np.array([5])) == [
        member.name if usual else None
    ]
    assert member.name == field.partition(b"\0")[0]


@pytest.fixture
def jpeg(make_jpeg: Callable[[int], bytes]) -> bytes:
    return make_jpeg(0)


def jpegs(count: int, image: bytes) -> list[bytes]:
    return [image + bytes([k % 256]) * (k % 700) for k in range(count)]


def samples(seed: int, image: bytes) -> bytes:
    """Samples as archives in use have them, most of them usual ones."""
    rng = np.random.default_rng(seed)
    odd = 0.0 if seed == 0 else 0.03
    folder, data = "", b""
    for number in range(300):
        if rng.random() < odd:
            folder = ["", "a/", "a/b.c/", ".x/", "./"][int(rng.integers(5))]
        key = f"{folder}{number // (2 if rng.random() < odd else 1)}"
        key += ".x" if rng.random() < odd else ""
        suffix = "cls" if rng.random() > odd else ["CLS", "json", "txt"][int(rng.integers(3))]
        picture = "jpg" if rng.random() > odd else ["JPG", "png", "seg.jpg"][int(rng.integers(3))]
        label = str(int(rng.integers(50))).encode()
        if rng.random() < odd:
            label = [b"", b"x y", b" 7\n", b"123456789", b"-1", b"[3.]", b"\xd9\xa3"][
                int(rng.integers(7))
            ]
        content = image + bytes(int(rng.integers(2000)))
        pair = [(f"{key}.{picture}", content), (f"{key}.{suffix}", label)]
        if seed % 2:
            pair.reverse()
        if rng.random() < odd:
            pair.pop(int(rng.integers(2)))
        for name, content in pair:
            if rng.random() < (odd or 0.5):
                data += times(b"mtime=%d.%d" % (number, seed))
            elif rng.random() < odd:
                data += times(b"path=" + name.encode())
                name = "cut.jpg"
            data += member_header(name, len(content)) + content + bytes(-len(content) % BLOCK)
    return data + bytes(1024)


def times(*records: bytes) -> bytes:
    """A pax header and its block, of records shorter than 96 bytes."""
    text = b"".join(b"%d %b\n" % (len(record) + 4, record) for record in records)
    header = bytearray(member_header("./PaxHeaders/x", len(text)))
    header[156:157] = b"x"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + text.ljust(BLOCK, b"\0")


@pytest.mark.parametrize(
    ("preface", "usual"),
    [
        (times(b"mtime=1700000000.25"), True),
        (times(b"mtime=1700000000.25", b"atime=1700000000.5", b"ctime=-1.5"), True),
        (times(b"mtime=1700000000", b"path=b.jpg"), False),
        (times(b"mtime=1700000000.25").replace(b"23 m", b"24 m"), False),
        (times(b"mtime=1700000000.25", b"size=000000000003"), False),
    ],
)
def test_a_pax_record_of_times_is_usual(tmp_path: Path, preface: bytes, usual: bool) -> None:
    data = preface + member_header("a.jpg", 5) + b"image".ljust(BLOCK, b"\0")
    found = usual_members(data, 0, len(data))
    assert found == (([b"a.jpg"], [0], [1024], [5]) if usual else Members.none())
    for byte in (0, 124, 148, 156):  # a damaged header is not overlooked
        damaged = bytearray(data)
        damaged[byte] ^= 1
        assert usual_members(bytes(damaged), 0, len(data)) == Members.none()


@pytest.mark.parametrize("kind", ["flat", "folders", "objects", "times", "links"])
def test_no_member_is_looked_at_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jpeg: bytes, kind: str
) -> None:
    """Whatever stands between usual members, they are found a few times at most."""
    data, count = b"", 400
    for k in range(count):
        key = f"{k // 4}/{k}" if kind == "folders" else str(k)
        members = [(f"{key}.jpg", jpeg), (f"{key}.cls", b"%d" % (k // 4))]
        if kind == "objects":
            members.append((f"{key}.json", b"{}"))
        for name, content in members:
            data += times(b"mtime=%d.5" % k) if kind == "times" else b""
            data += member_header(name, len(content)) + content + bytes(-len(content) % BLOCK)
        if kind == "links":
            link = bytearray(member_header("link", 0))
            link[148:157] = b" " * 8 + b"2"
            link[148:156] = b"%06o\0 " % sum(link)
            data += link
    (tmp_path / "a.tar").write_bytes(data + bytes(1024))
    walked: list[int] = []
    walk = headers._walk

    def counting(*arguments: Any) -> Any:
        found = walk(*arguments)
        walked.append(len(found[0]))
        return found

    monkeypatch.setattr(tar_look, "_FEW", 1)
    monkeypatch.setattr(headers, "_walk", counting)
    assert len(TarSource([tmp_path / "a.tar"])) == count
    assert sum(walked) < 3 * 3 * count
    if kind in ("flat", "folders", "times"):
        assert len(walked) < 20


def everything(source: TarSource) -> list[object]:
    found: list[object] = []
    for _, start, stop in source.groups():
        for item in source.part(start, stop).read():
            if isinstance(item, SourceRecord):
                found.append((item.ordinal, item.label, item.name, bytes(item.image)))
            else:
                found.append(item)
    return found


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("seed", [*range(8), 117])
def test_samples_are_those_of_members_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jpeg: bytes, seed: int, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    data = samples(seed, jpeg)
    path.write_bytes(gzip.compress(data, 1) if suffix == ".tar.gz" else data)
    runs: list[int] = []
    taken = tar_images.ImageMembers.add_pairs

    def counting(*arguments: object) -> int:
        runs.append(taken(*arguments))  # type: ignore[arg-type]
        return runs[-1]

    monkeypatch.setattr(tar_look, "_FEW", 1)
    monkeypatch.setattr(tar_images.ImageMembers, "add_pairs", counting)
    together = TarSource([path])
    monkeypatch.setattr(tar_look, "_FEW", 1 << 60)
    alone = TarSource([path])
    assert sum(runs) > (560 if seed == 0 else 80)
    assert together.describe() == alone.describe() and together.notices == alone.notices
    records = everything(together)
    monkeypatch.setattr(tar_images, "_TOGETHER", 1)
    assert records == everything(alone)
    if seed == 1:
        assert any(isinstance(record, Refusal) for record in records)


def test_what_lies_between_images_is_not_kept(tmp_path: Path, jpeg: bytes) -> None:
    data = b""
    for k, image in enumerate(jpegs(20, jpeg)):
        for name, content in [(f"a/{k}.jpg", image), (f"a/{k}.bmp.txt", bytes(5 * len(image)))]:
            data += member_header(name, len(content)) + content + bytes(-len(content) % BLOCK)
    (tmp_path / "a.tar").write_bytes(data + bytes(1024))
    runs = [
        run
        for run in TarSource([tmp_path / "a.tar"]).part(0, 20).read_runs()
        if isinstance(run, RecordRun)
    ]
    found = [bytes(image) for run in runs for image in run.images()]
    assert found == jpegs(20, jpeg)
    assert sum(len(run.data) for run in runs) == sum(map(len, found))


def test_a_header_that_is_another_by_now_is_told(tmp_path: Path, jpeg: bytes) -> None:
    content = jpeg + bytes(-len(jpeg) % BLOCK)
    data = b"".join(member_header(f"a/{k}.jpg", len(jpeg)) + content for k in range(9))
    path = tmp_path / "a.tar"
    path.write_bytes(data + bytes(1024))
    source = TarSource([path])
    changed = bytearray(data + bytes(1024))
    at = 5 * (BLOCK + len(content))
    changed[at : at + BLOCK] = member_header("a/5.jpg", len(jpeg) - 1)
    path.write_bytes(changed)
    with pytest.raises(SourceError, match=r"a.tar changed while it was read"):
        list(source.part(0, 9).read())
