"""TAR at FAR over whole sets, against all scores written out and every threshold tried."""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from facepack.errors import EvaluationError
from facepack.evaluate.scores import verification
from facepack.evaluate.scores.collectors import Histogram
from facepack.evaluate.scores.identification import identify
from facepack.evaluate.scores.matching import Matching
from facepack.evaluate.scores.operating_point import most_false_accepts
from facepack.evaluate.scores.verification import Verification, verify
from facepack.train.ranks.group import ALONE, Ranks

FARS = (1e-4, 1e-3, 1e-2, 0.1, 0.5)


def faces(
    n: int, people: int, *, seed: int = 0, spread: float = 1.5, features: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings around random centres, of many lengths, and their labels in no order."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, people, n)
    centres = rng.standard_normal((people, features))
    noise = rng.standard_normal((n, features))
    return ((centres[labels] + spread * noise) * rng.uniform(0.5, 30, (n, 1))).astype(
        np.float32
    ), labels


def unit(embeddings: np.ndarray) -> torch.Tensor:
    rows = torch.from_numpy(embeddings.astype(np.float32))
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1)


def all_scores(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """One product, filled up to a size at which it is computed like any other."""
    pad = torch.nn.functional.pad
    left, right = unit(a), unit(b)
    product = pad(left, (0, 0, 0, 64)) @ pad(right, (0, 0, 0, 64)).T
    return product[: len(a), : len(b)].numpy()


def is_mate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a[:, None] == b) & (a[:, None] >= 0)


def tar_by_every_threshold(impostors: np.ndarray, mates: np.ndarray, far: float) -> float:
    """The largest TAR of all thresholds at scores whose FAR is at most ``far``."""
    thresholds = np.unique(np.concatenate([impostors, mates]))
    fars = share_reaching(impostors, thresholds)
    tars = share_reaching(mates, thresholds)
    return float(tars[fars <= far].max(initial=0))


