from __future__ import annotations

import numpy as np
import pytest

from facepack.view.histogram import Histogram, bar_lines, histogram, nice_edges, spread


@pytest.mark.parametrize("most", [1, 2, 5, 16, 40])
@pytest.mark.parametrize(
    ("low", "high"), [(0, 0), (1, 1), (14, 14), (0, 7), (1, 9), (2, 530), (900, 33_000), (1, 10**8)]
)
def test_edges_cover_the_range_with_no_more_bins_than_allowed(
    low: int, high: int, most: int
) -> None:
    edges = nice_edges(low, high, most=most)
    assert edges[0] <= low and edges[-1] > high
    assert 1 <= len(edges) - 1 <= most
    assert all(isinstance(edge, int) for edge in edges) and edges == sorted(set(edges))


def test_edges_are_numbers_that_people_use() -> None:
    assert nice_edges(1, 8, most=14) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert nice_edges(2, 530, most=16)[:7] == [2, 3, 5, 7, 10, 15, 20]
    assert nice_edges(2_515, 6_739, most=10) == [2500, 3000, 3500, 4000, 4500, 5000, 5500, 6000,
                                                 6500, 7000]  # fmt: skip
    assert nice_edges(14, 14, most=16) == [14, 15]


@pytest.mark.parametrize("most", [1, 4, 16, 33])
def test_counts_equal_the_obvious_ones(most: int) -> None:
    values = np.random.default_rng(most).lognormal(3, 1.5, 500).astype(np.int64)
    found = histogram(values, most=most)
    assert sum(found.counts) == len(values)
    for low, high, count in found.bins():
        assert count == sum(low <= value <= high for value in values.tolist())


def test_times_are_repetitions() -> None:
    values, times = np.array([3, 90, 7, 90]), np.array([5, 1, 0, 2])
    assert histogram(values, most=9, times=times) == histogram(np.repeat(values, times), most=9)


def test_no_values_no_bins() -> None:
    assert histogram(np.zeros(0, np.int64), most=5) == Histogram(edges=(0,), counts=())
    assert bar_lines(Histogram(edges=(0,), counts=()), width=80) == []
    assert spread(np.zeros(0, np.int64)) is None
    with pytest.raises(ValueError, match="0 bins"):
        histogram(np.arange(3), most=0)
    with pytest.raises(ValueError, match="2 bins"):
        Histogram(edges=(1, 1, 3), counts=(1, 1))


def test_bars_have_the_lengths_of_their_counts() -> None:
    found = Histogram(edges=(1, 2, 5, 10, 20), counts=(1000, 500, 0, 1))
    lines = bar_lines(found, width=40)
    assert [line.split()[0] for line in lines] == ["1", "2–4", "5–9", "10–19"]
    assert [line.split()[-1] for line in lines] == ["1,000", "500", "0", "1"]
    assert lines[0].count("█") == 2 * lines[1].count("█") == 26
    assert "▏" in lines[3] and lines[2].split() == ["5–9", "0"]
    assert 38 <= max(map(len, lines)) < 40
    assert bar_lines(found, width=1)[0].count("█") == 8


def test_bars_in_ascii() -> None:
    lines = bar_lines(Histogram(edges=(1, 2, 5), counts=(3, 900)), width=50, unicode=False)
    assert "".join(lines).isascii() and lines[0].split() == ["1", "#", "3"]


def test_spread() -> None:
    assert spread(np.array([1, 2, 3, 10])) == {"min": 1, "median": 2.5, "mean": 4.0, "max": 10}
