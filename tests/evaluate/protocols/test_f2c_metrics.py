"""F2C's figures against loops that follow its script's words."""

from __future__ import annotations

import numpy as np
import pytest

from facepack.evaluate.protocols.f2c_metrics import (
    accuracy_by_fold,
    best_of_grid,
    best_score,
    f2c_figures,
    tar_of_bins,
)


def make_scores(seed: int, pairs: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    issame = np.arange(pairs) // 10 % 2 == 0
    scores = rng.normal(np.where(issame, 0.4, 0.1), 0.2).clip(-1, 1)
    return scores.round(2) if seed % 2 else scores, issame  # ties, too


def slow_best_score(scores: np.ndarray, issame: np.ndarray) -> float:
    best, threshold = -1, 2.0
    for candidate in scores:
        right = sum(
            (score >= candidate) == same for score, same in zip(scores, issame, strict=True)
        )
        if right > best:
            best, threshold = right, candidate
    return float(threshold)


def slow_best_of_grid(scores: np.ndarray, issame: np.ndarray) -> float:
    low, high = scores.min(), scores.max()
    unit = (high - low) / 1000
    best, threshold = -1.0, 0.0
    for step in range(1, 1001):
        candidate = low + (high - low) * step / 1000
        middle = candidate - unit / 2 + 2e-6
        tar = np.mean(scores[issame] >= middle)
        far = np.mean(scores[~issame] >= middle)
        if (tar + 1 - far) / 2 > best:
            best, threshold = (tar + 1 - far) / 2, candidate
    return float(threshold)


@pytest.mark.parametrize("seed", range(4))
def test_thresholds_are_chosen_as_the_script_does(seed: int) -> None:
    scores, issame = make_scores(seed)
    assert best_score(scores, issame) == slow_best_score(scores, issame)
    assert best_of_grid(scores, issame) == slow_best_of_grid(scores, issame)
    for fold in range(10):
        rest = np.arange(200) // 20 != fold
        threshold = slow_best_score(scores[rest], issame[rest])
        right = [(s >= threshold) == y for s, y in zip(scores[~rest], issame[~rest], strict=True)]
        assert accuracy_by_fold(scores, issame, best_score)[fold] == np.mean(right)


def test_both_deviations_are_told_by_name() -> None:
    scores, issame = make_scores(0)
    by_fold = accuracy_by_fold(scores, issame, best_score)
    figures = f2c_figures(scores, issame, best_score)
    assert figures["accuracy (F2C)"].value == by_fold.mean()
    assert figures["accuracy (F2C)"].std == by_fold.std()
    assert figures["std/√10 (F2C)"].value == pytest.approx(by_fold.std() / 10**0.5)


@pytest.mark.parametrize("issame", [np.ones(50, bool), np.zeros(50, bool), np.arange(9) % 2 == 0])
def test_what_folds_cannot_define_is_none(issame: np.ndarray) -> None:
    figures = f2c_figures(np.linspace(0, 1, len(issame)), issame, best_of_grid)
    assert [figure.value for figure in figures.values()] == [None, None]


def test_tar_is_interpolated_between_bins() -> None:
    mates, impostors = np.array([0, 0, 2, 2]), np.array([900, 90, 9, 1])
    # FAR of the bins' lower edges: 1, 0.1, 0.01, 0.001; TAR 1, 1, 1, 0.5
    assert tar_of_bins(mates, impostors, 0.01) == 1
    assert tar_of_bins(mates, impostors, 0.0055) == pytest.approx(0.75)
    assert tar_of_bins(mates, impostors, 1e-4) == 0  # the script gives up that far below