def share_reaching(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The share of scores of at least each threshold."""
    below = np.searchsorted(np.sort(scores), thresholds, side="left")
    return (len(scores) - below) / len(scores)


def check(found: Verification, impostors: np.ndarray, mates: np.ndarray) -> None:
    assert (found.impostors, found.mates) == (len(impostors), len(mates))
    for far, point in found.points.items():
        assert point.tar == tar_by_every_threshold(impostors, mates, far)
        assert point.threshold is not None
        assert point.false_accepts == np.count_nonzero(impostors >= point.threshold)
        assert point.true_accepts == np.count_nonzero(mates >= point.threshold)
        assert point.far == point.false_accepts / len(impostors) <= far
        # No lower threshold is allowed.
        assert np.mean(impostors >= np.nextafter(np.float32(point.threshold), -2)) > far


def upper(embeddings: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, same = all_scores(embeddings, embeddings), is_mate(labels, labels)
    above = np.triu_indices(len(labels), 1)
    return scores[above][~same[above]], scores[above][same[above]]


@pytest.mark.parametrize("block", [64, 192, 2048])
@pytest.mark.parametrize(("n", "people"), [(2, 1000), (63, 9), (64, 9), (500, 40), (701, 3)])
def test_all_to_all_is_what_every_threshold_gives(n: int, people: int, block: int) -> None:
    embeddings, labels = faces(n, people)
    labels[::7] = -1  # nobody's
    impostors, mates = upper(embeddings, labels)
    if not len(mates):
        labels[:] = 5, 5
        labels = np.append(labels, 6)
        embeddings = np.concatenate([embeddings, -embeddings[:1]])
        impostors, mates = upper(embeddings, labels)
    check(verify(Matching.all_to_all(embeddings, labels, block=block), FARS), impostors, mates)


@pytest.mark.parametrize("block", [64, 192, 2048])
@pytest.mark.parametrize("sizes", [(1, 700), (300, 300), (129, 65), (700, 3)])
def test_probes_against_a_gallery(sizes: tuple[int, int], block: int) -> None:
    embeddings, labels = faces(sum(sizes), 30)
    labels[::9] = -1
    labels[sizes[0]] = labels[0] = 7
    a, b = np.split(embeddings, [sizes[0]])
    la, lb = np.split(labels, [sizes[0]])
    scores, same = all_scores(a, b), is_mate(la, lb)
    found = verify(Matching.between(a, la, b, lb, block=block), FARS)
    check(found, scores[~same], scores[same])


def test_probes_among_each_other_against_distractors() -> None:
    embeddings, labels = faces(900, 30)
    probes, distractors = np.split(embeddings, [200])
    found = verify(Matching.with_distractors(probes, labels[:200], distractors, block=64), FARS)
    _, mates = upper(probes, labels[:200])
    check(found, all_scores(probes, distractors).reshape(-1), mates)


def test_five_thousand_images_equal_brute_force() -> None:
    embeddings, labels = faces(5000, 400, features=64)
    impostors, mates = upper(embeddings, labels)
    found = verify(Matching.all_to_all(embeddings, labels), (1e-6, 1e-5, *FARS))
    falling = np.sort(impostors)[::-1]
    for far, point in found.points.items():
        limit = falling[most_false_accepts(far, len(impostors))]
        assert point.true_accepts == np.count_nonzero(mates > limit)
        assert point.false_accepts == np.count_nonzero(impostors > limit)
        assert point.threshold == np.nextafter(limit, np.float32(1))


@pytest.mark.parametrize("levels", [1, 2, 8])
def test_ties_are_accepted_together(levels: int) -> None:
    # Signs in a few dimensions: nearly all scores are equal to many others, and exact.
    rng = np.random.default_rng(levels)
    embeddings = rng.choice([-1.0, 1.0], (300, 4 ** (levels > 1) * 4)).astype(np.float32)
    labels = rng.integers(0, 20, 300)
    impostors, mates = upper(embeddings, labels)
    assert len(np.unique(impostors)) < 20
    found = verify(Matching.all_to_all(embeddings, labels, block=64), FARS, curve=True)
    for far, point in found.points.items():
        assert point.tar == tar_by_every_threshold(impostors, mates, far)
        assert point.far is not None and point.far <= far


@pytest.mark.parametrize("kept", [1, 100, 5000])
def test_a_far_of_more_scores_than_are_kept_takes_a_second_pass(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "_MOST_KEPT", kept)
    embeddings, labels = faces(400, 40)
    embeddings[:50] = embeddings[50:100]  # ties in the bins, too
    embeddings[::11] = 0
    impostors, mates = upper(embeddings, labels)
    fars = (*FARS, 0.9, 0.999)
    check(verify(Matching.all_to_all(embeddings, labels, block=128), fars), impostors, mates)


def test_a_far_of_one_accepts_all() -> None:
    embeddings, labels = faces(50, 5)
    point = verify(Matching.all_to_all(embeddings, labels), [1.0]).points[1.0]
    assert (point.far, point.tar, point.threshold) == (1, 1, -np.inf)


@pytest.mark.parametrize(
    ("labels", "mates", "impostors"), [([0, 0, 0], 3, 0), ([0, 1, 2], 0, 3), ([-1, -1, -1], 0, 3)]
)
def test_what_is_undefined_is_none(labels: list[int], mates: int, impostors: int) -> None:
    embeddings, _ = faces(3, 3)
    found = verify(Matching.all_to_all(embeddings, np.array(labels)), [0.1], hardest=2, curve=True)
    assert (found.mates, found.impostors) == (mates, impostors)
    point = found.points[0.1]
    assert point.tar is None
    assert (point.far is None) == (point.threshold is None) == (impostors == 0)


def test_the_curve_counts_every_score() -> None:
    embeddings, labels = faces(300, 12)
    embeddings[5] = 0  # scores of exactly 0, and of -0
    impostors, mates = upper(embeddings, labels)
    curve = verify(Matching.all_to_all(embeddings, labels, block=64), [], curve=True).curve
    assert curve is not None
    far, tar = curve.roc()
    for edge, a, b in zip(curve.edges[::20], far[::20], tar[::20], strict=True):
        assert a == np.mean(impostors >= edge)
        assert b == np.mean(mates >= edge)
    assert (far[0], tar[0]) == (1, 1)
    assert (np.diff(curve.edges) > 0).all()


def test_bins_are_ordered_as_scores_are() -> None:
    which = np.arange(Histogram.BINS)
    edges = Histogram.lowest_of(which)
    finite = edges[np.isfinite(edges)]
    assert (np.diff(finite) >= 0).all()


def test_the_hardest_pairs_are_told_by_position() -> None:
    embeddings, labels = faces(300, 40)
    embeddings[17], embeddings[250] = embeddings[3] * 2, embeddings[8]  # ties
    scores, same = all_scores(embeddings, embeddings), is_mate(labels, labels)
    pairs = list(itertools.combinations(range(300), 2))
    found = verify(Matching.all_to_all(embeddings, labels, block=64), [], hardest=9)
    for told, kind, sign in (
        (found.hardest_impostors, False, -1),
        (found.hardest_mates, True, 1),
    ):
        expected = sorted(sign * scores[p] for p in pairs if same[p] == kind)[:9]
        assert (sign * told.scores).tolist() == expected
        assert (told.first < told.second).all()
        assert (scores[told.first, told.second] == told.scores).all()
        assert (same[told.first, told.second] == kind).all()


def test_mates_are_counted_by_identity() -> None:
    embeddings, labels = faces(300, 12)
    labels[:4] = -1, -1, 50, 51  # nobody's, and alone
    scores, same = all_scores(embeddings, embeddings), is_mate(labels, labels)
    for matching, pairs in (
        (Matching.all_to_all(embeddings, labels, block=64), np.triu(same, 1)),
        (Matching.between(embeddings, labels, embeddings, labels, block=64), same),
    ):
        found = verify(matching, (0.01, 1.0)).by_identity
        for far, accepted in found.accepted.items():
            threshold = verify(matching, [far]).points[far].threshold
            for label, mates, count in zip(found.labels, found.mates, accepted, strict=True):
                mine = scores[labels == label][pairs[labels == label]]
                assert (mates, count) == (len(mine), (mine >= threshold).sum())
        assert found.mates.sum() == pairs.sum()


def test_half_precision_is_cast_before_it_is_squared() -> None:
    embeddings, labels = faces(200, 20)
    halves = (embeddings * 10).astype(np.float16)  # norms above 256: squares overflow
    assert np.isfinite(halves).all()
    impostors, mates = upper(halves, labels)
    check(verify(Matching.all_to_all(halves, labels), FARS), impostors, mates)
    tensors = verify(Matching.all_to_all(torch.from_numpy(halves), labels), FARS)
    assert tensors.points == verify(Matching.all_to_all(halves, labels), FARS).points


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_told(value: float) -> None:
    embeddings, labels = faces(100, 10)
    embeddings[[41, 77], 3] = value
    with pytest.raises(EvaluationError, match=r"2 of 100 .* row 41"):
        Matching.all_to_all(embeddings, labels)


def test_what_does_not_belong_together_is_told() -> None:
    embeddings, labels = faces(100, 10)
    for bad, of in (
        (embeddings[0], labels[:32]),
        (embeddings[:0], labels[:0]),
        (embeddings, labels[1:]),
        (embeddings, labels.astype(float)),
    ):
        with pytest.raises(EvaluationError):
            Matching.all_to_all(bad, of)
    with pytest.raises(EvaluationError, match="32 features, the gallery 31"):
        Matching.between(embeddings, labels, embeddings[:, 1:], labels)


WORLD = 3


def on_a_rank(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", address, rank=rank, world_size=WORLD)
    try:
        torch.save(told_by(Ranks(rank, WORLD)), folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def told_by(ranks: Ranks) -> dict[str, Any]:
    embeddings, labels = faces(500, 40)
    matching = Matching.all_to_all(embeddings, labels, ranks=ranks, block=64)
    found = verify(matching, FARS, hardest=5, curve=True)
    assert found.curve is not None
    second = verify(matching, FARS[:2])
    gallery = Matching.between(
        embeddings[:100], labels[:100], embeddings[100:], labels[100:], ranks=ranks, block=64
    )
    searches = identify(gallery, each_mate=True)
    return {
        "points": [vars(point) for point in found.points.values()],
        "alone": [vars(point) for point in second.points.values()],
        "hardest": found.hardest_impostors.first.tolist(),
        "counts": found.curve.impostors.tolist(),
        "ranks": searches.ranks.tolist(),
        "best wrong": [searches.best_wrong.tolist(), searches.best_wrong_entry.tolist()],
    }


def launch(_: int, port: int, folder: Path) -> None:
    """Fork the processes from one that has imported all and has no threads yet."""
    verification._MOST_KEPT = 2000  # so that large FARs are found in histograms
    mp.start_processes(on_a_rank, (port, folder), nprocs=WORLD, start_method="fork")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_ranks_share_the_tiles(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(launch, (port, tmp_path), nprocs=1)
    alone = told_by(ALONE)
    for rank in range(WORLD):
        assert torch.load(tmp_path / f"{rank}.pt") == alone
