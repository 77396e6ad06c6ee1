"""What embedding would do: ``--dry-run``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from facepack.evaluate.embedding.embed_into import (
    EmbedOptions,
    embedding_plan,
    require_same_file,
    written_into,
)
from facepack.evaluate.embedding.embedding_folder import (
    batches_of,
    free_bytes,
    images_in,
    look,
    missing_batches,
    require_room,
    rows_bytes,
)
from facepack.evaluate.embedding.embeddings import KEYS, META, NORMS, ROWS, encoded_key
from facepack.evaluate.faces.faces import Faces
from facepack.store.places import require_writable
from facepack.store.preview import DOES
from facepack.store.target import Found

_PLACES, _TOGETHER = 4, 16  # where images are looked at, and how many at each


@dataclass(frozen=True, kw_only=True)
class EmbedPreview:
    """What embedding would do, as far as it can be told without doing it."""

    out: str
    target: str  # new, resumed, finished or replaced
    images: int
    features: int
    new: int  # images that are still to be embedded
    needed_bytes: int  # about, that are still to be written
    free_bytes: int  # of the target's file system, with those that overwriting frees
    files: list[str]
    looked_at: int  # images that were decoded, spread over all
    refused: list[str]  # which of these cannot be decoded, and why
    dry_run: bool = True

    def lines(self) -> Iterator[str]:
        """The same for people to read."""
        yield (
            f"{self.out} {DOES[Found(self.target)]}: {self.images:,} × {self.features}, "
            f"{self.new:,} images to embed"
        )
        written = f": {', '.join(self.files)}" if self.files else ""
        yield (
            f"  about {self.needed_bytes / 1e6:,.1f} MB to write, {self.free_bytes / 1e6:,.1f} MB "
            f"free{written}"
        )
        bad = f"{len(self.refused):,} cannot be decoded" if self.refused else "all can be embedded"
        yield f"  of {self.looked_at:,} images that were looked at, {bad}"
        for reason in self.refused[:3]:
            yield f"  {reason}"


def preview_embedding(
    out: Path,
    model: nn.Module,
    faces: Faces,
    *,
    stated: dict[str, str],
    device: torch.device,
    options: EmbedOptions,
) -> EmbedPreview:
    """What :func:`~facepack.evaluate.embedding.embed_into.embed_into` would do with the same.

    It raises what that would before its first step, and what it would of the images that are looked
    at; nothing is written.
    """
    plan = embedding_plan(model, faces, stated, device, options)
    single, folder = written_into(out)
    require_writable(folder, itself=False)
    if single and out.exists() and not options.overwrite:
        require_same_file(out, plan, options)
        found, is_whole = Found.FINISHED, True
    else:
        found = look(folder, plan, resume=options.resume, overwrite=options.overwrite, shown=out)
        is_whole = found is Found.FINISHED and not single
    new, needed = _to_embed(folder, plan, found), 0
    stretches = _stretches(len(faces))
    if not is_whole:
        some = (faces.key(at) for stretch in stretches for at in range(*stretch))
        keys = max(len(encoded_key(key)) for key in some) * len(faces)
        # A single file is made of the folder, which is there until the file is whole.
        needed = rows_bytes(plan, new) + keys + single * (rows_bytes(plan) + keys)
    free = free_bytes(folder, found)
    require_room(out, needed, free)
    refused = _look_at(faces, stretches, plan, options)
    replaced = single and options.overwrite and out.exists()
    return EmbedPreview(
        out=str(out),
        target=(Found.REPLACED if replaced else found).value,
        images=plan["images"],
        features=plan["features"],
        new=new,
        needed_bytes=needed,
        free_bytes=free,
        files=[] if is_whole else [out.name] if single else [ROWS, NORMS, KEYS, META],
        looked_at=sum(stop - start for start, stop in stretches),
        refused=refused,
    )


def _to_embed(folder: Path, plan: dict[str, Any], found: Found) -> int:
    """How many images are still to be embedded into what was ``found`` in the folder."""
    if found is Found.FINISHED:
        return 0
    if found is Found.UNFINISHED:
        return images_in(missing_batches(folder, batches_of(plan)), plan)
    return int(plan["images"])


def _stretches(images: int) -> list[tuple[int, int]]:
    """The positions [start, stop) of the images that are looked at."""
    step = max(images // _PLACES // _TOGETHER, 1) * _TOGETHER
    starts = range(0, images, step)[:_PLACES]
    return [(start, min(start + _TOGETHER, images)) for start in starts]


def _look_at(
    faces: Faces, stretches: list[tuple[int, int]], plan: dict[str, Any], options: EmbedOptions
) -> list[str]:
    """Why images in ``stretches`` do not decode to the model's size."""
    bad: dict[int, str] | None = {} if options.on_bad_image == "skip" else None
    height, width = plan["image_size"]
    for start, stop in stretches:
        for _ in faces.batches(
            start,
            stop,
            batch_size=_TOGETHER,
            image_size=(height, width),
            device="cpu",
            bad=bad,
        ):
            pass
    return list((bad or {}).values())
