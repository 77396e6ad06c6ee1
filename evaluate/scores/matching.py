"""All comparisons of two sets, or of one with itself, tile by tile.

A score is the dot product of two unit rows, computed once, in float32, by one library: products of
tiles give a pair of rows the same value in every tile that is large enough (12 × 12 with MKL), so
tiles are filled up with rows of zeros to whole chunks, and no score depends on the size of a block.
Scores of mates, which are few, are computed apart from those of impostors, which are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from facepack.errors import EvaluationError
from facepack.evaluate.scores.unit_rows import CHUNK, UnitRows, filled
from facepack.train.precision import float32_products
from facepack.train.ranks.group import ALONE, Ranks

_BLOCK = {"cpu": 2048, "cuda": 16_384}  # rows and columns of a tile: 16 MiB, and 1 GiB
_MATE_ROWS, _MATE_COLUMNS = 256, 4096  # mates lie near a diagonal, which wide tiles would leave


class Tile(NamedTuple):
    """Scores of some rows with some columns, valid until the next tile is asked for."""

    row: int  # which row of the first set scores[0] is
    column: int  # which row of the second set scores[:, 0] is
    # float32 (R, C), both multiples of CHUNK; -inf where there is no impostor: mates, rows of
    # zeros, and of a set with itself what lies on or below the diagonal
    scores: Tensor
    maxima: Tensor  # (R, C // CHUNK), the largest score of each chunk of a row

    def values_reaching(self, floor: Tensor) -> Tensor:
        """The scores of at least ``floor`` (), in no order."""
        values = self._chunks[self.maxima >= floor]
        return values[values >= floor]

    def reaching(self, floors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Row, column and value of each score of at least ``floors``, () or (R, 1).

        Rows and columns are those of the sets.
        """
        # Only chunks whose maximum gets there are looked at.
        chunk_rows, chunks = torch.nonzero(self.maxima >= floors, as_tuple=True)
        values = self._chunks[chunk_rows, chunks]
        reached = values >= (floors[chunk_rows] if floors.ndim else floors)
        found, within = torch.nonzero(reached, as_tuple=True)
        rows = chunk_rows[found] + self.row
        return rows, chunks[found] * CHUNK + within + self.column, values[found, within]

    @property
    def _chunks(self) -> Tensor:
        return self.scores.view(len(self.scores), -1, CHUNK)


class MateScores(NamedTuple):
    """Some pairs of one person: (m,) rows of the first set, of the second, and their scores."""

    rows: Tensor
    columns: Tensor
    scores: Tensor


class Collector(Protocol):
    """What is learnt from the impostors' scores in one pass over them."""

    def take(self, tile: Tile) -> None:
        """Look at a tile."""

    def merge(self, ranks: Ranks) -> None:
        """Bring together what the ranks have seen; all of them call it after their last tile."""


