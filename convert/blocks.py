"""Memory for what is read and kept until a shard is written: large blocks, used again and again.

Memory that a process has not touched before costs a page fault every 4 KiB, and on virtual machines
as much again outside: for a shard's images more than reading them from the page cache. NumPy asks
the system for huge pages where an array is large, and a block whose pieces have all gone is taken
for the next shard.
"""

from __future__ import annotations

import mmap
import sys
import threading

import numpy as np

from facepack import system

_BLOCK = 16 << 20
_FORGET_EVERY = 8 << 20
_LINE = 64  # bytes of a line of a core's cache

_blocks: list[np.ndarray] = []
_lock = threading.Lock()


class Blocks:
    """Gives out pieces of memory, each there until nothing refers to it; threads may share it."""

    def __init__(self) -> None:
        self._block = memoryview(b"")
        self._used = 0

    def take(self, count: int, alignment: int = _LINE) -> memoryview:
        """``count`` bytes to write to, of any content, from a multiple of ``alignment`` on.

        That is a power of two, up to the size of a page of memory.
        """
        with _lock:
            begin = self._used + -self._used % alignment
            if begin + count > len(self._block):
                self._block, begin = _block(count).data, 0
            self._used = begin + count
            return self._block[begin : self._used]


def _block(count: int) -> np.ndarray:
    """A block that nothing else refers to, of ``count`` bytes or more."""
    if count > _BLOCK:
        return _pages(count)
    for number in range(len(_blocks)):
        if sys.getrefcount(_blocks[number]) == _UNUSED:
            return _blocks[number]
    _blocks.append(_pages(_BLOCK))
    return _blocks[-1]


def _pages(count: int) -> np.ndarray:
    """``count`` bytes that begin where a page of memory does."""
    memory = np.empty(count + mmap.PAGESIZE, np.uint8)
    begin = -memory.ctypes.data % mmap.PAGESIZE
    return memory[begin : begin + count]


_blocks.append(np.empty(0, np.uint8))
_UNUSED = sys.getrefcount(_blocks[0])  # a view into a block counts as one more
_blocks.clear()


def free_blocks() -> None:
    """Give back the memory that no piece is in."""
    with _lock:
        _blocks.clear()


class ReadOnce:
    """Lets the system forget what was read of a file, behind a sweep over it from ``start`` on.

    The page cache then takes that memory for what is written; else it would ask for memory that
    was not touched before, and push out what others read.
    """

    def __init__(self, descriptor: int, start: int) -> None:
        self._descriptor = descriptor
        self._behind = start

    def reached(self, offset: int) -> None:
        """Nothing before ``offset`` is read any more."""
        if offset - self._behind >= _FORGET_EVERY:
            system.was_read(self._descriptor, self._behind, offset - self._behind)
            self._behind = offset
