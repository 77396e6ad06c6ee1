"""No two records may want one file: the second would replace the first.

Hashes of 8 bytes tell which paths may be the same, and the paths themselves whether they are: the
names of all records do not fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import numpy as np

from facepack.convert.delivery import deliver
from facepack.convert.names import later_occurrences
from facepack.convert.source import RecordNames, Source
from facepack.convert.spans import parts_of
from facepack.errors import SourceError
from facepack.hashing import hash64
from facepack.images import SUFFIXES
from facepack.store.checks import ImageCheck
from facepack.store.record import SourceRecord
from facepack.wording import count_of

_LOOKED_AT = 100  # repeated names whose images are; of those behind them the index tells

_LABELS, _NUMBERS = 0, 1  # seeds

PathOf = Callable[[SourceRecord, str], str]
"""Where a record goes below the target, given the suffix of its image's format."""


def require_distinct_ahead(out: Path, source: Source, check: ImageCheck, path_of: PathOf) -> None:
    """Make sure of it before anything is written, of a source that knows names beforehand.

    Names without a suffix get that of the format, so those that occur more than once are read.

    Raises:
        SourceError: two records want one file.
    """
    hashes = np.empty(len(source), np.uint64)
    for part in parts_of(source):
        names = part.record_names()
        if names is None:
            return
        hashes[part.start : part.stop] = _hashes(names)
    repeated = np.unique(hashes[later_occurrences(hashes)])
    for value in repeated[:_LOOKED_AT]:
        ordinals: dict[str, int] = {}  # by path

        def accept(record: SourceRecord, ordinals: dict[str, int] = ordinals) -> None:
            path = path_of(record, SUFFIXES[check.look(record.image)[1].format])
            if path in ordinals:
                raise SourceError(
                    f"{out}: {count_of(len(repeated), 'name occurs', 'names occur')} more than "
                    f"once in the source, {path!r} for one, of its records "
                    f"{ordinals[path]:,} and {record.ordinal:,}: give --naming number"
                )
            ordinals[path] = record.ordinal

        for ordinal in np.flatnonzero(hashes == value).tolist():
            deliver(source.part(ordinal, ordinal + 1), accept, strict=False)


def _hashes(known: RecordNames) -> np.ndarray:
    """What is the same of records that may want one file: uint64 (n,)."""
    labels = hash64(_LABELS, known.labels)
    numbered = labels ^ hash64(_NUMBERS, known.numbers)
    if known.names is None or not any(known.names):
        return numbered
    count = len(labels)
    names = [name or "" for name in known.names]
    own = np.fromiter(map(hash, names), np.int64, count).view(np.uint64)
    is_path = np.fromiter(("/" in name for name in names), bool, count)  # else below its label
    is_named = np.fromiter(map(bool, names), bool, count)
    return np.where(is_named, np.where(is_path, own, own ^ labels), numbered)


def require_distinct(out: Path, hashes: np.ndarray, indices: Iterable[bytes]) -> None:
    """Make sure of it once all is written.

    ``hashes`` are the XXH3-64 of all paths, uint64 (n,), in the lines ``<path> <label>`` of
    ``indices``.

    Raises:
        SourceError: a file was written twice.
    """
    ordered = np.sort(hashes)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(twice):
        return
    lines = (line for index in indices for line in index.split(b"\n")[:-1])
    first = int(np.flatnonzero(hashes == twice[0])[0])
    path = path_in(next(islice(lines, first, None))).decode()
    raise SourceError(
        f"{out}: {count_of(len(twice), 'name occurs', 'names occur')} more than once in the "
        f"source, {path!r} for one: start anew with --overwrite --naming number"
    )


def path_in(line: bytes) -> bytes:
    """The path that a line of an index has."""
    return line.rsplit(b" ", 1)[0]