@dataclass(frozen=True, eq=False)
class Matching:
    """Which rows are compared, and which of these pairs are mates."""

    first: UnitRows  # the probes, or the one set
    # the gallery; the same object as first when a set is compared with itself: each pair of rows
    # once, none with itself
    second: UnitRows
    # mates are the pairs *within* the first set, each once, and every pair of first and second set
    # is one of impostors: probes among each other, against distractors
    mates_within: bool
    block: int  # rows and columns of a tile, a multiple of 64
    ranks: Ranks = ALONE  # the processes that share the tiles

    @classmethod
    def all_to_all(
        cls,
        embeddings: np.ndarray | Tensor,
        labels: np.ndarray,
        *,
        device: torch.device | str = "cpu",
        ranks: Ranks = ALONE,
        block: int | None = None,
    ) -> Matching:
        """Every pair of different rows of one set; rows of one label, from 0 up, are mates.

        Args:
            embeddings: (n, F), not necessarily normalised.
            labels: (n,) integers; below zero: nobody's.
            device: where to compute; the rows take 4 n F bytes there.
            ranks: the processes that share the work, each with all rows.
            block: rows and columns of a tile; None for what suits the device.

        Raises:
            EvaluationError: embeddings and labels do not belong together, or are not finite.
        """
        rows = UnitRows.from_embeddings(embeddings, labels, device=device)
        return cls(rows, rows, True, _block(block, rows.units.device), ranks)

    @classmethod
    def between(
        cls,
        probes: np.ndarray | Tensor,
        probe_labels: np.ndarray,
        gallery: np.ndarray | Tensor,
        gallery_labels: np.ndarray,
        *,
        device: torch.device | str = "cpu",
        ranks: Ranks = ALONE,
        block: int | None = None,
    ) -> Matching:
        """Every probe with every row of the gallery; of one label, from 0 up: mates.

        Arguments and errors are as in :meth:`all_to_all`.
        """
        first = UnitRows.from_embeddings(probes, probe_labels, name="probes", device=device)
        second = UnitRows.from_embeddings(gallery, gallery_labels, name="gallery", device=device)
        _check_width(first, second)
        return cls(first, second, False, _block(block, first.units.device), ranks)

    @classmethod
    def with_distractors(
        cls,
        probes: np.ndarray | Tensor,
        labels: np.ndarray,
        distractors: np.ndarray | Tensor,
        *,
        device: torch.device | str = "cpu",
        block: int | None = None,
    ) -> Matching:
        """Probes of one label are mates of each other; every distractor is an impostor.

        This is MegaFace. Arguments and errors are as in :meth:`all_to_all`.
        """
        first = UnitRows.from_embeddings(probes, labels, name="probes", device=device)
        nobody = np.full(len(distractors), -1)
        second = UnitRows.from_embeddings(distractors, nobody, name="distractors", device=device)
        _check_width(first, second)
        return cls(first, second, True, _block(block, first.units.device))

    @property
    def is_of_one_set(self) -> bool:
        """Whether a set is compared with itself."""
        return self.first is self.second

    @property
    def mate_count(self) -> int:
        """How many pairs are of one person."""
        labels, counts = np.unique(self.first.labels, return_counts=True)
        known = labels >= 0
        if self.mates_within:
            return int((counts * (counts - 1) // 2)[known].sum())
        begin = np.searchsorted(self.second.labels, labels, "left")
        end = np.searchsorted(self.second.labels, labels, "right")
        return int((counts * (end - begin))[known].sum())

    @property
    def impostor_count(self) -> int:
        """How many pairs are of two people."""
        if self.is_of_one_set:
            return len(self.first) * (len(self.first) - 1) // 2 - self.mate_count
        mates = 0 if self.mates_within else self.mate_count
        return len(self.first) * len(self.second) - mates

    def scan(self, collectors: Sequence[Collector]) -> None:
        """Show the impostors' scores of this rank's tiles to ``collectors``; merge the ranks'."""
        with torch.inference_mode(), float32_products(tf32=False):
            for tile in self._tiles():
                for collector in collectors:
                    collector.take(tile)
            for collector in collectors:
                collector.merge(self.ranks)

    def _tiles(self) -> Iterator[Tile]:
        block = self.block
        places = [
            (row, column)
            for row in range(0, len(self.first), block)
            for column in range(row if self.is_of_one_set else 0, len(self.second), block)
        ]
        buffer = torch.empty(block * block, device=self.first.units.device)
        begin, end = self.ranks.share(len(places))
        for row, column in places[begin:end]:
            left = self.first.units[row : row + block]
            right = self.second.units[column : column + block]
            scores = buffer[: len(left) * len(right)].view(len(left), len(right))
            torch.mm(left, right.T, out=scores)
            scores[len(self.first) - row :] = -torch.inf
            scores[:, len(self.second) - column :] = -torch.inf
            self._hide_mates(row, column, scores)
            yield Tile(row, column, scores, scores.view(len(left), -1, CHUNK).amax(2))

    def _hide_mates(self, row: int, column: int, scores: Tensor) -> None:
        """Put -inf where a tile has mates, or a pair of rows that another place has."""
        if self.is_of_one_set and row == column:
            scores.masked_fill_(torch.ones_like(scores, dtype=torch.bool).tril_(), -torch.inf)
        if self.mates_within and not self.is_of_one_set:
            return
        rows = self.first.labels[row : row + len(scores)]
        columns = self.second.labels[column : column + scores.shape[1]]
        if max(rows[0], columns[0], 0) > min(rows[-1], columns[-1]):
            return  # both ascend, and have no label in common
        left, right = (torch.from_numpy(labels).to(scores.device) for labels in (rows, columns))
        same = (left[:, None] == right) & (left[:, None] >= 0)
        scores[: len(left), : len(right)].masked_fill_(same, -torch.inf)

    def mates(self) -> Iterator[MateScores]:
        """Yield the scores of all mates, some at a time; every rank goes through all of them."""
        second = self.first if self.mates_within else self.second
        rows = np.flatnonzero(_has_mate(self.first.labels, second.labels, self.mates_within))
        columns = (
            rows
            if self.mates_within
            else np.flatnonzero(_has_mate(second.labels, self.first.labels, False))
        )
        labels = second.labels[columns]
        for start in range(0, len(rows), _MATE_ROWS):
            some = rows[start : start + _MATE_ROWS]
            begin, end = np.searchsorted(labels, self.first.labels[some[[0, -1]]] + (0, 1))
            begin = max(begin, start) if self.mates_within else begin
            for at in range(begin, end, _MATE_COLUMNS):
                yield self._mates_of(some, second, columns[at : min(at + _MATE_COLUMNS, end)])

    def _mates_of(self, rows: np.ndarray, second: UnitRows, columns: np.ndarray) -> MateScores:
        device = self.first.units.device
        same = self.first.labels[rows][:, None] == second.labels[columns]
        if self.mates_within:
            same &= rows[:, None] < columns
        left, right = (torch.from_numpy(which).to(device) for which in (rows, columns))
        with torch.inference_mode(), float32_products(tf32=False):
            # Whole chunks, and on a GPU always as many of them: its kernels go by shape.
            sizes = (CHUNK, CHUNK) if device.type == "cpu" else (_MATE_ROWS, _MATE_COLUMNS)
            scores = torch.mm(
                filled(self.first.units[left], sizes[0]), filled(second.units[right], sizes[1]).T
            )
            at, to = torch.from_numpy(same).to(device).nonzero(as_tuple=True)
            return MateScores(left[at], right[to], scores[at, to])


def _has_mate(labels: np.ndarray, others: np.ndarray, within: bool) -> np.ndarray:
    """Whether each label, from 0 up, is among ``others``; ``within`` the same set: once more."""
    found = np.searchsorted(others, labels, "right") - np.searchsorted(others, labels, "left")
    has: np.ndarray = (labels >= 0) & (found > within)
    return has


def _block(block: int | None, device: torch.device) -> int:
    if block is None:
        return _BLOCK.get(device.type, _BLOCK["cpu"])
    if block < CHUNK or block % CHUNK:
        raise ValueError(f"a block is a multiple of {CHUNK}; {block} was given")
    return block


def _check_width(first: UnitRows, second: UnitRows) -> None:
    if first.units.shape[1] != second.units.shape[1]:
        raise EvaluationError(
            f"probes have {first.units.shape[1]} features, the gallery {second.units.shape[1]}: "
            "both must come from one model"
        )
