"""Ranks in a gallery, against a count over all scores written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facepack.evaluate.scores.identification import Identification, Searches, identify
from facepack.evaluate.scores.matching import Matching
from facepack.evaluate.scores.verification import verify


def faces(
    n: int, people: int, *, seed: int = 0, spread: float = 1.5
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, people, n)
    centres = rng.standard_normal((people, 24))
    return (
        (centres[labels] + spread * rng.standard_normal((n, 24))).astype(np.float32),
        labels,
    )


def all_scores(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    normalize, pad = torch.nn.functional.normalize, torch.nn.functional.pad
    left, right = (normalize(torch.from_numpy(x)) for x in (a, b))
    product = pad(left, (0, 0, 0, 64)) @ pad(right, (0, 0, 0, 64)).T
    return product[: len(a), : len(b)].numpy()


def rank(scores: np.ndarray, wrong: np.ndarray, mate: int) -> int:
    """By the definition: 1 + the wrong entries that score at least the mate."""
    return 1 + sum(bool(scores[j] >= scores[mate]) for j in np.flatnonzero(wrong))


def check_best_wrong(found: Searches, scores: np.ndarray, wrong: np.ndarray) -> None:
    hidden = np.where(wrong, scores, -np.inf)
    assert (found.best_wrong == hidden.max(axis=1)).all()
    some = wrong.any(axis=1)
    told = found.best_wrong_entry[some]
    assert (hidden[some, told] == found.best_wrong[some]).all()
    assert (found.best_wrong_entry[~some] == -1).all()


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("block", [64, 128, 2048])
@pytest.mark.parametrize("sizes", [(1, 500), (200, 200), (131, 70), (300, 2)])
def test_the_best_mate_against_a_gallery(
    sizes: tuple[int, int], block: int, quantized: bool
) -> None:
    embeddings, labels = faces(sum(sizes), 25)
    if quantized:  # many ties, exact ones
        embeddings = np.where(embeddings[:, :4] > 0, np.float32(1), np.float32(-1))
    labels[::8] = -1
    (a, b), (la, lb) = np.split(embeddings, [sizes[0]]), np.split(labels, [sizes[0]])
    scores = all_scores(a, b)
    same = (la[:, None] == lb) & (la[:, None] >= 0)
    found = identify(Matching.between(a, la, b, lb, block=block))
    assert sorted(found.probes) == np.flatnonzero(same.any(axis=1)).tolist()
    for probe, mate, told, score in zip(
        found.probes, found.mates, found.ranks, found.scores, strict=True
    ):
        best = np.where(same[probe], scores[probe], -np.inf).max()
        assert same[probe, mate] and scores[probe, mate] == best == score
        assert told == rank(scores[probe], ~same[probe], mate)
    check_best_wrong(found, scores, ~same)


@pytest.mark.parametrize("block", [64, 2048])
def test_each_mate_against_distractors(block: int) -> None:
    embeddings, labels = faces(500, 15)
    probes, labels, distractors = embeddings[:90], labels[:90], embeddings[90:]
    distractors[3] = probes[7] * 3  # a tie with a mate's score
    labels[:3] = 20, 21, -1  # alone, alone, nobody's
    among, against = all_scores(probes, probes), all_scores(probes, distractors)
    found = identify(
        Matching.with_distractors(probes, labels, distractors, block=block), each_mate=True
    )
    expected = {
        (i, j): 1 + np.count_nonzero(against[i] >= among[i, j])
        for i in range(90)
        for j in range(90)
        if i != j and labels[i] == labels[j] >= 0
    }
    told = zip(found.probes.tolist(), found.mates.tolist(), found.ranks.tolist(), strict=True)
    assert {(i, j): r for i, j, r in told} == expected
    check_best_wrong(found, against, np.ones_like(against, bool))


def test_each_mate_in_a_gallery_competes_with_wrong_entries_only() -> None:
    embeddings, labels = faces(300, 10)
    (a, b), (la, lb) = np.split(embeddings, [60]), np.split(labels, [60])
    scores, same = all_scores(a, b), la[:, None] == lb
    found = identify(Matching.between(a, la, b, lb, block=64), each_mate=True)
    assert len(found.ranks) == same.sum()
    for i, j, told in zip(found.probes, found.mates, found.ranks, strict=True):
        assert told == rank(scores[i], ~same[i], j)


def test_ranks_and_operating_points_come_of_one_pass() -> None:
    embeddings, labels = faces(600, 20)
    matching = Matching.with_distractors(embeddings[:100], labels[:100], embeddings[100:], block=64)
    both = Identification(matching, each_mate=True)
    found = verify(matching, [1e-2], also=both.collectors)
    assert found.points == verify(matching, [1e-2]).points
    assert (both.searches().ranks == identify(matching, each_mate=True).ranks).all()


def test_shares_and_the_cmc() -> None:
    found = Searches(
        probes=np.arange(4),
        mates=np.arange(4),
        ranks=np.array([7, 1, 2, 1]),
        scores=np.zeros(4, np.float32),
        best_wrong=np.zeros(4, np.float32),
        best_wrong_entry=np.zeros(4, np.int64),
    )
    assert [found.share(k) for k in (1, 2, 6, 7)] == [0.5, 0.75, 0.75, 1]
    ranks, shares = found.cmc()
    assert (ranks.tolist(), shares.tolist()) == ([1, 2, 7], [0.5, 0.75, 1])


def test_a_gallery_without_mates_has_no_share() -> None:
    embeddings, labels = faces(50, 5)
    found = identify(Matching.between(embeddings, labels, embeddings, labels + 100))
    assert found.share(1) is None and not len(found.ranks)
    assert np.isfinite(found.best_wrong).all()


def test_a_set_with_itself_has_no_ranks() -> None:
    embeddings, labels = faces(50, 5)
    with pytest.raises(ValueError, match="gallery"):
        identify(Matching.all_to_all(embeddings, labels))
