"""Which records make up which batch: the epoch's order cut into batches and among ranks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from facepack.errors import ConfigError
from facepack.loading.blocks import Blocks
from facepack.loading.identities import IdentityIndex, Pairs
from facepack.loading.order import (
    BlockShape,
    Order,
    Sequential,
    Shuffled,
    WindowedOrder,
    flips,
)
from facepack.settings import Count, Range, Settings

# Records whose order is computed at once: enough to make NumPy's cost per call vanish.
_BLOCK = 16384


@dataclass(frozen=True, kw_only=True)
class Plan(Settings):
    """The batches of every epoch, seen from one rank: a pure function of these settings.

    An epoch is cut into global batches of ``world * batch_size`` records, and rank r takes slice
    r of each. What remains at the end is dropped under ``drop_last``; else the last global batch
    is shared out evenly, so that every rank takes the same number of steps (some may find their
    last batch one record shorter than others, or empty).

    Pairs of images of one identity may come with each batch: see :class:`Draw`.
    """

    records: int
    """Records in the pack."""
    batch_size: Count
    """Records in a batch of one rank."""
    seed: int
    """Key of the order and of the flips."""
    rank: int
    """This process among ``world``."""
    world: Count
    """Processes that share each global batch."""
    shuffle: bool
    """A new permutation each epoch; else the pack's own order."""
    mirror: bool
    """Mirror each image with probability one half, anew each epoch."""
    drop_last: bool
    """Drop the records left over behind the last full global batch."""
    blocks: BlockShape | None = None
    """Windows of the order ``blocks``, or those in which the pack's own order is read ahead.

    None: a permutation of all records, or the pack's own order in one window."""
    pairs: Annotated[int, Range(low=0)] = 0
    """Pairs of images of one identity that come with a batch of one rank."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rank < self.world:
            raise ConfigError(
                f"rank = {self.rank} is not allowed: with world = {self.world} it must be from 0 "
                f"to {self.world - 1}"
            )
        if self.pairs and (self.batch_size % 2 or not self.drop_last):
            raise ConfigError(
                f"pairs = {self.pairs} needs batches of two halves: set batch_size "
                f"({self.batch_size}) to an even number, and drop_last to True"
            )
        if self.records < 1:
            raise ConfigError("the pack has no records; there is nothing to load")
        if self.batches == 0:
            raise ConfigError(
                f"the pack has {self.records} records, fewer than one global batch of "
                f"{self.global_batch} (batch_size={self.batch_size}, world={self.world}); "
                "lower batch_size or set drop_last=False"
            )

    @property
    def global_batch(self) -> int:
        """Records in one batch of all ranks together."""
        return self.world * self.batch_size

    @property
    def rows(self) -> int:
        """The most images in a batch of one rank, pairs and all."""
        return self.batch_size + 2 * self.pairs

    @property
    def batches(self) -> int:
        """Batches in an epoch, the same for every rank."""
        if self.drop_last:
            return self.records // self.global_batch
        return -(-self.records // self.global_batch)

    def order(self, epoch: int) -> Order:
        """The order of one epoch."""
        return self.windowed(epoch) or Shuffled(self.seed, epoch, self.records)

    def windowed(self, epoch: int) -> WindowedOrder | None:
        """The order of one epoch, if it has windows: each can be read before it is needed."""
        if not self.shuffle:
            whole = BlockShape(run=self.records, window=1)
            return Sequential(self.records, self.blocks or whole)
        if self.blocks is not None:
            return Blocks(self.seed, epoch, self.records, self.blocks)
        return None

    def stretch(self, batch: int) -> tuple[int, int]:
        """First entry of the epoch, and the one behind the last, of this rank's part of a batch."""
        start = batch * self.global_batch
        size = min(self.global_batch, self.records - start)
        return (
            start + size * self.rank // self.world,
            start + size * (self.rank + 1) // self.world,
        )


