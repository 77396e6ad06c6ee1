"""A verification set into a ``.bin`` file, as InsightFace's readers load it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from facepack.atomic import replacing
from facepack.convert.formats.pairs.pair_set import PairSet, read_pair_set
from facepack.convert.formats.pairs.pickles import read_bin, write_bin
from facepack.convert.left_out import Keeps, none, note_left_out
from facepack.convert.options import ConvertOptions
from facepack.convert.preview import preview
from facepack.convert.result import Result
from facepack.convert.sink import note_changes
from facepack.convert.source import Source
from facepack.errors import PackError, SourceError
from facepack.store import format as fmt
from facepack.store.files import write_errors
from facepack.store.places import made_folder, require_outside_packs
from facepack.store.preview import Preview
from facepack.store.target import Found, Target

_SUFFIX = ".bin"


def convert_to_bin(source: Source, out: Path, options: ConvertOptions) -> Result | Preview:
    """Write a verification set as the pickle of ``(images, issame)``.

    Pair i is images 2i and 2i + 1. An image that is used again is stored once. The file is
    complete or not there; resuming keeps one that holds the same set. ``out`` is the file, if its
    name ends in ``.bin``; else a folder, and the file is called after the source (``OUT/lfw.bin``).

    Raises:
        SourceError: the source is no verification set, or an image of it cannot be used.
        PackError: the file cannot be written, or is there and may not be replaced.
    """
    began = time.monotonic()
    if options.overwrite and options.resume:
        raise PackError("resume keeps what is there and overwrite removes it: choose one")
    options = options.for_source(source)
    pairs = read_pair_set(source, options.check)
    note_changes(source, options, out)
    note_left_out(source, Keeps(names=none))
    path = out if out.suffix == _SUFFIX else out / f"{source.groups()[0].stem}{_SUFFIX}"
    require_outside_packs(path)
    if options.dry_run:
        return _preview(source, path, options, pairs)
    with write_errors(path), made_folder(path.parent):
        if options.overwrite or options.resume:
            _remove_parts(path)
        if options.overwrite or not _is_written(path, pairs, options.resume):
            Target(path.parent, finished=path.name).require_space(_needed(pairs))
            _write(path, pairs)
        size = path.stat().st_size
    payload = sum(map(len, pairs.images))
    figures = pairs.counts() | {"payload_bytes": payload, "file_bytes": size}
    return Result.of(source, path, began, **figures)


def _preview(source: Source, path: Path, options: ConvertOptions, pairs: PairSet) -> Preview:
    """What would be written: the images of all pairs in one file."""
    found = Found.REPLACED if path.exists() else Found.NOTHING
    if not options.overwrite and _is_written(path, pairs, options.resume):
        found = Found.FINISHED
    return preview(
        source,
        Target(path.parent, finished=path.name),
        options,
        found,
        out=path,
        needed=_needed(pairs),
        files=[path.name],
        images=len(pairs.uses),
        payload=sum(map(len, pairs.images)),
    )


def _needed(pairs: PairSet) -> int:
    """Bytes of the images, each of which is stored once."""
    return sum(len(pairs.images[use]) for use in np.unique(pairs.uses).tolist())


def _is_written(path: Path, pairs: PairSet, resume: bool) -> bool:
    """Whether ``path`` is there and holds the set.

    Raises:
        PackError: it is there, and holds something else or is not to be kept.
    """
    if not path.exists():
        return False
    if not resume:
        raise PackError(f"{path} is there already: --overwrite replaces it")
    try:
        found = read_bin(path)
    except SourceError as error:
        raise PackError(f"{error}; --overwrite replaces it") from error
    used = (pairs.images[use] for use in pairs.uses.tolist())
    if found.issame.tolist() != pairs.issame.tolist() or any(
        mine != its for mine, its in zip(used, found.images, strict=False)
    ):
        raise PackError(f"{path} holds another verification set: --overwrite replaces it")
    return True


def _remove_parts(path: Path) -> None:
    """Remove what killed runs left of ``path``."""
    for part in list(path.parent.iterdir()):
        if fmt.PART.fullmatch(part.name) and part.name.rpartition(".part-")[0] == path.name:
            part.unlink()


def _write(path: Path, pairs: PairSet) -> None:
    images = [bytes(image) for image in pairs.images]
    with replacing(path) as part:
        write_bin(part, (images[use] for use in pairs.uses.tolist()), pairs.issame.tolist())
        with part.open("r+b") as file:  # Windows syncs no file that is open for reading only
            os.fsync(file.fileno())
