"""Reading a part of a file once: past the page cache, or by way of it, the bytes are the same."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from facepack import system
from facepack.convert import sweep
from facepack.convert.blocks import Blocks, free_blocks
from facepack.convert.source_file import ReadError, SourceFile

SIZE = (5 << 20) + 123


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "_MARGIN", 4 << 10)
    monkeypatch.setattr(sweep, "_LEAST", 64 << 10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "train.rec"
    file.write_bytes(np.random.default_rng(0).bytes(SIZE))
    return file


@pytest.fixture(params=["as it is", "past the cache", "by way of it"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Ways of reading: the system's own, and both of them wherever the tests run."""
    if request.param != "as it is":
        monkeypatch.setattr(system, "is_cached", lambda descriptor, offset: False)
    if request.param == "past the cache":  # any other descriptor has the same logic
        monkeypatch.setattr(system, "open_past_cache", os.dup)
    if request.param == "by way of it":
        monkeypatch.setattr(system, "open_past_cache", lambda descriptor: -1)
    free_blocks()
    yield request.param
    free_blocks()


def ranges(seed: int) -> list[tuple[int, int]]:
    """Ranges (count, offset), most of them each behind the one before, as readers ask for them."""
    rng = np.random.default_rng(seed)
    at, asked = int(rng.integers(0, 9000)), []
    while at < SIZE:
        count = min(int(rng.integers(1, rng.choice([900, 300_000]))), SIZE - at)
        asked.append((count, at))
        step = rng.choice(["on", "overlap", "gap", "back"], p=[0.6, 0.2, 0.15, 0.05])
        at += count
        if step == "overlap":
            at -= int(rng.integers(0, min(count, 70_000)))
        elif step == "gap":
            at += int(rng.integers(0, 200_000))
        elif step == "back":
            at = max(at - int(rng.integers(0, 900_000)), 0)
    return asked


@pytest.mark.parametrize("seed", range(6))
def test_blocks_are_what_the_file_holds(path: Path, way: str, seed: int) -> None:
    data = path.read_bytes()
    held = []
    with SourceFile(path) as file:
        asked = ranges(seed)
        file.sweep(asked[0][1], SIZE)
        for count, offset in asked:
            held.append((offset, file.read_block(count, offset)))
    for offset, block in held:  # each stays, though the file is closed and memory used again
        assert block.readonly
        assert block == data[offset : offset + len(block)]


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that gets the bytes of each piece that is read."""
    reads = []

    def counting(descriptor: int, block: memoryview, offset: int) -> int:
        reads.append(os.preadv(descriptor, [block], offset))
        return reads[-1]

    monkeypatch.setattr(system, "read_into", counting)
    return reads


@pytest.mark.parametrize("step", [3_000, 100_000, 500_000])
def test_blocks_that_follow_each_other_are_read_once(
    path: Path, way: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = count_reads(monkeypatch)
    steps = np.random.default_rng(step).integers(step * 3 // 4, step, SIZE // step * 2)
    bounds = [k for k in np.cumsum([1000, *steps]).tolist() if k < SIZE] + [SIZE]
    with SourceFile(path) as file:
        file.sweep(bounds[0], SIZE)
        for begin, end in pairwise(bounds):
            file.read_block(end - begin, begin)
    # Blocks of unequal length cost a part of the longest.
    assert SIZE - 1000 <= sum(reads) <= 1.35 * SIZE


@pytest.mark.parametrize(
    "asked",
    [
        [(300_000, begin) for begin in range(0, SIZE - 300_000, 200_000)],
        [(300_000, begin) for begin in range(0, SIZE - 300_000, 400_000)],
        [(300_000, begin) for begin in range(0, SIZE - 300_000, 10_000)],
        [
            (2_000_000, 0),
            *((100_000, begin) for begin in range(2_000_000, SIZE - 100_000, 110_000)),
        ],
    ],
    ids=["each cut by the next", "others between", "begun anew", "one that is longer"],
)
def test_blocks_that_do_not_follow_each_other_are_not_read_twice_for_long(
    path: Path, way: str, asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    waste, longest = 256 << 10, 300_000
    monkeypatch.setattr(sweep, "_WASTE", waste)
    monkeypatch.setattr(sweep, "MAX_BLOCK", longest)
    data = path.read_bytes()
    reads = count_reads(monkeypatch)
    with SourceFile(path) as file:
        file.sweep(0, SIZE)
        for count, offset in asked:
            assert file.read_block(count, offset) == data[offset : offset + count]
    wanted = sum(count for count, _ in asked)
    assert wanted <= sum(reads) <= 1.25 * wanted + waste + 2 * longest


def test_a_file_that_shrinks_is_named(path: Path, way: str) -> None:
    with SourceFile(path) as file:
        file.sweep(0, SIZE)
        file.read_block(1 << 20, 0)
        os.truncate(path, 3 << 20)
        file.read_block(1 << 20, 1 << 20)
        with pytest.raises(ReadError, match=r"train\.rec: byte 3145728: the file ends here"):
            file.read_block(2 << 20, 2 << 20)


def test_what_cannot_be_read_directly_is_read_by_way_of_the_cache(
    path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = path.read_bytes()
    failed = 0
    with SourceFile(path) as file:

        def only_cached(descriptor: int, block: memoryview, offset: int) -> int:
            nonlocal failed
            if descriptor != file._descriptor:
                failed += 1
                raise OSError(22, "Invalid argument")
            return os.preadv(descriptor, [block], offset)

        monkeypatch.setattr(system, "read_into", only_cached)
        file.sweep(0, SIZE)
        for begin in range(0, SIZE, 1 << 20):
            count = min(1 << 20, SIZE - begin)
            assert file.read_block(count, begin) == data[begin : begin + count]
    assert failed <= 1  # it is not tried for each block anew


def test_nothing_is_left_of_a_sweep(path: Path, way: str) -> None:
    def standing() -> tuple[int, int]:
        return len([*Path("/proc/self/fd").iterdir()]), threading.active_count()

    if not Path("/proc/self/fd").exists():
        pytest.skip("the system does not list open files")
    before = standing()
    with SourceFile(path) as file:
        file.sweep(0, SIZE)
        file.read_block(100_000, 0)
        file.sweep(500_000, SIZE)  # another begins
        file.read_block(100_000, 500_000)
    assert standing() == before


def test_a_part_without_bytes_is_swept(path: Path, way: str) -> None:
    with SourceFile(path) as file:
        file.sweep(SIZE, SIZE)
        assert file.read_block(0, SIZE) == b""


def test_what_is_asked_once_does_not_answer_for_the_next_run(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system that reads each page that it is asked for, of a file that it does not hold."""
    held = set()

    def is_cached(descriptor: int, offset: int) -> bool:
        page = offset // 4096
        was_held = page in held
        held.add(page)
        return was_held

    monkeypatch.setattr(system, "is_cached", is_cached)
    monkeypatch.setattr(system, "open_past_cache", os.dup)
    for _ in range(30):
        with SourceFile(path) as file:
            swept = sweep.Sweep(file._descriptor, 0, SIZE, Blocks())
            assert swept.read(1 << 20, 0) is not None
            swept.close()


def test_the_cache_is_asked_whether_it_holds_a_byte(path: Path) -> None:
    if not hasattr(os, "RWF_NOWAIT"):
        pytest.skip("the system does not tell")
    path.read_bytes()
    with path.open("rb") as file:
        if not system.is_cached(file.fileno(), 0):
            pytest.skip("the file system does not tell")
        assert system.is_cached(file.fileno(), SIZE - 1)
        assert not system.is_cached(file.fileno(), SIZE)  # there is none
