"""Joined files as one stream: plain and gzipped, cut anywhere, damaged anywhere."""

from __future__ import annotations

import gc
import gzip
import hashlib
import io
import pickle
import tarfile
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from xxhash import xxh3_128_hexdigest

from facepack.convert.formats.tar import glint360k
from facepack.convert.formats.tar import stream as tar_stream
from facepack.convert.formats.tar.stream import Files, Stream, StreamEndError
from facepack.convert.read_ahead import ReadAhead
from facepack.convert.source_file import SourceFile
from facepack.errors import SourceError


@pytest.fixture(autouse=True)
def _several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_stream, "_SQUEEZED", 128 << 10)
    monkeypatch.setattr(tar_stream, "_INFLATED", 256 << 10)


def content(count: int = 700_000, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).integers(0, 64, count, np.uint8).tobytes()


def cut(folder: Path, data: bytes, *places: int, name: str = "piece") -> list[Path]:
    """Write ``data`` cut at ``places``."""
    bounds = [0, *places, len(data)]
    paths = []
    for k, (start, stop) in enumerate(pairwise(bounds)):
        paths.append(folder / f"{name}_{k:02d}")
        paths[-1].write_bytes(data[start:stop])
    return paths


def walk(stream: Stream, data: bytes, seed: int) -> None:
    """Do what a reader may do, and compare with slices of the bytes."""
    rng = np.random.default_rng(seed)
    at = 0
    for action, count in zip(rng.integers(0, 4, 300), rng.integers(0, 9000, 300), strict=True):
        count = min(int(count), len(data) - at)
        if action == 0:
            assert stream.peek(count) == data[at : at + count]
        elif action == 1:
            assert stream.read(count) == data[at : at + count]
            at += count
        elif action == 2:
            stream.skip(count)
            at += count
        else:
            at = max(0, at - count // 8)
            stream.seek(at)
        assert stream.position == at
    stream.seek(len(data))
    assert stream.peek(1) == b""
    with pytest.raises(StreamEndError, match="the data end here"):
        stream.read(1)


@pytest.mark.parametrize("places", [(), (3,), (131072, 131073, 400_000)])
@pytest.mark.parametrize("packed", [False, True])
def test_a_stream_is_the_files_joined(
    tmp_path: Path, packed: bool, places: tuple[int, ...]
) -> None:
    data = content()
    stored = gzip.compress(data, 1, mtime=0) if packed else data
    paths = cut(tmp_path, stored, *places)
    files = Files.look_at(paths)
    assert files.compressed == packed
    sums: dict[int, str] = {}
    with files.open(sums.__setitem__) as stream:
        walk(stream, data, seed=len(places))
        assert stream.consumed() > 0
    if packed:
        expected = {k: xxh3_128_hexdigest(path.read_bytes()) for k, path in enumerate(paths)}
        assert sums == expected
        again = pickle.loads(pickle.dumps(stream))
        assert again.read(len(data)) == data
        again.close()


def test_some_of_the_files_read_the_same_places(tmp_path: Path) -> None:
    data = content()
    files = Files.look_at(cut(tmp_path, data, 100_000, 300_000, 300_100))
    for begin, end, first, count in [
        (0, 10, 0, 1),
        (99_999, 100_001, 0, 2),
        (100_000, 300_000, 1, 1),
        (299_999, 300_101, 1, 3),
        (650_000, 700_000, 3, 1),
    ]:
        some = files.between(begin, end)
        assert some.paths == files.paths[first : first + count]
        with some.open() as stream:
            stream.seek(begin)
            assert stream.read(end - begin) == data[begin:end]


@pytest.mark.parametrize("packed", [False, True])
def test_starts_are_where_files_begin_by_themselves(tmp_path: Path, packed: bool) -> None:
    parts = [b"x" * 100_000 + bytes(100_000) for _ in range(3)]
    stored = [gzip.compress(part, 1) if packed else part for part in parts]
    paths = [path for k, data in enumerate(stored) for path in cut(tmp_path, data, name=f"{k}")]
    with Files.look_at(paths).open() as stream:
        for number in range(3):
            assert stream.skip_zeros() and stream.position == number * 200_000
            assert (stream.number, stream.start) == (number, number * 200_000)
            assert stream.read(100_000) == parts[0][:100_000]
            assert (stream.number, stream.start) == (number, number * 200_000)
        assert not stream.skip_zeros() and stream.position == 600_000


def test_gzip_members_and_padding_follow_each_other(tmp_path: Path) -> None:
    stored = gzip.compress(b"one") + gzip.compress(b"") + gzip.compress(b"two") + bytes(600)
    paths = cut(tmp_path, stored, 5, 30, len(stored) - 100)
    with Files.look_at(paths).open() as stream:
        assert stream.read(6) == b"onetwo" and stream.peek(1) == b""


@pytest.mark.parametrize("padding", [0, 600])
def test_data_behind_gzipped_ones_that_are_none_are_passed_on(tmp_path: Path, padding: int) -> None:
    stored = gzip.compress(b"one") + bytes(padding) + b"\x1ftwo"
    following = gzip.compress(b"three")
    paths = [*cut(tmp_path, stored, name="a"), *cut(tmp_path, following, name="b")]
    with Files.look_at(paths).open() as stream:
        assert stream.read(3) == b"one" and stream.foreign == -1
        assert stream.read(9) == b"\x1ftwothree" and stream.foreign == 3
        assert stream.start == 7 and stream.number == 1


@pytest.mark.parametrize(("member", "reads"), [(7_000, 12), (400_000, 20)])
def test_members_that_follow_each_other_take_few_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: int, reads: int
) -> None:
    asked: list[int] = []
    read = SourceFile.read

    def counting(file: SourceFile, count: int, offset: int) -> bytes:
        asked.append(count)
        return read(file, count, offset)

    monkeypatch.setattr(SourceFile, "read", counting)
    data = content(8 << 20)
    files = Files.look_at(cut(tmp_path, data))
    asked.clear()
    with files.open() as stream:
        for begin in range(0, len(data) - 512, member):
            stream.seek(begin)
            assert stream.peek(512) == data[begin : begin + 512]
    assert len(asked) <= reads or sum(asked) < len(data) // 2  # large members are not read
    assert max(asked) <= 2 << 20


