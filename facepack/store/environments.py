"""One registry of the LMDB environments that a process has open.

The engine refuses to open a file twice in a process, and an environment must not cross a fork. So
environments are shared, counted, keyed by inode, and closed in a forked child. They cannot be
closed there if another thread of the parent was inside the engine when it forked: a fork waits
until none is.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb

from facepack import system
from facepack.errors import DamageError, PackError
from facepack.reading import open_regular
from facepack.store.lmdb_format import MAX_PAGE_SIZE
from facepack.store.lmdb_read import ScanError, read_page_size, stated_pages


class _EngineCalls:
    """``with engine_calls:`` around every call into the engine; see the module's docstring."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._condition = threading.Condition()
        self._running = 0
        self._forker: int | None = None
        self._own = threading.local()

    def __enter__(self) -> None:
        depth = getattr(self._own, "depth", 0)
        self._own.depth = depth + 1
        if depth:
            return  # a call within a call, of a finalizer perhaps, must not wait for the first
        with self._condition:
            while self._forker not in (None, threading.get_ident()):
                self._condition.wait()
            self._running += 1

    def __exit__(self, *_: object) -> None:
        self._own.depth -= 1
        if self._own.depth:
            return
        with self._condition:
            self._running -= 1
            if not self._running:
                self._condition.notify_all()

    def before_fork(self) -> None:
        """Wait until no thread is in the engine, and let none in."""
        self._condition.acquire()
        self._forker = threading.get_ident()
        while self._running:
            self._condition.wait()

    def after_fork_in_parent(self) -> None:
        """Let threads in again."""
        self._forker = None
        self._condition.notify_all()
        self._condition.release()

    def after_fork_in_child(self) -> None:
        """There are no other threads here."""
        self._reset()


engine_calls = _EngineCalls()

FileId = tuple[int, int]  # device and inode


@dataclass
class _Open:
    environment: Any
    users: int


_registry: dict[FileId, _Open] = {}
# Reentrant, for a finalizer may release in the middle of anything.
_guard = threading.RLock()


def acquire(path: Path) -> tuple[FileId, Any]:
    """The process's environment of the file at ``path``, opened on first use.

    Returns:
        The file's id, to be given to :func:`release`, and the ``lmdb.Environment``.

    Raises:
        DamageError: not an LMDB file, or shorter than its meta page says; reading a page behind
            the end of a mapping would kill the process.
        PackError: the path is not UTF-8, or the file is open in this process by other means.
    """
    try:
        status = path.stat()
        file_id = (status.st_dev, status.st_ino)
        with engine_calls, _guard:
            entry = _registry.get(file_id)
            if entry is None:
                _check_length(path, status.st_size)
                environment = lmdb.open(
                    str(path), subdir=False, readonly=True, lock=False, create=False, max_dbs=0
                )
                entry = _registry[file_id] = _Open(environment, 0)
            entry.users += 1
            return file_id, entry.environment
    except FileNotFoundError as error:
        raise DamageError(f"{path}: the shard is missing") from error
    except OSError as error:
        raise DamageError(
            f"{path}: cannot be read: {error.strerror}; check its permissions and the disk"
        ) from error
    except UnicodeError as error:
        raise PackError(
            f"{path}: LMDB opens no file whose path is not UTF-8: rename it, or set a UTF-8 locale"
        ) from error
    except lmdb.Error as error:
        if "already open" in str(error):  # which it would be in another process without harm
            raise PackError(
                f"{path} is open in this process already, by lmdb.open() outside facepack, and "
                "LMDB opens a file once in a process: close that environment, or read the shard "
                "through facepack.open()"
            ) from error
        raise DamageError(f"{path}: LMDB cannot open the shard: {error}") from error


def get(environment: Any, key: bytes) -> bytes | None:
    """The value of ``key``, copied; None if the file has none.

    Call it within :data:`engine_calls`, as all that goes into the engine.

    Raises:
        DamageError: LMDB cannot read on.
    """
    try:
        with environment.begin() as transaction:
            value: bytes | None = transaction.get(key)
            return value
    except lmdb.Error as error:
        raise DamageError(
            f"{environment.path()}: LMDB cannot read on: {error}: somebody changed the file, or it "
            "is damaged: see facepack verify"
        ) from error


def retain(file_id: FileId) -> Any:
    """One more user of an environment that the caller already holds: no look at the file."""
    with _guard:
        entry = _registry[file_id]
        entry.users += 1
        return entry.environment


def release(file_id: FileId) -> None:
    """Give back what :func:`acquire` gave; the last user's call closes the environment."""
    with engine_calls, _guard:
        entry = _registry.get(file_id)
        if entry is None:
            return  # inherited through a fork, and forgotten there
        entry.users -= 1
        if entry.users == 0:
            del _registry[file_id]
            entry.environment.close()


def _check_length(path: Path, size: int) -> None:
    with open_regular(path) as file:
        head = file.read(2 * MAX_PAGE_SIZE)
    try:
        needed = stated_pages(head) * read_page_size(head)
    except ScanError as error:
        raise DamageError(f"{path}: {error}") from error
    if size < needed:
        raise DamageError(
            f"{path}: {size} bytes, but its meta page says {needed}: the file is truncated; "
            "copy it again or convert again"
        )


def _forget_after_fork() -> None:
    global _guard
    engine_calls.after_fork_in_child()
    _guard = threading.RLock()
    for entry in _registry.values():
        entry.environment.close()
    _registry.clear()


system.at_fork(
    before=engine_calls.before_fork,
    after_in_parent=engine_calls.after_fork_in_parent,
    after_in_child=_forget_after_fork,
)
