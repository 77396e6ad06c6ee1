"""Where in a pack's files the records of a stretch lie: what is to be read for them."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facepack import system
from facepack.errors import DamageError
from facepack.store import lmdb_format as mdb
from facepack.store.format import record_key
from facepack.store.lmdb_read import read_page_size
from facepack.store.pack import Pack

_DIGITS = 10
_POWERS = 10 ** np.arange(_DIGITS - 1, -1, -1, dtype=np.int64)
_RESERVED = np.iinfo(np.uint32).max  # stands for keys that are no records': behind them all
# Where a meta page states the depth and the root of the main tree: behind the page's header, four
# fields of 24 bytes and the 48 bytes of the other tree.
_MAIN = mdb.PAGE_HEADER + 24 + 48
_DEPTH, _ROOT = _MAIN + 6, _MAIN + 40


class Extent(NamedTuple):
    """A stretch of bytes of a file."""

    path: Path
    offset: int
    length: int


class Extents:
    """Finds the bytes of any records of a pack, from the branch pages of its shards.

    Those are about a thousandth of a shard; they are read when first needed. Eight bytes are kept
    for each leaf page of the shards that were asked for: some 60 MB for 250 GB.
    """

    def __init__(self, pack: Pack) -> None:
        counts = [int(shard["records"]) for shard in pack.manifest["shards"]]
        self._keys = pack.shard_keys
        self._paths = [pack.path / f"{name}.mdb" for name in pack.shard_names]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._leaves: dict[int, _Leaves] = {}

    def of(self, start: int, stop: int) -> Iterator[Extent]:
        """Yield the extents that hold the records at ``start`` … ``stop`` - 1.

        Raises:
            DamageError: a shard's tree of pages cannot be read.
        """
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            first, end = int(self._starts[shard]), int(self._starts[shard + 1])
            keys = self._keys(shard)
            low, high = self._shard(shard).bytes_of(
                keys[start - first], keys[min(stop, end) - first - 1] + 1
            )
            yield Extent(self._paths[shard], low, high - low)
            shard = int(np.searchsorted(self._starts, end, side="right")) - 1
            start = end

    def around(self, positions: np.ndarray, gap: int) -> Iterator[Extent]:
        """Yield the extents that hold the records at ``positions``, int64, ascending.

        Those with up to ``gap`` bytes between them are one.

        Raises:
            DamageError: a shard's tree of pages cannot be read.
        """
        shards = np.searchsorted(self._starts, positions, side="right") - 1
        cuts = np.flatnonzero(np.diff(shards)) + 1
        for own in np.split(positions, cuts):
            shard = int(np.searchsorted(self._starts, own[0], side="right")) - 1
            keys, places = self._keys(shard), (own - self._starts[shard]).tolist()
            lows, highs = self._shard(shard).bytes_of_each(np.array([keys[at] for at in places]))
            ends = np.maximum.accumulate(highs)
            begins = np.append(0, np.flatnonzero(lows[1:] - ends[:-1] > gap) + 1)
            stops = np.append(begins[1:], len(own)) - 1
            for low, high in zip(lows[begins].tolist(), ends[stops].tolist(), strict=True):
                yield Extent(self._paths[shard], low, high - low)

    def _shard(self, k: int) -> _Leaves:
        leaves = self._leaves.get(k)
        if leaves is None:
            leaves = self._leaves[k] = _Leaves(self._paths[k])
        return leaves


class _Leaves:
    """The leaf pages of one shard: the first record of each, and its number."""

    def __init__(self, path: Path) -> None:
        with _told_as_damage(path):
            with path.open("rb", buffering=0) as file:
                self._page_size = read_page_size(
                    system.read_at(file.fileno(), mdb.MAX_PAGE_SIZE, 0)
                )
                self._end = os.fstat(file.fileno()).st_size
                firsts, pages = _leaves(file.fileno(), self._page_size)
            # Large values lie behind their leaf, in the order of their keys.
            if (np.diff(pages) <= 0).any() or (np.diff(firsts) < 0).any():
                raise ValueError("the leaf pages are not in order")
            if pages[-1] >= self._end // self._page_size:
                raise ValueError("the file ends before its last leaf page")
        self._path = path
        self._firsts = firsts.astype(np.uint32)
        self._pages = pages.astype(np.uint32)

    def bytes_of(self, start: int, stop: int) -> tuple[int, int]:
        """First byte, and the one behind the last, of the records at ``start`` … ``stop`` - 1."""
        first, last = self._leaf(start), self._leaf(stop - 1)
        low = self._value_page(first, start) or int(self._pages[first])
        high = self._value_page(last, stop) or self._leaf_end(last)
        return low * self._page_size, high * self._page_size

    def bytes_of_each(self, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First bytes, and those behind the last, of single records of the shard: int64 (n,)."""
        leaves = self._firsts.searchsorted(records.astype(np.uint32), side="right") - 1
        last = len(self._pages) - 1
        ends = self._pages[np.minimum(leaves + 1, last)].astype(np.int64)
        ends[leaves == last] = self._end // self._page_size
        lows, highs = self._pages[leaves].astype(np.int64) * self._page_size, ends * self._page_size
        for row in np.flatnonzero(highs - lows > self._page_size).tolist():  # with large values
            lows[row], highs[row] = self.bytes_of(int(records[row]), int(records[row]) + 1)
        return lows, highs

    def _leaf(self, record: int) -> int:
        """The leaf page that holds a record of the shard."""
        # Searched for in the type of the array: NumPy would convert all of it, each time.
        return int(self._firsts.searchsorted(np.uint32(record), side="right")) - 1

    def _leaf_end(self, leaf: int) -> int:
        """The page behind a leaf and its large values."""
        if leaf + 1 < len(self._pages):
            return int(self._pages[leaf + 1])
        return self._end // self._page_size

    def _value_page(self, leaf: int, record: int) -> int | None:
        """The page of the first large value from ``record`` on; None where the leaf has none.

        The leaf, which is needed with its values, comes to the page cache by being read here.
        """
        page = int(self._pages[leaf])
        if self._leaf_end(leaf) == page + 1:
            return None
        with _told_as_damage(self._path), self._path.open("rb", buffering=0) as file:
            data = _read(file.fileno(), page * self._page_size, self._page_size)
            return _first_large(data, record_key(record))