def test_an_inflating_bomb_takes_no_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", 9) as file:
        for _ in range(80):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    with Files.look_at([path]).open() as stream:
        stream.skip(80 << 20)
        assert stream.peek(1) == b""
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 << 20


def test_damage_is_named_by_file_and_byte(tmp_path: Path) -> None:
    stored = bytearray(gzip.compress(content(), 1))
    stored[400_000:400_040] = bytes(40)
    paths = cut(tmp_path, bytes(stored), 200_000)
    with Files.look_at(paths).open() as stream:
        with pytest.raises(SourceError, match=r"piece_0\d: .*damaged in the 128 KiB from byte"):
            stream.skip(700_000)
            stream.skip_zeros()


def test_a_wrong_checksum_at_the_end_is_damage(tmp_path: Path) -> None:
    stored = bytearray(gzip.compress(content(), 1))
    stored[-6] ^= 1
    (tmp_path / "a.gz").write_bytes(bytes(stored))
    with Files.look_at([tmp_path / "a.gz"]).open() as stream:
        assert stream.read(1000) == content()[:1000]
        with pytest.raises(SourceError, match="incorrect data check"):
            stream.skip(699_000)
            stream.skip_zeros()


def test_a_missing_last_piece_is_said(tmp_path: Path) -> None:
    paths = cut(tmp_path, gzip.compress(content(), 1), 200_000, 300_000)
    with Files.look_at(paths[:2]).open() as stream:
        with pytest.raises(StreamEndError, match=r"piece_01: byte 100000: .*a piece that follows"):
            stream.skip(700_000)


