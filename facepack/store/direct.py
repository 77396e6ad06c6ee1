"""Reading and writing large files past the page cache, where the system allows.

What is read or written once fills the page cache for nothing: memory must be found for it, which a
virtual machine may have to get from its host, and it is copied once more. Past the cache, the disk
takes from and gives to two blocks of a process, in turn, while it works on the other one.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from io import FileIO

from facepack.system import pass_the_cache, read_into

BLOCK = 4 << 20  # bytes that are read or written at once

_IN_FLIGHT = 2  # reads that a disk has before it: it never waits for the next


def read_blocks(file: FileIO, *, cached: bool = False) -> Iterator[memoryview]:
    """The bytes that a file has now; each piece is there until the next one is asked for.

    To have it ``cached`` is to read by way of the page cache all the same, for who reads it next.
    """
    if not cached:
        pass_the_cache(file, True)
    unread = iter(range(0, os.fstat(file.fileno()).st_size, BLOCK))
    waiting: deque[tuple[memoryview, Future[int]]] = deque()
    with ThreadPoolExecutor(_IN_FLIGHT) as readers:
        for block, start in zip([_new_block() for _ in range(_IN_FLIGHT)], unread, strict=False):
            waiting.append((block, readers.submit(_read, file, block, start)))
        following = _new_block()
        while waiting:
            block, reading = waiting.popleft()
            count = reading.result()
            at = next(unread, None)
            if at is not None:
                waiting.append((following, readers.submit(_read, file, following, at)))
            yield block[:count]
            following = block


class BlockWriter:
    """Writes an empty file; a context manager. Errors of one write may come out of a later one."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._writer = ThreadPoolExecutor(1)
        self._block, self._other = _new_block(), _new_block()
        self._filled = 0
        self._writing: Future[None] | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take some bytes."""
        rest = memoryview(data)
        while rest:
            part = rest[: BLOCK - self._filled]
            self._block[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            rest = rest[len(part) :]
            if self._filled == BLOCK:
                self._hand_over()

    def finish(self) -> None:
        """Hand all that was taken to the system; syncing it is left to the caller."""
        self._wait()
        # Past the cache go whole sectors only.
        pass_the_cache(self._file, False)
        _write(self._file, self._block[: self._filled])

    def _hand_over(self) -> None:
        if self._writing is None:
            pass_the_cache(self._file, True)
        self._wait()
        begun = threading.Event()
        self._writing = self._writer.submit(self._write_one, begun, self._block)
        # Python would let the other thread wait for some ms, as long as a disk takes for a block.
        begun.wait()
        self._block, self._other = self._other, self._block
        self._filled = 0

    def _write_one(self, begun: threading.Event, block: memoryview) -> None:
        begun.set()
        _write(self._file, block)

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def __enter__(self) -> BlockWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown()


def _new_block() -> memoryview:
    # Pages of its own, because disks take and give whole sectors.
    return memoryview(mmap.mmap(-1, BLOCK))


def _read(file: FileIO, block: memoryview, at: int) -> int:
    """Fill a block as far as the file goes; how many bytes that is."""
    done = 0
    while done < len(block):
        count = _move(file, partial(read_into, file.fileno(), block[done:], at + done))
        if not count:
            break
        done += count
    return done


def _write(file: FileIO, data: memoryview) -> None:
    while data:
        data = data[_move(file, partial(file.write, data)) :]


def _move(file: FileIO, move: Callable[[], int]) -> int:
    """How many bytes ``move`` moves; by way of the cache where the system refuses to pass it."""
    try:
        return move()
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Behind a short read, or of a file system of larger sectors.
        pass_the_cache(file, False)
        return move()
