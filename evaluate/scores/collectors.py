"""What a pass over the impostors' scores may collect, each exactly and in bounded memory."""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor

from facepack.evaluate.scores.matching import Tile
from facepack.train.ranks.group import Ranks

_LEAST_SLACK = 1 << 20  # scores that may pile up above the wanted ones before they are sorted out
_LOWEST = torch.finfo(torch.float32).min  # above the -inf of what is no impostor


class LargestScores:
    """The ``k`` largest scores, by a threshold that rises with what has been seen.

    After a few tiles hardly any score reaches the k-th largest so far, so that looking at the
    maximum of each chunk is nearly all the work.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self._limit = k + max(k, _LEAST_SLACK)
        self._kept: list[Tensor] = []
        self._count = 0
        self._floor = torch.tensor(_LOWEST)

    def take(self, tile: Tile) -> None:
        """Keep what may be among the largest."""
        self._floor = self._floor.to(tile.scores.device)
        if not self._kept and tile.maxima.numel() >= self.k:
            # Maxima are scores, too: the k-th of them is not above the k-th of all.
            least = torch.topk(tile.maxima.view(-1), self.k, sorted=False).values.amin()
            self._floor = torch.maximum(self._floor, least)
        values = tile.values_reaching(self._floor)
        if not len(values):
            return
        self._kept.append(values)
        self._count += len(values)
        if self._count > self._limit:
            self._sort_out()

    def _sort_out(self) -> None:
        largest = _largest(torch.cat(self._kept), self.k)
        self._kept, self._count = [largest], len(largest)
        if len(largest) == self.k:  # an equal score would not change the k-th largest
            self._floor = torch.nextafter(largest.amin(), largest.new_tensor(torch.inf))

    def merge(self, ranks: Ranks) -> None:
        """The largest of all ranks' largest."""
        if self._kept:
            self._sort_out()
        if ranks.world > 1:
            mine = torch.full((self.k,), -torch.inf, device=self._floor.device)
            if self._kept:
                mine[: self._count] = self._kept[0]
            self._kept = [_largest(ranks.all_gather(mine), self.k)]

    def descending(self) -> np.ndarray:
        """The scores, the largest first: float32 (k,), or fewer if there are not so many."""
        if not self._kept:
            return np.empty(0, np.float32)
        values = np.sort(torch.cat(self._kept).cpu().numpy())[::-1]
        return values[: np.searchsorted(-values, np.inf)]


def _largest(values: Tensor, k: int) -> Tensor:
    if len(values) <= k:
        return values
    if values.device.type != "cpu":
        return torch.topk(values, k, sorted=False).values
    # torch.topk on the CPU takes twice the time and three times the memory: it tells indices too.
    array = values.numpy()
    array.partition(len(array) - k)
    return torch.from_numpy(array[len(array) - k :].copy())


