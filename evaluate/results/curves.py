"""Curves and histograms of scores, of a size that a file and a figure can hold."""

from __future__ import annotations

import numpy as np

from facepack.evaluate.results.result import Curve, Histogram

_POINTS = 2000
_BINS = 200


def thinned(x: np.ndarray, y: np.ndarray, points: int = _POINTS) -> Curve:
    """The curve through (x, y) with at most some ``points`` of its vertices, ends included.

    Vertices are kept where x has moved by a share of a decade, and where it or y has by a share of
    the whole: what remains looks the same on a linear and on a logarithmic axis.

    Args:
        x: (n,) from 0 on; it does not fall.
        y: (n,).
        points: wanted, about.
    """
    if len(x) <= points:
        return Curve(x=x, y=y)
    least = x[np.argmax(x > 0)] or 1.0
    path = np.zeros(len(x))
    for steps in (np.log10(np.maximum(x, least)), x, y):
        moved = np.abs(np.diff(steps, prepend=steps[0])).cumsum()
        path += moved / (moved[-1] or 1.0)
    kept = np.searchsorted(path, np.linspace(0, path[-1], points))
    kept = np.unique(np.concatenate([[0], kept, [len(x) - 1]]))
    return Curve(x=x[kept], y=y[kept])


def score_histogram(scores: np.ndarray, issame: np.ndarray, bins: int = _BINS) -> Histogram:
    """How many same and different pairs score in each of ``bins`` equal parts of [−1, 1].

    Args:
        scores: (P,) cosine similarities; rounding may take one a little beyond.
        issame: (P,) bool.
        bins: how many.
    """
    edges = np.linspace(-1, 1, bins + 1)
    scores = scores.clip(-1, 1)
    same, different = (np.histogram(scores[of], edges)[0] for of in (issame, ~issame))
    return Histogram(edges=edges, same=same, different=different)
