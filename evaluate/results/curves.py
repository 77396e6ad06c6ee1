"""Curves and histograms of scores, of a size that a file and a figure can hold."""

from __future__ import annotations

import numpy as np

from facepack.evaluate.results.result import Curve, Histogram

_POINTS = 2000
_BINS = 200


def thinned(x: np.ndarray, y: np.ndarray) -> Curve:
    """The curve through x and y, (n,), with at most some 2,000 of its vertices, ends included.

    Vertices are kept where x has moved by a share of a decade, and where it or y has by a share of
    the whole: what remains looks the same on a linear and on a logarithmic axis. x is from 0 on,
    and does not fall.
    """
    if len(x) <= _POINTS:
        return Curve(x=x, y=y)
    least = x[np.argmax(x > 0)] or 1.0
    path = np.zeros(len(x))
    for steps in (np.log10(np.maximum(x, least)), x, y):
        moved = np.abs(np.diff(steps, prepend=steps[0])).cumsum()
        path += moved / (moved[-1] or 1.0)
    kept = np.searchsorted(path, np.linspace(0, path[-1], _POINTS))
    kept = np.unique(np.concatenate([[0], kept, [len(x) - 1]]))
    return Curve(x=x[kept], y=y[kept])


def roc_and_det(far: np.ndarray, tar: np.ndarray) -> dict[str, Curve]:
    """Both curves of FAR (n,) and TAR (n,), of which neither falls, by their names."""
    return {"roc": thinned(far, tar), "det": thinned(far, 1 - tar)}


def score_histogram(scores: np.ndarray, issame: np.ndarray) -> Histogram:
    """How many same and different pairs, issame (P,), score in each of 200 parts of [−1, 1].

    Scores (P,) are cosine similarities, of which rounding may take one a little beyond.
    """
    edges = np.linspace(-1, 1, _BINS + 1)
    scores = scores.clip(-1, 1)
    same, different = (np.histogram(scores[of], edges)[0] for of in (issame, ~issame))
    return Histogram(edges=edges, same=same, different=different)
