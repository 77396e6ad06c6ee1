"""Writing LMDB 0.9 data files (format version 1) without the engine.

A shard is written once, in key order, and never changed, so its B+tree can be built bottom-up in
one pass: leaf pages as they fill, the overflow pages of large values behind their leaf, then the
branches level by level. The two meta pages come first; everything that they say is known before
the first byte is written. That makes a file a pure function of its records and its page size, free
of anything a memory map, a transaction or a retry could leave behind.

It replaces puts through py-lmdb, whose pages have the size of the system's: such files take 1.55
times the bytes of the images for CFP and 1.66 times for LFW, these 1.02 times
(``benchmarks/size.py``).
"""

from __future__ import annotations

import itertools
import operator
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from facepack.store import lmdb_format as mdb
from facepack.store.record import Buffer


def inline_limit(page_size: int) -> int:
    """The largest node (header, key, value) that lies in a leaf; mdb.c's ``me_nodemax``."""
    return ((page_size - mdb.PAGE_HEADER) // 2 & ~1) - mdb.POINTER


def node_costs(page_size: int, key_sizes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Bytes of a leaf page, pointer included, that each record takes (int64)."""
    whole = mdb.NODE_HEADER + key_sizes + sizes
    inline = whole <= inline_limit(page_size)
    return (np.where(inline, whole, mdb.NODE_HEADER + key_sizes + 8) + 1 & ~1) + mdb.POINTER


def overflow_pages(page_size: int, key_sizes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Whole pages outside the leaf that each record takes: 0 for inline ones (int64)."""
    inline = mdb.NODE_HEADER + key_sizes + sizes <= inline_limit(page_size)
    return np.where(inline, 0, (mdb.PAGE_HEADER - 1 + sizes) // page_size + 1)


def fill_in_order(costs: np.ndarray, page_size: int) -> list[int]:
    """Cut records into leaf pages in their order: the index at which each page begins."""
    room = page_size - mdb.PAGE_HEADER
    starts, free = [0], room
    for index, cost in enumerate(costs.tolist()):
        if cost > free:
            starts.append(index)
            free = room
        free -= cost
    return starts


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where everything lies, known before anything is written."""

    page_size: int
    leaf_starts: list[int]  # index of the first record of each leaf
    leaf_pages: list[int]  # page number of each leaf
    big_pages: np.ndarray  # first overflow page of each record, 0 where it lies inline
    overflow_count: int
    levels: list[list[list[int]]]  # branches, lowest level first: the children of each, by index
    pages: int


def _lay_out(page_size: int, extents: np.ndarray, starts: list[int], longest_key: int) -> _Layout:
    bounds = [*starts, len(extents)]
    # Overflow pages follow the leaf whose values they hold: a leaf's number counts the two meta
    # pages, the leaves before it and the overflow pages of all records before it.
    before = np.concatenate([[0], np.cumsum(extents)])
    leaf_pages = [2 + i + int(before[start]) for i, start in enumerate(starts)]
    big_pages = np.zeros(len(extents), np.int64)
    for leaf, (start, stop) in enumerate(itertools.pairwise(bounds)):
        if before[stop] != before[start]:
            big_pages[start:stop] = leaf_pages[leaf] + 1 + before[start:stop] - before[start]
    big_pages[extents == 0] = 0
    # Every branch but an only one must have two children at least. Full branches could leave the
    # last one with a single child, so children are spread evenly.
    fan_out = (page_size - mdb.PAGE_HEADER) // (
        (mdb.NODE_HEADER + longest_key + 1 & ~1) + mdb.POINTER
    )
    levels: list[list[list[int]]] = []
    count = len(starts)
    while count > 1:
        branches = -(-count // fan_out)
        cuts = [count * i // branches for i in range(branches + 1)]
        levels.append([list(range(a, b)) for a, b in itertools.pairwise(cuts)])
        count = branches
    overflow = int(before[-1])
    return _Layout(
        page_size=page_size,
        leaf_starts=starts,
        leaf_pages=leaf_pages,
        big_pages=big_pages,
        overflow_count=overflow,
        levels=levels,
        pages=2 + len(starts) + overflow + sum(len(level) for level in levels),
    )


def lmdb_pages(
    keys: Sequence[bytes],
    values: Sequence[Buffer],
    *,
    page_size: int,
    leaf_starts: list[int] | None = None,
) -> Iterator[Buffer]:
    """An LMDB file as consecutive pieces, values as they are given.

    Args:
        keys: in ascending byte order, none twice, 1 to 511 bytes each.
        values: one for each key.
        page_size: one of :data:`mdb.PAGE_SIZES`.
        leaf_starts: the index of each leaf page's first record; filled in order when None.

    Raises:
        ValueError: keys out of order, an impossible page size, or a leaf that overflows.
    """
    if page_size not in mdb.PAGE_SIZES:
        raise ValueError(f"page size {page_size}; allowed are {mdb.PAGE_SIZES}")
    if not keys or len(keys) != len(values):
        raise ValueError(f"{len(keys)} keys for {len(values)} values; both must be there, in pairs")
    if any(map(operator.ge, keys, keys[1:])):
        raise ValueError("the keys are not in ascending order")
    key_sizes = np.fromiter(map(len, keys), np.int64, len(keys))
    sizes = np.fromiter(map(len, values), np.int64, len(values))
    if not 1 <= key_sizes.min() <= key_sizes.max() <= mdb.MAX_KEY:
        raise ValueError(f"a key must have 1 to {mdb.MAX_KEY} bytes")
    costs = node_costs(page_size, key_sizes, sizes)
    starts = fill_in_order(costs, page_size) if leaf_starts is None else leaf_starts
    used = np.add.reduceat(costs, starts)
    if used.max() > page_size - mdb.PAGE_HEADER:
        raise ValueError(f"a leaf of {used.max()} bytes exceeds a page of {page_size}")
    extents = overflow_pages(page_size, key_sizes, sizes)
    layout = _lay_out(page_size, extents, starts, int(key_sizes.max()))

    return itertools.chain(
        [_meta_pages(layout, len(keys))],
        _leaf_pages(layout, keys, values, key_sizes, sizes, costs, extents),
        _branch_pages(layout, keys),
    )


def _meta_pages(layout: _Layout, entries: int) -> bytes:
    """Both meta pages: page 0 the empty file of transaction 0, page 1 the tree of transaction 1."""
    pages = []
    for number in (0, 1):
        free = (layout.page_size, mdb.F_INTEGERKEY | mdb.F_NOSUBDIR, 0, 0, 0, 0, 0, mdb.NO_PAGE)
        main = (0, 0, 0, 0, 0, 0, 0, mdb.NO_PAGE)
        if number == 1:
            branches = sum(len(level) for level in layout.levels)
            depth = len(layout.levels) + 1
            root = layout.pages - 1 if layout.levels else layout.leaf_pages[0]
            leaves = len(layout.leaf_pages)
            main = (0, 0, depth, branches, leaves, layout.overflow_count, entries, root)
        body = (
            mdb.PAGE.pack(number, 0, mdb.P_META, 0, 0)
            + mdb.META.pack(mdb.MAGIC, mdb.DATA_VERSION, 0, layout.pages * layout.page_size)
            + mdb.DB.pack(*free)
            + mdb.DB.pack(*main)
            + struct.pack("<QQ", layout.pages - 1 if number == 1 else 1, number)
        )
        pages.append(body.ljust(layout.page_size, b"\0"))
    return b"".join(pages)


def _leaf_pages(
    layout: _Layout,
    keys: Sequence[bytes],
    values: Sequence[Buffer],
    key_sizes: np.ndarray,
    sizes: np.ndarray,
    costs: np.ndarray,
    extents: np.ndarray,
) -> Iterator[Buffer]:
    page_size = layout.page_size
    # Whatever can be is done for all records at once: in Python, each step for each would cost.
    big = extents > 0
    nodes = costs - mdb.POINTER
    bounds = np.append(layout.leaf_starts, len(keys))
    counts = np.diff(bounds)
    # Nodes fill a page from its end, pointers from its head: a pointer is the page's size less the
    # bytes of all nodes of this page up to its own, a running sum that starts anew at each page.
    ends = np.cumsum(nodes)
    before = np.repeat(ends[bounds[:-1]] - nodes[bounds[:-1]], counts)
    pointer_bytes = (page_size - (ends - before)).astype("<u2").tobytes()
    uppers = (page_size - np.add.reduceat(nodes, bounds[:-1])).tolist()
    # So the first record of a page comes last in the file: within each page, records are reversed.
    order = np.repeat(bounds[:-1] + bounds[1:] - 1, counts) - np.arange(len(keys))
    headers = np.empty((len(keys), 4), "<u2")
    headers[:, 0] = sizes & 0xFFFF
    headers[:, 1] = sizes >> 16
    headers[:, 2] = np.where(big, mdb.F_BIGDATA, 0)
    headers[:, 3] = key_sizes
    header_bytes = headers[order].tobytes()
    # Nodes begin at even offsets, as mdb.c's EVEN() has it.
    padded = (key_sizes + np.where(big, 8, sizes) & 1)[order].tolist()
    listed = order.tolist()
    parts: list[Buffer] = [b""] * (4 * len(keys))  # of a record: header, key, value, padding
    parts[0::4] = [header_bytes[at : at + 8] for at in range(0, 8 * len(keys), 8)]
    parts[1::4] = [keys[index] for index in listed]
    parts[2::4] = [values[index] for index in listed]
    parts[3::4] = [b"\0" if pad else b"" for pad in padded]
    # In the leaf, a large value is the number of its first overflow page.
    for slot in np.flatnonzero(big[order]).tolist():
        parts[4 * slot + 2] = struct.pack("<Q", layout.big_pages[listed[slot]])
    has_big = np.logical_or.reduceat(big, bounds[:-1]).tolist()
    cuts = bounds.tolist()
    for leaf, number in enumerate(layout.leaf_pages):
        start, stop = cuts[leaf], cuts[leaf + 1]
        lower, upper = mdb.PAGE_HEADER + mdb.POINTER * (stop - start), uppers[leaf]
        page = [
            mdb.PAGE.pack(number, 0, mdb.P_LEAF, lower, upper),
            pointer_bytes[2 * start : 2 * stop],
            bytes(upper - lower),
        ]
        page += parts[4 * start : 4 * stop]
        yield b"".join(page)  # while it is in a core's cache
        if has_big[leaf]:
            for index in (start + np.flatnonzero(big[start:stop])).tolist():
                count = int(extents[index])
                yield mdb.OVERFLOW.pack(int(layout.big_pages[index]), 0, mdb.P_OVERFLOW, count)
                yield values[index]
                yield bytes(count * page_size - mdb.PAGE_HEADER - int(sizes[index]))


def _branch_pages(layout: _Layout, keys: Sequence[bytes]) -> Iterator[bytes]:
    page_size = layout.page_size
    numbers = layout.leaf_pages
    first_keys = [keys[start] for start in layout.leaf_starts]
    number = 2 + len(layout.leaf_pages) + layout.overflow_count
    for level in layout.levels:
        next_numbers, next_keys = [], []
        for children in level:
            upper, nodes, pointers = page_size, [], []
            for position, child in enumerate(children):
                key = first_keys[child] if position else b""  # the first child's key is implied
                page = numbers[child]
                node = mdb.NODE.pack(page & 0xFFFF, page >> 16 & 0xFFFF, page >> 32, len(key)) + key
                node += b"\0" * (len(node) & 1)
                upper -= len(node)
                nodes.append(node)
                pointers.append(upper)
            lower = mdb.PAGE_HEADER + mdb.POINTER * len(children)
            yield b"".join(
                [
                    mdb.PAGE.pack(number, 0, mdb.P_BRANCH, lower, upper),
                    struct.pack(f"<{len(pointers)}H", *pointers),
                    bytes(upper - lower),
                    *reversed(nodes),
                ]
            )
            next_numbers.append(number)
            next_keys.append(first_keys[children[0]])
            number += 1
        numbers, first_keys = next_numbers, next_keys
