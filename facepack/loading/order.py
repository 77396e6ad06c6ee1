"""The order of an epoch and its mirror flips: pure functions of (seed, epoch, place or record).

An epoch's order is a permutation that is computed, never stored: a Feistel network keyed by
(seed, epoch) over the smallest power of two that holds the records, with cycle walking back into
their range (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002). Any stretch
of any epoch is found directly, in constant memory, so that a run resumes from two integers and
ranks need not talk to each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from facepack.hashing import derive_seed, hash64

# Separate the uses of one seed, so that an order tells nothing about the flips.
_ORDER = 1
_FLIPS = 2

# Six rounds are indistinguishable from random permutations here from some 64 records up (first
# and second order statistics over seeds); tiny domains have tiny round functions and need more.
_ROUNDS = 6
_ROUNDS_SMALL = 12
_SMALL = 256


class Order(Protocol):
    """Which record comes at which place of an epoch."""

    def at(self, places: np.ndarray) -> np.ndarray:
        """Return the positions (int64) of the records that come at ``places`` of the epoch."""
        ...


@dataclass(frozen=True)
class Sequential:
    """The pack's own order."""

    records: int

    def at(self, places: np.ndarray) -> np.ndarray:
        """Return ``places`` as they are."""
        return places.astype(np.int64)


class Shuffled:
    """A pseudo-random permutation of ``records`` positions, one for each (seed, epoch).

    Costs about 0.1 µs a record when asked for some thousands at once, and no memory.
    """

    def __init__(self, seed: int, epoch: int, records: int) -> None:
        self.records = records
        bits = max(2, (records - 1).bit_length())
        self._low = bits // 2
        self._high = bits - self._low
        rounds = _ROUNDS if records > _SMALL else _ROUNDS_SMALL
        self._keys = [derive_seed(seed, _ORDER, epoch, number) for number in range(rounds)]

    def at(self, places: np.ndarray) -> np.ndarray:
        """Return the positions of the records that come at ``places`` (0 ≤ place < records)."""
        found = self._encipher(places.astype(np.uint64))
        # The domain is less than twice the records (from three records up), so a walk takes
        # less than two steps on average; it ends, as a permutation's cycles do.
        outside = np.flatnonzero(found >= self.records)
        while outside.size:
            walked = self._encipher(found[outside])
            found[outside] = walked
            outside = outside[walked >= self.records]
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


def flips(seed: int, epoch: int, positions: np.ndarray) -> np.ndarray:
    """Toss a coin for each record of an epoch: bool, True where the image is mirrored.

    The coin belongs to (seed, epoch, record), not to the record's place in the order.
    """
    return (hash64(derive_seed(seed, _FLIPS, epoch), positions) >> np.uint64(63)).astype(bool)
