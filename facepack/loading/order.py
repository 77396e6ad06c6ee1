"""The order of an epoch and its mirror flips: pure functions of (seed, epoch, entry or record).

An epoch's order is a permutation that is computed, never stored: a Feistel network keyed by
(seed, epoch) over the smallest power of two that holds the records, with cycle walking back into
their range (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002). Any stretch
of any epoch is found directly, in constant memory, so that a run resumes from two integers and
ranks need not talk to each other. The order ``blocks`` is made of the same permutations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from facepack.errors import ConfigError
from facepack.hashing import derive_seed, hash64
from facepack.settings import Count, Settings

# Separate the uses of one seed, so that an order tells nothing about the flips.
_ORDER = 1
_FLIPS = 2

# Six rounds are indistinguishable from random permutations here from some 64 records up (first
# and second order statistics over seeds); tiny domains have tiny round functions and need more.
_ROUNDS = 6
_ROUNDS_SMALL = 12
_SMALL = 256


@dataclass(frozen=True, kw_only=True)
class BlockShape(Settings):
    """How the order ``blocks`` is cut; another shape is another order."""

    run: Count
    """Records that lie, and are read, together."""
    window: Count
    """Runs that are shuffled together."""

    def __str__(self) -> str:
        return f"{self.run}x{self.window}"

    @classmethod
    def parse(cls, text: str) -> BlockShape:
        """The shape that ``str()`` wrote: run, ``x``, window.

        Raises:
            ConfigError: it is none.
        """
        match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text)
        if match is None:
            raise ConfigError(f"{text!r:.80} is no shape of blocks, like 84x1024 (run x window)")
        return cls(run=int(match[1]), window=int(match[2]))

    @property
    def records(self) -> int:
        """Records in a window."""
        return self.run * self.window


class Order(Protocol):
    """Which record comes at which entry of an epoch, counted from 0."""

    def at(self, entries: np.ndarray) -> np.ndarray:
        """Return the positions (int64) of the records that come at ``entries`` of the epoch."""
        ...


class WindowedOrder(Order, Protocol):
    """An order that can be read ahead: its windows follow each other, and each lies in runs."""

    @property
    def windows(self) -> int:
        """Windows in the epoch, at least 1."""

    def window_of(self, entry: int) -> int:
        """The window that holds an entry of the epoch."""
        ...

    def stretches(self, window: int) -> np.ndarray:
        """Where a window's records lie: int64 (n, 2), first position and the one after the last.

        They are in the order of the pack and do not overlap.
        """
        ...


@dataclass(frozen=True)
class Sequential:
    """The pack's own order, in windows of ``shape``."""

    records: int
    shape: BlockShape

    @property
    def windows(self) -> int:
        """Windows in the epoch; the last may be shorter."""
        return -(-self.records // self.shape.records)

    def at(self, entries: np.ndarray) -> np.ndarray:
        """Return ``entries`` as they are."""
        return entries.astype(np.int64)

    def window_of(self, entry: int) -> int:
        """The window that holds an entry of the epoch."""
        return entry // self.shape.records

    def stretches(self, window: int) -> np.ndarray:
        """The window's runs: int64 (n, 2), first position and the one after the last."""
        start = window * self.shape.records
        stop = min(start + self.shape.records, self.records)
        starts = np.arange(start, stop, self.shape.run)
        return np.stack([starts, np.minimum(starts + self.shape.run, stop)], axis=1)


class Permutation:
    """A pseudo-random permutation of 0…``size`` − 1, one for each seed and ``parts``.

    Costs about 0.1 µs an element when asked for some thousands at once, and no memory.
    """

    def __init__(self, size: int, seed: int, *parts: int) -> None:
        self.size = size
        bits = max(2, (size - 1).bit_length())
        self._low = bits // 2
        self._high = bits - self._low
        rounds = _ROUNDS if size > _SMALL else _ROUNDS_SMALL
        self._keys = [derive_seed(seed, *parts, number) for number in range(rounds)]

    def at(self, entries: np.ndarray) -> np.ndarray:
        """Return what comes at ``entries`` (0 ≤ entry < size), int64."""
        found = self._encipher(entries.astype(np.uint64))
        # The domain is less than twice the size (from three elements up), so a walk takes
        # less than two steps on average; it ends, as a permutation's cycles do.
        outside = np.flatnonzero(found >= self.size)
        while outside.size:
            walked = self._encipher(found[outside])
            found[outside] = walked
            outside = outside[walked >= self.size]
        return found.astype(np.int64)

    def _encipher(self, x: np.ndarray) -> np.ndarray:
        left_bits, right_bits = self._high, self._low
        left = x >> np.uint64(right_bits)
        right = x & np.uint64((1 << right_bits) - 1)
        for key in self._keys:
            mask = np.uint64((1 << left_bits) - 1)
            left, right = right, left ^ (hash64(key, right) & mask)
            left_bits, right_bits = right_bits, left_bits
        return (left << np.uint64(right_bits)) | right


class Shuffled(Permutation):
    """The order ``global``: a permutation of all positions, one for each (seed, epoch)."""

    def __init__(self, seed: int, epoch: int, records: int) -> None:
        super().__init__(records, seed, _ORDER, epoch)


def flips(seed: int, epoch: int, positions: np.ndarray) -> np.ndarray:
    """Toss a coin for each record of an epoch: bool, True where the image is mirrored.

    The coin belongs to (seed, epoch, record), not to the record's entry in the order.
    """
    return (hash64(derive_seed(seed, _FLIPS, epoch), positions) >> np.uint64(63)).astype(bool)
