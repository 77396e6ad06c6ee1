"""A verification set into a folder of files: ``imgs/0.jpg …`` and ``pair_label.npy``."""

from __future__ import annotations

import time
from pathlib import Path

from facepack.convert.file_target import (
    DONE,
    forget,
    has_size,
    remove_images,
    remove_parts,
    state_target,
    write_image,
)
from facepack.convert.formats.pairs.pair_set import PairSet, pair_result, read_pair_set
from facepack.convert.options import ConvertOptions
from facepack.convert.result import Result
from facepack.convert.source import Source
from facepack.progress import Progress
from facepack.store import format as fmt
from facepack.store.files import write_errors, write_file
from facepack.store.target import Target

IMAGES = "imgs"
LABELS = "pair_label.npy"


def convert_to_pair_folder(source: Source, out: Path, options: ConvertOptions) -> Result:
    """Write a verification set as ``out/imgs/0.jpg …`` and ``out/pair_label.npy``.

    Pair i is images 2i and 2i + 1, as the MHLR project reads them; the labels are written last. An
    image that cannot be used stops the run. Resuming writes the files that are missing or have
    another size.

    Raises:
        SourceError: the source is no verification set, or an image is broken; nothing is written
            then.
        PackError: the target cannot be written, is in use, or holds something else.
    """
    began = time.monotonic()
    plan = {
        "format": fmt.FORMAT_VERSION,
        "kind": "pair-folder",
        "source": source.describe(),
        "check": options.check.as_json(),
    }
    target = state_target(out, options)
    pairs = read_pair_set(source, options.check)
    labels = fmt.npy_bytes(pairs.issame)
    with target, write_errors(out):
        if options.overwrite and forget(target, plan):
            _remove(out)
        target.begin(plan)
        remove_parts(out)
        _write(pairs, out, labels, target)
    size = sum(len(pairs.images[use]) for use in pairs.uses.tolist())
    return pair_result(source, out, began, pairs, payload_bytes=size, file_bytes=size + len(labels))


def _write(pairs: PairSet, out: Path, labels: bytes, target: Target) -> None:
    files = [
        (out / IMAGES / f"{place}{pairs.suffixes[use]}", pairs.images[use])
        for place, use in enumerate(pairs.uses.tolist())
    ]
    missing = [(path, image) for path, image in files if not has_size(path, len(image))]
    whole = has_size(out / LABELS, len(labels))
    if not missing and whole and (target.folder / DONE).exists():
        return
    target.require_space(sum(len(image) for _, image in missing))
    (out / LABELS).unlink(missing_ok=True)  # without it, the set is not finished
    (out / IMAGES).mkdir(exist_ok=True)
    with Progress(len(files), unit="images", label=out.name) as progress:
        progress.skip(len(files) - len(missing))
        for path, image in missing:
            write_image(path, image)
            progress.update()
    write_file(out / LABELS, [labels])
    write_file(target.folder / DONE, [fmt.json_text({"packed": len(files)}).encode()])


def _remove(out: Path) -> None:
    """Remove what an earlier run wrote, and nothing else."""
    (out / LABELS).unlink(missing_ok=True)
    if (out / IMAGES).is_dir() and not (out / IMAGES).is_symlink():
        remove_images(out / IMAGES)