@dataclass(frozen=True)
class Draw:
    """One batch before it is read.

    With pairs it has two halves, and what stands at the same place of each belongs together: first
    the images of the pairs, then the two halves of what the batch has without pairs.
    """

    positions: np.ndarray  # positions of its records in the pack, int64
    # what flips and changes are drawn by, int64: the position, and for images of pairs others
    keys: np.ndarray
    flips: np.ndarray  # True where an image is mirrored, bool
    index: int  # the batch's number among those of all epochs: epoch * batches an epoch + batch
    paired: bool  # whether it has two halves

    def complete(self, broken: Iterable[int]) -> np.ndarray:
        """Rows (ascending) that can be used without ``broken`` ones: what they are paired to falls
        with them, so that both halves stay of one length."""
        keep = np.ones(len(self.positions), bool)
        keep[list(broken)] = False
        if self.paired:
            first, second = np.split(keep, 2)
            keep = np.tile(first & second, 2)
        return np.flatnonzero(keep)


class Draws:
    """The batches of all epochs in a row: ``draws[epoch * plan.batches + batch]``.

    Each is a pure function of its index. They are computed in blocks, of which one is kept.
    """

    def __init__(self, plan: Plan, index: IdentityIndex | None = None) -> None:
        self.plan = plan
        self._pairs = PairDraws(plan, index) if plan.pairs and index is not None else None
        self._first = 0
        self._block: list[Draw] = []

    def __getitem__(self, index: int) -> Draw:
        if not self._first <= index < self._first + len(self._block):
            self._first, self._block = index, self._compute(index)
        return self._block[index - self._first]

    def _compute(self, index: int) -> list[Draw]:
        plan = self.plan
        epoch, batch = divmod(index, plan.batches)
        end = min(plan.batches, batch + max(1, _BLOCK // plan.rows))
        stretches = [plan.stretch(number) for number in range(batch, end)]
        entries = np.concatenate([np.arange(*stretch) for stretch in stretches])
        sizes = [last - first for first, last in stretches]
        positions = keys = plan.order(epoch).at(entries)
        if self._pairs is not None:
            positions, keys = self._pairs.beside(positions.reshape(len(sizes), -1), index)
            sizes = [plan.rows] * len(sizes)
        mirrored = flips(plan.seed, epoch, keys) if plan.mirror else np.zeros(len(keys), bool)
        cuts = np.cumsum(sizes)[:-1]
        parts = (np.split(part, cuts) for part in (positions, keys, mirrored))
        return [
            Draw(rows, own_keys, coins, number, paired=self._pairs is not None)
            for number, (rows, own_keys, coins) in enumerate(zip(*parts, strict=True), index)
        ]


class PairDraws:
    """The pairs that come with batches: of batch ``index``, a stretch of an endless row of pairs.

    Each global batch takes the next ``world * pairs`` of them, and rank r slice r of these.
    """

    def __init__(self, plan: Plan, index: IdentityIndex) -> None:
        self._plan = plan
        self._row = Pairs(index, plan.seed)

    def at(self, index: int, batches: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Positions and keys of some batches in a row: int64 (batches, pairs, 2)."""
        plan = self._plan
        starts = (np.arange(index, index + batches) * plan.world + plan.rank) * plan.pairs
        entries = (starts[:, None] + np.arange(plan.pairs)).ravel()
        positions, keys = self._row.at(entries)
        shape = (batches, plan.pairs, 2)
        return positions.reshape(shape), keys.reshape(shape)

    def beside(self, batches: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions and keys of batches with their pairs, one after the other, int64.

        ``batches`` are their positions without the pairs, (n, batch size), from ``index`` on.
        """
        halves = batches.reshape(len(batches), 2, -1)
        positions, keys = (
            np.concatenate([pairs.transpose(0, 2, 1), halves], axis=2).ravel()
            for pairs in self.at(index, len(batches))
        )
        return positions, keys
