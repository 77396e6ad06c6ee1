"""A thread that computes the next items of an iterator while the last ones are used."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_END = object()


class ReadAhead(Generic[T]):
    """Iterates over ``items`` in a thread, at most ``depth`` of them ahead.

    What ``items`` raises is raised here, in its turn. Worth a thread where making an item leaves
    Python's lock free, as reading, hashing and inflating do.
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._ready: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._room = threading.Semaphore(depth)
        self._stopped = threading.Event()
        # The thread must not refer to this object, or nothing would ever end it.
        arguments = (items, self._ready, self._room, self._stopped)
        self._thread = threading.Thread(target=_produce, args=arguments, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._stopped.is_set():
            raise StopIteration
        item, error = self._ready.get()
        if item is _END:
            self._stopped.set()
            if error is not None:
                raise error
            raise StopIteration
        self._room.release()
        value: T = item
        return value

    def close(self) -> None:
        """End the thread; items that were made and not taken are dropped."""
        self._stopped.set()
        self._room.release()

    def __del__(self) -> None:
        self.close()


def _produce(
    items: Iterator[Any],
    ready: SimpleQueue[tuple[Any, BaseException | None]],
    room: threading.Semaphore,
    stopped: threading.Event,
) -> None:
    try:
        while True:
            room.acquire()
            if stopped.is_set():
                return
            ready.put((next(items), None))
    except StopIteration:
        ready.put((_END, None))
    except BaseException as error:
        ready.put((_END, error))
