"""Operating points of listed pairs, against every threshold and a curve with every vertex."""

from __future__ import annotations

import numpy as np
import pytest

from facepack.errors import EvaluationError
from facepack.evaluate.scores.listed import exact_points, published_points

FARS = (1e-6, 1e-3, 1e-2, 0.05, 0.1, 0.5, 1.0)


def curve(scores: np.ndarray, same: np.ndarray) -> list[tuple[float, int, int]]:
    """Each distinct score as a threshold, falling, with what it accepts; before it, nothing."""
    accepted = [(np.inf, 0, 0)]
    for threshold in np.unique(scores)[::-1]:
        of = scores >= threshold
        accepted.append((threshold, int((of & ~same).sum()), int((of & same).sum())))
    return accepted


def read_as_published(scores: np.ndarray, same: np.ndarray, far: float) -> tuple[int, int]:
    """The scripts' own way: drop, flip, and take the first of the nearest."""
    vertices = [(false, true) for _, false, true in curve(scores, same)[1:]]
    kept = []
    for i, (false, true) in enumerate(vertices):
        if 0 < i < len(vertices) - 1:
            before, after = vertices[i - 1], vertices[i + 1]
            if false - before[0] == after[0] - false and true - before[1] == after[1] - true:
                continue
        kept.append((false, true))
    flipped = [(0, 0), *kept][::-1]
    different = int((~same).sum())
    return min(flipped, key=lambda vertex: abs(vertex[0] / different - far))


def sets() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    found = {}
    for seed, (mates, impostors) in enumerate(
        [(1, 1), (3, 1), (1, 3), (20, 300), (60, 60), (300, 20)]
    ):
        for levels in (0, 3, 40):
            same = rng.permutation(np.repeat([True, False], [mates, impostors]))
            scores = rng.standard_normal(len(same)) + same
            scores = np.round(scores * levels) / levels if levels else scores
            found[f"{mates} {impostors} {levels} {seed}"] = scores.astype(np.float32) / 4, same
    return found


@pytest.mark.parametrize("name", sets())
def test_exact_is_the_largest_tar_allowed(name: str) -> None:
    scores, same = sets()[name]
    for far, point in exact_points(scores, same, FARS).items():
        allowed = [true for _, false, true in curve(scores, same) if false / (~same).sum() <= far]
        assert point.true_accepts == max(allowed)
        assert point.threshold is not None
        accepted = scores >= point.threshold
        assert point.true_accepts == (accepted & same).sum()
        assert point.false_accepts == (accepted & ~same).sum()
        assert point.far is not None and point.far <= far


@pytest.mark.parametrize("name", sets())
def test_published_is_the_nearest_vertex_left(name: str) -> None:
    scores, same = sets()[name]
    for far, point in published_points(scores, same, FARS).items():
        assert (point.false_accepts, point.true_accepts) == read_as_published(scores, same, far)
        accepted = scores >= point.threshold
        assert point.true_accepts == (accepted & same).sum()
        assert point.false_accepts == (accepted & ~same).sum()


def test_published_equals_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    for scores, same in sets().values():
        far, tar, _ = metrics.roc_curve(same, scores)
        for wanted, point in published_points(scores, same, FARS).items():
            place = int(np.argmin(np.abs(np.flip(far) - wanted)))
            assert (point.far, point.tar) == (np.flip(far)[place], np.flip(tar)[place])


def test_the_two_readings_differ_and_each_is_right() -> None:
    # 10 impostors, single and in a row: the curve over them is a line, and its inside is left out.
    scores = np.array([0.9, *np.linspace(0.8, 0.35, 10), 0.3], np.float32)
    same = np.array([True] + [False] * 10 + [True])
    exact = exact_points(scores, same, [0.3])[0.3]
    published = published_points(scores, same, [0.3])[0.3]
    assert (exact.false_accepts, published.false_accepts) == (3, 0)
    # 0.6 is as near to 1 as the line's other end lets it be, and lifts the TAR.
    lifted = published_points(scores, same, [0.6])[0.6]
    assert (lifted.far, lifted.tar) == (1, 1)
    assert exact_points(scores, same, [0.6])[0.6].tar == 0.5


@pytest.mark.parametrize("same", [np.ones(5, bool), np.zeros(5, bool)])
def test_one_kind_alone_defines_no_tar(same: np.ndarray) -> None:
    scores = np.linspace(0, 1, 5, dtype=np.float32)
    for points in (exact_points, published_points):
        assert points(scores, same, [0.1])[0.1].tar is None


def test_scores_that_are_not_finite_are_told() -> None:
    scores = np.array([0.1, np.nan, 0.3], np.float32)
    for points in (exact_points, published_points):
        with pytest.raises(EvaluationError, match="1 of 3 scores"):
            points(scores, np.array([True, True, False]), [0.1])
