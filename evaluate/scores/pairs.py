"""Scores of pairs that a list names, by products of tiles where the list is dense enough."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from facepack.evaluate.scores.unit_rows import CHUNK, filled
from facepack.train.precision import float32_products

# A score of a tile costs a fiftieth of one whose two rows are fetched from memory for it alone.
_SCORES_A_PAIR = 48
_TILE = 1 << 22  # scores, 16 MiB
_PAIRS = 1 << 14  # whose rows are fetched together
_LOOKED_UP = 1 << 20


def pair_scores(units: Tensor, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The dot product of each pair's rows of ``units``, float32 (n, F): float32 (P,).

    Lists of templates name a good part of all pairs of some rows with some others; then the product
    of these is computed in tiles, and what the list names is picked out. Which way is taken follows
    from the list alone, and so does every score. ``first`` and ``second`` (P,) are the rows.
    """
    scores = np.empty(len(first), np.float32)
    if not len(first):
        return scores
    left, left_of = _used(first, len(units))
    right, right_of = _used(second, len(units))
    with torch.inference_mode(), float32_products(tf32=False):
        if len(left) * len(right) > _SCORES_A_PAIR * len(first):
            _fetch(scores, units, first, second)
        else:
            _pick(scores, units, (left, right), (left_of, right_of), (first, second))
    return scores


def _used(rows: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows, ascending, and a table (n,) of each row's place among them."""
    used = np.zeros(n, bool)
    used[rows] = True
    return np.flatnonzero(used), used.cumsum(dtype=np.int32) - np.int32(1)


def _fetch(scores: np.ndarray, units: Tensor, first: np.ndarray, second: np.ndarray) -> None:
    for start in range(0, len(scores), _PAIRS):
        some = slice(start, start + _PAIRS)
        left, right = (units[torch.from_numpy(rows[some]).long()] for rows in (first, second))
        scores[some] = (left * right).sum(1).numpy()


def _pick(
    scores: np.ndarray,
    units: Tensor,
    used: tuple[np.ndarray, np.ndarray],
    place_of: tuple[np.ndarray, np.ndarray],
    pairs: tuple[np.ndarray, np.ndarray],
) -> None:
    columns = filled(units[torch.from_numpy(used[1])])
    height = max(_TILE // len(columns) // CHUNK, 1) * CHUNK
    # Which tile a pair is in: a byte or two are compared quicker than four.
    kind = np.min_scalar_type(len(used[0]) // height)
    tile_of = look_up((place_of[0] // height).astype(kind), pairs[0])
    for tile, start in enumerate(range(0, len(used[0]), height)):
        rows = filled(units[torch.from_numpy(used[0][start : start + height])])
        product = torch.mm(rows, columns.T).numpy()
        those = np.flatnonzero(tile_of == tile)
        row, column = (table[side[those]] for table, side in zip(place_of, pairs, strict=True))
        row -= np.int32(start)
        scores[those] = product[row, column]


def look_up(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """``table[index]`` of a long index, without the copy in int64 that NumPy makes of all of it."""
    found = np.empty(len(index), table.dtype)
    for start in range(0, len(index), _LOOKED_UP):
        some = slice(start, start + _LOOKED_UP)
        found[some] = table[index[some]]
    return found
