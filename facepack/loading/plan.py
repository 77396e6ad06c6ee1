"""Which records make up which batch: the epoch's order cut into batches and among ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facepack.errors import ConfigError
from facepack.loading.blocks import Blocks
from facepack.loading.order import (
    BlockShape,
    Order,
    Sequential,
    Shuffled,
    WindowedOrder,
    flips,
)
from facepack.settings import Count, Settings

# Records whose order is computed at once: enough to make NumPy's cost per call vanish.
_BLOCK = 16384


@dataclass(frozen=True, kw_only=True)
class Plan(Settings):
    """The batches of every epoch, seen from one rank: a pure function of these settings.

    An epoch is cut into global batches of ``world * batch_size`` records, and rank r takes slice
    r of each. What remains at the end is dropped under ``drop_last``; else the last global batch
    is shared out evenly, so that every rank takes the same number of steps (some may find their
    last batch one record shorter than others, or empty).
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rank < self.world:
            raise ConfigError(
                f"rank = {self.rank} is not allowed: with world = {self.world} it must be from 0 "
                f"to {self.world - 1}"
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
    """One batch before it is read."""

    positions: np.ndarray
    """Positions of its records in the pack, int64."""
    flips: np.ndarray
    """True where an image is mirrored, bool."""
    index: int
    """The batch's number among those of all epochs: epoch * batches an epoch + batch."""


class Draws:
    """The batches of all epochs in a row: ``draws[epoch * plan.batches + batch]``.

    Each is a pure function of its index. They are computed in blocks, of which one is kept.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._first = 0
        self._block: list[Draw] = []

    def __getitem__(self, index: int) -> Draw:
        if not self._first <= index < self._first + len(self._block):
            self._first, self._block = index, self._compute(index)
        return self._block[index - self._first]

    def _compute(self, index: int) -> list[Draw]:
        plan = self.plan
        epoch, batch = divmod(index, plan.batches)
        end = min(plan.batches, batch + max(1, _BLOCK // plan.batch_size))
        stretches = [plan.stretch(number) for number in range(batch, end)]
        entries = np.concatenate([np.arange(*stretch) for stretch in stretches])
        positions = plan.order(epoch).at(entries)
        mirrored = (
            flips(plan.seed, epoch, positions) if plan.mirror else np.zeros(len(positions), bool)
        )
        cuts = np.cumsum([last - first for first, last in stretches])[:-1]
        return [
            Draw(rows, coins, number)
            for number, (rows, coins) in enumerate(
                zip(np.split(positions, cuts), np.split(mirrored, cuts), strict=True), index
            )
        ]
