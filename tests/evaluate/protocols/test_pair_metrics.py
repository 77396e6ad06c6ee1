"""The metrics: cases worked out by hand, and slow twins that loop over pairs and thresholds."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facepack.errors import EvaluationError
from facepack.evaluate.protocols.pair_metrics import (
    Roc,
    accuracy_by_fold,
    fold_numbers,
    validation_rate,
)

# --- slow twins: the protocol's sentences, one loop each ---------------------------------------


def folds_of(pairs: int) -> list[list[int]]:
    folds, start = [], 0
    for fold in range(10):
        size = pairs // 10 + (1 if fold < pairs % 10 else 0)
        folds.append(list(range(start, start + size)))
        start += size
    return folds


def slow_accuracy(distances: np.ndarray, issame: np.ndarray) -> list[float]:
    accuracies = []
    for test in folds_of(len(distances)):
        train = [i for i in range(len(distances)) if i not in test]
        best, threshold = -1, None
        for t in np.arange(0, 4, 0.01):
            right = sum((distances[i] < t) == issame[i] for i in train)
            if right > best:
                best, threshold = right, t
        accuracies.append(
            float(sum((distances[i] < threshold) == issame[i] for i in test)) / len(test)
        )
    return accuracies


def slow_validation_rate(
    distances: np.ndarray, issame: np.ndarray, wanted: float
) -> tuple[float, float, float] | None:
    thresholds = np.arange(0, 4, 0.001)
    rates, fars = [], []
    for test in folds_of(len(distances)):
        different = distances[[i for i in range(len(distances)) if i not in test and not issame[i]]]
        if not len(different):
            continue
        far_train = [float((different < t).sum()) / len(different) for t in thresholds]
        threshold = 0.0
        if max(far_train) >= wanted:
            threshold = np.interp(wanted, far_train, thresholds)
        same = [i for i in test if issame[i]]
        others = [i for i in test if not issame[i]]
        if same:
            rates.append(float(sum(distances[i] < threshold for i in same)) / len(same))
        if others:
            fars.append(float(sum(distances[i] < threshold for i in others)) / len(others))
    if not rates or not fars:
        return None
    return float(np.mean(rates)), float(np.std(rates)), float(np.mean(fars))


def slow_vertices(distances: np.ndarray, issame: np.ndarray) -> list[tuple[Fraction, Fraction]]:
    """(FAR, TAR) at a threshold below all distances, and at one just above each of them."""
    same, different = distances[issame], distances[~issame]
    vertices = [(Fraction(0), Fraction(0))]
    for d in sorted(set(distances.tolist())):
        vertices.append(
            (
                Fraction(int(sum(different <= d)), len(different)),
                Fraction(int(sum(same <= d)), len(same)),
            )
        )
    return vertices


def slow_tar(distances: np.ndarray, issame: np.ndarray, wanted: float) -> float:
    return float(max(tar for far, tar in slow_vertices(distances, issame) if float(far) <= wanted))


def slow_auc(distances: np.ndarray, issame: np.ndarray) -> float:
    points = sum(
        1.0 if same < different else 0.5 if same == different else 0.0
        for same in distances[issame]
        for different in distances[~issame]
    )
    return points / (int(issame.sum()) * int((~issame).sum()))


def slow_eer(distances: np.ndarray, issame: np.ndarray) -> float:
    vertices = slow_vertices(distances, issame)
    for (far0, tar0), (far1, tar1) in pairwise(vertices):
        if far1 >= 1 - tar1:
            rise, fall = far1 - far0, tar1 - tar0
            # far0 + x·rise = 1 − tar0 − x·fall
            x = (1 - tar0 - far0) / (rise + fall)
            return float(far0 + x * rise)
    raise AssertionError("the last vertex is (1, 1)")


# --- random inputs -----------------------------------------------------------------------------

# Values on the thresholds' own grids, between them, at the ends and beyond: ties in plenty.
ON_GRID = st.integers(0, 400).map(lambda k: float(np.arange(0, 4.01, 0.01)[k]))
DISTANCES = st.one_of(ON_GRID, st.floats(0, 4), st.sampled_from([0.0, 0.0005, 3.9999, 4.0]))
PAIR_LISTS = st.lists(st.tuples(DISTANCES, st.booleans()), min_size=10, max_size=45)


def unzip(pairs: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    distances, issame = zip(*pairs, strict=True)
    return np.array(distances), np.array(issame)


@settings(max_examples=15, deadline=None)
@given(PAIR_LISTS)
def test_accuracy_equals_its_twin(pairs: list[tuple[float, bool]]) -> None:
    distances, issame = unzip(pairs)
    assert accuracy_by_fold(distances, issame).tolist() == slow_accuracy(distances, issame)


@settings(max_examples=15, deadline=None)
@given(PAIR_LISTS, st.sampled_from([1e-3, 0.1, 0.25, 1.0]))
def test_validation_rate_equals_its_twin(pairs: list[tuple[float, bool]], wanted: float) -> None:
    distances, issame = unzip(pairs)
    slow = slow_validation_rate(distances, issame, wanted)
    if slow is None:
        with pytest.raises(EvaluationError, match="validation rate needs same pairs"):
            validation_rate(distances, issame, far=wanted)
    else:
        fast = validation_rate(distances, issame, far=wanted)
        assert (fast.mean, fast.std, fast.far) == pytest.approx(slow, abs=1e-15)


@settings(max_examples=100, deadline=None)
@given(PAIR_LISTS, st.sampled_from([1e-4, 1e-3, 1e-2, 0.1, 0.2, 0.5, 1.0]))
def test_roc_figures_equal_their_twins(pairs: list[tuple[float, bool]], wanted: float) -> None:
    distances, issame = unzip(pairs)
    issame[:2] = True, False
    roc = Roc.from_pairs(distances, issame)
    assert roc.tar_at(wanted) == slow_tar(distances, issame, wanted)
    assert roc.auc() == pytest.approx(slow_auc(distances, issame), abs=1e-12)
    assert roc.eer() == pytest.approx(slow_eer(distances, issame), abs=1e-12)


def test_a_realistic_set_equals_the_twins() -> None:
    rng = np.random.default_rng(0)
    issame = np.tile(np.repeat([True, False], 10), 10)
    distances = rng.normal(np.where(issame, 0.9, 1.8), 0.4).clip(0, 4)
    assert accuracy_by_fold(distances, issame).tolist() == slow_accuracy(distances, issame)
    fast = validation_rate(distances, issame)
    slow = slow_validation_rate(distances, issame, 1e-3)
    assert (fast.mean, fast.std, fast.far) == pytest.approx(slow, abs=1e-15)
    roc = Roc.from_pairs(distances, issame)
    assert roc.tar_at(1e-2) == slow_tar(distances, issame, 1e-2)
    assert roc.auc() == pytest.approx(slow_auc(distances, issame), abs=1e-12)
    assert roc.eer() == pytest.approx(slow_eer(distances, issame), abs=1e-12)


# --- by hand -----------------------------------------------------------------------------------


def test_folds_are_in_order_and_the_first_take_the_remainder() -> None:
    assert fold_numbers(20).tolist() == np.repeat(range(10), 2).tolist()
    assert np.bincount(fold_numbers(23)).tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    with pytest.raises(EvaluationError, match="at least 10 pairs; 9 were given"):
        fold_numbers(9)


def test_accuracy_takes_the_first_best_threshold_of_the_nine_folds() -> None:
    # Nine folds hold (same 0.20, different 0.90): thresholds 0.21 to 0.90 are right on all of
    # them, and the first, 0.21, is taken. The tenth fold's same pair at 0.30 is then rejected. Seen
    # from another fold that pair belongs to the nine, the first best threshold is 0.31.
    distances = np.array([0.20, 0.90] * 9 + [0.30, 0.90])
    issame = np.array([True, False] * 10)
    by_fold = accuracy_by_fold(distances, issame)
    assert by_fold.tolist() == [1.0] * 9 + [0.5]
    assert by_fold.mean() == pytest.approx(0.95)
    assert by_fold.std() == pytest.approx(0.15)  # √(0.9·0.05² + 0.1·0.45²)


def test_a_distance_equal_to_the_threshold_is_rejected() -> None:
    # The nine folds choose 0.51, the first threshold above 0.50; the tenth's 0.51 is not below it.
    distances = np.array([0.50, 0.90] * 9 + [0.51, 0.90])
    issame = np.array([True, False] * 10)
    assert accuracy_by_fold(distances, issame)[9] == 0.5


def test_validation_rate_interpolates_between_two_thresholds() -> None:
    # Each fold: ten different pairs, one of them at 1.0, and four same pairs. On nine folds the FAR
    # is 0 up to the threshold 1.000 and 0.1 at 1.001: 1e-3 lies a hundredth of the way, at 1.00001.
    different = [1.0] + [2.0] * 9
    same = [0.5, 0.6, 1.000005, 1.00002]
    distances = np.array((different + same) * 10)
    issame = np.array(([False] * 10 + [True] * 4) * 10)
    rate = validation_rate(distances, issame, far=1e-3)
    assert (rate.mean, rate.std, rate.far) == pytest.approx((0.75, 0.0, 0.1))


def test_validation_rate_is_zero_where_the_far_is_never_reached() -> None:
    # No different pair is nearer than 3.999, the last threshold.
    distances = np.array([0.5, 4.0] * 10)
    issame = np.array([True, False] * 10)
    rate = validation_rate(distances, issame)
    assert (rate.mean, rate.std, rate.far) == (0.0, 0.0, 0.0)


def test_roc_by_hand() -> None:
    distances, issame = np.array([0.3, 0.1, 0.6, 0.4]), np.array([False, True, False, True])
    roc = Roc.from_pairs(distances, issame)
    assert roc.far.tolist() == [0, 0, 0.5, 0.5, 1]
    assert roc.tar.tolist() == [0, 0.5, 0.5, 1, 1]
    assert roc.auc() == 0.75
    assert roc.eer() == 0.5
    assert [roc.tar_at(far) for far in (0, 0.49, 0.5, 1)] == [0.5, 0.5, 1, 1]


def test_pairs_of_equal_distance_are_accepted_together() -> None:
    roc = Roc.from_pairs(np.array([0.3, 0.3]), np.array([True, False]))
    assert (roc.auc(), roc.eer(), roc.tar_at(0.01)) == (0.5, 0.5, 0.0)


def test_perfect_and_perverse_scores() -> None:
    issame = np.array([True, True, False])
    perfect = Roc.from_pairs(np.array([0.1, 0.2, 0.3]), issame)
    assert (perfect.auc(), perfect.eer(), perfect.tar_at(1e-4)) == (1.0, 0.0, 1.0)
    perverse = Roc.from_pairs(np.array([0.2, 0.3, 0.1]), issame)
    assert (perverse.auc(), perverse.eer(), perverse.tar_at(1e-4)) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize(("far", "allowed"), [(1e-4, 0), (1e-3, 3), (1e-2, 30)])
def test_a_far_that_is_met_exactly_counts(far: float, allowed: int) -> None:
    # 3,000 different pairs, as LFW has, at 1, 2, 3 …; a same pair just after each of them.
    distances = np.concatenate([np.arange(3000.0), np.arange(3000) + 0.5])
    issame = np.repeat([False, True], 3000)
    assert Roc.from_pairs(distances, issame).tar_at(far) == allowed / 3000


def test_a_roc_needs_both_kinds() -> None:
    with pytest.raises(EvaluationError, match="2 same and 0 different ones were given"):
        Roc.from_pairs(np.array([0.1, 0.2]), np.array([True, True]))
