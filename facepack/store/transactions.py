"""The shards that a pack keeps open, and read transactions for as many threads as read."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from facepack.errors import DamageError
from facepack.store import environments


class Transactions:
    """Read transactions of some shards, one each, for one thread at a time.

    They stay open from one reading to the next: beginning one takes longer than finding a record.
    A shard never changes, so that an old transaction sees all of it and holds nothing back.
    """

    def __init__(self) -> None:
        self.gets: dict[int, Callable[[bytes], memoryview | None]] = {}
        self._open: list[Any] = []
        self._users: list[environments.FileId] = []
        self._pid = os.getpid()

    @property
    def inherited(self) -> bool:
        """Whether they belong to the process that this one was forked from."""
        return self._pid != os.getpid()

    def open(
        self, k: int, file_id: environments.FileId, environment: Any
    ) -> Callable[[bytes], memoryview | None]:
        """Begin to read shard ``k``, whose environment was retained for it."""
        self._users.append(file_id)
        transaction = environment.begin(buffers=True)
        self._open.append(transaction)
        self.gets[k] = transaction.get
        return self.gets[k]

    def close(self) -> None:
        """End them, and only then give the environments back: the other way round is a crash."""
        if self.inherited:
            return  # the registry forgot them; what it counts now is others' use
        with environments.engine_calls:
            self.gets.clear()
            while self._open:
                self._open.pop().abort()
            while self._users:
                environments.release(self._users.pop())


class HeldShards:
    """The environments that a pack keeps open, and transactions for as many threads as read."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._found = [_file_identity(path) for path in paths]
        self._reset()

    def _reset(self) -> None:
        # Reentrant: a finalizer may call release_all in the middle of shard.
        self._guard = threading.RLock()
        self._shards: dict[int, environments.FileId] = {}
        self._idle: list[Transactions] = []
        self._pid = os.getpid()  # last: it tells other threads that the rest is new

    @contextmanager
    def transactions(self) -> Iterator[Transactions]:
        """Transactions that nobody else uses meanwhile; they may have shards open already."""
        if self._pid != os.getpid():  # forked: what was held belongs to the parent
            self._reset()
        with self._guard:
            home = self._idle
            taken = home.pop() if home else Transactions()
        try:
            yield taken
        except BaseException:
            taken.close()  # one that met damage reads nothing any more
            raise
        if taken.inherited:
            return
        with self._guard:
            kept = home is self._idle
            if kept:
                home.append(taken)
        if not kept:  # all was released meanwhile
            taken.close()

    def shard(self, k: int) -> tuple[environments.FileId, Any]:
        """Shard ``k``'s environment for one more user, opened and held on first use.

        Raises:
            DamageError: the file cannot be opened, or is another one than at first.
        """
        if self._pid != os.getpid():  # forked: what was held belongs to the parent
            self._reset()
        with self._guard:
            file_id = self._shards.get(k)
            if file_id is None:
                path = self._paths[k]
                if _file_identity(path) != self._found[k]:
                    raise DamageError(
                        f"{path} was replaced since the pack was opened: open the pack again"
                    )
                file_id, _ = environments.acquire(path)
                self._shards[k] = file_id
            return file_id, environments.retain(file_id)

    def release_all(self) -> None:
        """Give everything back."""
        if self._pid != os.getpid():
            return
        with self._guard:
            idle, self._idle = self._idle, []
            while idle:
                idle.pop().close()
            while self._shards:
                environments.release(self._shards.popitem()[1])


def _file_identity(path: Path) -> tuple[int, int, int, int]:
    """Device, inode, size and time of change: another file under the name has others."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return (0, 0, 0, 0)
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
