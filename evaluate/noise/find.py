"""Score a pack by the classifier that was trained on it: embed once, then compare with the centres.

Embeddings go into a file first, so that a killed run is resumed, several processes share the work,
and other thresholds cost no forward pass. Memory does not depend on the number of images but for 40
bytes each; the file takes 4·F bytes an image.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facepack.errors import EvaluationError
from facepack.evaluate.embedding.embed_into import EmbedOptions, embed_into
from facepack.evaluate.embedding.embeddings import open_embeddings
from facepack.evaluate.noise.classifier import Classifier
from facepack.evaluate.noise.lists import NoiseList, find_noise, is_other, write_lists
from facepack.evaluate.noise.scores import NO_CLASS, score_rows
from facepack.evaluate.sets.labelled import LabelledImages
from facepack.settings import Fraction, Settings
from facepack.store.output import write_output
from facepack.train.ranks.agreement import together
from facepack.train.ranks.group import ALONE, Ranks

EMBEDDINGS, SCORES_FILE = "embeddings", "scores.npy"


@dataclass(frozen=True, kw_only=True)
class NoiseOptions(EmbedOptions, Settings):
    """How noise is looked for, and images are embedded for it: those alone, not mirrored."""

    flip: bool = False
    threshold: Fraction = 0.007  # images whose maxP is below it are of no class; 0.007 as published
    # that P[argmax] reaches where it is not the label, for the label to be called wrong
    confidence: Fraction = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Noise:
    """What was found."""

    images: LabelledImages  # what was looked at
    scores: np.ndarray  # (n,) of SCORES, mapped from a file
    rows: np.ndarray  # float32 (n, F), embeddings without mirror images, mapped from a file
    # images of no class, and of another class than their label's
    lists: tuple[NoiseList, NoiseList]
    notices: Sequence[str] = ()  # of images without an embedding, for the user

    def summary(self) -> dict[str, Any]:
        """Counts, as JSON."""
        labels, scores = self.images.labels, self.scores
        return {
            "images": len(scores),
            "labelled": int((labels >= 0).sum()),
            "without_score": int((scores["predicted"] == NO_CLASS).sum()),
            "argmax_is_not_label": int(is_other(scores, labels).sum()),
            **{found.name: len(found.positions) for found in self.lists},
        }


def require_labels(images: LabelledImages, classifier: Classifier) -> None:
    """Make sure that the labels mean the classifier's classes.

    Raises:
        EvaluationError: they do not, or lie beyond them.
    """
    classifier.require_classes_of(images.source)
    if int(images.labels.max()) >= classifier.classes:
        raise EvaluationError(
            f"{images.source.path} has a label {int(images.labels.max())}, beyond the "
            f"{classifier.classes:,} classes that it states: reindex it"
        )


def look_for_noise(
    out: Path,
    images: LabelledImages,
    classifier: Classifier,
    *,
    device: torch.device,
    options: NoiseOptions,
    ranks: Ranks = ALONE,
    progress: Callable[[int], Callable[[int], None]] = lambda total: lambda count: None,
) -> Noise | None:
    """Score every image, and write scores and lists into the folder ``out``: collective.

    The labels must mean the classifier's classes. ``ranks`` and ``progress`` are as
    :func:`~facepack.evaluate.embedding.embed_into.embed_into` takes them.

    Returns:
        What was found, on the first rank; None on others.

    Raises:
        EvaluationError: the classifier is of other classes, or ``out`` holds something else.
        DecodeError: an image does not decode, or none does.
        PackError: a file cannot be written.
    """
    with together(ranks):
        require_labels(images, classifier)
    stated = {"model": classifier.name, "model_xxh3_128": classifier.checksum}
    embedded = embed_into(
        out / EMBEDDINGS,
        classifier.backbone.to(device),
        images.faces,
        stated=stated,
        device=device,
        options=options,
        ranks=ranks,
        progress=progress,
    )
    if not ranks.is_first:
        return None
    rows = open_embeddings(out / EMBEDDINGS).rows
    scores = score_rows(classifier, rows, images.labels, device=device)
    array = io.BytesIO()
    np.save(array, scores)
    write_output(out / SCORES_FILE, array.getvalue())
    lists = find_noise(
        scores, images.labels, threshold=options.threshold, confidence=options.confidence
    )
    of_pack = {
        "pack": Path(images.faces.name).name,
        "content_id": images.source.content_id,
        **stated,
    }
    write_lists(out, images.source, scores, lists, of_pack)
    return Noise(images=images, scores=scores, rows=rows, lists=lists, notices=embedded.notices())
