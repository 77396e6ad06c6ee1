"""People by their embeddings: who look alike, whose images look like two, who is elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from facepack.evaluate.scores.collectors import BestImpostors, HardestPairs
from facepack.evaluate.scores.matching import Matching

_ROWS = 16_384  # embeddings that are normalised together
_MOST_IMAGES = 512  # of an identity, that are compared with each other
_STEPS = 20  # of 2-means


@dataclass(frozen=True, kw_only=True, eq=False)
class Means:
    """The mean of the unit embeddings of each identity that has images."""

    labels: np.ndarray  # int64 (I,), ascending
    images: np.ndarray  # int64 (I,), how many each has
    rows: np.ndarray  # float32 (I, F), not normalised


def identity_means(rows: np.ndarray, labels: np.ndarray) -> Means:
    """Of embeddings (n, F), perhaps mapped, and labels int64 (n,).

    Embeddings that are not finite, and images without a label, are left out.
    """
    present, counts = np.unique(labels[labels >= 0], return_counts=True)
    sums = np.zeros((len(present), rows.shape[1]), np.float32)
    lost = np.zeros(len(present), np.int64)
    for start in range(0, len(rows), _ROWS):
        part = labels[start : start + _ROWS]
        units = _units(rows[start : start + _ROWS])
        finite = np.isfinite(units).all(1) & (part >= 0)
        np.add.at(sums, np.searchsorted(present, part[finite]), units[finite])
        np.add.at(lost, np.searchsorted(present, part[~finite & (part >= 0)]), 1)
    images = counts - lost
    has = images > 0
    return Means(
        labels=present[has], images=images[has], rows=sums[has] / images[has, None].astype("f4")
    )


def _units(rows: np.ndarray) -> np.ndarray:
    wide = np.float32(rows)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    found: np.ndarray = wide / np.where(norms == 0, 1, norms)
    return found


class Alike(NamedTuple):
    """Two identities and the cosine of their means."""

    first: int
    second: int
    cosine: float


def find_alike(means: Means, most: int, *, device: torch.device | str = "cpu") -> list[Alike]:
    """The ``most`` pairs of identities that are likest, the likest first: exact, in tiles."""
    matching = Matching.all_to_all(means.rows, np.arange(len(means.labels)), device=device)
    pairs = HardestPairs(most)
    matching.scan([pairs])
    firsts, seconds = means.labels[pairs.rows], means.labels[pairs.columns]
    found = zip(firsts.tolist(), seconds.tolist(), pairs.scores.tolist(), strict=True)
    return [Alike(*pair) for pair in found]


class Mixed(NamedTuple):
    """An identity whose images part into two, each of two images at least.

    ``within`` is the mean cosine of two images of one part, ``between`` of two parts; the parts are
    positions.
    """

    label: int
    within: float
    between: float
    first: list[int]
    second: list[int]


def find_mixed(rows: np.ndarray, labels: np.ndarray, most: int) -> list[Mixed]:
    """The ``most`` identities whose images part most clearly: by ``within`` − ``between``.

    An identity at a time; of one with more than 512 images the first 512 are looked at.
    """
    found: list[Mixed] = []
    for label, positions in _by_identity(labels):
        units = _units(rows[positions])
        finite = np.isfinite(units).all(1)
        parted = _part(units[finite])
        if parted is None:
            continue
        is_second, within, between = parted
        members = positions[finite]
        first, second = members[~is_second].tolist(), members[is_second].tolist()
        found.append(Mixed(label, within, between, first, second))
        if len(found) > 4 * most + 1000:
            found = _clearest(found, most)
    return _clearest(found, most)


def _clearest(found: list[Mixed], most: int) -> list[Mixed]:
    return sorted(found, key=lambda mixed: (mixed.between - mixed.within, mixed.label))[:most]


def _by_identity(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    for label, start, end in zip(present.tolist(), starts.tolist(), ends.tolist(), strict=True):
        if label >= 0:
            yield label, order[start : min(end, start + _MOST_IMAGES)]


def _part(units: np.ndarray) -> tuple[np.ndarray, float, float] | None:
    """2-means on the sphere from the least similar pair: who is in the second part, and cosines.

    None where a part would have fewer than two images.
    """
    if len(units) < 4:
        return None
    cosines = units @ units.T
    seeds = np.unravel_index(np.argmin(cosines), cosines.shape)
    is_second: np.ndarray = cosines[:, seeds[1]] > cosines[:, seeds[0]]
    for _ in range(_STEPS):
        if not 0 < is_second.sum() < len(units):
            return None
        means = _units(np.stack([units[~is_second].mean(0), units[is_second].mean(0)]))
        nearer = units @ means.T
        moved: np.ndarray = nearer[:, 1] > nearer[:, 0]
        if (moved == is_second).all():
            break
        is_second = moved
    if not 2 <= is_second.sum() <= len(units) - 2:
        return None
    same = is_second[:, None] == is_second
    apart = ~np.eye(len(units), dtype=bool)
    return is_second, float(cosines[same & apart].mean()), float(cosines[~same].mean())


class Elsewhere(NamedTuple):
    """One of another set, the identity of this set that is likest, and the cosine.

    ``other`` is a row of the other set's: an identity's mean, or an image.
    """

    other: int
    label: int
    cosine: float


def find_elsewhere(
    others: np.ndarray, means: Means, most: int, *, device: torch.device | str = "cpu"
) -> list[Elsewhere]:
    """Of each of ``others`` (m, F) the likest identity; the ``most`` likest of these, in order."""
    nobody = np.full(len(others), -1), np.full(len(means.rows), -1)
    matching = Matching.between(others, nobody[0], means.rows, nobody[1], device=device)
    best = BestImpostors(len(others))
    matching.scan([best])
    cosines, columns = best.best()
    order = np.argsort(-cosines, kind="stable")[:most]
    return [
        Elsewhere(int(at), int(means.labels[columns[at]]), float(cosines[at]))
        for at in order.tolist()
        if columns[at] >= 0
    ]
