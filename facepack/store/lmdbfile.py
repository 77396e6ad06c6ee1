"""Writing and scanning LMDB 0.9 data files (format version 1) without the engine.

A shard is written once, in key order, and never changed, so its B+tree can be built bottom-up in
one pass: leaf pages as they fill, the overflow pages of large values behind their leaf, then the
branches level by level. The two meta pages come first; everything that they say is known before
the first byte is written. That makes a file a pure function of its records and its page size, free
of anything a memory map, a transaction or a retry could leave behind.

The structures are those of LMDB's mdb.c (MDB_page, MDB_node, MDB_meta), little-endian, 64 bit:
see docs/pack-format.md.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from facepack.store.record import Buffer

MAGIC = 0xBEEFC0DE
DATA_VERSION = 1
PAGE_HEADER = 16
_DATA_VERSION_1, _PAGE_HEADER_1 = 3, 24  # of LMDB 1.0
NODE_HEADER = 8
POINTER = 2
META_SIZE = 136  # from the page header's end to the end of mm_txnid
MAX_PAGE_SIZE = 32768
PAGE_SIZES = (4096, 8192, 16384, 32768)
MAX_KEY = 511

P_BRANCH, P_LEAF, P_OVERFLOW, P_META = 0x01, 0x02, 0x04, 0x08
F_BIGDATA = 0x01
_INTEGERKEY, _NOSUBDIR = 0x08, 0x4000
_NO_PAGE = (1 << 64) - 1

_page = struct.Struct("<QHHHH")  # pgno, pad, flags, then lower and upper (or a 32-bit page count)
_overflow = struct.Struct("<QHHI")
_node = struct.Struct("<HHHH")  # size low, size high, flags, key size
_db = struct.Struct("<IHHQQQQQ")  # pad, flags, depth, branch, leaf, overflow pages, entries, root
_meta = struct.Struct("<IIQQ")  # magic, version, address, map size


def inline_limit(page_size: int) -> int:
    """The largest node (header, key, value) that lies in a leaf; mdb.c's ``me_nodemax``."""
    return ((page_size - PAGE_HEADER) // 2 & ~1) - POINTER


def node_costs(page_size: int, key_sizes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Bytes of a leaf page, pointer included, that each record takes (int64)."""
    whole = NODE_HEADER + key_sizes + sizes
    inline = whole <= inline_limit(page_size)
    return (np.where(inline, whole, NODE_HEADER + key_sizes + 8) + 1 & ~1) + POINTER


def overflow_pages(page_size: int, key_sizes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Whole pages outside the leaf that each record takes: 0 for inline ones (int64)."""
    inline = NODE_HEADER + key_sizes + sizes <= inline_limit(page_size)
    return np.where(inline, 0, (PAGE_HEADER - 1 + sizes) // page_size + 1)


def fill_in_order(costs: np.ndarray, page_size: int) -> list[int]:
    """Cut records into leaf pages in their order: the index at which each page begins."""
    room = page_size - PAGE_HEADER
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
    before = np.concatenate([[0], np.cumsum(extents)])
    leaf_pages = [2 + i + int(before[start]) for i, start in enumerate(starts)]
    big_pages = np.zeros(len(extents), np.int64)
    for leaf, (start, stop) in enumerate(itertools.pairwise(bounds)):
        if before[stop] != before[start]:
            big_pages[start:stop] = leaf_pages[leaf] + 1 + before[start:stop] - before[start]
    big_pages[extents == 0] = 0
    # Every branch but an only one must have two children at least: spread them evenly.
    fan_out = (page_size - PAGE_HEADER) // ((NODE_HEADER + longest_key + 1 & ~1) + POINTER)
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
        page_size: one of :data:`PAGE_SIZES`.
        leaf_starts: the index of each leaf page's first record; filled in order when None.

    Raises:
        ValueError: keys out of order, an impossible page size, or a leaf that overflows.
    """
    if page_size not in PAGE_SIZES:
        raise ValueError(f"page size {page_size}; allowed are {PAGE_SIZES}")
    if not keys or len(keys) != len(values):
        raise ValueError(f"{len(keys)} keys for {len(values)} values; both must be there, in pairs")
    if any(a >= b for a, b in itertools.pairwise(keys)):
        raise ValueError("the keys are not in ascending order")
    key_sizes = np.fromiter(map(len, keys), np.int64, len(keys))
    sizes = np.fromiter(map(len, values), np.int64, len(values))
    if not 1 <= key_sizes.min() <= key_sizes.max() <= MAX_KEY:
        raise ValueError(f"a key must have 1 to {MAX_KEY} bytes")
    costs = node_costs(page_size, key_sizes, sizes)
    starts = fill_in_order(costs, page_size) if leaf_starts is None else leaf_starts
    used = np.add.reduceat(costs, starts)
    if used.max() > page_size - PAGE_HEADER:
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
        free = (layout.page_size, _INTEGERKEY | _NOSUBDIR, 0, 0, 0, 0, 0, _NO_PAGE)
        main = (0, 0, 0, 0, 0, 0, 0, _NO_PAGE)
        if number == 1:
            branches = sum(len(level) for level in layout.levels)
            depth = len(layout.levels) + 1
            root = layout.pages - 1 if layout.levels else layout.leaf_pages[0]
            leaves = len(layout.leaf_pages)
            main = (0, 0, depth, branches, leaves, layout.overflow_count, entries, root)
        body = (
            _page.pack(number, 0, P_META, 0, 0)
            + _meta.pack(MAGIC, DATA_VERSION, 0, layout.pages * layout.page_size)
            + _db.pack(*free)
            + _db.pack(*main)
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
    nodes = costs - POINTER
    bounds = np.append(layout.leaf_starts, len(keys))
    counts = np.diff(bounds)
    ends = np.cumsum(nodes)
    before = np.repeat(ends[bounds[:-1]] - nodes[bounds[:-1]], counts)
    pointer_bytes = (page_size - (ends - before)).astype("<u2").tobytes()
    uppers = (page_size - np.add.reduceat(nodes, bounds[:-1])).tolist()
    # The first record of a page lies at its end.
    order = np.repeat(bounds[:-1] + bounds[1:] - 1, counts) - np.arange(len(keys))
    headers = np.empty((len(keys), 4), "<u2")
    headers[:, 0] = sizes & 0xFFFF
    headers[:, 1] = sizes >> 16
    headers[:, 2] = np.where(big, F_BIGDATA, 0)
    headers[:, 3] = key_sizes
    header_bytes = headers[order].tobytes()
    padded = (key_sizes + np.where(big, 8, sizes) & 1)[order].tolist()
    listed = order.tolist()
    parts: list[Buffer] = [b""] * (4 * len(keys))  # of a record: header, key, value, padding
    parts[0::4] = [header_bytes[at : at + 8] for at in range(0, 8 * len(keys), 8)]
    parts[1::4] = [keys[index] for index in listed]
    parts[2::4] = [values[index] for index in listed]
    parts[3::4] = [b"\0" if pad else b"" for pad in padded]
    for place in np.flatnonzero(big[order]).tolist():
        parts[4 * place + 2] = struct.pack("<Q", layout.big_pages[listed[place]])
    has_big = np.logical_or.reduceat(big, bounds[:-1]).tolist()
    cuts = bounds.tolist()
    for leaf, number in enumerate(layout.leaf_pages):
        start, stop = cuts[leaf], cuts[leaf + 1]
        lower, upper = PAGE_HEADER + POINTER * (stop - start), uppers[leaf]
        yield _page.pack(number, 0, P_LEAF, lower, upper)
        yield pointer_bytes[2 * start : 2 * stop]
        yield bytes(upper - lower)
        yield from parts[4 * start : 4 * stop]
        if has_big[leaf]:
            for index in (start + np.flatnonzero(big[start:stop])).tolist():
                count = int(extents[index])
                yield _overflow.pack(int(layout.big_pages[index]), 0, P_OVERFLOW, count)
                yield values[index]
                yield bytes(count * page_size - PAGE_HEADER - int(sizes[index]))


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
                node = _node.pack(page & 0xFFFF, page >> 16 & 0xFFFF, page >> 32, len(key)) + key
                node += b"\0" * (len(node) & 1)
                upper -= len(node)
                nodes.append(node)
                pointers.append(upper)
            lower = PAGE_HEADER + POINTER * len(children)
            yield b"".join(
                [
                    _page.pack(number, 0, P_BRANCH, lower, upper),
                    struct.pack(f"<{len(pointers)}H", *pointers),
                    bytes(upper - lower),
                    *reversed(nodes),
                ]
            )
            next_numbers.append(number)
            next_keys.append(first_keys[children[0]])
            number += 1
        numbers, first_keys = next_numbers, next_keys


class ScanError(ValueError):
    """A page or node that cannot be what it claims to be."""


def read_page_size(data: Buffer) -> int:
    """The page size that an LMDB file states in its first meta page.

    Raises:
        ScanError: not an LMDB 0.9 file.
    """
    if is_lmdb_1(data):
        raise ScanError(
            "a file of LMDB 1.0 (py-lmdb writes such under lib_version=1), which LMDB 0.9 cannot "
            "read"
        )
    if len(data) < PAGE_HEADER + META_SIZE:
        raise ScanError(f"{len(data)} bytes cannot hold an LMDB meta page")
    magic, version = struct.unpack_from("<II", data, PAGE_HEADER)
    if (magic, version) != (MAGIC, DATA_VERSION):
        raise ScanError(f"magic {magic:#x}, version {version}: not an LMDB 0.9 file")
    (page_size,) = struct.unpack_from("<I", data, PAGE_HEADER + _meta.size)
    if page_size not in PAGE_SIZES:
        raise ScanError(f"page size {page_size}; allowed are {PAGE_SIZES}")
    return int(page_size)


def is_lmdb_1(data: Buffer) -> bool:
    """Whether a file begins as those of LMDB 1.0 do, whose pages have longer headers."""
    head = bytes(data[_PAGE_HEADER_1 : _PAGE_HEADER_1 + 8])
    return len(head) == 8 and struct.unpack("<II", head) == (MAGIC, _DATA_VERSION_1)


def stated_pages(data: Buffer) -> int:
    """The number of pages that the committed meta page says the file has."""
    page_size = read_page_size(data)
    if len(data) < page_size + PAGE_HEADER + META_SIZE:
        raise ScanError(f"{len(data)} bytes cannot hold two meta pages of {page_size}")
    (last,) = struct.unpack_from("<Q", data, page_size + PAGE_HEADER + _meta.size + 2 * _db.size)
    return int(last) + 1


def scan_leaf(data: memoryview, page: int, page_size: int) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the records of one leaf page, following each value to its overflow pages.

    Reads by offsets that are checked first, so it may be pointed at a damaged file. It is the
    obvious twin of :func:`read_nodes`, which reads all pages at once.

    Raises:
        ScanError: a header, pointer or length that leads outside its page or the file.
    """
    base = page * page_size
    _, _, _, lower, upper = _page.unpack_from(data, base)
    count, odd = divmod(lower - PAGE_HEADER, POINTER)
    if count < 1 or odd or not PAGE_HEADER < lower <= upper <= page_size:
        raise ScanError(f"page {page}: bounds {lower} and {upper} are impossible")
    for pointer in struct.unpack_from(f"<{count}H", data, base + PAGE_HEADER):
        if pointer % 2 or not lower <= pointer <= page_size - NODE_HEADER:
            raise ScanError(f"page {page}: a node at {pointer} lies outside the page")
        low, high, flags, key_size = _node.unpack_from(data, base + pointer)
        size = low | high << 16
        key_end = pointer + NODE_HEADER + key_size
        big = flags & F_BIGDATA
        if flags not in (0, F_BIGDATA) or not 1 <= key_size <= MAX_KEY:
            raise ScanError(f"page {page}: the node at {pointer} is none of a shard's")
        if key_end + (8 if big else size) > page_size:
            raise ScanError(f"page {page}: the node at {pointer} runs over the page's end")
        key = bytes(data[base + pointer + NODE_HEADER : base + key_end])
        start = base + key_end
        if big:
            (target,) = struct.unpack_from("<Q", data, base + key_end)
            start = target * page_size + PAGE_HEADER
            if target < 2 or start + size > len(data):
                raise ScanError(f"page {page}: {key!r} lies outside the file, on page {target}")
        yield key, data[start : start + size]


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Where the records of leaf pages lie in a file: byte offsets, int64, one for each record.

    Attributes:
        page_starts: the index of each page's first record.
        key_starts: where each key begins.
        key_sizes: its bytes.
        starts: where each value begins.
        sizes: its bytes.
        overlap: bool; the record runs into the one that begins next behind it. The others share no
            bytes, so reading them all costs no more than reading the file.
        errors: what is wrong with the pages and nodes that were left out.
    """

    page_starts: np.ndarray
    key_starts: np.ndarray
    key_sizes: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    overlap: np.ndarray
    errors: list[ScanError]

    def __len__(self) -> int:
        return len(self.starts)

    def record(self, data: memoryview, index: int) -> tuple[bytes, memoryview]:
        """The key and the value at ``index``."""
        key, start = int(self.key_starts[index]), int(self.starts[index])
        return (
            bytes(data[key : key + int(self.key_sizes[index])]),
            data[start : start + int(self.sizes[index])],
        )


def read_nodes(data: memoryview, pages: np.ndarray, page_size: int, *, most: int) -> Nodes:
    """Find the records of the leaf ``pages``, all at once.

    Every offset is checked before it is followed, so the file may be damaged or a stranger's.

    Args:
        data: the file.
        pages: numbers of whole pages in it, int64.
        page_size: one of :data:`PAGE_SIZES`.
        most: how many records may be claimed: forged counts must not fill the memory.

    Raises:
        ScanError: more records are claimed.
    """
    octets = np.frombuffer(data, np.uint8)
    words = octets[: len(octets) & ~1].view("<u2")
    pages = pages.astype(np.int64)
    bases = pages * page_size
    lower = words[(bases >> 1) + 6].astype(np.int64)
    upper = words[(bases >> 1) + 7].astype(np.int64)
    whole = (lower > PAGE_HEADER) & (lower % POINTER == 0) & (lower <= upper)
    whole &= upper <= page_size
    errors = [
        ScanError(f"page {page}: bounds {low} and {high} are impossible")
        for page, low, high in zip(
            pages[~whole].tolist(), lower[~whole].tolist(), upper[~whole].tolist(), strict=True
        )
    ]
    bases, lower = bases[whole], lower[whole]
    counts = (lower - PAGE_HEADER) // POINTER
    total = int(counts.sum())
    if total > most:
        raise ScanError(f"its pages claim {total} records; at most {most} can be")
    page_starts = np.cumsum(counts) - counts
    base = np.repeat(bases, counts)
    slot = np.arange(total) - np.repeat(page_starts, counts)
    pointer = words[(base + PAGE_HEADER >> 1) + slot].astype(np.int64)
    good = (pointer >= np.repeat(lower, counts)) & (pointer <= page_size - NODE_HEADER)
    good &= pointer % 2 == 0
    header = np.where(good, base + pointer >> 1, 0)
    low, high, flags, key_sizes = (words[header + i].astype(np.int64) for i in range(4))
    sizes = low | high << 16
    big = flags == F_BIGDATA
    key_starts = base + pointer + NODE_HEADER
    key_ends = key_starts + key_sizes
    good &= (flags & ~F_BIGDATA == 0) & (key_sizes >= 1) & (key_sizes <= MAX_KEY)
    good &= key_ends + np.where(big, 8, sizes) <= base + page_size

    starts, ends = key_ends.copy(), key_ends + sizes
    at = np.flatnonzero(big & good)
    numbers = octets[key_ends[at][:, None] + np.arange(8)].view("<u8")[:, 0]
    inside = (numbers >= 2) & (numbers < len(data) // page_size)
    targets = np.where(inside, numbers, 0).astype(np.int64) * page_size
    starts[at] = targets + PAGE_HEADER
    ends[at] = starts[at] + sizes[at]
    good[at] &= inside & (ends[at] <= len(data))
    errors += [
        ScanError(f"page {at // page_size}: the node at {at % page_size} leads astray")
        for at in (base + pointer)[~good].tolist()
    ]

    overlap = np.zeros(total, bool)
    for kind, first in ((good & big, starts), (good & ~big, key_starts)):
        these = np.flatnonzero(kind)
        these = these[np.argsort(first[these], kind="stable")]
        overlap[these[:-1]] = ends[these[:-1]] > first[these[1:]]
    owner = np.repeat(np.arange(len(counts)), counts)[good]
    return Nodes(
        page_starts=np.searchsorted(owner, np.unique(owner)),
        key_starts=key_starts[good],
        key_sizes=key_sizes[good],
        starts=starts[good],
        sizes=sizes[good],
        overlap=overlap[good],
        errors=errors,
    )


def leaf_numbers(data: memoryview, page_size: int) -> Iterator[int]:
    """Yield the numbers of all leaf pages, in file order, hopping over overflow pages."""
    page, pages = 2, len(data) // page_size
    while page < pages:
        number, _, flags, _, _ = _page.unpack_from(data, page * page_size)
        if flags == P_OVERFLOW and number == page:
            _, _, _, count = _overflow.unpack_from(data, page * page_size)
            page += max(1, count)
            continue
        if flags == P_LEAF:
            yield page
        page += 1


def leaves_from(data: memoryview, page_size: int, key: bytes) -> list[int]:
    """The numbers of the leaf pages that may hold keys not below ``key``, found by the branches.

    Args:
        data: the file, of two pages or more.
        page_size: one of :data:`PAGE_SIZES`.
        key: the least key that is looked for.

    Raises:
        ScanError: the tree leads to what is no branch or leaf, or to a page again.
    """
    pages = len(data) // page_size
    if pages < 2:
        raise ScanError(f"{len(data)} bytes cannot hold two meta pages of {page_size}")
    *_, root = _db.unpack_from(data, page_size + PAGE_HEADER + _meta.size + _db.size)
    leaves: list[int] = []
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        page = waiting.pop()
        if not 2 <= page < pages or page in seen:
            raise ScanError(f"a branch leads astray, to page {page}")
        seen.add(page)
        base = page * page_size
        _, _, flags, lower, upper = _page.unpack_from(data, base)
        if flags == P_LEAF:
            leaves.append(page)
            continue
        if flags != P_BRANCH or not PAGE_HEADER < lower <= upper <= page_size:
            raise ScanError(f"page {page}: neither a branch nor a leaf")
        pointers = struct.unpack_from(
            f"<{(lower - PAGE_HEADER) // POINTER}H", data, base + PAGE_HEADER
        )
        for pointer in reversed(pointers):
            if not lower <= pointer <= page_size - NODE_HEADER:
                raise ScanError(f"page {page}: a node at {pointer} lies outside the page")
            low, middle, high, key_size = _node.unpack_from(data, base + pointer)
            waiting.append(low | middle << 16 | high << 32)
            start = base + pointer + NODE_HEADER
            if bytes(data[start : start + key_size]) <= key:
                break  # what lies before this child is all below
    return sorted(leaves)


def guess_page_size(data: memoryview) -> int:
    """The page size under which most page numbers of a damaged file are where they say.

    A page's number stands at its head; under another page size, next to none fits.

    Raises:
        ScanError: none fits under any.
    """
    fits = {size: int(np.count_nonzero(_heads(data, size)[1])) for size in PAGE_SIZES}
    best = max(fits, key=lambda size: fits[size])
    if not fits[best]:
        raise ScanError("it holds no LMDB page that could be told")
    return best


def leaf_candidates(data: memoryview, page_size: int) -> np.ndarray:
    """The numbers (int64) of all pages of a damaged file that may be leaf pages.

    Nothing else in the file is believed: a page is taken where its flags say so, and where its
    number is right and its flags say nothing else. Some bytes of an image may pass for a leaf.
    """
    flags, numbered = _heads(data, page_size)
    others = np.isin(flags, (P_BRANCH, P_OVERFLOW, P_META))
    return np.flatnonzero((flags == P_LEAF) | (numbered & ~others))


def _heads(data: memoryview, page_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Of every whole page: its flags, and whether its number is the one that it should have."""
    count = len(data) // page_size
    octets = np.frombuffer(data, np.uint8, count * page_size).reshape(count, page_size)
    heads = np.ascontiguousarray(octets[:, :PAGE_HEADER])
    numbers, flags = heads.view("<u8")[:, 0], heads.view("<u2")[:, 5]
    return flags, numbers == np.arange(count, dtype=np.uint64)
