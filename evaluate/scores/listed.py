"""TAR at FAR of pairs that a list names: exact, and as published scripts read it off a curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from facepack.errors import EvaluationError
from facepack.evaluate.scores.operating_point import (
    OperatingPoint,
    most_false_accepts,
    threshold_above,
)

Reading = Callable[[np.ndarray, np.ndarray, Sequence[float]], dict[float, OperatingPoint]]


def exact_points(
    scores: np.ndarray, same: np.ndarray, fars: Sequence[float]
) -> dict[float, OperatingPoint]:
    """The largest TAR of any threshold whose FAR is at most each of ``fars``, shares of one.

    Of scores, float32 (P,), and bool (P,), True for mates.

    Raises:
        EvaluationError: a score is not finite.
    """
    mates, impostors = scores[same], scores[~same]
    _check_finite(mates, impostors)
    allowed = {far: most_false_accepts(far, len(impostors)) for far in fars}
    places = {far: len(impostors) - 1 - count for far, count in allowed.items()}
    searched = sorted({place for place in places.values() if place >= 0})
    if searched:
        impostors.partition(searched)  # in place: the copy is this function's own
    points = {}
    for far, place in places.items():
        if place >= 0:
            limit = impostors[place]
            # What lies before it is at most as large.
            accepts = tuple(
                int(np.count_nonzero(some > limit)) for some in (impostors[place:], mates)
            )
            threshold: float | None = threshold_above(limit)
        else:
            accepts, threshold = (len(impostors), len(mates)), -np.inf if len(impostors) else None
        points[far] = OperatingPoint.exact(
            far,
            threshold=threshold,
            accepts=(accepts[0], accepts[1]),
            of=(len(impostors), len(mates)),
        )
    return points


def published_points(
    scores: np.ndarray, same: np.ndarray, fars: Sequence[float]
) -> dict[float, OperatingPoint]:
    """The points that the scripts of IJB-B and IJB-C print: arguments as :func:`exact_points`.

    They take scikit-learn's ``roc_curve``, whose default ``drop_intermediate`` leaves out vertices
    on straight lines, and of the vertices that remain the one whose FAR is nearest, be it larger;
    of two equally near the one of larger FAR, and at one FAR that of the largest TAR. What is left
    out moves the point: on small sets by several percent of TAR.
    """
    mates, impostors = scores[same], scores[~same]
    _check_finite(mates, impostors)
    if not len(mates) or not len(impostors):
        return exact_points(scores, same, fars)
    thresholds, false_accepts, true_accepts = _kept_vertices(mates, impostors)
    far_of = false_accepts / len(impostors)
    points = {}
    for far in fars:
        distances = np.abs(far_of - far)
        last = len(distances) - 1 - int(np.argmin(distances[::-1]))
        points[far] = OperatingPoint.exact(
            far,
            threshold=float(thresholds[last]),
            accepts=(int(false_accepts[last]), int(true_accepts[last])),
            of=(len(impostors), len(mates)),
        )
    return points


READINGS: dict[str, Reading] = {"exact": exact_points, "published": published_points}


def _kept_vertices(
    mates: np.ndarray, impostors: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds, false and true accepts at the vertices that are left, thresholds falling.

    A vertex is left out where its score and the next lower one bring in equally many impostors,
    and equally many mates. Nearly all scores bring in one impostor, so it is enough to look at
    those that do not, and at the next larger of each: no curve of all scores is made.
    """
    both = [mates, impostors]
    for scores in both:
        scores.sort()
    ties = impostors[1:][impostors[1:] == impostors[:-1]]
    ends = [max(mates[-1], impostors[-1]), min(mates[0], impostors[0])]
    special = np.unique(np.concatenate([mates, ties, ends]))
    thresholds = np.unique(np.append(special, _next(both, special, 1)))
    thresholds = thresholds[np.isfinite(thresholds)][::-1]
    lower = _next(both, thresholds, -1)
    bends = np.zeros(len(thresholds), bool)
    bends[[0, -1]] = True
    for scores in both:
        bends |= _count(scores, thresholds) != _count(scores, lower)
    thresholds = thresholds[bends]
    true_accepts, false_accepts = (
        len(scores) - np.searchsorted(scores, thresholds, side="left") for scores in both
    )
    # scikit-learn puts the vertex that accepts nothing in front after it has left others out.
    return np.append(np.inf, thresholds), np.append(0, false_accepts), np.append(0, true_accepts)


def _count(ascending: np.ndarray, of: np.ndarray) -> np.ndarray:
    """How many scores are equal to each of some."""
    after = np.searchsorted(ascending, of, side="right")
    return after - np.searchsorted(ascending, of, side="left")


def _next(both: Sequence[np.ndarray], to: np.ndarray, direction: int) -> np.ndarray:
    """The next larger (1) or smaller (-1) score to each of some, ±inf where there is none."""
    nearest = np.full(len(to), direction * np.inf, np.float32)
    for ascending in both:
        if direction > 0:
            at = np.searchsorted(ascending, to, side="right")
        else:
            at = np.searchsorted(ascending, to, side="left") - 1
        inside = (at >= 0) & (at < len(ascending))
        found = np.where(inside, ascending[at.clip(0, len(ascending) - 1)], direction * np.inf)
        nearest = np.minimum(nearest, found) if direction > 0 else np.maximum(nearest, found)
    return nearest


def _check_finite(*parts: np.ndarray) -> None:
    lost = sum(int(np.count_nonzero(~np.isfinite(part))) for part in parts)
    if lost:
        raise EvaluationError(
            f"{lost} of {sum(map(len, parts))} scores are not finite: leave their pairs out"
        )
