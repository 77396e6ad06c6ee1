"""Confidence intervals: a bootstrap over identities.

Images of one person are no independent trials, so what is drawn again, with replacement, are
identities, each with all of its trials ("subsets bootstrap": Bolle, Ratha and Pankanti, "Error
analysis of pattern recognition systems", CVIU 93(1), 2004). A share is hits over trials; of each
identity the two counts are all that is kept, however many scores there were. Thresholds, and the
gallery that is searched, are held: an interval is that of the share at the threshold found, and
does not tell how the threshold would move with other impostors.
"""

from __future__ import annotations

import numpy as np

LEVEL = 0.95
REPLICATES = 2000
NOTICE = (
    f"intervals hold {LEVEL:.0%}: a bootstrap over identities with {REPLICATES:,} replicates, "
    "thresholds and gallery held"
)


def count_by_identity(hits: np.ndarray, identities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hits and trials of each identity, both int64 (I,), of hits bool (n,), and whose (n,)."""
    _, whose, trials = np.unique(identities, return_inverse=True, return_counts=True)
    return np.bincount(whose, weights=hits, minlength=len(trials)).astype(np.int64), trials


def join_people(pairs: np.ndarray, count: int) -> np.ndarray:
    """Whom each image or template shows, as far as pairs of one person tell: (count,) int64.

    Lists of pairs (m, 2) of positions below ``count`` name no people, but who is whose mate: a
    person is told by the first of all that are mates in a chain.
    """
    people = np.arange(count)
    first, second = pairs.T
    while True:
        lower = np.minimum(people[first], people[second])
        if (lower == people[first]).all() and (lower == people[second]).all():
            return people
        # What stands for a person is joined, not the image alone: chains halve in each round.
        for side in (people[first], people[second]):
            np.minimum.at(people, side, lower)
        people = people[people]


def bootstrap_interval(
    hits: np.ndarray, trials: np.ndarray, *, seed: int = 0, replicates: int = REPLICATES
) -> tuple[float, float] | None:
    """The interval of the share of hits (I,) among trials (I,), both counts of each identity.

    None of fewer than two identities that have a trial.
    """
    shares = bootstrap_shares(hits, trials, seed=seed, replicates=replicates)
    return None if shares is None else percentile_interval(shares)


def bootstrap_shares(
    hits: np.ndarray, trials: np.ndarray, *, seed: int = 0, replicates: int = REPLICATES
) -> np.ndarray | None:
    """The share of hits in each replicate, float64 (replicates,): see :func:`bootstrap_interval`.

    The mean of two shares has the mean of its replicates, drawn with two seeds.
    """
    counts = np.column_stack([hits, trials])[np.asarray(trials) > 0]
    if len(counts) < 2:
        return None
    # Identities of equal counts cannot be told apart: how often each *kind* is drawn is
    # multinomial, so that a replicate costs as much as there are kinds.
    kinds, of_kind = np.unique(counts, axis=0, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(
        len(counts), of_kind / len(counts), size=replicates
    )
    drawn_hits, drawn_trials = (draws @ kinds).T
    shares: np.ndarray = drawn_hits / drawn_trials
    return shares


def percentile_interval(shares: np.ndarray) -> tuple[float, float]:
    """The interval that holds the middle :data:`LEVEL` of the replicates."""
    low, high = np.quantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
