"""A run's folder: one process at a time writes there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from facepack.errors import TrainingError
from facepack.store.lock import hold_lock


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Within it no other process trains in ``folder``, which is made if need be.

    A launcher that is killed can leave its processes behind, still at work, while the run is begun
    again.

    Raises:
        TrainingError: another process holds it, or it cannot be made.
    """
    busy = TrainingError(
        f"another process is training in {folder}: wait for it or end it (a launcher that is "
        "killed can leave its processes running), or name another --out"
    )
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold_lock(folder, busy))
        except OSError as error:
            raise TrainingError(f"cannot write to {folder}: {error}") from error
        yield
