"""What looking for noise would do: ``--dry-run``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from facepack.evaluate.embedding.embedding_folder import require_room
from facepack.evaluate.embedding.preview import EmbedPreview, preview_embedding
from facepack.evaluate.faces.faces import SourceFaces
from facepack.evaluate.noise.classifier import Classifier
from facepack.evaluate.noise.compared import AGAINST
from facepack.evaluate.noise.find import EMBEDDINGS, SCORES_FILE, NoiseOptions, require_labels
from facepack.evaluate.noise.lists import LISTS
from facepack.evaluate.noise.scores import SCORES
from facepack.evaluate.sets.labelled import LabelledImages


@dataclass(frozen=True, kw_only=True)
class NoisePreview:
    """What looking for noise would do, as far as it can be told without doing it."""

    out: str
    images: int
    classes: int
    needed_bytes: int  # about, of embeddings and scores; lists are as long as what is found
    free_bytes: int  # of the target's file system, with those that overwriting frees
    embedded: list[EmbedPreview]  # the images, and those that they are compared with
    files: list[str]  # beside the embeddings
    dry_run: bool = True

    def lines(self) -> Iterator[str]:
        """The same for people to read."""
        yield f"{self.out}: {self.images:,} images to score by {self.classes:,} classes"
        for each in self.embedded:
            yield from each.lines()
        yield f"would be written: {', '.join(self.files)}"
        yield (
            f"  about {self.needed_bytes / 1e6:,.1f} MB with the embeddings, "
            f"{self.free_bytes / 1e6:,.1f} MB free"
        )


def preview_noise(
    out: Path,
    images: LabelledImages,
    classifier: Classifier,
    others: SourceFaces | None,
    *,
    device: torch.device,
    options: NoiseOptions,
    tables: Sequence[str],
    files: Sequence[str],
) -> NoisePreview:
    """What :func:`~facepack.evaluate.noise.find.look_for_noise` and comparing would do.

    ``others`` are the images that they are compared with, ``tables`` the names of the tables of
    people who are compared, ``files`` what else would be written.

    Raises:
        EvaluationError, DecodeError, PackError: what those would raise before their first step.
    """
    require_labels(images, classifier)
    stated = {"model": classifier.name, "model_xxh3_128": classifier.checksum}
    backbone = classifier.backbone.to(device)
    sets = {EMBEDDINGS: images.faces} | ({} if others is None else {AGAINST: others})
    embedded = [
        preview_embedding(
            out / name, backbone, faces, stated=stated, device=device, options=options
        )
        for name, faces in sets.items()
    ]
    size = len(images.labels)
    needed = sum(each.needed_bytes for each in embedded) + size * SCORES.itemsize
    free = min(each.free_bytes for each in embedded)
    require_room(out, needed, free)
    return NoisePreview(
        out=str(out),
        images=size,
        classes=classifier.classes,
        needed_bytes=needed,
        free_bytes=free,
        embedded=embedded,
        files=[
            SCORES_FILE,
            *(f"{name}.{suffix}" for name in LISTS for suffix in ("txt", "csv", "json")),
            *(f"{name}.{suffix}" for name in tables for suffix in ("csv", "json")),
            *files,
        ],
    )