def _first_large(data: bytes, key: bytes) -> int | None:
    """The page of the first large value of a leaf page whose key is not below ``key``."""
    (lower,) = struct.unpack_from("<H", data, mdb.PAGE_HEADER - 4)
    for node in struct.unpack_from(
        f"<{(lower - mdb.PAGE_HEADER) // mdb.POINTER}H", data, mdb.PAGE_HEADER
    ):
        flags, key_size = struct.unpack_from("<HH", data, node + 4)
        start = node + mdb.NODE_HEADER
        if flags & mdb.F_BIGDATA and data[start : start + key_size] >= key:
            return int(struct.unpack_from("<Q", data, start + key_size)[0])
    return None


@contextmanager
def _told_as_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, struct.error) as error:
        raise DamageError(
            f"{path}: its tree of pages cannot be read ({error}): check the pack with: "
            f"facepack verify {path.parent}"
        ) from error


def _leaves(file: int, page_size: int) -> tuple[np.ndarray, np.ndarray]:
    """First records and page numbers of all leaf pages of the tree in a file, int64.

    The second meta page has the tree: a shard is written in one transaction.
    """
    meta = _read(file, page_size, mdb.PAGE_HEADER + mdb.META_SIZE)
    (depth,) = struct.unpack_from("<H", meta, _DEPTH)
    (root,) = struct.unpack_from("<Q", meta, _ROOT)
    firsts, pages = np.zeros(1, np.int64), np.array([root], np.int64)
    for _ in range(depth - 1):
        parts = [
            _children(_read(file, page * page_size, page_size), first)
            for first, page in zip(firsts.tolist(), pages.tolist(), strict=True)
        ]
        firsts = np.concatenate([part[0] for part in parts])
        pages = np.concatenate([part[1] for part in parts])
    return firsts, pages


def _children(page: bytes, first: int) -> tuple[np.ndarray, np.ndarray]:
    """First records and page numbers of a branch page's children; its first key is implied."""
    _, _, flags, lower, upper = struct.unpack_from("<QHHHH", page)
    count, odd = divmod(lower - mdb.PAGE_HEADER, mdb.POINTER)
    if flags != mdb.P_BRANCH or count < 1 or odd or not lower <= upper <= len(page):
        raise ValueError(f"flags {flags:#x} and bounds {lower}, {upper} are no branch page's")
    data = np.frombuffer(page, np.uint8)
    nodes = np.frombuffer(page, "<u2", count, mdb.PAGE_HEADER).astype(np.int64)
    keyed = nodes[1:, None] + mdb.NODE_HEADER + np.arange(_DIGITS)
    if nodes.max() + mdb.NODE_HEADER > len(page) or keyed.max(initial=0) >= len(page):
        raise ValueError("a node lies outside its page")
    halves = data[nodes[:, None] + np.arange(6)].copy().view("<u2").astype(np.int64)
    digits = data[keyed].astype(np.int64) - ord("0")
    of_record = ((digits >= 0) & (digits <= 9)).all(axis=1)
    records = np.where(of_record, digits @ _POWERS, _RESERVED)
    return np.append(first, records), halves @ np.array([1, 1 << 16, 1 << 32])


def _read(file: int, offset: int, length: int) -> bytes:
    data = system.read_at(file, length, offset)
    if len(data) < length:
        raise ValueError(f"the file ends before byte {offset + length}")
    return data