class HardestPairs:
    """The ``k`` impostors of the largest scores, each with its rows; ties by row, then column.

    Of a second set that comes in blocks, ``begin`` is where the next one begins.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self.begin = 0
        self.rows = np.empty(0, np.int64)
        self.columns = np.empty(0, np.int64)
        self.scores = np.empty(0, np.float32)

    def take(self, tile: Tile) -> None:
        """Keep what is among the largest so far."""
        rows, columns, scores = tile.reaching(tile.scores.new_tensor(self._floor))
        self.add(rows, columns + self.begin, scores)

    @property
    def _floor(self) -> float:
        return float(self.scores[-1]) if len(self.scores) == self.k else _LOWEST

    def add(self, rows: Tensor, columns: Tensor, scores: Tensor) -> None:
        """Keep what of some pairs is among the largest so far."""
        if len(scores) > self.k:  # ties with the least of them are kept, and told apart below
            least = torch.topk(scores, self.k).values[-1]
            hard = scores >= least
            rows, columns, scores = rows[hard], columns[hard], scores[hard]
        if len(scores):
            self._keep(*(part.cpu().numpy() for part in (rows, columns, scores)))

    def _keep(self, rows: np.ndarray, columns: np.ndarray, scores: np.ndarray) -> None:
        rows = np.append(self.rows, rows)
        columns = np.append(self.columns, columns)
        scores = np.append(self.scores, scores)
        best = np.lexsort((columns, rows, -scores))[: self.k]
        self.rows, self.columns, self.scores = rows[best], columns[best], scores[best]

    def merge(self, ranks: Ranks) -> None:
        """The largest of all ranks."""
        if ranks.world == 1:
            return
        mine = torch.full((self.k, 3), -torch.inf, dtype=torch.float64)
        mine[: len(self.rows)] = torch.from_numpy(
            np.column_stack([self.rows, self.columns, self.scores]).astype(np.float64)
        )
        found = ranks.all_gather(mine).numpy()
        found = found[np.isfinite(found[:, 2])]
        self.rows, self.columns = np.empty((2, 0), np.int64)
        self.scores = np.empty(0, np.float32)
        rows, columns = found[:, :2].T.astype(np.int64)
        self._keep(rows, columns, found[:, 2].astype(np.float32))


_HIGH = 1 if sys.byteorder == "little" else 0  # the half of a float32 that holds sign and exponent


class Histogram:
    """How many scores there are in each of 65,536 bins: those whose upper 16 bits are alike.

    Bins are exact, ordered, and finer the smaller the score (2⁻¹⁰ wide at 0.2, 2⁻⁸ at the widest),
    so each edge is a vertex of the ROC. Within one bin, ``prefix``, the lower 16 bits make a second
    histogram, that of single values: the two select any score of any number of them by its rank.
    """

    BINS = 1 << 16

    def __init__(self, prefix: int | None = None) -> None:
        self._prefix = prefix
        self._counts = np.zeros(self.BINS, np.int64)

    def take(self, tile: Tile) -> None:
        """Count a tile."""
        self.add(tile.scores)

    def add(self, scores: Tensor) -> None:
        """Count scores, of any shape; -inf is none."""
        halves = (scores.reshape(-1) + 0.0).view(torch.int16)  # -0.0 becomes 0.0, which it equals
        counted, low = halves[_HIGH::2], halves[1 - _HIGH :: 2]
        if self._prefix is not None:
            counted = low[counted == int(_bits(self._prefix).astype(np.int16))]
        counts = torch.bincount(counted.long() & 0xFFFF, minlength=self.BINS)
        self._counts += counts.cpu().numpy()

    def merge(self, ranks: Ranks) -> None:
        """The sum over the ranks."""
        self._counts = ranks.all_reduce(torch.from_numpy(self._counts)).numpy()

    @property
    def counts(self) -> np.ndarray:
        """int64 (65536,): scores in each bin, the lowest bin first."""
        if self._prefix is None:
            counts = self._counts[_ORDER]
            counts[_bin_of(-np.inf)] = 0
            return counts
        return self._counts if self._prefix >= self.BINS // 2 else self._counts[::-1]

    @classmethod
    def lowest_of(cls, which: np.ndarray) -> np.ndarray:
        """The lowest float32 of each bin in ``which``; NaN for bins of no number."""
        bits = _bits(np.asarray(which)).astype(np.uint32) << 16
        return (bits | np.where(bits >> 31, 0xFFFF, 0).astype(np.uint32)).view(np.float32)

    def value_of(self, which: int) -> np.float32:
        """The one score of the bin ``which`` within the prefix."""
        assert self._prefix is not None
        low = which if self._prefix >= self.BINS // 2 else self.BINS - 1 - which
        return (np.uint32(_bits(self._prefix)) << 16 | np.uint32(low)).view(np.float32)


def _bits(which: np.ndarray | int) -> np.ndarray:
    """The upper 16 bits of the scores of a bin: negative floats are ordered backwards."""
    half = Histogram.BINS // 2
    return np.where(np.asarray(which) >= half, np.asarray(which) - half, 0xFFFF - np.asarray(which))


_ORDER = _bits(np.arange(Histogram.BINS))


def _bin_of(score: float) -> int:
    bits = int(np.float32(score).view(np.uint32)) >> 16
    return bits + Histogram.BINS // 2 if bits < Histogram.BINS // 2 else 0xFFFF - bits


class BestImpostors:
    """Of each row of the first set the best impostor: its score and, at a tie, the first column."""

    def __init__(self, length: int) -> None:
        self._scores = torch.full((-(-length // 64) * 64,), -torch.inf)
        self._columns = torch.full((len(self._scores),), -1)
        self._length = length

    def take(self, tile: Tile) -> None:
        """Look at a tile, whose columns lie behind those seen before."""
        if self._scores.device != tile.scores.device:
            self._scores = self._scores.to(tile.scores.device)
            self._columns = self._columns.to(tile.scores.device)
        rows = slice(tile.row, tile.row + len(tile.scores))
        best = tile.maxima.amax(1)
        better = torch.nonzero(best > self._scores[rows]).view(-1)
        if len(better):
            self._columns[rows][better] = tile.scores[better].argmax(1) + tile.column
            self._scores[rows][better] = best[better]

    def merge(self, ranks: Ranks) -> None:
        """The best of all ranks, at a tie the first column."""
        if ranks.world == 1:
            return
        scores = ranks.all_gather(self._scores[None])
        columns = ranks.all_gather(self._columns[None])
        self._scores = scores.amax(0)
        last = torch.iinfo(torch.int64).max
        first = torch.where(scores == self._scores, columns, last).amin(0)
        self._columns = torch.where(torch.isneginf(self._scores), -1, first)

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) float32 scores, -inf where a row has no impostor, and (n,) int64 columns, -1 there.

        Columns are rows of the second set.
        """
        n = self._length
        return self._scores[:n].cpu().numpy(), self._columns[:n].cpu().numpy()