def test_a_new_archive_inside_another_is_a_cut(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("a/1.jpg")
        info.size = 300_000
        tar.addfile(info, io.BytesIO(content(300_000)))
    stored = buffer.getvalue()
    (tmp_path / "a").write_bytes(stored[:100_000])
    (tmp_path / "b").write_bytes(stored)
    with Files.look_at([tmp_path / "a", tmp_path / "b"]).open() as stream:
        with pytest.raises(StreamEndError, match="a: byte 100000: the file is cut short, for b"):
            stream.skip(290_000)


def test_a_published_piece_that_differs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = gzip.compress(content(), 1)
    paths = cut(tmp_path, stored, 200_000, name="glint360k")
    sums: dict[int, str] = {}
    for path in paths:
        monkeypatch.setitem(glint360k.MD5, path.name, hashlib.md5(path.read_bytes()).hexdigest())
    with Files.look_at(paths).open(sums.__setitem__) as stream:
        assert stream.read(700_000) == content()
        assert not stream.skip_zeros()
    other = bytearray(stored[:200_000])
    other[4:8] = b"time"  # of the gzip header: it inflates to the same
    paths[0].write_bytes(other)
    found = hashlib.md5(other).hexdigest()
    with Files.look_at(paths).open(sums.__setitem__) as stream:
        with pytest.raises(SourceError, match=f"glint360k_00: its MD5 is {found}, the published"):
            stream.skip(700_000)
            stream.skip_zeros()
    damaged = bytearray(paths[0].read_bytes())
    damaged[100_000:100_040] = bytes(40)
    paths[0].write_bytes(damaged)
    found = hashlib.md5(damaged).hexdigest()
    with Files.look_at(paths).open() as stream:
        with pytest.raises(SourceError, match=f"glint360k_00: its MD5 is {found}, the published"):
            stream.skip(700_000)
            stream.skip_zeros()


def test_all_seven_pieces_are_asked_for() -> None:
    glint360k.check_pieces(["a.tar", "b.tar"])
    glint360k.check_pieces(list(glint360k.MD5))
    with pytest.raises(SourceError, match="glint360k_03 of Glint360K's seven pieces not given"):
        glint360k.check_pieces([name for name in glint360k.MD5 if name != "glint360k_03"])
    with pytest.raises(SourceError, match="alone and in order"):
        glint360k.check_pieces(list(reversed(glint360k.MD5)))


@pytest.mark.parametrize("packed", [False, True])
def test_files_that_change_stop_the_reading(tmp_path: Path, packed: bool) -> None:
    data = gzip.compress(content(), 1) if packed else content()
    paths = cut(tmp_path, data, 300_000)
    files = Files.look_at(paths)
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    with files.open() as stream, pytest.raises(SourceError, match="piece_01 changed while"):
        stream.skip(690_000)
        stream.read(10_000)
        stream.skip_zeros()
    paths[1].unlink()
    with files.open() as stream, pytest.raises(SourceError, match=r"piece_01: .*No such"):
        stream.skip(690_000)
        stream.read(10_000)


def test_files_are_looked_at(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        Files.look_at([tmp_path / "absent"])
    (tmp_path / "empty").touch()
    with pytest.raises(SourceError, match="the file is empty"):
        Files.look_at([tmp_path / "empty"])
    with pytest.raises(SourceError, match="is no regular file"):
        Files.look_at([tmp_path])


def test_reading_ahead_gives_what_there_is_and_ends() -> None:
    assert list(ReadAhead(iter(range(100)), 3)) == list(range(100))

    def failing() -> Iterator[int]:
        yield 1
        raise SourceError("broken")

    items = ReadAhead(failing(), 3)
    assert next(items) == 1
    with pytest.raises(SourceError, match="broken"):
        next(items)
    assert list(items) == []


def test_a_dropped_stream_leaves_no_thread(tmp_path: Path) -> None:
    before = {*threading.enumerate()}  # some of which may end meanwhile
    paths = cut(tmp_path, gzip.compress(content(12_000_000), 1))
    stream = Files.look_at(paths).open()
    stream.read(10)
    threads = {*threading.enumerate()} - before
    assert len(threads) == 2
    del stream
    gc.collect()
    deadline = time.monotonic() + 10
    while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(thread.is_alive() for thread in threads)


def test_bytes_are_told_of_the_file_that_they_come_from(tmp_path: Path) -> None:
    first, second = content(300_000), content(400_000, 1)
    paths = [tmp_path / "first", tmp_path / "second"]
    for path, data in zip(paths, (first, second), strict=True):
        path.write_bytes(gzip.compress(data))
    with Files.look_at(paths).open() as stream:
        stream.seek(len(first) - 100)
        assert stream.peek(512) == first[-100:] + second[:412]  # it reaches into the next file
        assert stream.number == 0
        assert stream.name_byte(stream.position).startswith("first: near byte ")
        assert 0 < stream.consumed() < paths[0].stat().st_size
        stream.seek(len(first) + len(second))
        assert stream.name_byte(0).startswith("first: near byte 0 (byte 0 ")
        assert stream.name_byte(len(first)).startswith("second: near byte 0 ")
