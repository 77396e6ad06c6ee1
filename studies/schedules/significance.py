"""Paired differences of two arms and their bootstrap over identities.

An arm is a matrix of what each of its runs (rows: seeds) made of each pair (columns): told right or
not. Pairs of a verification set are not independent, as people and images come back in many; what
may be resampled is people. A draw takes as many identities as there are, with replacement: a same
pair then counts as often as its identity was drawn, a different pair as often as the two of its
identities together, the product of their numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facepack.evaluate.protocols.pair_metrics import ACCURACY_THRESHOLDS, FOLDS, Roc, fold_numbers

_FEWEST_SEEDS = 3  # below, nothing is known of how runs differ
_BLOCK = 100  # draws computed at once: 100 × 6,000 pairs are 5 MB


def right_by_pair(distances: np.ndarray, issame: np.ndarray) -> np.ndarray:
    """Whether the ten-fold protocol tells each pair right: (P,) bool.

    Each fold is judged at the first of 0, 0.01, … below 4 that tells most pairs of the nine others
    right: the mean over a fold is that of ``accuracy_by_fold`` in
    ``facepack.evaluate.protocols.pair_metrics``.

    Args:
        distances: (P,) squared L2 distances.
        issame: (P,) bool.
    """
    folds = fold_numbers(len(distances))
    right = (distances < ACCURACY_THRESHOLDS[:, None]) == issame
    by_fold = np.stack([right[:, folds == fold].sum(axis=1) for fold in range(FOLDS)])
    chosen = (by_fold.sum(axis=0) - by_fold).argmax(axis=1)
    return right[chosen[folds], np.arange(len(distances))]


def accepted_at_far(distances: np.ndarray, issame: np.ndarray, far: float) -> np.ndarray:
    """Which same pairs are accepted at the largest threshold whose FAR is at most ``far``.

    Returns bool (S,), S the number of same pairs; its mean is :meth:`Roc.tar_at`'s.
    """
    tar = Roc.from_pairs(distances, issame).tar_at(far)
    same = distances[issame]
    accepted = np.zeros(len(same), bool)
    accepted[np.argsort(same, kind="stable")[: round(tar * len(same))]] = True
    return accepted


def pair_weights(counts: np.ndarray, members: np.ndarray, issame: np.ndarray) -> np.ndarray:
    """How often each pair counts in each draw: (B, P).

    Args:
        counts: (B, G) how often each identity was drawn.
        members: (P, 2) the identities of a pair's two images.
        issame: (P,) bool.
    """
    first, second = members.T
    return counts[:, first] * np.where(issame, 1, counts[:, second])


def balanced_mean(values: np.ndarray, weights: np.ndarray, issame: np.ndarray) -> np.ndarray:
    """The weighted mean over same pairs and that over different pairs, averaged: (B,).

    Halving them so keeps a draw from shifting the mix of the two kinds; with as many of each, and
    every weight 1, it is the plain mean. A kind that is absent is left out; a draw that has none of
    its pairs, as happens among few people, gives NaN.

    Args:
        values: (B, P) or (P,).
        weights: (B, P).
        issame: (P,) bool.
    """
    weighted = values * weights
    with np.errstate(invalid="ignore"):
        means = [
            weighted[:, kind].sum(axis=1) / weights[:, kind].sum(axis=1)
            for kind in (issame, ~issame)
            if kind.any()
        ]
    return np.mean(means, axis=0)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """First arm minus second, as a share of one, with 95 % intervals."""

    mean: float
    """Over pairs and seeds."""
    by_seed: tuple[float, ...]
    """Over pairs, a seed each."""
    identities: tuple[float, float]
    """Interval for other people, the training runs being as they are."""
    both: tuple[float, float]
    """Interval for other people and other seeds, both resampled."""

    @property
    def is_clear(self) -> bool:
        """Whether it may be claimed.

        It takes three seeds, a point at least, and a wider interval that leaves out zero.
        """
        low, high = self.both
        enough = len(self.by_seed) >= _FEWEST_SEEDS
        return enough and abs(self.mean) >= 0.01 and (low > 0 or high < 0)


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    *,
    members: np.ndarray,
    issame: np.ndarray,
    draws: int = 2000,
    seed: int = 0,
) -> Difference:
    """Compare two arms whose rows are paired: the same seeds, the same pairs.

    Identities and seeds are drawn independently of each other (Owen's pigeonhole bootstrap, 2007,
    of crossed factors). With few seeds their share of the spread comes out short by (n − 1)/n.

    Args:
        first, second: (S, P) bool: what S runs made of P pairs.
        members: (P, 2) int64 identities of each pair's images, from 0.
        issame: (P,) bool.
        draws: of the bootstrap.
        seed: of the draws.
    """
    gain = first.astype(np.float64) - second.astype(np.float64)
    seeds, people = len(gain), int(members.max()) + 1
    random = np.random.default_rng(seed)
    other_people, other_both = [], []
    for start in range(0, draws, _BLOCK):
        size = min(_BLOCK, draws - start)
        counts = random.multinomial(people, np.full(people, 1 / people), size=size)
        weights = pair_weights(counts, members, issame)
        other_people.append(balanced_mean(gain.mean(axis=0), weights, issame))
        drawn = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=size) / seeds
        other_both.append(balanced_mean(drawn @ gain, weights, issame))
    once = np.ones_like(gain)
    by_seed = balanced_mean(gain, once, issame)
    return Difference(
        mean=float(by_seed.mean()),
        by_seed=tuple(by_seed.tolist()),
        identities=_interval(np.concatenate(other_people)),
        both=_interval(np.concatenate(other_both)),
    )


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)
