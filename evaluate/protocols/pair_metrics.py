"""The metrics of pair verification, exact and in numpy.

A pair is a distance, the squared L2 distance of two unit embeddings and so within [0, 4], and a
truth: the same person or not. A pair is accepted, taken to be the same person, where its distance
lies *below* the threshold. FAR is the share of different pairs that are accepted, TAR (also called
validation rate) the share of same pairs that are.

The ten-fold accuracy and the validation rate follow the protocol of LFW (Huang, Ramesh, Berg and
Learned-Miller, 2007) as the field runs it since FaceNet: folds in the set's own order, never
shuffled, thresholds on a fixed grid. :class:`Roc` needs no grid: it has a vertex for each distance
that occurs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facepack.errors import EvaluationError
from facepack.evaluate.results.pair_result import ValidationRate

FOLDS = 10
ACCURACY_THRESHOLDS = np.arange(0, 4, 0.01)
RATE_THRESHOLDS = np.arange(0, 4, 0.001)


def fold_numbers(pairs: int) -> np.ndarray:
    """The fold, 0 to 9, of each of ``pairs`` pairs: (pairs,) int64, in order.

    Folds are as equal as can be: of P pairs the first P mod 10 folds hold one more than the rest.

    Raises:
        EvaluationError: fewer than ten pairs make no ten folds.
    """
    if pairs < FOLDS:
        raise EvaluationError(f"{FOLDS} folds need at least {FOLDS} pairs; {pairs} were given")
    sizes = np.full(FOLDS, pairs // FOLDS)
    sizes[: pairs % FOLDS] += 1
    return np.repeat(np.arange(FOLDS), sizes)


def _accepted(
    distances: np.ndarray, folds: np.ndarray, count: int, thresholds: np.ndarray
) -> np.ndarray:
    """How many distances of each of ``count`` folds lie below each threshold: (count, T) int64."""
    # The first threshold that accepts a distance; one histogram row a fold, summed up, then tells
    # for all thresholds at once. Only integers are added, so nothing rounds.
    first = np.searchsorted(thresholds, distances, side="right")
    width = len(thresholds) + 1
    counts = np.bincount(folds * width + first, minlength=count * width)
    return counts.reshape(count, width).cumsum(axis=1)[:, :-1]


def accuracy_by_fold(
    distances: np.ndarray, issame: np.ndarray, folds: np.ndarray | None = None
) -> np.ndarray:
    """Each fold's accuracy at the threshold that the others choose: (10,) float64.

    The threshold is the first of 0, 0.01, … below 4 at which most pairs of the nine folds are
    told right. Of squared L2 distances (P,), ``issame`` (P,) bool, True for pairs of one person,
    and the fold of each pair (P,), from 0, none empty; None for ten in order.

    Raises:
        EvaluationError: P is below ten.
    """
    folds = fold_numbers(len(distances)) if folds is None else folds
    count = int(folds.max()) + 1
    accepted_same, accepted_different = (
        _accepted(distances[of], folds[of], count, ACCURACY_THRESHOLDS) for of in (issame, ~issame)
    )
    different = np.bincount(folds[~issame], minlength=count)
    right = accepted_same + different[:, None] - accepted_different
    chosen = (right.sum(axis=0) - right).argmax(axis=1)
    return right[np.arange(count), chosen] / np.bincount(folds)


def _threshold_at(far: np.ndarray, wanted: float) -> float:
    """The threshold at the FAR ``wanted``, interpolated between the grid's; 0 if never reached.

    ``far`` (T,) does not fall, but has plateaus: the last threshold of a plateau is joined to the
    first of the next one, which is what ``np.interp`` happens to do and what interpolation that
    asks for distinct x cannot.
    """
    if far[-1] < wanted:
        return 0.0
    below = int(np.searchsorted(far, wanted, side="right")) - 1
    if below + 1 == len(far):
        return float(RATE_THRESHOLDS[-1])
    part = (wanted - far[below]) / (far[below + 1] - far[below])
    step = RATE_THRESHOLDS[below + 1] - RATE_THRESHOLDS[below]
    return float(RATE_THRESHOLDS[below] + part * step)


def validation_rate(
    distances: np.ndarray,
    issame: np.ndarray,
    folds: np.ndarray | None = None,
    *,
    far: float = 1e-3,
) -> ValidationRate:
    """The validation rate at a FAR over ten folds, as FaceNet's protocol has it.

    On nine folds the FAR is measured at the thresholds 0, 0.001, … below 4, and the threshold at
    the wanted FAR interpolated; where the FAR is never reached the threshold is 0. The rate is the
    tenth fold's share of same pairs below that threshold. A fold without same pairs gives no rate,
    one without different pairs no FAR: each mean is over the folds that have one. Arguments are as
    in :func:`accuracy_by_fold`; ``far`` is the wanted FAR.

    Returns:
        Mean and population standard deviation of the rate, and the mean FAR that the tenth folds
        really have.

    Raises:
        EvaluationError: P is below ten, there are no same pairs, or all different pairs (or none)
            lie in one fold.
    """
    folds = fold_numbers(len(distances)) if folds is None else folds
    count = int(folds.max()) + 1
    same = np.bincount(folds[issame], minlength=count)
    different = np.bincount(folds[~issame], minlength=count)
    false_accepts = _accepted(distances[~issame], folds[~issame], count, RATE_THRESHOLDS)
    rates, fars = [], []
    for fold in range(count):
        others = different.sum() - different[fold]
        if not others:
            continue
        far_of_others = (false_accepts.sum(axis=0) - false_accepts[fold]) / others
        threshold = _threshold_at(far_of_others, far)
        accepted = (distances < threshold) & (folds == fold)
        if same[fold]:
            rates.append((accepted & issame).sum() / same[fold])
        if different[fold]:
            fars.append((accepted & ~issame).sum() / different[fold])
    if not rates or not fars:
        raise EvaluationError(
            "the validation rate needs same pairs, and different pairs in at least two folds; "
            f"same pairs by fold {same.tolist()}, different pairs by fold {different.tolist()}"
        )
    return ValidationRate(
        mean=float(np.mean(rates)), std=float(np.std(rates)), far=float(np.mean(fars))
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Roc:
    """The receiver operating characteristic: a vertex for each distance that occurs.

    ``far`` and ``tar`` are (V,) float64 from 0 to 1; neither falls. The first vertex accepts
    nothing, and each next one also accepts the pairs, same and different, of the next larger
    distance: pairs of equal distance come in together.
    """

    far: np.ndarray
    tar: np.ndarray

    @classmethod
    def from_pairs(
        cls, distances: np.ndarray, issame: np.ndarray, times: np.ndarray | None = None
    ) -> Roc:
        """Build the curve of squared L2 ``distances`` (P,) and ``issame`` (P,) bool.

        ``times`` (P,) integers, say how often each pair counts; once, if None.

        Raises:
            EvaluationError: there are no same pairs, or no different ones.
        """
        times = np.ones(len(issame), np.int64) if times is None else times
        same = int(times[issame].sum())
        different = int(times.sum()) - same
        if not same or not different:
            raise EvaluationError(
                "a ROC needs same and different pairs; "
                f"{same} same and {different} different ones were given"
            )
        order = np.argsort(distances, kind="stable")  # quick on distances that ascend already
        ascending = distances[order]
        last_of_run = np.append(ascending[1:] != ascending[:-1], True)
        true_accepts = (times * issame)[order].cumsum()[last_of_run]
        accepts = times[order].cumsum()[last_of_run]
        return cls(
            far=np.append(0.0, (accepts - true_accepts) / different),
            tar=np.append(0.0, true_accepts / same),
        )

    def tar_at(self, far: float) -> float:
        """The largest TAR whose FAR is at most ``far``; nothing is interpolated."""
        return float(self.tar[np.searchsorted(self.far, far, side="right") - 1])

    def auc(self) -> float:
        """The area under the curve: the chance that a same pair is nearer than a different one."""
        return float(np.sum(np.diff(self.far) * (self.tar[1:] + self.tar[:-1])) / 2)

    def eer(self) -> float:
        """The equal error rate: where FAR = 1 − TAR on the straight lines between vertices."""
        surplus = self.far + self.tar - 1
        above = int(np.argmax(surplus >= 0))
        before = above - 1  # the first vertex has a surplus of −1, so there is one before
        part = -surplus[before] / (surplus[above] - surplus[before])
        return float(self.far[before] + part * (self.far[above] - self.far[before]))
