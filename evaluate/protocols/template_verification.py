"""1:1: TAR at FAR of listed pairs of templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from facepack.evaluate.protocols.findings import hard_pairs, hardest_rows
from facepack.evaluate.results.curves import roc_and_det, score_histogram
from facepack.evaluate.results.result import Curve, Figure, HardPair, Histogram
from facepack.evaluate.scores.collectors import Histogram as ScoreBins
from facepack.evaluate.scores.intervals import (
    bootstrap_interval,
    count_by_identity,
    join_people,
)
from facepack.evaluate.scores.listed import READINGS
from facepack.evaluate.scores.operating_point import OperatingPoint, far_text, unmeasurable
from facepack.evaluate.scores.pairs import pair_scores
from facepack.evaluate.scores.pooling import Templates

FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)

_BELOW_ONE = {
    "exact": "without a false accept",
    "published": "of the nearest point, with a false accept or without",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Verified:
    """The part of a result that the list of pairs gives; empty without one."""

    counts: Mapping[str, int] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    hardest: tuple[HardPair, ...] = ()
    notices: tuple[str, ...] = ()


def verify_templates(
    templates: Templates, pairs: np.ndarray | None, *, roc: str, key: Callable[[int], str]
) -> Verified:
    """Score the pairs, and read TAR off at each FAR as ``roc``, one of :data:`READINGS`, says.

    Pairs (P, 3) are integers: two template ids, and 1 for the same person; None without a list.
    ``key`` is what results call the template of a row.
    """
    if pairs is None:
        return Verified(notices=("there is no list of pairs: 1:1 is left out",))
    first, second = (templates.positions(pairs[:, side]) for side in (0, 1))
    same = pairs[:, 2] == 1
    notices = []
    known = (first >= 0) & (second >= 0)
    if not known.all():
        notices.append(
            f"{np.count_nonzero(~known):,} of {len(known):,} pairs name a template without a "
            "usable image: they are left out"
        )
        first, second, same = first[known], second[known], same[known]
    notices += _odd_pairs(first, second, same)
    scores = pair_scores(templates.units, first, second)
    points = READINGS[roc](scores, same, FARS)
    mates = int(np.count_nonzero(same))
    impostors = len(same) - mates
    if not mates or not impostors:
        notices.append(
            f"{mates:,} pairs are of one person and {impostors:,} of two: TAR needs both and is "
            "undefined"
        )
    elif rare := unmeasurable(FARS, impostors):
        notices.append(
            f"{impostors:,} pairs of two people cannot measure a FAR below {1 / impostors:.1e}: "
            f"{', '.join(f'TAR@{far_text(far)}' for far in rare)} is that {_BELOW_ONE[roc]}"
        )
    hardest = [
        pair
        for kind, rows in hardest_rows(scores, same)
        for pair in hard_pairs(kind, key, first[rows], second[rows], scores[rows])
    ]
    return Verified(
        counts={"pairs": len(scores)},
        figures=_figures(
            points,
            scores[same],
            join_people(np.column_stack([first, second])[same], len(templates.ids))[first[same]],
        ),
        curves=_curves(scores, same) if mates and impostors else {},
        histograms={"scores": score_histogram(scores, same)} if len(scores) else {},
        hardest=tuple(hardest),
        notices=tuple(notices),
    )


def _figures(
    points: Mapping[float, OperatingPoint], mates: np.ndarray, identities: np.ndarray
) -> dict[str, Figure]:
    figures = {}
    for far, point in points.items():
        interval = None
        if point.tar is not None:
            accepted = mates >= point.threshold
            interval = bootstrap_interval(*count_by_identity(accepted, identities))
        figures[f"TAR@{far_text(far)}"] = Figure(value=point.tar, interval=interval)
    return figures


def _odd_pairs(first: np.ndarray, second: np.ndarray, same: np.ndarray) -> list[str]:
    """What a list of pairs should not hold, and is counted as it stands."""
    if not len(first):
        return []
    # One integer a pair and truth, as a list may have 15 million: equal ones stand together then.
    of_pair = np.minimum(first, second) * (max(first.max(), second.max()) + 1)
    ordered = np.sort((of_pair + np.maximum(first, second)) * 2 + same)
    again = ordered[1:] == ordered[:-1]
    once = ordered[np.append(True, ~again)]
    notices = []
    if again.any():
        notices.append(
            f"{np.count_nonzero(again):,} pairs are listed again: each counts as often as listed"
        )
    if both := np.count_nonzero(once[1:] // 2 == once[:-1] // 2):
        notices.append(
            f"{both:,} pairs are listed as of one person and of two: fetch the list again"
        )
    return notices


def _curves(scores: np.ndarray, same: np.ndarray) -> dict[str, Curve]:
    """ROC and DET at the edges of 65,536 bins, where both are exact."""
    shares = []
    for kind in (~same, same):
        bins = ScoreBins()
        bins.add(torch.from_numpy(scores[kind]))
        counts = bins.counts[::-1]
        shares.append(np.append(0, counts.cumsum() / counts.sum()))
    return roc_and_det(*shares)
