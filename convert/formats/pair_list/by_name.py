"""Images that a list calls by another name than they bear: a longer path, or another suffix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def find_by_name(wanted: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """The position of each wanted image among ``names``: int64, -1 where there is none.

    A wanted name is a path, or the end of one that begins at a folder; the suffix may be another
    than in the list, as aligned copies are often PNG. Of several images that fit, none is taken.
    """
    positions: dict[str, int] = {}
    by_end: dict[str, int] = {}
    ends = {_stem(name) for name in wanted}
    for position, name in enumerate(names):
        stem = _stem(name)
        positions[name] = -1 if name in positions else position
        for end in _ends(stem):
            if end in ends:
                by_end[end] = -1 if end in by_end else position
    found = (positions.get(name, by_end.get(_stem(name), -1)) for name in wanted)
    return np.fromiter(found, np.int64, len(wanted))


def _stem(name: str) -> str:
    head, dot, suffix = name.rpartition(".")
    return head if dot and "/" not in suffix else name


def _ends(path: str) -> Iterator[str]:
    """``a/b/c``, ``b/c`` and ``c``."""
    yield path
    at = path.find("/")
    while at >= 0:
        yield path[at + 1 :]
        at = path.find("/", at + 1)
