"""Turns at reading: as many at a time as there are, and nobody waits for ever."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator

import pytest

from facepack.convert import turns
from facepack.convert.turns import reading_turn, take_part


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    take_part(None)


def test_one_reads_once_another_has_read() -> None:
    take_part(multiprocessing.get_context().Semaphore(1))
    seen = []

    def other() -> None:
        with reading_turn():
            seen.append("other")

    thread = threading.Thread(target=other)
    with reading_turn():
        thread.start()
        thread.join(0.05)
        seen.append("first")
    thread.join()
    assert seen == ["first", "other"]


def test_who_waits_in_vain_goes_on_and_waits_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a process was killed that had a turn."""
    monkeypatch.setattr(turns, "_PATIENCE", 0.01)
    semaphore = multiprocessing.get_context().Semaphore(1)
    take_part(semaphore)
    semaphore.acquire()
    with reading_turn():
        pass
    semaphore.release()
    with reading_turn():
        assert semaphore.acquire(block=False)  # it has not taken the turn


def test_a_turn_ends_with_an_error() -> None:
    semaphore = multiprocessing.get_context().Semaphore(1)
    take_part(semaphore)
    with pytest.raises(ValueError, match="damaged"), reading_turn():
        raise ValueError("damaged")
    assert semaphore.acquire(block=False)
