"""Embed many images into a file: resumable, by one process or several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from facepack.errors import EvaluationError
from facepack.evaluate.embedding.embed import embed, embed_each, model_image_size
from facepack.evaluate.embedding.embedding_folder import (
    BatchWriter,
    batches_with_bad,
    begun,
    compare_plans,
    finish,
    images_in,
    is_finished,
    remove,
    runs,
)
from facepack.evaluate.embedding.embeddings import (
    BAD,
    KEYS,
    NORMS,
    REASONS,
    ROWS,
    open_embeddings,
)
from facepack.evaluate.embedding.tensor_file import SUFFIX, map_tensors, write_tensors
from facepack.evaluate.faces.bad_images import OnBadImage, bad_notice, require_one_image
from facepack.evaluate.faces.faces import Faces
from facepack.train.ranks.agreement import tell, together
from facepack.train.ranks.group import ALONE, Ranks

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """How images are embedded."""

    flip: bool = True  # add the mirror image's embedding
    batch_size: int = 128  # images a forward pass
    # skip writes NaN for images that do not decode, and lists their keys
    on_bad_image: OnBadImage = "raise"
    resume: bool = False  # go on with what an interrupted run left
    overwrite: bool = False  # replace what is there


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What was written."""

    out: str  # where
    images: int  # embeddings in it
    features: int  # length of one
    new: int  # how many of them this run made, of all processes
    bad_images: list[str]  # the keys of those that could not be decoded, whose rows are NaN
    bad_reasons: list[str]  # why, of each; empty of what earlier versions wrote
    not_finite: int  # how many of the others hold NaN or infinity
    first: str | None  # the key of the first of these

    def notices(self) -> list[str]:
        """What the user should know of images without an embedding."""
        notices = []
        if self.bad_images:
            told = bad_notice(self.bad_reasons or self.bad_images, self.images)
            notices.append(f"{told}; their rows are NaN, and {BAD} of its meta.json lists them")
        if self.not_finite:
            notices.append(
                f"{self.not_finite:,} of {self.images:,} embeddings are not finite, first of "
                f"{self.first}: protocols leave what needs them out"
            )
        return notices


def embed_into(
    out: Path,
    model: nn.Module,
    faces: Faces,
    *,
    stated: dict[str, str],
    device: torch.device,
    options: EmbedOptions,
    ranks: Ranks = ALONE,
    progress: Callable[[int], Callable[[int], None]] = lambda total: lambda count: None,
) -> Embedded:
    """Embed ``faces`` into ``out``: collective, if there are several ranks.

    A run that was killed leaves what it wrote, and the same call with ``resume`` completes it to
    the same bytes, with any number of ranks: batches hold the same images always.

    Args:
        out: a folder (``embeddings.npy`` float32 (n, F), ``norms.npy``, ``keys.npy``,
            ``meta.json``); or, by its ending, a ``.safetensors`` with the same in it, which is
            written from a folder beside it.
        model: float32 (n, 3, H, W) → (n, F) embeddings, on ``device``; ``stated`` says which it
            is: its name as ``model``, and the ``model_xxh3_128`` of its file.
        ranks: the processes that share the images; all must see ``out``.
        progress: takes the number of images that this rank is to embed, and gives what is called
            with those of each batch.

    Returns:
        What was written, on every rank.

    Raises:
        EvaluationError: ``out`` holds something else, or the model's output is not (n, F).
        DecodeError: an image does not decode, or not to the model's size.
        PackError: the file cannot be written.
    """
    with together(ranks):
        plan = embedding_plan(model, faces, stated, device, options)
    single, folder = written_into(out)
    new = np.zeros(0, np.int64)
    with ExitStack() as lock:
        with together(ranks):
            is_there = single and out.exists() and not options.overwrite
            if is_there:
                require_same_file(out, plan, options)
            elif ranks.is_first:
                lock.enter_context(
                    begun(
                        folder,
                        plan,
                        resume=options.resume,
                        overwrite=options.overwrite,
                        shown=out,
                    )
                )
        if not is_there and not is_finished(folder):
            with BatchWriter(folder, plan) as writer:
                new = writer.missing()
                tell(ranks)  # none marks a batch before all know which are missing
                start, stop = ranks.share(len(new))
                # An error here is not waited with: the launcher ends the other ranks.
                bad: dict[int, str] | None = {} if options.on_bad_image == "skip" else None
                _embed_missing(writer, new[start:stop], model, faces, plan, device, progress, bad)
            tell(ranks)  # none says that all is there before all have written
            with together(ranks):
                if ranks.is_first:
                    finish(folder, plan, faces, _find_bad(folder, plan, faces))
        with together(ranks):
            if single and not is_there and ranks.is_first:
                _write_file(out, folder)
    return _summary(out, plan, faces, new)


