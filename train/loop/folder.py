"""A run's folder: one run lives there, and one process at a time writes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from facepack.errors import TrainingError
from facepack.store.files import write_error
from facepack.store.lock import hold_lock
from facepack.store.places import made_folder
from facepack.train.config import CONFIG_FILE
from facepack.train.loop.checkpoint import (
    CHECKPOINT_FILE,
    METRICS_FILE,
    PREVIOUS_FILE,
    TENSORBOARD_FOLDER,
    part_of,
)
from facepack.train.models.pretrained import MODEL_FILE

RUN_FILES = (CONFIG_FILE, METRICS_FILE, CHECKPOINT_FILE, PREVIOUS_FILE, MODEL_FILE)


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Within it no other process trains in ``folder``, which is made if need be.

    A launcher that is killed can leave its processes behind, still at work, while the run is begun
    again.

    Raises:
        TrainingError: another process holds it, or it cannot be made.
        PackError: it lies in a pack.
    """
    busy = TrainingError(
        f"another process is training in {folder}: wait for it or end it (a launcher that is "
        "killed can leave its processes running), or name another --out"
    )
    with ExitStack() as stack:
        try:
            stack.enter_context(made_folder(folder))
            stack.enter_context(hold_lock(folder, busy))
        except OSError as error:
            raise TrainingError(f"--out: {write_error(folder, error)}") from error
        yield


def refuse_used(out: Path) -> None:
    """Make sure that no run would be lost in ``out``.

    Raises:
        TrainingError: it holds a run, or is a file.
    """
    held = [name for name in RUN_FILES if (out / name).exists()]
    if held:
        raise TrainingError(
            f"{out} holds a run already ({', '.join(held)}): go on with --resume, remove it with "
            "--overwrite, or name another --out"
        )
    if out.exists() and not out.is_dir():
        raise TrainingError(f"{out} is a file; --out names a folder for the run")


def remove_run(out: Path) -> None:
    """Remove the files of the run in ``out``, and no others.

    Raises:
        TrainingError: the system does not let one go.
    """
    try:
        for path in (out / name for name in RUN_FILES):
            path.unlink(missing_ok=True)
            part_of(path).unlink(missing_ok=True)
        shutil.rmtree(out / TENSORBOARD_FOLDER, ignore_errors=True)
    except OSError as error:
        raise TrainingError(f"cannot write to {out}: {error}") from error
