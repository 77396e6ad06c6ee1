"""Verify pairs with a model: the one call from a pair set to its figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from torch import nn

from facepack.errors import EvaluationError
from facepack.evaluate.embedding.embed import normalize
from facepack.evaluate.faces.faces import EncodedFaces
from facepack.evaluate.protocol import Protocol, unusable_notice
from facepack.evaluate.protocols.findings import hard_pairs, hardest_rows, unmeasured_notice
from facepack.evaluate.protocols.pair_intervals import NOTICE as INTERVAL_NOTICE
from facepack.evaluate.protocols.pair_intervals import pair_intervals
from facepack.evaluate.protocols.pair_metrics import (
    FOLDS,
    Roc,
    accuracy_by_fold,
    fold_numbers,
    validation_rate,
)
from facepack.evaluate.results.curves import roc_and_det, score_histogram
from facepack.evaluate.results.pair_result import TAR_FARS, PairResult
from facepack.evaluate.results.result import Curve, Result
from facepack.evaluate.run import evaluate
from facepack.evaluate.sets.pairs import PairSet

_PAIRS_AT_ONCE = 8192  # whose embeddings are held in double precision


def measure_pairs(
    target: str,
    distances: np.ndarray,
    issame: np.ndarray,
    *,
    norm: float,
    folds: np.ndarray | None = None,
    members: np.ndarray | None = None,
) -> PairResult:
    """All figures of a set, with a notice for each that its pairs leave undefined.

    Args:
        distances, issame: (P,) squared L2 distances of unit embeddings, and (P,) bool.
        norm: the embeddings' mean norm, handed through.
        folds: (P,) the fold of each pair, whatever its number; None for ten in order.
        members: (P, 2) int64, which images or templates each pair is of, for intervals over the
            people that they share; None for no intervals.
    """
    pairs, same = len(issame), int(np.count_nonzero(issame))
    notices: list[str] = []
    accuracy = std = auc = eer = val = None
    intervals: dict[str, tuple[float, float]] = {}
    tar: dict[float, float | None] = dict.fromkeys(TAR_FARS)
    if folds is not None:
        folds = np.unique(folds, return_inverse=True)[1]
        if folds.max() == 0:
            folds = None
            notices.append(
                f"all {pairs} pairs are in one fold: accuracy and validation rate are undefined"
            )
    elif pairs < FOLDS:
        notices.append(
            f"{pairs} pairs make no {FOLDS} folds: accuracy and validation rate are undefined"
        )
    else:
        folds = fold_numbers(pairs)
        if pairs % FOLDS:
            sizes = np.bincount(folds)
            notices.append(
                f"{pairs} pairs do not divide by {FOLDS}: the first {pairs % FOLDS} folds hold "
                f"{sizes[0]} pairs, the others {sizes[-1]}"
            )
    if folds is not None:
        if lone := _folds_of_one_kind(issame, folds):
            notices.append(
                f"{len(lone)} of the {folds.max() + 1} folds hold pairs of one kind only (the "
                f"first is fold {lone[0]}, counted from 1): their accuracy is that of one side of "
                "the threshold. Published sets have as many same as different pairs in each fold"
            )
        by_fold = accuracy_by_fold(distances, issame, folds)
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
        notices += unmeasured_notice(TAR_FARS, pairs - same, "different pairs")
        auc, eer = roc.auc(), roc.eer()
        if members is not None:
            intervals = pair_intervals(distances, issame, members)
        if folds is not None:
            try:
                val = validation_rate(distances, issame, folds)
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
        intervals=intervals,
    )


def interval_notice(measured: PairResult) -> list[str]:
    """How the intervals of a pair set were made, where it has any."""
    return [INTERVAL_NOTICE] if measured.intervals else []


def _folds_of_one_kind(issame: np.ndarray, folds: np.ndarray) -> list[int]:
    """The folds, from 1, that lack same or different pairs, of a set that has both."""
    count = int(folds.max()) + 1
    kinds = [np.bincount(folds[issame == kind], minlength=count) for kind in (True, False)]
    if not all(kind.any() for kind in kinds):
        return []  # the whole set is of one kind, which is said of all of it
    return (np.flatnonzero(np.minimum(*kinds) == 0) + 1).tolist()


class PairVerification(Protocol):
    """Ten-fold verification of a pair set."""

    name = "pairs"

    def __init__(self, pair_set: PairSet) -> None:
        self.target = pair_set.name
        self.faces = EncodedFaces(
            pair_set.name,
            pair_set.images,
            pair_set.records or pair_set.keys,
            pair_set.keys,
            source_id=pair_set.source_id,
            channels=pair_set.channels,
        )
        self._pairs = pair_set.pairs
        self._issame = pair_set.issame
        self._folds = pair_set.folds

    _notices: Sequence[str] = ()
    """What is known of the set before anything is measured."""
    _folds: np.ndarray | None = None
    """(P,) the fold of each pair; None for ten in order."""
    _groups: Mapping[str, np.ndarray] = MappingProxyType({})
    """Group → (P,) bool, its pairs."""

    def measure(self, embeddings: np.ndarray, norms: np.ndarray) -> Result:
        """As :meth:`Protocol.measure`: pairs of an image without an embedding are left out."""
        kept = np.isfinite(norms[self._pairs]).all(axis=1)
        notices = [*self._notices, *unusable_notice(self.faces, norms)]
        if not kept.all():
            cut = ": folds are cut from the pairs that remain" if self._folds is None else ""
            notices.append(
                f"{np.count_nonzero(~kept):,} of {len(kept):,} pairs are left out for it{cut}"
            )
        if not kept.any():
            raise EvaluationError(f"{self.target}: no pair has two embeddings that are finite")
        pairs, issame = self._pairs[kept], self._issame[kept]
        distances = squared_distances(embeddings, pairs)

        def measure(of: np.ndarray) -> PairResult:
            return measure_pairs(
                self.target,
                distances[of],
                issame[of],
                norm=float(norms[pairs[of]].mean()),
                folds=None if self._folds is None else self._folds[kept][of],
                members=pairs[of],
            )

        measured = measure(np.full(len(pairs), True))
        groups = {}
        for name, of in self._groups.items():
            if of[kept].any():
                group = measure(of[kept])
                groups[name] = group.figures
                notices += [f"{name}: {notice}" for notice in group.notices]
            else:
                notices.append(f"{name}: no pair is left of this group")
        scores, (first, second) = 1 - distances / 2, pairs.T
        hardest = [
            pair
            for kind, rows in hardest_rows(scores, issame)
            for pair in hard_pairs(kind, self.faces.key, first[rows], second[rows], scores[rows])
        ]
        return Result(
            target=self.target,
            protocol=self.name,
            counts={"pairs": measured.pairs},
            figures=measured.figures,
            curves=roc_curves(distances, issame),
            histograms={"scores": score_histogram(scores, issame)},
            groups=groups,
            hardest=tuple(hardest),
            notices=(*notices, *measured.notices, *interval_notice(measured)),
        )


def squared_distances(embeddings: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Squared L2 distance of the unit embeddings of each pair: (P,) float64.

    Of embeddings (n, F), not normalised, and pairs (P, 2) of positions among them.
    """
    distances = np.empty(len(pairs))
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        first, second = pairs[start : start + _PAIRS_AT_ONCE].T
        difference = normalize(embeddings[first])[0] - normalize(embeddings[second])[0]
        distances[start : start + _PAIRS_AT_ONCE] = np.square(difference).sum(axis=1)
    return distances


def roc_curves(distances: np.ndarray, issame: np.ndarray) -> dict[str, Curve]:
    """ROC and DET of pairs, distances (P,) and issame (P,) bool; none where all are of one kind."""
    if issame.all() or not issame.any():
        return {}
    roc = Roc.from_pairs(distances, issame)
    return roc_and_det(roc.far, roc.tar)


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
        device: where the model is; None asks its first parameter.
        batch_size: images a forward pass.
        on_batch: called with the images of each batch once it is under way.

    Raises:
        DecodeError: an image does not decode to the model's size; names the set and the image.
        EvaluationError: the model's output is not (n, F), or nowhere finite, or the set is decoded
            at another size.
    """
    result = evaluate(
        model, PairVerification(pair_set), device=device, batch_size=batch_size, on_batch=on_batch
    )
    return PairResult.from_result(result)
