"""Verify pairs with a model: the one call from a pair set to its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from facepack.errors import EvaluationError
from facepack.evaluate.decode import FACE_SIZE, decode_batches
from facepack.evaluate.embed import embed, normalize
from facepack.evaluate.pairs import PairSet
from facepack.evaluate.protocol import (
    FOLDS,
    Roc,
    ValidationRate,
    accuracy_by_fold,
    fold_numbers,
    validation_rate,
)
from facepack.train.backbones.registry import Backbone

TAR_FARS = (1e-4, 1e-3, 1e-2)


@dataclass(frozen=True, kw_only=True)
class PairResult:
    """A model's figures on a pair set. Shares are of one, not percent; None is undefined."""

    target: str
    """The set's name."""
    pairs: int
    accuracy: float | None
    """Mean over ten folds."""
    std: float | None
    """Population standard deviation of the folds' accuracies."""
    tar: dict[float, float | None]
    """FAR → the largest TAR of the whole set whose FAR is at most that."""
    val: ValidationRate | None
    """The ten-fold validation rate at FAR 1e-3."""
    auc: float | None
    eer: float | None
    norm: float
    """Mean L2 norm of the embeddings, image plus mirror image, over the pairs' images."""
    notices: tuple[str, ...] = ()
    """What about the set makes figures undefined or differ from the usual protocol."""

    def as_dict(self) -> dict[str, Any]:
        """The figures for JSON."""
        val = self.val
        return {
            "target": self.target,
            "pairs": self.pairs,
            "accuracy": self.accuracy,
            "std": self.std,
            "tar": {_far_text(far): tar for far, tar in self.tar.items()},
            "val_at_far_1e-3": val and {"mean": val.mean, "std": val.std, "far": val.far},
            "auc": self.auc,
            "eer": self.eer,
            "norm": self.norm,
            "notices": list(self.notices),
        }


def measure_pairs(
    target: str, distances: np.ndarray, issame: np.ndarray, *, norm: float
) -> PairResult:
    """All figures of a set, with a notice for each that its pairs leave undefined.

    Args:
        target: the set's name.
        distances: (P,) squared L2 distances of unit embeddings.
        issame: (P,) bool.
        norm: the embeddings' mean norm, handed through.
    """
    pairs, same = len(issame), int(np.count_nonzero(issame))
    notices: list[str] = []
    accuracy = std = auc = eer = val = None
    tar: dict[float, float | None] = dict.fromkeys(TAR_FARS)
    if pairs < FOLDS:
        notices.append(
            f"{pairs} pairs make no {FOLDS} folds: accuracy and validation rate are undefined"
        )
    else:
        if pairs % FOLDS:
            sizes = np.bincount(fold_numbers(pairs))
            notices.append(
                f"{pairs} pairs do not divide by {FOLDS}: the first {pairs % FOLDS} folds hold "
                f"{sizes[0]} pairs, the others {sizes[-1]}"
            )
        if lone := _folds_of_one_kind(issame):
            notices.append(
                f"{len(lone)} of the {FOLDS} folds hold pairs of one kind only (the first is fold "
                f"{lone[0]}, counted from 1): their accuracy is that of one side of the threshold. "
                "Published sets have as many same as different pairs in each fold"
            )
        by_fold = accuracy_by_fold(distances, issame)
        accuracy, std = float(by_fold.mean()), float(by_fold.std())
    if same in (0, pairs):
        kind, missing = ("different", "same") if same == 0 else ("same", "different")
        notices.append(
            f"all {pairs} pairs are {kind} ones: without {missing} pairs TAR, validation rate, AUC "
            "and EER are undefined, and accuracy says little"
        )
    else:
        roc = Roc.from_pairs(distances, issame)
        tar = {far: roc.tar_at(far) for far in TAR_FARS}
        if unmeasurable := [far for far in TAR_FARS if far < 1 / (pairs - same)]:
            notices.append(
                f"{pairs - same:,} different pairs cannot measure a FAR below "
                f"{1 / (pairs - same):.1e}: TAR at {', '.join(map(_far_text, unmeasurable))} is "
                "that without a single false accept"
            )
        auc, eer = roc.auc(), roc.eer()
        if pairs >= FOLDS:
            try:
                val = validation_rate(distances, issame)
            except EvaluationError as error:
                notices.append(str(error))
    return PairResult(
        target=target,
        pairs=pairs,
        accuracy=accuracy,
        std=std,
        tar=tar,
        val=val,
        auc=auc,
        eer=eer,
        norm=norm,
        notices=tuple(notices),
    )


def _far_text(far: float) -> str:
    return np.format_float_scientific(far, trim="-", exp_digits=1)


def _folds_of_one_kind(issame: np.ndarray) -> list[int]:
    """The folds, from 1, that lack same or different pairs, of a set that has both."""
    folds = fold_numbers(len(issame))
    kinds = [np.bincount(folds[issame == kind], minlength=FOLDS) for kind in (True, False)]
    if not all(kind.any() for kind in kinds):
        return []  # the whole set is of one kind, which is said of all of it
    return (np.flatnonzero(np.minimum(*kinds) == 0) + 1).tolist()


def evaluate_pairs(
    model: nn.Module,
    pair_set: PairSet,
    *,
    device: str | torch.device | None = None,
    batch_size: int = 128,
    on_batch: Callable[[int], None] | None = None,
) -> PairResult:
    """Embed the set's images and measure its pairs.

    The model comes back in the mode it was in, and a training run that calls this goes on as if it
    had not; for repeated calls give it :meth:`PairSet.decoded`.

    Args:
        model: float32 (n, 3, H, W) → (n, F) embeddings. The size is the ``image_size`` of the
            backbone, itself or wrapped; 112×112 for any other model.
        pair_set: the set.
        device: where the model is; None asks its first parameter.
        batch_size: images a forward pass.
        on_batch: called with the images of each batch once it is under way.

    Raises:
        DecodeError: an image does not decode to the model's size; names the set and the image.
        EvaluationError: the model's output is not (n, F), or not finite, or the set is decoded at
            another size.
    """
    images = pair_set.images
    size = _image_size(model)
    batches: Iterable[np.ndarray]
    if isinstance(images, np.ndarray):
        if images.shape[1:3] != size:
            raise EvaluationError(
                f"{pair_set.name}: its images were decoded at {images.shape[2]}×{images.shape[1]} "
                f"pixels, but the model takes {size[1]}×{size[0]}: decode the set at that size"
            )
        batches = (images[at : at + batch_size] for at in range(0, len(images), batch_size))
    else:
        batches = decode_batches(
            images, keys=pair_set.keys, name=pair_set.name, batch_size=batch_size, size=size
        )
    raw = embed(model, batches, device=device, on_batch=on_batch)
    finite = np.isfinite(raw).all(axis=1)
    if not finite.all():
        first = pair_set.keys[int(np.argmin(finite))]
        raise EvaluationError(
            f"{pair_set.name}: the model's embeddings of {np.count_nonzero(~finite)} of "
            f"{len(raw)} images are not finite, first of {first}: its weights may have diverged"
        )
    unit, norms = normalize(raw)
    first, second = pair_set.pairs.T
    return measure_pairs(
        pair_set.name,
        np.square(unit[first] - unit[second]).sum(axis=1),
        pair_set.issame,
        norm=float(norms[pair_set.pairs].mean()),
    )


def _image_size(model: nn.Module) -> tuple[int, int]:
    backbones = (module for module in model.modules() if isinstance(module, Backbone))
    return next((backbone.image_size for backbone in backbones), FACE_SIZE)
