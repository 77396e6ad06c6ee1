"""Bags of tail identities and the hard ones among them, each against a slow twin."""

from __future__ import annotations

import numpy as np
import pytest

from facepack.errors import TrainingError
from facepack.train.methods.unequal.mining import Bags, choose_identities, hardest_identities


def labels_of(*counts: int) -> np.ndarray:
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(0).permutation(np.append(labels, [-1, -1]))


def make(labels: np.ndarray, **changes: object) -> Bags:
    options = {"identities": 4, "images": 3, "repeat": False, "seed": 5} | changes
    return Bags(labels, **options)  # type: ignore[arg-type]


def test_bags_hold_each_identity_once_in_a_pass() -> None:
    labels = labels_of(3, 5, 2, 8, 3, 4, 1, 3, 6, 3, 7)  # nine have three images
    bags = make(labels)
    assert (bags.usable, bags.size) == (9, 4)
    orders = set()
    for turn in range(6):
        seen: list[int] = []
        for place in range(2):  # of nine, one is left over
            positions = bags.positions(2 * turn + place)
            assert positions.shape == (4, 3)
            for row in positions:
                assert len({*row.tolist()}) == 3 and len({*labels[row].tolist()}) == 1
                seen.append(int(labels[row[0]]))
        assert len({*seen}) == 8 and not {*seen} & {2, 6, -1}
        orders.add(tuple(seen))
    assert len(orders) == 6
    again = make(labels)
    assert np.array_equal(again.positions(7), bags.positions(7))
    assert not np.array_equal(make(labels, seed=6).positions(7), bags.positions(7))


def test_identities_with_few_images_repeat_them_or_are_left_out() -> None:
    labels = labels_of(1, 2, 3, 4)
    bags = make(labels, repeat=True)
    rows = {int(labels[row[0]]): row for row in bags.positions(0)}
    assert {k: len({*row.tolist()}) for k, row in rows.items()} == {0: 1, 1: 2, 2: 3, 3: 3}
    assert all((labels[row] == k).all() for k, row in rows.items())
    assert make(labels).usable == 2
    with pytest.raises(TrainingError, match="repeat_images"):
        make(labels_of(1, 2, 3, 2))


def slow_hardest(embeddings: np.ndarray, count: int) -> list[int]:
    """Every pair by its distance, and those that are new appended one by one."""
    centres = [np.mean([row.astype(np.float64) for row in each], axis=0) for each in embeddings]
    pairs = [
        (float(((centres[i] - centres[j]) ** 2).sum()), i, j)
        for i in range(len(centres))
        for j in range(i + 1, len(centres))
    ]
    chosen: list[int] = []
    for _, i, j in sorted(pairs):
        if len(chosen) >= count:
            break
        chosen += [k for k in (i, j) if k not in chosen]
    return chosen[:count]


def test_identities_that_share_their_near_pairs_are_gone_on_from() -> None:
    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(40, 2, 30)).astype(np.float32)
    embeddings[:20] = [1.0] * 30  # 190 pairs of distance 0, all among the same twenty
    embeddings /= np.linalg.norm(embeddings, axis=2, keepdims=True)
    for count in (5, 21, 22, 30):
        assert hardest_identities(embeddings, count).tolist() == slow_hardest(embeddings, count)


@pytest.mark.parametrize("count", [2, 3, 10, 39, 40])
def test_the_hardest_are_those_of_the_twin(count: int) -> None:
    rng = np.random.default_rng(count)
    embeddings = rng.normal(size=(40, 3, 6)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=2, keepdims=True)
    found = hardest_identities(embeddings, count)
    assert found.tolist() == slow_hardest(embeddings, count)
    assert len({*found.tolist()}) == count


def test_identities_that_miss_an_image_only_fill_up() -> None:
    rng = np.random.default_rng(3)
    embeddings = rng.normal(size=(8, 3, 6)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=2, keepdims=True)
    whole = [0, 2, 3, 4, 7]
    hard = [whole[k] for k in slow_hardest(embeddings[whole], 4)]
    missing = embeddings.copy()
    missing[1, 2], missing[5, 0], missing[6] = np.nan, np.nan, np.nan
    assert choose_identities(missing, 4).tolist() == hard
    found = choose_identities(missing, 7).tolist()
    assert {*found[:5]} == {*whole} and found[5:] == [1, 5]
    assert choose_identities(embeddings, 8).tolist() == slow_hardest(embeddings, 8)
    assert choose_identities(np.full_like(embeddings, np.nan), 3).tolist() == [0, 1, 2]


def test_by_hand() -> None:
    angles = np.radians([0, 90, 5, 180, 93, 270])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], 1)[:, None].astype(np.float32)
    assert hardest_identities(embeddings, 4).tolist() == [1, 4, 0, 2]
    assert hardest_identities(embeddings, 3).tolist() == [1, 4, 0]
