"""What each worker is at, for its coordinator to tell if a library's crash ends the worker.

An error of Python comes back by itself; of a process that a signal ends, nothing does. So a reader
that leaves the bytes of a file to a library says before what it is about to read, in a line of
memory that coordinator and workers share.
"""

from __future__ import annotations

import os
from multiprocessing.context import BaseContext

_LENGTH = 1024  # bytes of a line, the process's number and an end included

_own: memoryview | None = None


def say(what: str) -> None:
    """What this process is at from now on; where nobody shares its memory, nobody is told."""
    if _own is not None:
        line = f"{os.getpid()} {what}".encode("utf-8", "backslashreplace")[: _LENGTH - 1]
        _own[: len(line) + 1] = line + b"\0"


class Lines:
    """The lines of ``count`` processes of ``context``, which it is given to when they start."""

    def __init__(self, context: BaseContext, count: int) -> None:
        self._memory = context.RawArray("B", _LENGTH * count)
        self._taken = context.Value("i", 0)

    def take(self) -> None:
        """Take a line for this process."""
        global _own
        with self._taken.get_lock():
            start = _LENGTH * self._taken.value
            self._taken.value += 1
        _own = memoryview(self._memory).cast("B")[start : start + _LENGTH]

    def of(self, process: int) -> str | None:
        """What the process of this number was at last; None if it said nothing."""
        memory = bytes(memoryview(self._memory).cast("B"))
        for start in range(0, len(memory), _LENGTH):
            line = memory[start : start + _LENGTH].partition(b"\0")[0]
            number, _, what = line.decode("utf-8", "replace").partition(" ")
            if number == str(process):
                return what
        return None
