"""The bootstrap over identities, against one that draws identities one by one."""

from __future__ import annotations

import numpy as np
import pytest

from facepack.evaluate.scores.intervals import bootstrap_interval, count_by_identity


def drawn_one_by_one(hits: np.ndarray, trials: np.ndarray, replicates: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(replicates):
        drawn = rng.integers(0, len(hits), len(hits))
        shares.append(hits[drawn].sum() / trials[drawn].sum())
    return np.quantile(shares, [0.025, 0.975])


def test_kinds_are_drawn_as_identities_are() -> None:
    rng = np.random.default_rng(0)
    trials = rng.integers(1, 30, 200)
    hits = rng.binomial(trials, rng.beta(2, 1, 200))
    low, high = bootstrap_interval(hits, trials, replicates=20_000) or (0, 0)
    assert (low, high) == pytest.approx(drawn_one_by_one(hits, trials, 20_000), abs=2e-3)
    assert low < hits.sum() / trials.sum() < high


def test_identities_are_the_unit_not_images() -> None:
    # Ten images each, alike within a person: as wide as of 50 trials, not of 500.
    right = np.arange(50) % 2
    few = bootstrap_interval(right, np.ones(50, int)) or (0, 0)
    many = bootstrap_interval(10 * right, np.full(50, 10)) or (0, 0)
    assert many == few


def test_it_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for trial in range(200):
        chance = rng.beta(8, 2, 150)  # of mean 0.8
        trials = rng.integers(1, 10, 150)
        interval = bootstrap_interval(
            rng.binomial(trials, chance), trials, seed=trial, replicates=300
        )
        assert interval is not None
        covered += interval[0] <= 0.8 <= interval[1]
    assert 180 <= covered <= 200


def test_equal_seeds_give_equal_intervals() -> None:
    hits, trials = np.arange(20), np.arange(20) + 3
    assert bootstrap_interval(hits, trials) == bootstrap_interval(hits, trials)
    assert bootstrap_interval(hits, trials) != bootstrap_interval(hits, trials, seed=1)


@pytest.mark.parametrize("trials", [[], [5], [5, 0, 0]])
def test_fewer_than_two_identities_have_no_interval(trials: list[int]) -> None:
    assert bootstrap_interval(np.zeros(len(trials), int), np.array(trials, int)) is None


def test_trials_are_counted_by_identity() -> None:
    hits, trials = count_by_identity(np.array([True, False, True, True]), np.array([9, 4, 9, 4]))
    assert (hits.tolist(), trials.tolist()) == ([1, 2], [2, 2])
