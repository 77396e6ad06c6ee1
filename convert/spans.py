"""Cutting a source into spans, each of which makes one shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter

import numpy as np

from facepack.convert.source import Part, Source
from facepack.errors import SourceError

_STEP = 1 << 16  # records of a part whose labels or names are looked at


@dataclass(frozen=True, kw_only=True)
class Span:
    """A run of source records ``[start, stop)`` that makes one shard."""

    name: str
    start: int
    stop: int


def parts_of(source: Source, cuts: Iterable[int] = ()) -> Iterator[Part]:
    """All of ``source``, in parts small enough to hold in memory what each record says.

    Parts begin at the ordinals ``cuts``, too, which lie in the source or at its end.
    """
    firsts = {n for _, first, last in source.groups() for n in range(first, last, _STEP)}
    for start, stop in pairwise(sorted({*firsts, *cuts, len(source)})):
        yield source.part(start, stop)


def payload_bytes(source: Source) -> int:
    """About how many bytes of images there are."""
    return int(source.sizes().sum(dtype=np.int64))


def cut_spans(
    source: Source, *, records: int, size: int, overhead: int = 0, least: int = 0
) -> list[Span]:
    """Cut every group into spans of at most so many records and bytes, in source order.

    Each record takes ``overhead`` bytes beside its image, for which ``least`` are counted at least.

    Raises:
        SourceError: two groups have the same name.
    """
    sizes = source.sizes()
    if overhead or least:
        sizes = np.maximum(sizes.astype(np.int64), least) + overhead
    spans: list[Span] = []
    for stem, start, stop in source.groups():
        spans += cut(stem, sizes[start:stop], records=records, size=size, first=start)
    names = Counter(span.name for span in spans)
    name, count = max(names.items(), key=itemgetter(1))
    if count > 1:
        raise SourceError(f"{count} files would make shards called {name!r}: rename one of them")
    return spans


def cut(stem: str, sizes: np.ndarray, *, records: int, size: int, first: int = 0) -> list[Span]:
    """Cut records of these sizes, from the ordinal ``first`` on, into spans called after ``stem``.

    A span has at most so many ``records``, and ``size`` bytes, which one record may exceed by
    itself.
    """
    before = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    bounds = [0]
    while bounds[-1] < len(sizes):
        start = bounds[-1]
        stop = int(np.searchsorted(before, before[start] + size, side="right")) - 1
        bounds.append(min(max(stop, start + 1), start + records, len(sizes)))
    if len(bounds) == 1:
        bounds.append(0)  # an empty source still makes a shard, which tells of it
    names = shard_names(stem, len(bounds) - 1)
    return [
        Span(name=name, start=first + bounds[k], stop=first + bounds[k + 1])
        for k, name in enumerate(names)
    ]


def shard_names(stem: str, count: int) -> Sequence[str]:
    """``train`` for one shard, ``train-000 train-001 …`` for several."""
    if count == 1:
        return [stem]
    width = max(3, len(str(count - 1)))
    return [f"{stem}-{k:0{width}d}" for k in range(count)]
