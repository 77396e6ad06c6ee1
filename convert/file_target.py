"""A target of plain image files: its state, hidden, and the files themselves.

The state is a folder; of images, it is one file when all is done: what walks a finished tree takes
each folder in it for a class, hidden or not (torchvision's ``ImageFolder``).
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from facepack import system
from facepack.convert.options import ConvertOptions
from facepack.errors import PackError, SourceError
from facepack.images import SUFFIXES
from facepack.reading import read_json
from facepack.store import format as fmt
from facepack.store.files import write_errors, write_file
from facepack.store.record import Buffer
from facepack.store.target import Found, Target

STATE = ".facepack"  # the plan, the lock and what is done
DONE = "done.json"
FINISHED = ".facepack.json"  # the plan and what is done, when all is
_FOLDED = ("tree", "pair-folder")  # kinds of target that are walked as trees of images
_OURS = re.compile(rf"\d+({'|'.join(map(re.escape, SUFFIXES.values()))})")


def state_target(out: Path, options: ConvertOptions) -> FileTarget:
    """What keeps the plan, the lock and what is done, in ``out``.

    Raises:
        PackError: ``out`` holds files of someone else.
    """
    state = out / STATE
    ours = state.is_dir() or (out / FINISHED).is_file()
    if out.is_dir() and not ours and any(out.iterdir()):
        what = "a pack, or a part of one" if (out / fmt.PLAN).exists() else "nothing of ours"
        raise PackError(f"{out} is not empty and holds {what}: choose another target")
    return FileTarget(
        state, overwrite=options.overwrite, resume=options.resume, finished=DONE, shown=out
    )


def require_finished(path: Path) -> None:
    """Make sure that ``path`` is not, and does not lie in, what a conversion has only begun.

    Such a target may be read as a source like any other, without the images that it lacks.

    Raises:
        SourceError: it is, or does.
    """
    for folder in (path, path.parent):
        state = folder / STATE
        if os.path.lexists(state / fmt.PLAN) and not os.path.lexists(state / DONE):
            raise SourceError(
                f"{folder} is what a conversion that was not finished has written: complete it by "
                f"the same command with --resume, or remove {state} to take what is there"
            )


class FileTarget(Target):
    """A target whose folder is there while it is used.

    It is left where there is anything in it: of images only while they are not finished.
    """

    def __enter__(self) -> Target:
        super().__enter__()
        try:
            self._unfold()
        except BaseException:
            super().__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._fold()
        finally:
            super().__exit__()
        with suppress(OSError):  # it holds what is unfinished, or another process begins in it
            self.folder.rmdir()

    def look(self, plan: dict[str, Any]) -> Found:
        """As that of any target; what another kind of conversion wrote is not replaced."""
        found = super().look(plan)
        if found is Found.REPLACED:
            self._require_kind(plan["kind"])
        return found

    def _require_kind(self, wanted: str) -> None:
        """Make sure that what is here is of this kind: what a tree wrote, only a tree can remove.

        Raises:
            PackError: it is not, or nobody knows.
        """
        out = self.folder.parent
        try:
            kind = self._state(fmt.PLAN)["kind"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PackError(
                f"{self.folder / fmt.PLAN} cannot be read ({error}), so that nobody knows what to "
                f"replace: remove {out} yourself or choose another target"
            ) from error
        if kind != wanted:
            raise PackError(
                f"{out} holds the result of another kind of conversion ({kind}, not {wanted}): "
                "choose another target, or remove it yourself"
            )

    def done(self) -> dict[str, Any] | None:
        """What a run noted as done; None where it noted nothing that can be read."""
        return self._read(DONE) or None

    def _folded(self) -> dict[str, Any] | None:
        """What the file says, under the names that its parts have in the folder; None: no file."""
        file = self.folder.parent / FINISHED
        try:
            state = read_json(file)
            return {fmt.PLAN: state["plan"], DONE: state["done"]}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PackError(
                f"{file} cannot be read ({error}), so that nobody knows what is here: remove "
                f"{self.folder.parent} yourself or choose another target"
            ) from error

    def _holds(self, name: str) -> bool:
        return super()._holds(name) or name in (self._folded() or ())

    def _state(self, name: str) -> Any:
        folded = None if super()._holds(name) else self._folded()
        return folded[name] if folded and name in folded else super()._state(name)

    def _freed_bytes(self) -> int:
        """Of all files of the target: those of the folder are the least of them."""
        files = self.folder.parent.rglob("*")
        return sum(file.lstat().st_size for file in files if file.is_file())

    def _unfold(self) -> None:
        """Make the folder of the file; killed on the way, this begins anew."""
        folded = self._folded()
        if folded is None:
            return
        with write_errors(self.folder):
            for name in (DONE, fmt.PLAN):
                write_file(self.folder / name, [fmt.json_text(folded[name]).encode()])
            (self.folder.parent / FINISHED).unlink()

    def forget(self) -> None:
        """Make what is here count as unfinished, before files of it go or while some lack."""
        (self.folder / DONE).unlink(missing_ok=True)

    def _fold(self) -> None:
        """Make the file of the folder, if all is done; killed on the way, the file holds."""
        plan, done = self.folder / fmt.PLAN, self.folder / DONE
        try:
            state = {"plan": read_json(plan), "done": read_json(done)}
            folds = state["plan"]["kind"] in _FOLDED
        except (OSError, ValueError, KeyError, TypeError):  # unfinished or damaged: a run says so
            return
        if folds:
            with write_errors(self.folder):
                write_file(self.folder.parent / FINISHED, [fmt.json_text(state).encode()])
                done.unlink()
                plan.unlink()


def has_size(path: Path, size: int) -> bool:
    """Whether ``path`` is there with ``size`` bytes."""
    try:
        return path.stat().st_size == size
    except (FileNotFoundError, NotADirectoryError):
        return False


def remove_parts(out: Path) -> None:
    """Remove files of ``out`` that an earlier run was writing when it was killed."""
    for path in list(out.glob("*.part-*")):
        if fmt.PART.fullmatch(path.name) and not path.is_dir():
            path.unlink()


def write_image(path: Path | str, image: Buffer, *, replace: bool = True) -> None:
    """Write ``path``, without waiting for the disk and never through a link.

    Raises:
        FileExistsError: not to ``replace`` what is there, and something is.
        OSError: it cannot be written.
    """
    descriptor = system.open_new(path, replace=replace)
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
