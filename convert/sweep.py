"""Reading a part of a file once, from its beginning to its end: past the page cache, a block ahead.

What nobody will read again need not go through the page cache: memory must be found for it there,
which a virtual machine may have to get from its host, and it is copied once more. Past the cache,
the disk fills the memory that is kept, and a thread reads the next block while one is used.
"""

from __future__ import annotations

import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor

from facepack import system
from facepack.convert.blocks import Blocks, ReadOnce

_ALIGNED = mmap.PAGESIZE  # of which direct reads are multiples, in files and in memory
_PROBES = 8  # bytes of the part that tell whether the page cache holds it
_MARGIN = 64 << 10
"""How far before or behind the end of a block the next one may begin: more than what is cut there,
or lies between two blocks."""

_LEAST = 1 << 20
"""Bytes of a block that is read past the cache; of less, the system reads ahead better."""

_WASTE = 16 << 20
"""Bytes that may be read without being asked for, beside a quarter of those that are: more of them
show that blocks do not follow each other, or differ much in length."""

MAX_BLOCK = (4 << 20) - 2 * _MARGIN - 2 * _ALIGNED
"""Bytes of a block that are best asked for at once: with its margins, four fit into what
:class:`~facepack.convert.blocks.Blocks` keeps."""


class Sweep:
    """Gives blocks of the bytes ``[begin, end)`` of a file, each behind the one before.

    Where that is not possible past the page cache, the cache holds them already, or too many bytes
    are read more than once, the file is to be read by way of it, and it forgets what was read.
    """

    def __init__(self, descriptor: int, begin: int, end: int, blocks: Blocks) -> None:
        self._end = end
        self._blocks = blocks
        self._behind = ReadOnce(descriptor, begin)
        # At random: a page that is asked for is read, and one run must not answer for the next.
        step = max((end - begin) // _PROBES, 1)
        first = begin + int.from_bytes(os.urandom(4), "little") % step
        places = range(first, end, step)
        cached = all(system.is_cached(descriptor, place) for place in places)
        self._direct = -1 if cached else system.open_past_cache(descriptor)
        self._thread = None if self._direct < 0 else ThreadPoolExecutor(1)
        self._ahead: tuple[int, Future[memoryview]] | None = None  # with its first byte
        self._longest = 0  # block until now, which the next one may be as long as
        self._wasted = 0  # bytes that were read without being asked for, as far as not allowed

    def read(self, count: int, offset: int) -> memoryview | None:
        """``count`` bytes from ``offset`` on; None: they are to be read by way of the cache."""
        if self._thread is None or count < _LEAST:
            self._behind.reached(offset)
            return None
        start, block = self._find(count, offset)
        self._wasted -= count + count // 4
        begin, end = offset - start, offset - start + count
        if end > len(block):  # the file has an end, or an error, which others tell
            self.close()
            return None
        # What comes next begins behind this block, or with the record that this one cuts.
        following = offset + count - _MARGIN
        following -= following % _ALIGNED
        if self._wasted > _WASTE:
            self.close()
        elif offset + count < self._end:
            self._longest = min(max(self._longest, count), MAX_BLOCK)
            length = min(self._longest + 2 * _MARGIN, self._end - following)
            self._wasted += length
            self._ahead = following, self._thread.submit(self._read, length, following)
        return block[begin:end].toreadonly()

    def _find(self, count: int, offset: int) -> tuple[int, memoryview]:
        """A block that holds these bytes, if any can, and where it begins."""
        if self._ahead is not None:
            start, reading = self._ahead
            self._ahead = None
            block = reading.result()
            if start <= offset and offset + count <= start + len(block):
                return start, block
        start = offset - offset % _ALIGNED
        self._wasted += count
        return start, self._read(offset - start + count, start)

    def _read(self, count: int, start: int) -> memoryview:
        """At least ``count`` bytes from ``start`` on; fewer at the end of the file or an error."""
        block = self._blocks.take(count + -count % _ALIGNED, _ALIGNED)
        done = 0
        try:
            while done < count:
                more = system.read_into(self._direct, block[done:], start + done)
                if not more:
                    break
                done += more
        except OSError:
            done = 0
        return block[:done]

    def close(self) -> None:
        """Stop reading; blocks that were given stay valid."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
            os.close(self._direct)
