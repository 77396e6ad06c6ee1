"""Rank 1 of all images of one set: is the nearest other image one of the same person?"""

from __future__ import annotations

import numpy as np
import torch

from facepack.evaluate.scores.matching import Matching, Tile
from facepack.train.ranks.group import Ranks


class NearestImages:
    """Of each row of one set the best impostor and the best mate, in the pass that verifies.

    Every image with a mate searches all others for it, itself left out. It is found where no image
    of another person scores at least as much as its best mate: a tie counts against it.
    """

    def __init__(self, matching: Matching) -> None:
        if not matching.is_of_one_set:
            raise ValueError("the nearest images are looked for within one set")
        self._matching = matching
        units = matching.first.units
        self._wrong = units.new_full((len(units),), -torch.inf)

    def take(self, tile: Tile) -> None:
        """Look at a tile: a pair is in one tile alone, and is a search of both its images."""
        rows = self._wrong[tile.row : tile.row + len(tile.scores)]
        torch.maximum(rows, tile.maxima.amax(1), out=rows)
        columns = self._wrong[tile.column : tile.column + tile.scores.shape[1]]
        torch.maximum(columns, tile.scores.amax(0), out=columns)

    def merge(self, ranks: Ranks) -> None:
        """The best of all ranks."""
        ranks.all_reduce(self._wrong, "max")

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        """Which searches found a mate first, bool (s,), and whose they are: labels, int64 (s,)."""
        mates = torch.full_like(self._wrong, -torch.inf)
        for some in self._matching.mates():
            for searching in (some.rows, some.columns):
                mates.scatter_reduce_(0, searching, some.scores, "amax")
        labels = self._matching.first.labels
        best, wrong = (scores[: len(labels)].cpu().numpy() for scores in (mates, self._wrong))
        searched = ~np.isneginf(best)
        return (best > wrong)[searched], labels[searched]
