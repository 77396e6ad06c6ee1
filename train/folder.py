"""A run's folder: one process at a time writes there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facepack.errors import TrainingError


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Within it no other process that asks may write to ``folder``, which is made if need be.

    A launcher that is killed can leave its processes behind, still at work, while the run is begun
    again. The lock is on the folder itself and ends with the process, however that ends. Where
    folders cannot be locked (NFS, Windows) nothing is held.

    Raises:
        TrainingError: another process holds it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"cannot write to {folder}: {error}") from error
    descriptor = _lock(folder) if os.name == "posix" else None
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(folder: Path) -> int:
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise TrainingError(
            f"another process is training in {folder}: wait for it or end it (a launcher that is "
            "killed can leave its processes running), or name another --out"
        ) from None
    except OSError:
        pass  # not on this file system
    return descriptor
