"""Finding the records of a shard without the engine: by offsets that are checked first."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xxhash

from facepack.reading import open_regular
from facepack.store import format as fmt
from facepack.store.lmdb_read import Nodes, leaf_numbers, read_nodes, read_page_size
from facepack.store.lmdb_write import lmdb_pages

MAX_NODES = fmt.MAX_SHARD_RECORDS + 64  # a shard's records, and room for reserved ones
_KEY = 10  # bytes of a record's key


def map_file(path: Path) -> memoryview:
    """The bytes of a file that is not empty, as a map that lasts as long as a view of it."""
    with open_regular(path) as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def shard_nodes(data: memoryview) -> tuple[int, Nodes]:
    """The page size of a shard, and where its records lie.

    Raises:
        ScanError: not an LMDB file, or it claims more records than a shard can have.
    """
    page_size = read_page_size(data)
    pages = np.fromiter(leaf_numbers(data, page_size), np.int64)
    return page_size, read_nodes(data, pages, page_size, most=MAX_NODES)


def is_canonical(data: memoryview, page_size: int, nodes: Nodes) -> bool:
    """Whether a shard is, byte for byte, what facepack makes of its records.

    Then its B+tree is sound: safe to hand to the engine, whoever wrote the file. Page size and
    nodes are what :func:`shard_nodes` gives.
    """
    if nodes.errors or nodes.overlap.any() or not len(nodes):
        return False
    keys = [bytes(data[a : a + n]) for a, n in _together(nodes.key_starts, nodes.key_sizes)]
    values = [data[a : a + n] for a, n in _together(nodes.starts, nodes.sizes)]
    at = 0
    try:
        for piece in lmdb_pages(
            keys, values, page_size=page_size, leaf_starts=nodes.page_starts.tolist()
        ):
            if bytes(data[at : at + len(piece)]) != piece:  # a view compares item by item
                return False
            at += len(piece)
    except ValueError:  # keys that no file of ours can have
        return False
    return at == len(data)


def _together(*arrays: np.ndarray) -> Iterator[tuple[int, ...]]:
    return zip(*(array.tolist() for array in arrays), strict=True)


def record_keys(data: memoryview, nodes: Nodes) -> np.ndarray:
    """The record's key that each of ``nodes`` has, as a number; -1 where it has another (int64)."""
    keys = np.full(len(nodes), -1, np.int64)
    long = np.flatnonzero(nodes.key_sizes == _KEY)
    octets = np.frombuffer(data, np.uint8)
    digits = octets[nodes.key_starts[long][:, None] + np.arange(_KEY)] - np.uint8(ord("0"))
    values = digits.astype(np.int64) @ 10 ** np.arange(_KEY - 1, -1, -1)
    keys[long] = np.where((digits <= 9).all(axis=1), values, -1)
    return keys


def record_checksums(data: memoryview, nodes: Nodes, which: np.ndarray) -> np.ndarray:
    """The checksums (uint64) of the nodes that ``which`` lists, as ``__sums__`` holds them."""
    key_starts, starts = nodes.key_starts[which], nodes.starts[which]
    key_ends, ends = key_starts + nodes.key_sizes[which], starts + nodes.sizes[which]
    digest = xxhash.xxh3_64_intdigest
    # Inside a leaf page, the value follows its key: no copy is needed to join them.
    checksums = [
        digest(data[a:d]) if b == c else digest(bytes(data[a:b]) + data[c:d])
        for a, b, c, d in _together(key_starts, key_ends, starts, ends)
    ]
    return np.asarray(checksums, np.uint64)
