"""Finding leaf pages in LMDB data files of which nothing else can be believed."""

from __future__ import annotations

import numpy as np

from facepack.store.lmdb_format import P_BRANCH, P_LEAF, P_META, P_OVERFLOW, PAGE_HEADER, PAGE_SIZES
from facepack.store.lmdb_read import ScanError


def guess_page_size(data: memoryview) -> int:
    """The page size under which most page numbers of a damaged file are where they say.

    A page's number stands at its head; under another page size, next to none fits.

    Raises:
        ScanError: none fits under any.
    """
    fits = {size: int(np.count_nonzero(_heads(data, size)[1])) for size in PAGE_SIZES}
    best = max(fits, key=lambda size: fits[size])
    if not fits[best]:
        raise ScanError("it holds no recognisable LMDB page")
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
