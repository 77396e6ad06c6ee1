"""Many names in flat memory: millions of Python strings would take gigabytes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

import numpy as np
import xxhash


class Names:
    """Byte strings in one buffer, with 8 bytes for each beside their own."""

    def __init__(self) -> None:
        self._joined = bytearray()
        self._ends = array("q")

    @classmethod
    def of(cls, names: Iterable[bytes]) -> Names:
        """All of ``names``, in their order."""
        these = cls()
        for name in names:
            these.append(name)
        return these

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> bytes:
        if not 0 <= row < len(self._ends):
            raise IndexError(row)
        start = self._ends[row - 1] if row else 0
        return bytes(self._joined[start : self._ends[row]])

    def append(self, name: bytes) -> None:
        """Append a name."""
        self._joined += name
        self._ends.append(len(self._joined))

    def cut(self, start: int, stop: int) -> Names:
        """The names ``[start, stop)``."""
        names = Names()
        if stop > start:
            first = self._ends[start - 1] if start else 0
            names._joined = self._joined[first : self._ends[stop - 1]]
            names._ends = array("q", (end - first for end in self._ends[start:stop]))
        return names

    def hashes(self) -> np.ndarray:
        """XXH3-64 of each: uint64 (n,)."""
        return np.fromiter(map(xxhash.xxh3_64_intdigest, self), np.uint64, len(self))

    def __iter__(self) -> Iterator[bytes]:
        start = 0
        for end in self._ends:
            yield bytes(self._joined[start:end])
            start = end

    def digest(self) -> bytes:
        """XXH3-128 of all names and where each ends."""
        digest = xxhash.xxh3_128(self._joined)
        digest.update(little_endian(self._ends))
        return digest.digest()


def little_endian(numbers: array[int]) -> memoryview:
    """``numbers`` as bytes that are the same on every machine, without a copy on most."""
    values = np.frombuffer(numbers, numbers.typecode)
    return values.astype(values.dtype.newbyteorder("<"), copy=False).data


def find(queries: Names, names: Names) -> np.ndarray:
    """Where each of ``queries`` is in ``names``: int64 (q,), -1 where it is not."""
    hashes = names.hashes()
    order = np.argsort(hashes, kind="stable")
    wanted = queries.hashes()
    candidates = np.searchsorted(hashes, wanted, sorter=order)
    found = np.full(len(wanted), -1, np.int64)
    for query in np.flatnonzero(candidates < len(order)).tolist():
        row = int(order[candidates[query]])
        if queries[query] == names[row]:
            found[query] = row
    return found


def first_repeated(names: Names) -> bytes | None:
    """The first name that was there before; None if there is none."""
    later = later_occurrences(names.hashes())
    return names[int(later.min())] if len(later) else None


def later_occurrences(hashes: np.ndarray) -> np.ndarray:
    """Where a name is that was there before, by hashes of 64 bits: int64 (k,), in no order.

    Among a million names the chance of one that is taken for another is 3 in 10^8.
    """
    ordered = np.sort(hashes)
    if not (ordered[1:] == ordered[:-1]).any():
        return np.empty(0, np.int64)
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    return order[1:][ordered[1:] == ordered[:-1]]
