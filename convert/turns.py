"""Turns at reading: while half of the workers read, the others pack and write.

Workers that begin together would read together, and then all compute, while the disk rests.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Semaphore

_PATIENCE = 1.0
"""Seconds that a process waits for its turn; most disks read a shard in less."""

_turns: Semaphore | None = None


def take_part(turns: Semaphore | None) -> None:
    """Let this process read when it has one of ``turns``; None: whenever it wants to."""
    global _turns
    _turns = turns


@contextmanager
def reading_turn() -> Iterator[None]:
    """Within, this process reads from a disk what it packs then.

    If it waits in vain, reading takes so long that nothing is gained by turns: it takes none any
    more. So it goes on, too, where a process died that had one.
    """
    turns = _turns
    if turns is None or not turns.acquire(timeout=_PATIENCE):
        take_part(None)
        yield
        return
    try:
        yield
    finally:
        turns.release()
