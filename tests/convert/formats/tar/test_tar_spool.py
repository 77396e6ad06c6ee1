"""What gzipped files inflate to, kept in a file without a name: the same bytes, nothing left."""

from __future__ import annotations

import gc
import gzip
import pickle
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facepack.convert.formats.tar import look as tar_look
from facepack.convert.formats.tar import spool
from facepack.convert.formats.tar.headers import member_header
from facepack.convert.formats.tar.source import TarSource
from facepack.convert.formats.tar.spool import (
    Spool,
    SpooledFiles,
    SpoolError,
    SpoolingStream,
)
from facepack.convert.formats.tar.stream import Files, StreamEndError
from facepack.errors import SourceError
from facepack.store.record import SourceRecord


def archive(seed: int, count: int = 40) -> bytes:
    """A tar of members of random bytes."""
    rng = np.random.default_rng(seed)
    data = b""
    for size in rng.integers(0, 20_000, count).tolist():
        data += member_header(f"{seed}/{size}.x", size) + rng.bytes(size) + bytes(-size % 512)
    return data + bytes(1024)


def write(folder: Path, *contents: bytes) -> list[Path]:
    paths = [folder / f"{number}.gz" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def pieces(folder: Path) -> tuple[list[Path], bytes]:
    """Archives: whole, cut into pieces, padded, of two members, and one that is not gzipped."""
    tars = [archive(seed) for seed in range(5)]
    cut = gzip.compress(tars[1])
    two = gzip.compress(tars[2][:5000]) + gzip.compress(tars[2][5000:])
    whole = [gzip.compress(tars[0]) + bytes(700), cut[:7], cut[7:90_000], cut[90_000:]]
    return write(folder, *whole, two, tars[3], gzip.compress(tars[4])), b"".join(tars)


def spooled(paths: Sequence[Path]) -> SpooledFiles:
    files = Files.look_at(paths)
    kept = Spool.new(files)
    with SpoolingStream(files, None, kept, ahead=False) as stream:
        while stream.peek(1):
            stream.skip(len(stream.buffered()[0]))
        return SpooledFiles.of(files, stream.sizes(), kept)


@pytest.mark.parametrize("ahead", [True, False])
def test_a_stream_is_the_files_joined_and_kept(tmp_path: Path, ahead: bool) -> None:
    paths, expected = pieces(tmp_path)
    files = Files.look_at(paths)
    sums: dict[int, str] = {}
    kept = Spool.new(files)
    told = sums.__setitem__
    with (
        SpoolingStream(files, told, kept, ahead=ahead) as stream,
        files.open(told) as twin,
    ):
        at = 0
        rng = np.random.default_rng(0)
        while at < len(expected):
            step = min(int(rng.integers(1, 9000)), len(expected) - at)
            assert stream.read(step) == twin.read(step) == expected[at : at + step]
            at += step
            if at % 97 == 0:  # back again, perhaps into a file before
                back = max(0, at - 200_000)
                stream.seek(back)
                assert stream.read(100) == expected[back : back + 100]
                stream.seek(at)
        assert stream.peek(1) == twin.peek(1) == b"" and stream.position == len(expected)
        assert stream.foreign == twin.foreign == -1
        assert 0 < stream.consumed() <= sum(files.sizes)
        assert stream.sizes() == twin.sizes() and sum(stream.sizes()) == len(expected)
        with pytest.raises(StreamEndError, match="the data end here"):
            stream.read(1)
        again = SpooledFiles.of(files, stream.sizes(), kept)
    assert len(sums) == len(paths)
    with again.open() as plain:
        assert plain.read(len(expected)) == expected


def test_a_spool_is_filled_by_several(tmp_path: Path) -> None:
    paths, expected = pieces(tmp_path)
    files = Files.look_at(paths)
    assert files.begins == (True, False, False, False, True, False, True)
    kept, sizes, first = Spool.new(files), (), 0
    for some in files.apart():
        own = pickle.loads(pickle.dumps(kept.some(first, len(some.paths))))  # another process's
        with SpoolingStream(some, None, own, ahead=False) as stream:
            while stream.peek(1):
                stream.skip(len(stream.buffered()[0]))
            sizes += stream.sizes()
        first += len(some.paths)
    with SpooledFiles.of(files, sizes, kept).open() as whole:
        assert whole.read(len(expected)) == expected
    assert isinstance(kept.file, spool.SpoolFile)
    kept.file.path = Path("/proc/self/fd/0")
    with pytest.raises(SpoolError):
        lost = pickle.loads(pickle.dumps(kept))
        SpoolingStream(files, None, lost, ahead=False).peek(1)


@pytest.mark.parametrize("elsewhere", ["here", "another process", "another machine"])
def test_spooled_files_are_read_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: str
) -> None:
    paths, expected = pieces(tmp_path)
    files = spooled(paths)
    kept = files.spool
    assert sum(files.sizes) == len(expected) and kept is not None and kept.shared
    for begin, end in np.sort(
        np.random.default_rng(1).integers(0, len(expected), (40, 2))
    ).tolist():
        some = files.between(begin, end).between(begin, end)
        if elsewhere != "here":
            if elsewhere == "another machine":
                monkeypatch.setattr(kept.file, "path", Path("/proc/self/fd/0"))
            some = pickle.loads(pickle.dumps(some))
        assert isinstance(some, SpooledFiles) and some.spool is not None
        assert (some.spool.file is None) == (elsewhere == "another machine")
        with some.open() as stream:
            stream.seek(begin)
            assert stream.read(end - begin) == expected[begin:end]


