"""Figures as F2C's evaluation code makes them, beside the field's own.

Fast Face Classification (Wang et al., CVPR 2022) publishes its test scripts at github.com/
tiandunx/FFC; its tables are read against these, and they choose thresholds in ways of their own.
All work on cosine similarities: a pair is accepted where its score is *at least* the threshold.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from facepack.evaluate.protocols.pair_metrics import FOLDS, fold_numbers
from facepack.evaluate.results.result import Figure

_THRESHOLDS = 1000
_SHIFT = 2e-6  # that the script adds to its thresholds

Choose = Callable[[np.ndarray, np.ndarray], float]
"""The threshold that some pairs' scores (n,) and truths (n,) bool ask for."""


def accuracy_by_fold(scores: np.ndarray, issame: np.ndarray, choose: Choose) -> np.ndarray:
    """Each fold's accuracy at the threshold that the nine others choose: (10,) float64.

    Of cosine similarities (P,) and ``issame`` (P,) bool. ``choose`` is :func:`best_score`, the
    script's choice for YTF, or :func:`best_of_grid`, for LFW, SLLFW and the like.

    Raises:
        EvaluationError: P is below ten.
    """
    folds = fold_numbers(len(scores))
    accuracies = np.empty(FOLDS)
    for fold in range(FOLDS):
        of_fold = folds == fold
        threshold = choose(scores[~of_fold], issame[~of_fold])
        accuracies[fold] = ((scores >= threshold) == issame)[of_fold].mean()
    return accuracies


def best_score(scores: np.ndarray, issame: np.ndarray) -> float:
    """The score that, as a threshold, tells most pairs right; of several the first in the list."""
    same, different = np.sort(scores[issame]), np.sort(scores[~issame])
    right = len(same) - np.searchsorted(same, scores) + np.searchsorted(different, scores)
    return float(scores[right.argmax()])


def best_of_grid(scores: np.ndarray, issame: np.ndarray) -> float:
    """The first of 1,000 thresholds, from least to largest score, of greatest mean of TAR, 1 − FAR.

    A threshold accepts here what lies above the middle between it and the one before it.
    """
    lowest, spread = float(scores.min()), float(scores.max()) - float(scores.min())
    thresholds = lowest + spread * np.arange(1, _THRESHOLDS + 1) / _THRESHOLDS
    middles = thresholds - spread / _THRESHOLDS / 2 + _SHIFT
    same, different = np.sort(scores[issame]), np.sort(scores[~issame])
    accepted_same = (len(same) - np.searchsorted(same, middles)) / len(same)
    accepted_different = (len(different) - np.searchsorted(different, middles)) / len(different)
    return float(thresholds[np.argmax((accepted_same + 1 - accepted_different) / 2)])


def tar_of_bins(mates: np.ndarray, impostors: np.ndarray, far: float) -> float:
    """TAR at ``far``, interpolated between the bins of two histograms of scores.

    The counts (b,) begin with the lowest bin. Where the largest step of FAR below ``far``, which is
    above 0, is still eight times too large, the script says 0.
    """
    fars = impostors[::-1].cumsum()[::-1] / impostors.sum()
    tars = mates[::-1].cumsum()[::-1] / mates.sum()
    low, high = 0, len(fars) - 1
    while high - low > 1:  # by halves: of bins of equal FAR, which one is met matters
        middle = (low + high) // 2
        if fars[middle] == far:
            return float(tars[middle])
        if fars[middle] < far:
            high = middle
        else:
            low = middle
    if fars[low] >= 8 * far or fars[low] == fars[high]:
        return 0.0
    part = (far - fars[low]) / (fars[high] - fars[low])
    return float(part * (tars[high] - tars[low]) + tars[low])


def f2c_figures(scores: np.ndarray, issame: np.ndarray, choose: Choose) -> dict[str, Figure]:
    """Accuracy by one of the script's choices, and both deviations over folds, by name.

    The figure's own deviation is the folds' population standard deviation; the script prints that
    divided by √10. Both are None where some nine folds lack same or different pairs.
    """
    accuracy = error = Figure(value=None)
    if len(scores) >= FOLDS:
        folds = fold_numbers(len(scores))
        same = np.bincount(folds[issame], minlength=FOLDS)
        different = np.bincount(folds[~issame], minlength=FOLDS)
        if all((kind.sum() - kind).min() for kind in (same, different)):
            by_fold = accuracy_by_fold(scores, issame, choose)
            spread = float(by_fold.std())
            accuracy = Figure(value=float(by_fold.mean()), std=spread)
            error = Figure(value=spread / FOLDS**0.5)
    return {"accuracy (F2C)": accuracy, "std/√10 (F2C)": error}
