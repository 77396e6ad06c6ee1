"""Intervals of pair sets, beside a twin that lists the pairs of the people drawn again."""

from __future__ import annotations

import numpy as np
import pytest

from facepack.evaluate.protocols.pair_intervals import pair_intervals
from facepack.evaluate.protocols.pair_metrics import Roc
from facepack.evaluate.results.pair_result import TAR_FARS, far_text
from facepack.evaluate.scores.intervals import join_people

REPLICATES = 40


def drawn_set(people: int, shots: int, pairs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances, truths and images of pairs, half of them same; image i is of person i // shots."""
    rng = np.random.default_rng(people)
    issame = np.arange(pairs) % 2 == 0
    first = rng.integers(0, people * shots, pairs)
    second = np.where(
        issame,
        first // shots * shots + (first + 1 + rng.integers(0, shots - 1, pairs)) % shots,
        (first + shots * rng.integers(1, people, pairs)) % (people * shots),
    )
    hard = rng.normal(0, 0.3, people)  # some people are harder to tell than others
    distances = np.where(issame, 1.0, 1.6) + rng.normal(0, 0.3, pairs) + hard[first // shots]
    return distances.round(2), issame, np.column_stack([first, second])


def test_images_that_same_pairs_join_are_of_one_person() -> None:
    pairs = np.array([[5, 1], [4, 2], [2, 5], [0, 3], [8, 8]])
    assert join_people(pairs, 9).tolist() == [0, 1, 1, 0, 1, 1, 6, 7, 8]
    assert join_people(pairs[:0], 3).tolist() == [0, 1, 2]
    chain = np.column_stack([np.arange(1, 500), np.arange(499)])[::-1]
    assert not join_people(chain, 500).any()


def test_intervals_equal_those_of_pairs_listed_again() -> None:
    distances, issame, pairs = drawn_set(people=15, shots=3, pairs=200)
    people = join_people(pairs[issame], 45)[pairs]
    known = list(dict.fromkeys(people.ravel().tolist()))  # as the pairs come
    whose = np.array([[known.index(each) for each in pair] for pair in people.tolist()])
    rng = np.random.default_rng(7)
    shares = []
    for _ in range(REPLICATES):
        drawn = rng.integers(0, len(known), len(known)).tolist()
        rows = []
        for row, (first, second) in enumerate(whose.tolist()):
            copies = drawn.count(first) * (1 if first == second else drawn.count(second))
            rows += [row] * copies
        roc = Roc.from_pairs(distances[rows], issame[rows])
        shares.append([*map(roc.tar_at, TAR_FARS), roc.auc(), roc.eer()])
    low, high = np.quantile(shares, [0.025, 0.975], axis=0)
    found = pair_intervals(distances, issame, pairs, seed=7, replicates=REPLICATES)
    assert list(found) == [*(f"TAR@{far_text(far)}" for far in TAR_FARS), "AUC", "EER"]
    assert np.array(list(found.values())) == pytest.approx(np.column_stack([low, high]))
    # Pairs that are listed again tell nothing new, however many they are.
    again = pair_intervals(np.tile(distances, 4), np.tile(issame, 4), np.tile(pairs, (4, 1)))
    once = pair_intervals(distances, issame, pairs)
    assert again["AUC"] == pytest.approx(once["AUC"])


def test_where_images_lie_makes_no_difference() -> None:
    """A pack shuffles what a .bin has in order: the same set has the same intervals."""
    distances, issame, pairs = drawn_set(people=15, shots=3, pairs=200)
    shuffled = np.random.default_rng(3).permutation(45)[pairs]
    once = pair_intervals(distances, issame, pairs, replicates=REPLICATES)
    assert pair_intervals(distances, issame, shuffled, replicates=REPLICATES) == once


def test_an_interval_holds_what_it_is_of_about_as_often_as_it_says() -> None:
    """Of a large set's people, small sets are drawn: most of their intervals hold its AUC."""
    people, shots = 400, 4
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 0.3, people)
    widths, truths = [], []
    for _ in range(60):
        chosen = rng.choice(people, 30, replace=False)
        whose = np.repeat(np.arange(30), shots)
        a, b = np.triu_indices(len(whose), 1)
        issame = whose[a] == whose[b]
        distances = np.where(issame, 1.0, 1.8) + rng.normal(0, 0.3, len(a))
        distances += hard[chosen[whose[a]]] + hard[chosen[whose[b]]]
        truths.append(Roc.from_pairs(distances, issame).auc())
        low, high = pair_intervals(distances, issame, np.column_stack([a, b]), replicates=60)["AUC"]
        widths.append((low, high))
    held = sum(low <= np.mean(truths) <= high for low, high in widths)
    assert 48 <= held <= 60


def test_one_persons_images_have_no_interval() -> None:
    pairs = np.array([[0, 1], [1, 2], [0, 2]])
    issame = np.array([True, True, False])
    assert pair_intervals(np.array([0.1, 0.2, 0.3]), issame, pairs) == {}
