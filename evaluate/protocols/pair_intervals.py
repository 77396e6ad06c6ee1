"""Confidence intervals of pair sets: a bootstrap over the people that pairs share.

A different pair is of two people, and each of them is in other pairs, too: pairs are no independent
trials. What is drawn again, with replacement, are people: one drawn a times has each of his same
pairs a times, and with one drawn b times each different pair a·b times (the vertex bootstrap of
Snijders and Borgatti, "Non-parametric standard errors and tests for network statistics",
Connections 22(2), 1999). Curves are drawn anew of each replicate, so that thresholds move with the
impostors. Verification sets name nobody: images are of one person where same pairs join them.
"""

from __future__ import annotations

import numpy as np

from facepack.evaluate.protocols.pair_metrics import Roc
from facepack.evaluate.results.pair_result import TAR_FARS
from facepack.evaluate.scores.intervals import LEVEL, join_people, percentile_interval
from facepack.evaluate.scores.operating_point import far_text

NOTICE = (
    f"intervals of TAR, AUC and EER hold {LEVEL:.0%}: a bootstrap over people, thresholds drawn "
    "with them; images are of one person where same pairs join them"
)

_MOST, _FEWEST = 1000, 200  # replicates
_WORK = 200_000_000  # pairs of all replicates, beyond which they are fewer


def pair_intervals(
    distances: np.ndarray,
    issame: np.ndarray,
    pairs: np.ndarray,
    *,
    seed: int = 0,
    replicates: int | None = None,
) -> dict[str, tuple[float, float]]:
    """The intervals of TAR at each FAR, AUC and EER, by the figures' names.

    Of squared L2 distances (P,), ``issame`` (P,) bool, not all alike, and pairs (P, 2) int64,
    positions of images or templates. Replicates without a same or a different pair define nothing
    and are left out; there are no intervals of one person's images.

    People are drawn again ``replicates`` times; None takes 1,000, of long lists fewer.
    """
    people = join_people(pairs[issame], int(pairs.max()) + 1)
    known, met, whose = np.unique(people[pairs].ravel(), return_index=True, return_inverse=True)
    if len(known) < 2:
        return {}
    whose = np.argsort(np.argsort(met))[whose]  # as pairs come: positions differ from pack to .bin
    order = np.argsort(distances, kind="stable")
    distances, issame = distances[order], issame[order]
    first, second = whose.reshape(-1, 2)[order].T
    of_one = first == second
    if replicates is None:
        replicates = min(_MOST, max(_FEWEST, _WORK // len(distances)))
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(replicates):
        drawn = np.bincount(rng.integers(0, len(known), len(known)), minlength=len(known))
        times = drawn[first] * np.where(of_one, 1, drawn[second])
        if not times[issame].any() or not times[~issame].any():
            continue
        roc = Roc.from_pairs(distances, issame, times)
        for name, value in {
            **{f"TAR@{far_text(far)}": roc.tar_at(far) for far in TAR_FARS},
            "AUC": roc.auc(),
            "EER": roc.eer(),
        }.items():
            found.setdefault(name, []).append(value)
    return {name: percentile_interval(np.array(values)) for name, values in found.items()}
