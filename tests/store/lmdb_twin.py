"""The records of a leaf page, read one by one: the slow twin of what reads all pages at once."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from facepack.store.lmdb_format import (
    F_BIGDATA,
    MAX_KEY,
    NODE,
    NODE_HEADER,
    PAGE,
    PAGE_HEADER,
    POINTER,
)
from facepack.store.lmdb_read import ScanError


def scan_leaf(data: memoryview, page: int, page_size: int) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the records of one leaf page, following each value to its overflow pages.

    Reads by offsets that are checked first, so it may be pointed at a damaged file. It is the
    obvious twin of ``read_nodes``, which reads all pages at once.

    Raises:
        ScanError: a header, pointer or length that leads outside its page or the file.
    """
    base = page * page_size
    _, _, _, lower, upper = PAGE.unpack_from(data, base)
    count, odd = divmod(lower - PAGE_HEADER, POINTER)
    if count < 1 or odd or not PAGE_HEADER < lower <= upper <= page_size:
        raise ScanError(f"page {page}: bounds {lower} and {upper} are impossible")
    for pointer in struct.unpack_from(f"<{count}H", data, base + PAGE_HEADER):
        if pointer % 2 or not lower <= pointer <= page_size - NODE_HEADER:
            raise ScanError(f"page {page}: a node at {pointer} lies outside the page")
        low, high, flags, key_size = NODE.unpack_from(data, base + pointer)
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
