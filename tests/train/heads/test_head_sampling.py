"""Sampled classes: what is in a sample, how likely each set is, and what drawing costs."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import pytest
import torch

from facepack.train.heads.sampling import permuted, sample_rows


def draw(labels: list[int], classes: int, size: int, seed: int = 0) -> torch.Tensor:
    return sample_rows(torch.tensor(labels), classes, size, seed)


@pytest.mark.parametrize("size", [0, 2, 4, 5, 20, 55, 99, 100])
def test_a_sample_holds_the_positives_and_fills_up(size: int) -> None:
    rows = draw([70, 3, 70, 12, 99], 100, size)
    assert len(rows) == max(size, 4)
    assert (rows.diff() > 0).all()
    assert {3, 12, 70, 99} <= set(rows.tolist())
    assert int(rows[0]) >= 0
    assert int(rows[-1]) < 100


def test_positives_alone_when_they_exceed_the_sample() -> None:
    assert draw([5, 1, 9, 1], 1000, 2).tolist() == [1, 5, 9]


def test_labels_of_other_ranks_are_passed_over() -> None:
    assert draw([-4, 1, 12, 7, 1, 10], 10, 0).tolist() == [1, 7]
    assert len(draw([-4, 12, 10], 10, 3)) == 3
    assert draw([-4, 12], 10, 0).tolist() == []
    assert draw([3], 0, 0).tolist() == []


@pytest.mark.parametrize("classes", [1, 2, 7, 100, 1009, 4096])
def test_the_permutation_has_every_class_once(classes: int) -> None:
    ids = permuted(classes, classes, 5, torch.device("cpu"))
    assert torch.equal(ids[ids < classes].sort().values, torch.arange(classes))
    few = permuted(classes, classes // 3, 5, torch.device("cpu"))
    assert torch.equal(few, ids[: len(few)])
    assert int((few < classes).sum()) >= classes // 3


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_every_subset_of_the_others_is_equally_likely(size: int) -> None:
    draws = 1000
    seen = Counter(tuple(draw([2], 6, size, seed).tolist()) for seed in range(draws))
    subsets = {tuple(sorted((2, *rest))) for rest in combinations((0, 1, 3, 4, 5), size - 1)}
    assert set(seen) == subsets
    mean = draws / len(subsets)
    deviation = math.sqrt(mean * (1 - 1 / len(subsets)))
    assert max(abs(count - mean) for count in seen.values()) < 4 * deviation


def test_classes_are_drawn_independently_of_one_another() -> None:
    classes, size, draws, one = 500, 50, 2000, 321
    times, beside = torch.zeros(classes), torch.zeros(classes)
    for seed in range(draws):
        rows = draw([0], classes, size, seed)
        times[rows] += 1
        if one in rows:
            beside[rows] += 1
    others = torch.ones(classes, dtype=torch.bool)
    others[[0, one]] = False
    for counts, share in (
        (times, (size - 1) / (classes - 1)),
        (beside, (size - 1) * (size - 2) / ((classes - 1) * (classes - 2))),
    ):
        deviations = (counts[others] - draws * share) / math.sqrt(draws * share * (1 - share))
        assert float(deviations.abs().max()) < 4.5
        assert float(deviations.std()) == pytest.approx(1.0, abs=0.1)


def test_drawing_costs_the_sample_and_not_the_classes() -> None:
    # A permutation of, or a score for, each of 10¹² classes would fit in no memory.
    rows = draw([10**12 - 1, 4], 10**12, 1000)
    assert len(rows) == 1000
    assert int(rows[-1]) == 10**12 - 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("size", [2, 30, 90])
def test_cuda_draws_the_same_and_waits_for_nothing(size: int) -> None:
    labels = torch.tensor([70, 3], device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        rows = sample_rows(labels, 100, size, 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(rows.cpu(), draw([70, 3], 100, size))
