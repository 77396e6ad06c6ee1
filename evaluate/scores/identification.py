"""Ranks: how many wrong entries of a gallery score at least as much as a probe's mate.

The rank of a mate is 1 + the number of wrong gallery entries whose score is at least its own: a tie
counts against the probe, and no order of a list has a say. What is wrong are entries of other
people; other mates neither help nor harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from facepack.evaluate.scores.collectors import BestImpostors
from facepack.evaluate.scores.matching import Collector, Matching, MateScores
from facepack.evaluate.scores.wrong_above import WrongAbove


@dataclass(frozen=True, kw_only=True, eq=False)
class Searches:
    """Searches of a gallery; probes and gallery entries are positions in the embeddings given."""

    probes: np.ndarray  # int64 (s,), the probe of each search
    mates: np.ndarray  # int64 (s,), the mate that it looks for; of a probe's best mates the first
    ranks: np.ndarray  # int64 (s,), from 1
    scores: np.ndarray  # float32 (s,), the mate's
    # float32 (P,), of *each* probe the score of the best wrong entry; -inf where the gallery has
    # none
    best_wrong: np.ndarray
    best_wrong_entry: np.ndarray  # int64 (P,), that entry; -1 where there is none

    def share(self, k: int) -> float | None:
        """The share of searches whose mate has rank ``k`` or better; None without searches."""
        return float(np.mean(self.ranks <= k)) if len(self.ranks) else None

    def cmc(self) -> tuple[np.ndarray, np.ndarray]:
        """The cumulative match characteristic where it rises: ranks (V,), and shares (V,)."""
        ranks, counts = np.unique(self.ranks, return_counts=True)
        return ranks, counts.cumsum() / max(len(self.ranks), 1)


class Identification:
    """Collects ranks in a pass over the impostors, alone or beside what else is collected.

    Not of a set with itself, of which only one half is computed. ``each_mate`` is a search for
    every mate of every probe, as MegaFace has it, and not only for the best one.
    """

    def __init__(self, matching: Matching, *, each_mate: bool = False) -> None:
        if matching.is_of_one_set:
            raise ValueError("ranks need probes and a gallery, not a set with itself")
        self._matching = matching
        units = matching.first.units
        empty = torch.empty(0, dtype=torch.int64, device=units.device)
        found = [MateScores(empty, empty, units.new_empty(0))]
        for some in matching.mates():
            if matching.mates_within:  # each pair once: either one searches for the other
                both = MateScores(
                    *map(torch.cat, zip(some, (some[1], some[0], some[2]), strict=True))
                )
                found.append(both)
            else:
                found.append(some if each_mate else _best_of_rows(some))
        mates = MateScores(*map(torch.cat, zip(*found, strict=True)))
        self._mates = _in_order(mates) if each_mate else _best_of_rows(mates)
        self._wrong = WrongAbove(self._mates.rows, self._mates.scores, len(matching.first))
        self._best = BestImpostors(len(matching.first))

    @property
    def collectors(self) -> Sequence[Collector]:
        """What must see every tile before :meth:`searches`."""
        return self._wrong, self._best

    def searches(self) -> Searches:
        """What was found, once the pass is over."""
        matching = self._matching
        own = matching.first if matching.mates_within else matching.second
        scores, columns = self._best.best()
        best_wrong = np.empty_like(scores)
        best_wrong[matching.first.order] = scores
        best_wrong_entry = np.empty_like(columns)
        best_wrong_entry[matching.first.order] = np.where(
            columns < 0, -1, matching.second.order[columns]
        )
        return Searches(
            probes=matching.first.order[self._mates.rows.cpu().numpy()],
            mates=own.order[self._mates.columns.cpu().numpy()],
            ranks=1 + self._wrong.counts(),
            scores=self._mates.scores.cpu().numpy(),
            best_wrong=best_wrong,
            best_wrong_entry=best_wrong_entry,
        )


def _in_order(mates: MateScores) -> MateScores:
    """By row, then falling score, then column."""
    order = torch.argsort(mates.columns, stable=True)
    order = order[torch.argsort(mates.scores[order], descending=True, stable=True)]
    order = order[torch.argsort(mates.rows[order], stable=True)]
    return MateScores(*(part[order] for part in mates))


def _best_of_rows(mates: MateScores) -> MateScores:
    """Each row's best mate; of equal ones the first."""
    mates = _in_order(mates)
    first = torch.ones_like(mates.rows, dtype=torch.bool)
    first[1:] = mates.rows[1:] != mates.rows[:-1]
    return MateScores(*(part[first] for part in mates))


def identify(matching: Matching, *, each_mate: bool = False) -> Searches:
    """Search the gallery for every probe's best mate, or for each: see :class:`Identification`."""
    identification = Identification(matching, each_mate=each_mate)
    matching.scan(identification.collectors)
    return identification.searches()
