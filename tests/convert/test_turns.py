"""A turn at the first reading: as many at a time as there are, and nobody waits for ever."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from typing import Any

import pytest

from facepack.convert import turns
from facepack.convert.formats.pack import sink
from facepack.convert.formats.pack.sink import PackOptions, convert_to_pack
from facepack.convert.formats.rec.source import RecSource
from facepack.convert.turns import reading_turn, take_part
from facepack.convert.workers import Workers
from facepack.store.checks import ImageCheck


@pytest.fixture
def one_turn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Semaphore]:
    """The only turn, which this process waits for as long as it takes."""
    monkeypatch.setattr(turns, "_PATIENCE", 60)
    semaphore = multiprocessing.get_context().Semaphore(1)
    take_part(semaphore)
    yield semaphore
    take_part(None)


def is_free(turn: Semaphore) -> bool:
    if not turn.acquire(block=False):
        return False
    turn.release()
    return True


def test_one_reads_once_another_has_read(one_turn: Semaphore) -> None:
    seen = []

    def other() -> None:
        with reading_turn():
            seen.append("other")

    thread = threading.Thread(target=other)
    with reading_turn():
        take_part(one_turn)  # as the other process does
        thread.start()
        thread.join(0.05)
        seen.append("first")
    thread.join()
    assert seen == ["first", "other"]


def test_who_waits_in_vain_goes_on(one_turn: Semaphore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a process was killed that had a turn."""
    monkeypatch.setattr(turns, "_PATIENCE", 0.01)
    one_turn.acquire()
    with reading_turn():
        pass
    assert not is_free(one_turn)  # what it did not have it does not give back


def test_a_turn_ends_with_an_error(one_turn: Semaphore) -> None:
    with pytest.raises(ValueError, match="damaged"), reading_turn():
        raise ValueError("damaged")
    assert is_free(one_turn)


@pytest.mark.parametrize(
    ("check", "free"),
    [
        # the first shard is read by turns, the second is not
        (ImageCheck(), [False, True, True, True]),
        # that would let processors rest
        (ImageCheck(decode=True), [True, True, True, True]),
        (ImageCheck(resize=(16, 16)), [True, True, True, True]),
    ],
)
def test_the_first_shard_is_read_by_turns_and_written_without(
    tmp_path: Path,
    make_rec: Callable[..., Path],
    one_turn: Semaphore,
    monkeypatch: pytest.MonkeyPatch,
    check: ImageCheck,
    free: list[bool],
) -> None:
    seen = []
    deliver, write = sink.deliver, sink.ShardBuilder.write

    def read_and_look(*args: Any, **options: Any) -> list[dict[str, Any]]:
        seen.append(is_free(one_turn))
        return deliver(*args, **options)

    def write_and_look(*args: Any, **options: Any) -> Any:
        seen.append(is_free(one_turn))
        return write(*args, **options)

    monkeypatch.setattr(sink, "deliver", read_and_look)
    monkeypatch.setattr(sink.ShardBuilder, "write", write_and_look)
    options = PackOptions(check=check, shard_records=10)
    convert_to_pack(RecSource(make_rec(20)), tmp_path / "out", options)
    assert seen == free


def count_turns() -> int:
    semaphore = turns._turns
    assert semaphore is not None
    count = 0
    while semaphore.acquire(block=False):
        count += 1
    return count


@pytest.mark.parametrize(("workers", "count"), [(2, 1), (3, 1), (4, 2)])
def test_half_of_the_workers_have_a_turn(workers: int, count: int) -> None:
    with Workers(workers) as some:
        assert list(some.run(count_turns, [()])) == [(0, count)]
