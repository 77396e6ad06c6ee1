"""Keys of many records, as arrays: tens of millions take their own bytes and a few more each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import xxhash

LONGEST_KEY = 511  # bytes, LMDB's limit
_STEP = 1 << 16  # keys that are compared at a time


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Keys, one behind the other."""

    key_bytes: bytes | bytearray  # all keys, joined; none is empty
    key_ends: np.ndarray  # unsigned integers (n,): where each ends in key_bytes

    @classmethod
    def of(cls, keys: Iterable[bytes]) -> Keys:
        """Gather ``keys``, which are not empty."""
        joined = bytearray()
        ends = np.fromiter(_gather(keys, joined), np.int64)
        return cls(key_bytes=joined, key_ends=narrowed(ends))

    def __len__(self) -> int:
        return len(self.key_ends)

    def __iter__(self) -> Iterator[bytes]:
        """Each key."""
        joined = bytes(self.key_bytes)
        return (joined[a:b] for a, b in pairwise([0, *self.key_ends.tolist()]))

    def checksum(self) -> str:
        """XXH3-128 of all keys, and of where each ends."""
        digest = xxhash.xxh3_128(self.key_bytes)
        digest.update(np.ascontiguousarray(self.key_ends, "<i8").tobytes())
        return digest.hexdigest()

    def keys(self, start: int, stop: int) -> Keys:
        """The keys of records ``[start, stop)``."""
        first = int(self.key_ends[start - 1]) if start else 0
        ends = self.key_ends[start:stop] - self.key_ends.dtype.type(first)
        last = first + (int(ends[-1]) if len(ends) else 0)
        return Keys(key_bytes=bytes(self.key_bytes[first:last]), key_ends=ends)

    def starts(self) -> np.ndarray:
        """Where each begins: int64 (n,)."""
        return np.concatenate([np.zeros(1, np.int64), self.key_ends[:-1].astype(np.int64)])[
            : len(self)
        ]

    def lengths(self) -> np.ndarray:
        """Bytes of each: int64 (n,)."""
        return self.key_ends.astype(np.int64) - self.starts()

    def row_of(self, key: bytes) -> int | None:
        """The row of one key; None if it is not there."""
        rows = np.flatnonzero(self.lengths() == len(key))
        octets = np.frombuffer(self.key_bytes, np.uint8)
        found = octets[self.starts()[rows][:, None] + np.arange(len(key))]
        same = (found == np.frombuffer(key, np.uint8)).all(axis=1)
        return int(rows[same][0]) if same.any() else None

    def find(self, wanted: Keys) -> np.ndarray:
        """The row of each of the ``wanted`` keys among these, which are distinct; -1: int64 (n,).

        Rows are found by a hash of 64 bits, then compared byte by byte.
        """
        if not len(self) or not len(wanted):
            return np.full(len(wanted), -1, np.int64)
        own, asked = self._hashes(), wanted._hashes()
        order = np.argsort(own)
        at = np.minimum(np.searchsorted(own, asked, sorter=order), len(own) - 1)
        rows = order[at]
        rows[own[rows] != asked] = -1
        rows[rows >= 0] = np.where(self._equal(rows, wanted), rows[rows >= 0], -1)
        return rows

    def _equal(self, rows: np.ndarray, wanted: Keys) -> np.ndarray:
        """Whether the keys at ``rows`` are the wanted ones, of those that are not -1: bool."""
        there = np.flatnonzero(rows >= 0)
        equal = np.zeros(len(there), bool)
        starts, lengths = self.starts(), self.lengths()
        wanted_starts, wanted_lengths = wanted.starts(), wanted.lengths()
        octets = np.frombuffer(self.key_bytes, np.uint8)
        wanted_octets = np.frombuffer(wanted.key_bytes, np.uint8)
        for begin in range(0, len(there), _STEP):
            some = there[begin : begin + _STEP]
            own = rows[some]
            fits = lengths[own] == wanted_lengths[some]
            own, some = own[fits], some[fits]
            if len(some):
                differ = (
                    octets[ranges(starts[own], lengths[own])]
                    != (wanted_octets[ranges(wanted_starts[some], lengths[own])])
                )
                ends = np.cumsum(lengths[own])
                unequal = np.logical_or.reduceat(differ, ends - lengths[own])
                equal[begin + np.flatnonzero(fits)] = ~unequal
        return equal

    def _hashes(self) -> np.ndarray:
        return np.fromiter(map(xxhash.xxh3_64_intdigest, self), np.uint64, len(self))

    def take(self, rows: np.ndarray) -> Keys:
        """The keys at ``rows``, in that order."""
        lengths = self.lengths()[rows]
        octets = np.frombuffer(self.key_bytes, np.uint8)[ranges(self.starts()[rows], lengths)]
        return Keys(key_bytes=octets.tobytes(), key_ends=narrowed(np.cumsum(lengths)))


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """All numbers of the ranges that begin at ``starts``, one range behind the other: int64."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)


def narrowed(ends: np.ndarray) -> np.ndarray:
    """``ends``, which increase, as the narrowest unsigned integers."""
    return ends.astype(np.min_scalar_type(int(ends[-1]) if len(ends) else 0))


def key_name(key: bytes) -> str:
    """What a record is called: its key; bytes that are no UTF-8 become ``\\xff``."""
    return key.decode("utf-8", "backslashreplace")


def _gather(keys: Iterable[bytes], joined: bytearray) -> Iterator[int]:
    for key in keys:
        joined += key
        yield len(joined)
