"""A folder of embeddings that is being written: by one process or several, and resumable.

The rows lie in a ``.npy`` of full size from the start. Which batches are in it, and on the disk,
the file ``done`` says, a byte a batch (1, or 2 where an image could not be decoded); so it does not
matter which process writes a batch, or when, and batches hold the same images however many
processes there are.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from facepack.errors import EvaluationError
from facepack.evaluate.embedding.embeddings import (
    BAD,
    KEYS,
    META,
    NORMS,
    REASONS,
    ROWS,
    encoded_key,
    read_map,
)
from facepack.evaluate.faces.faces import Faces
from facepack.reading import map_npy
from facepack.store.files import write_errors, write_file
from facepack.store.format import LOCK, PART
from facepack.store.lock import hold_lock
from facepack.store.places import made_folder, nearest
from facepack.store.target import Found

PLAN, DONE = "plan.json", "done"

_SYNC_EVERY = 5.0  # seconds of work that a kill costs at most
_KEYS_AT_ONCE = 1 << 16
_APART = ("source", "model", BAD, REASONS)  # of which a plan need not say the same
_WHOLE, _HAS_BAD = 1, 2
_OWN = (PLAN, DONE, ROWS, NORMS, KEYS, META)


@contextmanager
def begun(
    folder: Path, plan: dict[str, Any], *, resume: bool, overwrite: bool, shown: Path
) -> Iterator[None]:
    """Within it ``folder``, made if need be, is this process's, and has a plan, rows and marks.

    A ``plan`` says what the embeddings are of, as JSON; one that is there must say the same.
    ``resume`` goes on with what an interrupted run left, ``overwrite`` removes the embeddings,
    finished or not, that it holds; messages call the folder ``shown``.

    Raises:
        EvaluationError: it holds something else, embeddings that neither option is given for, or
            those of another plan; or another process is writing there.
        PackError: it cannot be written.
    """
    busy = EvaluationError(f"{shown}: another process is writing here; wait for it")
    with ExitStack() as stack:
        with write_errors(folder):
            # Its own plan has the name of a pack's; what else a pack holds is told below.
            stack.enter_context(made_folder(folder, itself=False))
            stack.enter_context(hold_lock(folder, busy))
        found = look(folder, plan, resume=resume, overwrite=overwrite, shown=shown)
        is_new = found in (Found.NOTHING, Found.REPLACED)
        if is_new:  # before anything is removed
            require_room(shown, rows_bytes(plan), free_bytes(folder, found))
        done = (PLAN, DONE) if found is Found.FINISHED else ()  # left by a kill at the very end
        for name in _entries(folder):
            if is_new or name in done or PART.fullmatch(name):
                (folder / name).unlink()
        if is_new:
            _begin(folder, plan)
        yield


def look(
    folder: Path, plan: dict[str, Any], *, resume: bool, overwrite: bool, shown: Path
) -> Found:
    """What ``folder``, if it is there, holds for embeddings of ``plan``; nothing is changed.

    Arguments and errors are those of :func:`begun`.
    """
    existing = _entries(folder)
    strangers = [name for name in existing if name not in _OWN and not PART.fullmatch(name)]
    if strangers:
        raise EvaluationError(
            f"{shown} holds {strangers[0]!r}, which is no file of embeddings: choose another folder"
        )
    if not existing:
        return Found.NOTHING
    if overwrite:
        return Found.REPLACED
    if not resume:
        raise EvaluationError(
            f"{shown} holds embeddings: --resume completes them, --overwrite replaces them"
        )
    stated = next((name for name in (META, PLAN) if name in existing), None)
    if stated is None:  # a kill came before the plan
        return Found.REPLACED
    compare_plans(read_map(folder / stated, "use --overwrite"), plan, shown)
    return Found.FINISHED if stated == META else Found.UNFINISHED


def _entries(folder: Path) -> list[str]:
    there = folder.iterdir() if folder.is_dir() else ()
    return sorted(entry.name for entry in there if entry.name != LOCK)


def rows_bytes(plan: dict[str, Any], images: int | None = None) -> int:
    """Bytes of the embeddings and norms of so many images of a plan; of all, if it is not said."""
    count = plan["images"] if images is None else images
    return int(count) * (int(plan["features"]) + 1) * 4


def free_bytes(folder: Path, found: Found) -> int:
    """Bytes that can be written in ``folder``, with those that replacing what is there frees."""
    free = shutil.disk_usage(nearest(folder)).free
    if found is not Found.REPLACED:
        return free
    stats = [(folder / name).stat() for name in _entries(folder)]
    # Rows that are not written yet take no room on most systems, which tell it.
    return free + sum(min(at.st_size, 512 * getattr(at, "st_blocks", at.st_size)) for at in stats)


def require_room(shown: Path, size: int, free: int) -> None:
    """Make sure that ``size`` bytes fit into ``free``, those of the disk of ``shown``.

    Raises:
        EvaluationError: they do not.
    """
    if size > free:
        raise EvaluationError(
            f"{shown}: {size / 1e6:,.1f} MB are needed and {free / 1e6:,.1f} MB are free: free "
            "some space or choose another disk"
        )


def is_finished(folder: Path) -> bool:
    """Whether the embeddings in ``folder`` are complete."""
    return (folder / META).exists()


def compare_plans(found: dict[str, Any], plan: dict[str, Any], shown: Path) -> None:
    """An EvaluationError if ``found``, that of ``shown``, states anything else than ``plan``.

    What images and model are called is for people: checksums tell which they are.
    """
    for name in sorted((plan.keys() | found.keys()) - set(_APART)):
        if found.get(name) != plan.get(name):
            raise EvaluationError(
                f"{shown} holds embeddings with {name} = {json.dumps(found.get(name))}, and "
                f"{json.dumps(plan.get(name))} is asked for: go on with the same, choose another "
                "folder, or replace them with --overwrite"
            )


def _begin(folder: Path, plan: dict[str, Any]) -> None:
    images, features = plan["images"], plan["features"]
    with write_errors(folder):
        for name, shape in ((ROWS, (images, features)), (NORMS, (images,))):
            with (folder / name).open("wb") as file:
                np.lib.format.write_array_header_1_0(
                    file, {"descr": "<f4", "fortran_order": False, "shape": shape}
                )
                file.truncate(file.tell() + int(np.prod(shape)) * 4)
        (folder / DONE).write_bytes(bytes(batches_of(plan)))
    write_file(folder / PLAN, [json.dumps(plan, indent=1).encode(), b"\n"])


def batches_of(plan: dict[str, Any]) -> int:
    """How many batches the images of a plan make."""
    return -(-int(plan["images"]) // int(plan["batch_size"]))


class BatchWriter:
    """Writes batches of embeddings into a folder that was :func:`begun`, and marks them.

    It is a context manager: what was written is marked at its end, also after an error.
    """

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        self._folder = folder
        self._batch_size, self._features = plan["batch_size"], plan["features"]
        self._batches = batches_of(plan)
        self._written: dict[int, int] = {}  # batch → its mark
        self._synced = time.monotonic()
        self._files = ExitStack()

    def __enter__(self) -> BatchWriter:
        with write_errors(self._folder):
            self._rows, self._row_start = self._open(ROWS)
            self._norms, self._norm_start = self._open(NORMS)
            self._marks = self._files.enter_context(FileIO(self._folder / DONE, "r+"))
        return self

    def _open(self, name: str) -> tuple[FileIO, int]:
        """A file of an array, and where its numbers begin."""
        path = self._folder / name
        try:
            start = map_npy(path).offset
        except ValueError as error:
            raise EvaluationError(
                f"{path} is damaged ({error}): start anew with --overwrite"
            ) from error
        return self._files.enter_context(FileIO(path, "r+")), start

    def __exit__(self, *_: object) -> None:
        try:
            self.sync()
        finally:
            self._files.close()

    def missing(self) -> np.ndarray:
        """The numbers of the batches that are not there yet: int64, ascending."""
        return missing_batches(self._folder, self._batches)

    def write(self, batch: int, rows: np.ndarray, *, has_bad: bool = False) -> None:
        """Write a batch: (n, F) float32; ``has_bad`` if rows are NaN as images do not decode.

        Raises:
            PackError: it cannot be written.
        """
        at = batch * self._batch_size
        norms = np.linalg.norm(rows.astype(np.float64), axis=1).astype("<f4")
        with write_errors(self._folder):
            self._rows.seek(self._row_start + at * self._features * 4)
            _write_all(self._rows, np.ascontiguousarray(rows, "<f4"))
            self._norms.seek(self._norm_start + at * 4)
            _write_all(self._norms, norms)
        self._written[batch] = _HAS_BAD if has_bad else _WHOLE
        if time.monotonic() - self._synced > _SYNC_EVERY:
            self.sync()

    def sync(self) -> None:
        """Make sure that what was written is on the disk, and mark it."""
        with write_errors(self._folder):
            for file in (self._rows, self._norms):
                os.fsync(file.fileno())
            for batch, mark in self._written.items():
                self._marks.seek(batch)
                self._marks.write(bytes([mark]))
            os.fsync(self._marks.fileno())
        self._written.clear()
        self._synced = time.monotonic()


def missing_batches(folder: Path, batches: int) -> np.ndarray:
    """The numbers of the batches, of so many, that are not there yet: int64, ascending.

    Raises:
        EvaluationError: the marks are of another number of batches.
    """
    marks = np.fromfile(folder / DONE, np.uint8)
    if len(marks) != batches:
        raise EvaluationError(
            f"{folder / DONE} marks {len(marks)} batches of {batches}: it is damaged; begin again "
            "with --overwrite"
        )
    return np.flatnonzero(marks == 0)


def images_in(batches: np.ndarray, plan: dict[str, Any]) -> int:
    """How many images batches of a plan have, by their numbers: int64 (n,)."""
    start = batches * plan["batch_size"]
    return int((np.minimum(start + plan["batch_size"], plan["images"]) - start).sum())


def batches_with_bad(folder: Path) -> np.ndarray:
    """The numbers of the batches that hold an image that could not be decoded: int64."""
    return np.flatnonzero(np.fromfile(folder / DONE, np.uint8) == _HAS_BAD)


def _write_all(file: FileIO, array: np.ndarray) -> None:
    left = array.data.cast("B")
    while left:
        left = left[file.write(left) :]


def finish(folder: Path, plan: dict[str, Any], faces: Faces, bad: Mapping[int, str]) -> None:
    """Write the keys and, last, the file that says what the embeddings are.

    All batches are marked by then; ``bad`` are the positions of images without an embedding, and
    why they have none.
    """
    with write_errors(folder):
        longest = max(len(encoded_key(faces.key(i))) for i in range(len(faces)))
        keys = np.lib.format.open_memmap(
            folder / KEYS, mode="w+", dtype=f"S{max(1, longest)}", shape=(len(faces),)
        )
        for start in range(0, len(faces), _KEYS_AT_ONCE):
            stop = min(start + _KEYS_AT_ONCE, len(faces))
            keys[start:stop] = [encoded_key(faces.key(i)) for i in range(start, stop)]
        keys.flush()
    positions, prefix = sorted(bad), f"{faces.name}: "  # which may be a path
    stated = {
        **plan,
        BAD: [faces.key(at) for at in positions],
        REASONS: [bad[at].removeprefix(prefix) for at in positions],
    }
    write_file(folder / META, [json.dumps(stated, indent=1).encode(), b"\n"])
    with write_errors(folder):
        for name in (PLAN, DONE):
            (folder / name).unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Remove a folder of embeddings, and nothing that is none of them."""
    with write_errors(folder):
        for name in _OWN:
            (folder / name).unlink(missing_ok=True)
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


def runs(numbers: np.ndarray) -> Iterator[tuple[int, int]]:
    """The stretches [start, stop) that ascending ``numbers`` consist of."""
    if len(numbers):
        cuts = np.flatnonzero(np.diff(numbers) != 1) + 1
        for first, behind in pairwise([0, *cuts.tolist(), len(numbers)]):
            yield int(numbers[first]), int(numbers[behind - 1]) + 1
