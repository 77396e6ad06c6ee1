"""All records of an LMDB file, found by its B+tree without the engine.

The engine believes what pages say of each other, so that a file that is damaged in the middle, or
made to do harm, can end the process. Here every page number and offset is checked before it is
followed; a damaged page costs its own records and no others, and no two records share bytes, so
that reading all of them costs no more than reading the file. It is quicker besides: 400,000 keys
are found together, and values then read in the order of the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from facepack.convert.formats.kv.keys import Keys, narrowed, ranges
from facepack.convert.source_file import SourceFile
from facepack.errors import SourceError
from facepack.store import lmdb_format as mdb
from facepack.store.lmdb_read import NamedDatabaseError, read_nodes, read_page_size

_DUPSORT = 0x04  # of a database: several values a key
_MOST_LEVELS = 32  # the engine's own limit
_CHUNK = 2 << 20  # bytes of pages that are looked at together


@dataclass(frozen=True, kw_only=True)
class KvTree:
    """The records of an LMDB file, in the order of their keys."""

    keys: Keys  # of all records that could be found
    offsets: np.ndarray  # where each value begins in the file: int64 (n,)
    sizes: np.ndarray  # bytes of each: uint32 (n,)
    # bool (n,): part of the value's bytes belongs to another one as well, which no sound file has
    shared: np.ndarray
    faults: int  # how many pages and records are not what they must be, and were left out
    fault: str  # what is wrong with the first of them
    named: int  # how many databases with names of their own are in the file, of which none is read

    def __len__(self) -> int:
        return len(self.keys)


def read_tree(file: SourceFile) -> KvTree:
    """Find all records of the LMDB file ``file``, which is as long as its meta page says.

    Raises:
        SourceError: it cannot be read, holds several values a key, or nothing but named databases.
    """
    head = file.read(min(2 * mdb.MAX_PAGE_SIZE, file.size), 0)
    page_size = read_page_size(head)
    walk = _Walk(file, page_size)
    flags, root = max(_metas(head, page_size))[1:]
    if flags & _DUPSORT:
        raise SourceError(
            f"{file.path}: keeps several values under a key (MDB_DUPSORT), which no data set of "
            "images does: pass another database"
        )
    return walk.records(walk.leaves(root))


def stated_bytes(head: bytes) -> int:
    """The bytes that the newer of the two meta pages, within ``head``, says the file has.

    Raises:
        ScanError, struct.error: not an LMDB 0.9 file.
    """
    page_size = read_page_size(head)
    last = struct.Struct("<QQ")  # the end of a meta page: last page in use, transaction
    metas = [
        last.unpack_from(head, page + mdb.PAGE_HEADER + mdb.META_SIZE - last.size)
        for page in (0, page_size)
    ]
    number, _ = max(metas, key=lambda meta: meta[1])
    return (int(number) + 1) * page_size


def _metas(head: bytes, page_size: int) -> list[tuple[int, int, int]]:
    """Transaction, flags and root of the main database, of each of the two meta pages."""
    found = []
    for page in (0, page_size):
        start = page + mdb.PAGE_HEADER
        _, flags, *_, root = mdb.DB.unpack_from(head, start + mdb.META.size + mdb.DB.size)
        (transaction,) = struct.unpack_from("<Q", head, start + mdb.META_SIZE - 8)
        found.append((transaction, flags, root))
    return found


class _Walk:
    """From the root of a tree to its leaves, level by level: all of them are equally deep."""

    def __init__(self, file: SourceFile, page_size: int) -> None:
        self._file = file
        self._page_size = page_size
        self._pages = file.size // page_size
        self._seen = np.zeros(self._pages, bool)
        self._faults = 0
        self._first_fault = ""
        self._named = 0  # databases

    def _tell(self, *faults: object) -> None:
        """Count what is wrong; a file of nothing else must not fill the memory with words."""
        if faults and not self._faults:
            self._first_fault = str(faults[0])
        self._faults += len(faults)

    def leaves(self, root: int) -> np.ndarray:
        """The numbers of the leaf pages, int64, in the order of their keys."""
        if root == mdb.NO_PAGE:
            return np.zeros(0, np.int64)
        level = np.array(self._new([root]), np.int64)
        leaves = [np.zeros(0, np.int64)]
        for _ in range(_MOST_LEVELS):
            below: list[int] = []
            for some, data in self._chunks(level):
                flags = np.frombuffer(data, "<u2").reshape(len(some), -1)[:, 5]
                leaves.append(some[flags == mdb.P_LEAF])
                for at in np.flatnonzero(flags != mdb.P_LEAF).tolist():
                    page = data[at * self._page_size : (at + 1) * self._page_size]
                    below += self._new(self._children(page, int(some[at]), int(flags[at])))
            if not below:
                break
            level = np.array(below, np.int64)
        return np.concatenate(leaves)

    def _children(self, page: memoryview, number: int, flags: int) -> list[int]:
        """The pages that a branch points to."""
        *_, lower, upper = mdb.PAGE.unpack_from(page)
        if flags != mdb.P_BRANCH or not mdb.PAGE_HEADER < lower <= upper <= self._page_size:
            self._tell(f"page {number} is neither a branch nor a leaf")
            return []
        count = (lower - mdb.PAGE_HEADER) // mdb.POINTER
        children = []
        for pointer in struct.unpack_from(f"<{count}H", page, mdb.PAGE_HEADER):
            if lower <= pointer <= self._page_size - mdb.NODE_HEADER:
                low, middle, high, _ = mdb.NODE.unpack_from(page, pointer)
                children.append(low | middle << 16 | high << 32)
            else:
                self._tell(f"page {number}: a node at {pointer} lies outside the page")
        return children

    def _new(self, numbers: list[int]) -> list[int]:
        """Those of the pages that are in the file and were not met before."""
        found = []
        for number in numbers:
            if 2 <= number < self._pages and not self._seen[number]:
                self._seen[number] = True
                found.append(number)
            else:
                self._tell(f"a branch points to page {number}, out of bounds or seen before")
        return found

    def _chunks(self, pages: np.ndarray) -> Iterator[tuple[np.ndarray, memoryview]]:
        """Some of the ``pages`` at a time, and their bytes, one page behind the other."""
        step, size = max(_CHUNK // self._page_size, 1), self._page_size
        for start in range(0, len(pages), step):
            some = pages[start : start + step]
            # Leaves lie far apart among large values: to wait for one after the other takes long.
            for number in pages[start + step : start + 2 * step] if start else pages[: 2 * step]:
                self._file.will_read(size, int(number) * size)
            data = b"".join(self._file.read(size, number * size) for number in some.tolist())
            yield some, memoryview(data)

    def records(self, leaves: np.ndarray) -> KvTree:
        """The records of the ``leaves``."""
        keys: list[bytes] = []
        found: list[tuple[np.ndarray, ...]] = [(np.zeros(0, np.int64),) * 3]
        for some, data in self._chunks(leaves):
            nodes = read_nodes(
                data,
                np.arange(len(some)),
                self._page_size,
                most=len(data),
                within=(some, self._file.size),
            )
            faults = [e for e in nodes.errors if not isinstance(e, NamedDatabaseError)]
            self._tell(*faults)
            self._named += len(nodes.errors) - len(faults)
            # What lies in a leaf lies where the leaf does, of which only a copy was looked at.
            page = nodes.key_starts // self._page_size
            moved = np.where(nodes.large, 0, (some[page] - page) * self._page_size)
            # Keys that share bytes would be more of them together than the file has.
            good = ~_shared(nodes.key_starts, nodes.key_sizes)
            self._tell(*["keys share their bytes"] * int((~good).sum()))
            octets = np.frombuffer(data, np.uint8)
            keys.append(octets[ranges(nodes.key_starts[good], nodes.key_sizes[good])].tobytes())
            columns = (nodes.key_sizes, nodes.starts + moved, nodes.sizes)
            found.append(tuple(column[good] for column in columns))
        lengths, offsets, sizes = (np.concatenate(column) for column in zip(*found, strict=True))
        if self._named and not len(lengths):
            raise SourceError(
                f"{self._file.path}: its records lie in named databases, which are not read: copy "
                "that of the images into a file of its own, by `mdb_dump -s NAME` and `mdb_load`"
            )
        return KvTree(
            keys=Keys(key_bytes=b"".join(keys), key_ends=narrowed(np.cumsum(lengths))),
            offsets=offsets,
            sizes=sizes.astype(np.uint32),
            shared=_shared(offsets, sizes),
            faults=self._faults,
            fault=self._first_fault,
            named=self._named,
        )


def _shared(offsets: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which ranges run into the one that begins next behind them; the others share no bytes."""
    order = np.argsort(offsets, kind="stable")
    shared = np.zeros(len(offsets), bool)
    shared[order[:-1]] = (offsets + sizes)[order[:-1]] > offsets[order[1:]]
    return shared
