"""A folder that one process at a time writes into."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facepack import system
from facepack.store import format as fmt


@contextmanager
def hold_lock(folder: Path, busy: Exception) -> Iterator[None]:
    """Within it no other process that asks holds ``folder``.

    The lock is on a file in the folder, which network file systems can lock where they cannot lock
    a folder. It ends with the process, however that ends. Where nothing can be locked (some mounts
    of Lustre, Windows) a warning says so.

    Args:
        folder: is there already.
        busy: raised where another process holds it.

    Raises:
        OSError: the folder takes no file.
    """
    path = folder / fmt.LOCK
    descriptor = _lock(path, busy)
    try:
        yield
    finally:
        system.remove_open(path, descriptor)


def _lock(path: Path, busy: Exception) -> int:
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            if not system.lock_file(descriptor):
                _say_unlocked(path.parent, "this system has no flock")
                return descriptor
            # The last holder unlinks the file: make sure that ours is the one that is there.
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise busy from None
        except FileNotFoundError:
            pass
        except OSError as error:
            _say_unlocked(path.parent, error.strerror or str(error))
            return descriptor
        os.close(descriptor)


def _say_unlocked(folder: Path, reason: str) -> None:
    warnings.warn(
        f"{folder} cannot be locked ({reason}): see to it that no other process writes there",
        stacklevel=2,
    )
