"""A turn at the first reading: half of the workers read, the others once these pack and write.

Workers that begin together would read together, and then all compute, while the disk rests. Once
out of step they stay so. Later readings wait for nobody: where reading takes longer than the rest,
of small shards or on a slow disk, turns would let processors rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Semaphore

_PATIENCE = 1.0
"""Seconds that a process waits for its turn; most disks read a shard in less."""

_turns: Semaphore | None = None


def take_part(turns: Semaphore | None) -> None:
    """Let this process read for the first time when it has one of ``turns``; None: at once."""
    global _turns
    _turns = turns


@contextmanager
def reading_turn() -> Iterator[None]:
    """Within, this process reads from a disk what it packs then.

    If it waits in vain, it reads all the same: reading takes so long that nothing is gained by
    turns, or a process died that had one.
    """
    turns = _turns
    take_part(None)
    if turns is None or not turns.acquire(timeout=_PATIENCE):
        yield
        return
    try:
        yield
    finally:
        turns.release()