def written_into(out: Path) -> tuple[bool, Path]:
    """Whether ``out`` is a single file; and the folder that embeddings are written into."""
    single = out.suffix == SUFFIX
    return single, out.with_name(f"{out.name}.part") if single else out


def embedding_plan(
    model: nn.Module,
    faces: Faces,
    stated: dict[str, str],
    device: torch.device,
    options: EmbedOptions,
) -> dict[str, Any]:
    """All that the bytes of the embeddings depend on, but for the machine."""
    height, width = model_image_size(model)
    if not len(faces):
        raise EvaluationError(f"{faces.name}: there are no images to embed")
    features = getattr(model, "embedding_size", None)
    if features is None:  # of a program nothing else tells it
        blank = np.zeros((1, height, width, 3), np.uint8)
        features = embed(model, [blank], device=device, flip=False).shape[1]
    return {
        "format": FORMAT,
        "images": len(faces),
        "features": int(features),
        "flip": options.flip,
        "image_size": [height, width],
        "batch_size": options.batch_size,
        "source": Path(faces.name).name,
        "content_id": faces.content_id,
        "source_id": faces.source_id,
        **stated,
    }


def _embed_missing(
    writer: BatchWriter,
    missing: np.ndarray,
    model: nn.Module,
    faces: Faces,
    plan: dict[str, Any],
    device: torch.device,
    progress: Callable[[int], Callable[[int], None]],
    bad: dict[int, str] | None,
) -> None:
    batch_size = plan["batch_size"]
    on_batch = progress(images_in(missing, plan))
    for first, behind in runs(missing):
        batches = faces.batches(
            first * batch_size,
            min(behind * batch_size, len(faces)),
            batch_size=batch_size,
            image_size=model_image_size(model),
            device=device,
            bad=bad,
        )
        store = partial(_write_next, writer, iter(range(first, behind)), bad, batch_size)
        embed_each(model, batches, store, device=device, flip=plan["flip"], on_batch=on_batch)


def _write_next(
    writer: BatchWriter,
    numbers: Iterator[int],
    bad: dict[int, str] | None,
    batch_size: int,
    rows: np.ndarray,
) -> None:
    """Write a batch under the next of ``numbers``, rows of bad images as NaN."""
    number = next(numbers)
    start = number * batch_size
    lost = [row for row in range(len(rows)) if start + row in bad] if bad else []
    if lost:
        rows[lost] = np.nan
    writer.write(number, rows, has_bad=bool(lost))


def _find_bad(folder: Path, plan: dict[str, Any], faces: Faces) -> dict[int, str]:
    """Which images could not be decoded, and why.

    The batches that hold some are decoded again: another run, or rank, may have met them.
    """
    bad: dict[int, str] = {}
    batch_size = plan["batch_size"]
    height, width = plan["image_size"]
    for batch in batches_with_bad(folder).tolist():
        for _ in faces.batches(
            batch * batch_size,
            min((batch + 1) * batch_size, len(faces)),
            batch_size=batch_size,
            image_size=(height, width),
            device="cpu",
            bad=bad,
        ):
            pass
    if bad:
        require_one_image(bad, len(faces))
    return bad


def require_same_file(out: Path, plan: dict[str, Any], options: EmbedOptions) -> None:
    """Make sure that the finished file that is there is the one that would be written.

    Raises:
        EvaluationError: it is not, or nothing may be done with it.
    """
    if not options.resume:
        raise EvaluationError(f"{out} is there already: --overwrite replaces it")
    compare_plans(map_tensors(out)[1], plan, out)


def _write_file(out: Path, folder: Path) -> None:
    """Write the finished folder as one file, and remove it."""
    keys = np.load(folder / KEYS, mmap_mode="r")
    tensors = {
        "embeddings": np.load(folder / ROWS, mmap_mode="r"),
        "norms": np.load(folder / NORMS, mmap_mode="r"),
        "keys": keys.view(np.uint8).reshape(len(keys), keys.dtype.itemsize),
    }
    write_tensors(out, tensors, open_embeddings(folder).meta)
    remove(folder)


def _summary(out: Path, plan: dict[str, Any], faces: Faces, new: np.ndarray) -> Embedded:
    written = open_embeddings(out)
    assert written.norms is not None
    keys, reasons = written.meta.get(BAD, []), written.meta.get(REASONS, [])
    bad = set(keys)
    not_finite = np.flatnonzero(~np.isfinite(written.norms)).tolist()
    lost = [at for at in not_finite if faces.key(at) not in bad]
    return Embedded(
        out=str(out),
        images=plan["images"],
        features=plan["features"],
        new=images_in(new, plan),
        bad_images=keys,
        bad_reasons=reasons,
        not_finite=len(lost),
        first=faces.key(int(lost[0])) if len(lost) else None,
    )