@pytest.mark.parametrize("maps", [True, False])
def test_blocks_of_a_spool_are_its_bytes_mapped_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maps: bool
) -> None:
    paths, expected = pieces(tmp_path)
    files = spooled(paths)
    mapped = []
    real = spool.mmap.mmap

    def mmap(*arguments: Any, **options: Any) -> Any:
        if not maps:
            raise OSError(19, "No such device")
        mapped.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(spool.mmap, "mmap", mmap)
    bounds = np.sort(np.random.default_rng(2).integers(0, len(expected), (40, 2))).tolist()
    with files.open() as stream, files.open() as twin:
        blocks = []
        for begin, end in bounds:
            stream.seek(begin)
            twin.seek(begin)
            blocks.append(stream.read_block(end - begin))
            assert blocks[-1].readonly and blocks[-1] == twin.read(end - begin)
    del stream, files  # the blocks outlive the file
    gc.collect()
    assert blocks == [expected[begin:end] for begin, end in bounds]
    assert bool(mapped) == maps


def test_nothing_is_left_of_a_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(spool.tempfile, "tempdir", None)
    threads = {*threading.enumerate()}
    files = Files.look_at(pieces(tmp_path)[0])
    with SpoolingStream(files, None, Spool.new(files), ahead=True) as stream:
        stream.read(10)
        assert list(folder.iterdir()) == []
    del stream
    for thread in {*threading.enumerate()} - threads:
        thread.join(10)
        assert not thread.is_alive()


def tree(images: Sequence[bytes], name: str = "p") -> bytes:
    return b"".join(
        member_header(f"{name}/{number}.jpg", len(image)) + image + bytes(-len(image) % 512)
        for number, image in enumerate(images)
    ) + bytes(1024)


@pytest.mark.parametrize("reason", ["room", "disk", "bomb"])
def test_what_has_no_room_is_inflated_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    image = bytes(3 << 20) if reason == "bomb" else b"x" * 1000
    paths = write(tmp_path, *(gzip.compress(tree([image], name)) for name in "ab"))
    if reason == "room":
        monkeypatch.setattr(spool, "room", lambda folder: 2000)
    elif reason == "disk":

        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(spool.SpoolFile, "write", full)
    with pytest.raises(SpoolError):
        spooled(paths)
    for most, alone in ((len(tree([image])), False), (len(tree([image])) - 1, True)):
        monkeypatch.setattr(tar_look, "_MOST_AGAIN", most)
        source = TarSource(paths)
        assert source.parallel == (not alone)
        told = " ".join(source.notices)
        assert "they are inflated twice" in told  # as docs/conversion.md says
        assert ("the second time by one process" in told) == alone
        for number in (1, 0):
            part = source.part(number, number + 1)
            (record,) = (part if alone else pickle.loads(pickle.dumps(part))).read()
            assert isinstance(record, SourceRecord) and record.image == image


def test_files_share_the_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    images = [[rng.bytes(300_000) for _ in range(3)], [rng.bytes(300_000) + bytes(900_000)] * 3]
    tars = [bytes(1024), *map(tree, images, "ab")]
    paths = write(tmp_path, *(gzip.compress(data) for data in tars))
    inflated = sum(map(len, tars))
    for room, kept in ((inflated + (1 << 16), True), (inflated - (1 << 20), False)):
        monkeypatch.setattr(spool, "room", lambda folder, most=room: most)
        assert any("twice" in notice for notice in TarSource(paths).notices) == (not kept)
        files = Files.look_at(paths)
        whole, first, full = Spool.new(files), 0, False
        for some in files.apart():  # as several processes, none of which has too much
            own = pickle.loads(pickle.dumps(whole.some(first, len(some.paths))))
            first += len(some.paths)
            with SpoolingStream(some, None, own, ahead=False) as stream:
                try:
                    while stream.peek(1):
                        stream.skip(len(stream.buffered()[0]))
                except SpoolError:
                    full = True
        assert full == (not kept)


def test_the_first_fault_of_all_is_told(tmp_path: Path) -> None:
    tars = [tree([b"x" * 600] * 9, name) for name in "abc"]
    broken = bytearray(tars[0])
    broken[1024 * 3 + 512 * 3] ^= 1  # in a header
    damaged = bytearray(gzip.compress(tars[2], 0))
    damaged[-6] ^= 1
    paths = write(tmp_path, gzip.compress(bytes(broken)), gzip.compress(tars[1]), bytes(damaged))
    for _ in range(5):
        with pytest.raises(SourceError, match=r"^0.gz: near byte 0 \(byte \d+ of the inflated"):
            TarSource(paths)
    paths[0].write_bytes(gzip.compress(tars[0]))
    with pytest.raises(SourceError, match=r"2.gz: .*damaged .* from byte 0 .*incorrect data check"):
        TarSource(paths)
    paths[1].write_bytes(paths[1].read_bytes()[:-20])
    with pytest.raises(SourceError, match=r"1.gz: byte \d+: the file is cut short, for 2.gz"):
        TarSource(paths)
