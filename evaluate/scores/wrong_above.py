"""Counts of wrong entries above mates: ranks of any number of mates a probe, in one pass."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from facepack.evaluate.scores.matching import Tile
from facepack.train.ranks.group import Ranks

_FEW = 1 / 3  # of a tile's chunks: what is in them is searched sooner than rows are sorted


class WrongAbove:
    """For each of many scores, a mate's of some row, how many impostors of that row reach it.

    Of a good model few impostors reach any mate, and each of those is searched among the mates; of
    a poor one most do, and each mate is searched in whole rows that are sorted. ``rows`` (m,) is
    the row of each of ``scores`` (m,) float32, ``length`` the rows of the first set.
    """

    def __init__(self, rows: Tensor, scores: Tensor, length: int) -> None:
        keys = _keys(rows, scores)
        self._order = torch.argsort(keys)
        self._rows, self._scores, self._keys = (part[self._order] for part in (rows, scores, keys))
        padded = -(-length // 64) * 64
        edges = torch.arange(padded + 1, device=rows.device)
        self._firsts = torch.searchsorted(self._rows, edges)  # of each row, and the end
        # A row's lowest score is the one that any counted impostor must reach.
        self._floors = scores.new_full((padded,), torch.inf)
        self._floors.scatter_reduce_(0, rows, scores, "amin")
        # How many impostors reach a score and not the next one, and how many reach a score.
        self._reached = torch.zeros(len(rows) + 1, dtype=torch.int64, device=rows.device)
        self._counts = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)

    def take(self, tile: Tile) -> None:
        """Count, for each score of the tile's rows, the impostors that reach it."""
        stop = tile.row + len(tile.scores)
        floors = self._floors[tile.row : stop, None]
        firsts = self._firsts[tile.row : stop + 1]
        chunks = int(torch.count_nonzero(tile.maxima >= floors))
        if not chunks:
            return
        narrow = int(firsts.diff().max()) <= tile.scores.shape[1]  # or mates would outgrow the tile
        if narrow and chunks > _FEW * tile.maxima.numel():
            self._search_rows(tile, slice(int(firsts[0]), int(firsts[-1])))
            return
        rows, _, values = tile.reaching(floors)
        at = torch.searchsorted(self._keys, _keys(rows, values), right=True)
        self._reached += torch.bincount(at, minlength=len(self._reached))

    def _search_rows(self, tile: Tile, some: slice) -> None:
        """Sort the tile's rows, and search ``some`` of the scores in them."""
        slots = torch.arange(some.start, some.stop, device=self._rows.device)
        slots -= self._firsts[self._rows[some]]
        rows = self._rows[some] - tile.row
        mates = self._scores.new_full((len(tile.scores), int(slots.max()) + 1), torch.inf)
        mates[rows, slots] = self._scores[some]
        below = torch.searchsorted(_sorted_rows(tile.scores), mates)
        self._counts[some] += tile.scores.shape[1] - below[rows, slots]

    def merge(self, ranks: Ranks) -> None:
        """The sum over the ranks."""
        ranks.all_reduce(self._reached)
        ranks.all_reduce(self._counts)

    def counts(self) -> np.ndarray:
        """(m,) int64, in the order that the scores were given in."""
        reached = self._reached[1:].flip(0).cumsum(0).flip(0)
        # What reaches a higher score of the same row reaches this one; other rows' are taken off.
        ends = torch.searchsorted(self._rows, self._rows, right=True)
        reached -= torch.cat([reached, reached.new_zeros(1)])[ends]
        counts = torch.empty_like(self._counts)
        counts[self._order] = self._counts + reached
        return counts.cpu().numpy()


def _sorted_rows(scores: Tensor) -> Tensor:
    if scores.device.type != "cpu":
        return torch.sort(scores, dim=1).values
    # NumPy sorts rows of float32 five times as fast as torch.
    return torch.from_numpy(np.sort(scores.numpy(), axis=1))


def _keys(rows: Tensor, scores: Tensor) -> Tensor:
    """Integers that are ordered as (row, score)."""
    bits = (scores + 0.0).view(torch.int32).long()  # -0.0 is 0.0
    return (rows << 32) + torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
