"""A target of plain image files: a hidden folder with its state, and the files themselves."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from facepack import format as fmt
from facepack.errors import PackError
from facepack.images import SUFFIXES
from facepack.lmdbfile import Buffer
from facepack.target import Target

STATE = ".facepack"  # the plan, the lock and what is done
DONE = "done.json"
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
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


def forget(target: Target, plan: dict[str, Any]) -> bool:
    """Make what ``target`` holds count as unfinished, before files of it go or while some lack.

    Args:
        target: a target of files.
        plan: of the run that is about to write there.

    Returns:
        Whether there was anything of ours.

    Raises:
        PackError: it holds something else, or a result of another kind: what a tree wrote, only a
            tree can remove.
    """
    done, begun = target.folder / DONE, target.folder / fmt.PLAN
    if not done.exists() and not begun.exists():
        return False
    target.written_files()  # refuses what is none of ours
    out = target.folder.parent
    try:
        kind = json.loads(begun.read_bytes())["kind"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PackError(
            f"{begun} cannot be read ({error}), so that nobody knows what to replace: remove {out} "
            "yourself or choose another target"
        ) from error
    if kind != plan["kind"]:
        raise PackError(
            f"{out} holds the result of another kind of conversion ({kind}, not {plan['kind']}): "
            "choose another target, or remove it yourself"
        )
    done.unlink(missing_ok=True)
    return True


def remove_parts(out: Path) -> None:
    """Remove files of ``out`` that an earlier run was writing when it was killed."""
    for path in list(out.glob("*.part-*")):
        if fmt.PART.fullmatch(path.name) and not path.is_dir():
            path.unlink()


def kept_positions(count: int, refused: Iterable[int]) -> np.ndarray:
    """The place of each of ``count`` records among those that were not refused; -1 for the others.

    int64 (count,), as :meth:`~facepack.convert.source.Source.tables` takes it.
    """
    kept = np.ones(count, bool)
    kept[list(refused)] = False
    return np.where(kept, np.cumsum(kept) - 1, -1)


def has_size(path: Path, size: int) -> bool:
    """Whether ``path`` is there with ``size`` bytes."""
    try:
        return path.stat().st_size == size
    except (FileNotFoundError, NotADirectoryError):
        return False


def write_image(path: Path | str, image: Buffer) -> None:
    """Write ``path``, without waiting for the disk and never through a link; raises OSError."""
    descriptor = os.open(path, _WRITE, 0o666)
    try:
        view = memoryview(image)
        while view:
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)


def remove_images(folder: Path) -> None:
    """Remove the files ``n.jpg`` of ``folder``, and ``folder`` if nothing else is in it."""
    for file in list(folder.iterdir()):
        if _OURS.fullmatch(file.name):
            file.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
