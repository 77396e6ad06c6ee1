"""Memory for what is read and kept until a shard is written: large blocks, used again and again.

Memory that a process has not touched before costs a page fault every 4 KiB, and on virtual machines
as much again outside: for a shard's images more than reading them from the page cache. NumPy asks
the system for huge pages where an array is large, and a block whose pieces have all gone is taken
for the next shard.
"""

from __future__ import annotations

import sys
import threading

import numpy as np

from facepack import system

_BLOCK = 16 << 20
_FORGET_EVERY = 8 << 20
_ALIGNED = 64  # a line of the cache

_blocks: list[np.ndarray] = []
_lock = threading.Lock()


class Blocks:
    """Gives out pieces of memory, each there until nothing refers to it; threads may share it."""

    def __init__(self) -> None:
        self._free = memoryview(b"")

    def take(self, count: int) -> memoryview:
        """``count`` bytes to write to, of any content, where numbers of any kind may begin."""
        with _lock:
            if count > len(self._free):
                self._free = _block(count).data
            piece, self._free = self._free[:count], self._free[count + -count % _ALIGNED :]
        return piece


def _block(count: int) -> np.ndarray:
    """A block that nothing else refers to, of ``count`` bytes or more."""
    if count > _BLOCK:
        return np.empty(count, np.uint8)
    for number in range(len(_blocks)):
        if sys.getrefcount(_blocks[number]) == _UNUSED:
            return _blocks[number]
    _blocks.append(np.empty(_BLOCK, np.uint8))
    return _blocks[-1]


_blocks.append(np.empty(0, np.uint8))
_UNUSED = sys.getrefcount(_blocks[0])  # a view into a block counts as one more
_blocks.clear()


def free_blocks() -> None:
    """Give back the memory that no piece is in."""
    with _lock:
        _blocks.clear()


class ReadOnce:
    """Lets the system forget what was read of a file, behind a sweep over it.

    The page cache then takes that memory for what is written; else it would ask for memory that
    was not touched before, and push out what others read.

    Args:
        descriptor: the file.
        start: the byte at which the sweep begins.
    """

    def __init__(self, descriptor: int, start: int) -> None:
        self._descriptor = descriptor
        self._behind = start

    def reached(self, offset: int) -> None:
        """Nothing before ``offset`` is read any more."""
        if offset - self._behind >= _FORGET_EVERY:
            system.was_read(self._descriptor, self._behind, offset - self._behind)
            self._behind = offset
