from __future__ import annotations

import math

import numpy as np
import pytest

from facepack.evaluate.results.difference import interval_of, is_within_chance
from facepack.evaluate.results.result import Figure


def test_the_interval_of_a_mean_over_ten_folds() -> None:
    scores = np.array([0.9, 0.92, 0.94, 0.9, 0.91, 0.93, 0.95, 0.9, 0.92, 0.93])
    mean, half = scores.mean(), 2.262 * scores.std(ddof=1) / math.sqrt(10)
    found = interval_of(Figure(value=float(mean), std=float(scores.std())))
    assert found == pytest.approx((mean - half, mean + half))
    assert interval_of(Figure(value=0.5, std=0.1, interval=(0.4, 0.7))) == (0.4, 0.7)
    assert interval_of(Figure(value=0.5)) is None
    assert interval_of(Figure(value=None, std=0.1)) is None


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        # 0.7 - 0.6 against the hypotenuse of 0.08 below the one and 0.06 above the other: 0.1.
        (Figure(value=0.7, interval=(0.62, 0.71)), Figure(value=0.6, interval=(0.3, 0.66)), True),
        (Figure(value=0.7, interval=(0.63, 0.9)), Figure(value=0.6, interval=(0.3, 0.66)), False),
        (Figure(value=0.5, interval=(0.5, 0.5)), Figure(value=0.5, interval=(0.5, 0.5)), True),
        (Figure(value=0.9, std=0.03), Figure(value=0.92, std=0.02), True),
        (Figure(value=0.9, std=0.02), Figure(value=0.92, std=0.01), False),
        (Figure(value=0.9), Figure(value=0.9, std=0.01), None),
        (Figure(value=None), Figure(value=0.9, std=0.01), None),
    ],
)
def test_differences_within_chance(first: Figure, second: Figure, wanted: bool | None) -> None:
    assert is_within_chance(first, second) is wanted
    assert is_within_chance(second, first) is wanted


def test_the_interval_of_a_difference_holds_the_true_one_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    means = rng.normal(0.8, 0.01, (2000, 2))
    figures = [
        [Figure(value=x, interval=(x - 1.96 * 0.01, x + 1.96 * 0.01)) for x in row]
        for row in means.tolist()
    ]
    share = np.mean([is_within_chance(*pair) for pair in figures])
    assert 0.93 < share < 0.97
