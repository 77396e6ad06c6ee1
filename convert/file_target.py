"""A target of plain image files: a hidden folder with its state, and the files themselves."""

from __future__ import annotations

import re
from pathlib import Path

from facepack import format as fmt
from facepack.errors import PackError
from facepack.images import SUFFIXES
from facepack.lmdbfile import Buffer
from facepack.target import Target

STATE = ".facepack"  # the plan, the lock and what is done
DONE = "done.json"
_OURS = re.compile(rf"\d+({'|'.join(map(re.escape, SUFFIXES.values()))})")


def state_target(out: Path, *, overwrite: bool, resume: bool) -> Target:
    """The folder in ``out`` that keeps the plan, the lock and what is done.

    Raises:
        PackError: ``out`` holds files of someone else.
    """
    state = out / STATE
    if out.is_dir() and not state.is_dir() and any(out.iterdir()):
        raise PackError(f"{out} is not empty and holds nothing of ours: choose another target")
    return Target(state, overwrite=overwrite, resume=resume, finished=DONE)


def forget(target: Target) -> bool:
    """Make what ``target`` holds count as unfinished, before files of it go or while some lack.

    Returns:
        Whether there was anything of ours.

    Raises:
        PackError: it holds something else.
    """
    done = target.folder / DONE
    if not done.exists() and not (target.folder / fmt.PLAN).exists():
        return False
    target.written_files()  # refuses what is none of ours
    done.unlink(missing_ok=True)
    return True


def has_size(path: Path, size: int) -> bool:
    """Whether ``path`` is there with ``size`` bytes."""
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def write_image(path: Path, image: Buffer) -> None:
    """Write ``path``, without waiting for the disk; raises OSError."""
    with path.open("wb", buffering=0) as file:
        view = memoryview(image)
        while view:
            view = view[file.write(view) :]


def remove_images(folder: Path) -> None:
    """Remove the files ``n.jpg`` of ``folder``, and ``folder`` if nothing else is in it."""
    for file in list(folder.iterdir()):
        if _OURS.fullmatch(file.name):
            file.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
