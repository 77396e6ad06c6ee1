"""Exact TAR at FAR of all comparisons of one set or two, never a matrix of scores.

The TAR at a FAR f is the largest that any threshold gives whose FAR is at most f. With m the most
impostors that may then be accepted and s the (m + 1)-th largest of their scores, it is the share of
mates that score more than s: pairs of equal score are accepted together or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from facepack.evaluate.scores.collectors import HardestPairs, Histogram, LargestScores
from facepack.evaluate.scores.matching import Collector, Matching, MateScores
from facepack.evaluate.scores.operating_point import (
    OperatingPoint,
    most_false_accepts,
    threshold_above,
)

_MOST_KEPT = 1 << 25  # scores; a FAR that would need more of them is found by a second pass


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredPairs:
    """Pairs that deserve a look, the hardest first.

    ``first`` and ``second`` (k,) int64 are positions in the embeddings as they were given, of a
    set with itself the smaller one first; ``scores`` is float32 (k,).
    """

    first: np.ndarray
    second: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreCurve:
    """Exact counts at many thresholds: a ROC, and histograms."""

    edges: np.ndarray  # float32 (V,), ascending: the lowest score of each bin that holds any
    # int64 (V,), impostors in each bin, whose upper edge is the next one's lowest
    impostors: np.ndarray
    mates: np.ndarray  # int64 (V,)

    def roc(self) -> tuple[np.ndarray, np.ndarray]:
        """FAR and TAR, float64 (V,), where scores of at least each edge are accepted."""
        with np.errstate(invalid="ignore"):
            far, tar = (
                counts[::-1].cumsum()[::-1] / counts.sum()
                for counts in (self.impostors, self.mates)
            )
        return far, tar


@dataclass(frozen=True, kw_only=True, eq=False)
class IdentityCounts:
    """Mates by whose they are: what a bootstrap over identities needs."""

    labels: np.ndarray  # int64 (I,), ascending: those that have mates
    mates: np.ndarray  # int64 (I,), pairs of each
    accepted: dict[float, np.ndarray]  # FAR → int64 (I,), those accepted at its point


@dataclass(frozen=True, kw_only=True, eq=False)
class Verification:
    """How well scores tell mates from impostors."""

    mates: int
    impostors: int
    points: dict[float, OperatingPoint]
    """FAR asked for → the exact point."""
    hardest_impostors: ScoredPairs
    hardest_mates: ScoredPairs
    by_identity: IdentityCounts
    curve: ScoreCurve | None


def verify(
    matching: Matching,
    fars: Sequence[float],
    *,
    hardest: int = 0,
    curve: bool = False,
    also: Sequence[Collector] = (),
) -> Verification:
    """Exact TAR at each of ``fars``, in one pass (two where more than 33 M accepts are allowed).

    Memory is that of the embeddings, a tile, and 8 to 24 bytes for each false accept that the
    largest FAR allows.

    Of several ranks all call this.

    Args:
        fars: shares of one.
        hardest: how many of the best impostors and of the worst mates to tell.
        curve: whether to count all scores, too: half the speed.
        also: collectors that look at the same pass.
    """
    impostors = matching.impostor_count
    allowed = {far: most_false_accepts(far, impostors) for far in fars}
    searched = sorted({count for count in allowed.values() if count < impostors})
    few = [count for count in searched if count < _MOST_KEPT]
    many = searched[len(few) :]
    largest, histogram = LargestScores(few[-1] + 1 if few else 1), Histogram()
    best_impostors = HardestPairs(hardest)
    collectors: list[Collector] = [largest, *also]
    if hardest:
        collectors.append(best_impostors)
    if curve or many:
        collectors.append(histogram)
    matching.scan(collectors)
    kept = largest.descending()
    limits = {count: _limit_among(kept, count) for count in few}
    limits |= _limits_in(histogram, many, matching)
    seen = _Mates(matching, {limit.score for limit in limits.values()}, hardest, curve)
    for mates in matching.mates():
        seen.add(mates)
    points, accepted = {}, {}
    for far, count in allowed.items():
        limit = limits.get(count)
        if limit is None:  # every impostor may be accepted, or there is none
            threshold, false_accepts = -np.inf if impostors else None, impostors
            accepted[far] = seen.of_identity
        else:
            threshold, false_accepts = threshold_above(limit.score), limit.above
            accepted[far] = seen.above[limit.score]
        points[far] = OperatingPoint.exact(
            far,
            threshold=threshold,
            accepts=(false_accepts, int(accepted[far].sum())),
            of=(impostors, matching.mate_count),
        )
    return Verification(
        mates=matching.mate_count,
        impostors=impostors,
        points=points,
        hardest_impostors=_as_given(best_impostors, matching, mates=False),
        hardest_mates=_as_given(seen.worst, matching, mates=True),
        by_identity=seen.counts(accepted),
        curve=_curve(histogram, seen.histogram) if curve else None,
    )


class _Limit(NamedTuple):
    """The largest score that must not be accepted, and how many impostors score more."""

    score: float
    above: int


def _limit_among(descending: np.ndarray, count: int) -> _Limit:
    score = descending[count]
    return _Limit(float(score), int(np.searchsorted(-descending, -score)))


def _limits_in(
    histogram: Histogram, counts: Sequence[int], matching: Matching
) -> dict[int, _Limit]:
    """Limits by two histograms, of the scores' upper 16 bits and, of one bin, of the lower."""
    places = {count: _place(histogram.counts, count) for count in counts}
    within = {prefix: Histogram(prefix) for prefix, _ in places.values()}
    if within:
        matching.scan(list(within.values()))
    limits = {}
    for count, (prefix, above) in places.items():
        which, more = _place(within[prefix].counts, count - above)
        limits[count] = _Limit(float(within[prefix].value_of(which)), above + more)
    return limits


def _place(counts: np.ndarray, rank: int) -> tuple[int, int]:
    """The bin of the (rank + 1)-th largest, and how many lie in higher bins."""
    reaching = counts[::-1].cumsum()
    step = int(np.searchsorted(reaching, rank, side="right"))
    return len(counts) - 1 - step, int(reaching[step] - counts[::-1][step])


class _Mates:
    """What is wanted of the mates, once the limits are known."""

    def __init__(
        self, matching: Matching, limits: Iterable[float], hardest: int, curve: bool
    ) -> None:
        self._labels, self._identities = np.unique(matching.first.labels, return_inverse=True)
        self.of_identity = np.zeros(len(self._labels), np.int64)
        self.above = {limit: np.zeros(len(self._labels), np.int64) for limit in limits}
        self.worst = HardestPairs(hardest)
        self.histogram = Histogram() if curve else None

    def add(self, mates: MateScores) -> None:
        identities = self._identities[mates.rows.cpu().numpy()]
        scores = mates.scores.cpu().numpy()
        # Rows are sorted by identity: a few neighbours are all that some mates are of.
        begin, end = identities[[0, -1]] + (0, 1) if len(identities) else (0, 0)
        whose = identities - begin
        self.of_identity[begin:end] += np.bincount(whose, minlength=end - begin)
        for limit, counts in self.above.items():
            counts[begin:end] += np.bincount(whose[scores > limit], minlength=end - begin)
        if self.worst.k:
            self.worst.add(mates.rows, mates.columns, -mates.scores)
        if self.histogram is not None:
            self.histogram.add(mates.scores)

    def counts(self, accepted: dict[float, np.ndarray]) -> IdentityCounts:
        having = self.of_identity > 0
        return IdentityCounts(
            labels=self._labels[having],
            mates=self.of_identity[having],
            accepted={far: counts[having] for far, counts in accepted.items()},
        )


def _as_given(pairs: HardestPairs, matching: Matching, *, mates: bool) -> ScoredPairs:
    second = matching.first if mates and matching.mates_within else matching.second
    places = matching.first.order[pairs.rows], second.order[pairs.columns]
    if second is matching.first:
        places = np.minimum(*places), np.maximum(*places)
    return ScoredPairs(
        first=places[0], second=places[1], scores=-pairs.scores if mates else pairs.scores
    )


def _curve(impostors: Histogram, mates: Histogram | None) -> ScoreCurve:
    assert mates is not None
    filled = np.flatnonzero(impostors.counts + mates.counts)
    return ScoreCurve(
        edges=Histogram.lowest_of(filled),
        impostors=impostors.counts[filled],
        mates=mates.counts[filled],
    )
