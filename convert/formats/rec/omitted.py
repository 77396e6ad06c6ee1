"""Records of a ``.rec`` that its ``.idx`` does not list.

MXNet's ImageRecordIter reads the file from end to end and serves them; its MXIndexedRecordIO goes
by the index and does not. An index lacks lines because a download failed or a writer was killed, or
because somebody took them out. A full one is not to cost a look at every record: lines are tried
that are likely to show a gap; one that these miss is met when the records are read (``RecPart``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeGuard

import numpy as np

from facepack.convert.formats.rec.framing import FramingError
from facepack.convert.formats.rec.recordio import RecordReader

_TRIED = 64  # lines of each kind that are tried


def find_omitted(
    reader: RecordReader, keys: np.ndarray, offsets: np.ndarray, *, thorough: bool = False
) -> np.ndarray:
    """The byte offset of each record that no line names, int64 and increasing.

    The ends of the file are always looked at, and the gaps between lines if one of those tried
    shows any, or all is to be ``thorough``. Lines have ``keys`` (n,) and ``offsets`` (n,) int64,
    which increase.
    """
    shown = any(_is_gap(_end(reader, row), after) for row, after in _suspects(keys, offsets))
    inner = range(len(offsets) - 1 if thorough or shown else 0)
    gaps: list[tuple[int | None, int]] = [(0, int(offsets[0]))]
    gaps += [(_end(reader, int(offsets[row])), int(offsets[row + 1])) for row in inner]
    gaps.append((_end(reader, int(offsets[-1])), reader.size))
    found = [at for begin, end in gaps if _is_gap(begin, end) for at in _walk(reader, begin, end)]
    return np.array(found, np.int64)


def number_on(
    keys: np.ndarray, offsets: np.ndarray, omitted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Keys and offsets of all records, by offset: those without a key are numbered behind the last.

    The index has ``keys`` and ``offsets``, int64 (n,); ``omitted`` are the others', int64 (m,).
    """
    following = int(keys.max(initial=-1)) + 1
    keys = np.concatenate([keys, np.arange(following, following + len(omitted))])
    offsets = np.concatenate([offsets, omitted])
    order = np.argsort(offsets, kind="stable")
    return keys[order], offsets[order]


def _suspects(keys: np.ndarray, offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """The offset of lines behind which a record could be missing, and that of the next line.

    Such are lines with the most bytes up to the next, those whose key is not followed by the next
    number, and some all over the file.
    """
    extents = np.diff(offsets)
    jumps = np.flatnonzero(np.diff(keys) != 1)
    tried = min(_TRIED, len(extents))
    largest = np.argpartition(extents, -tried)[-tried:] if tried else extents
    rows = np.concatenate([_spread(len(extents)), jumps[_spread(len(jumps))], largest])
    for row in np.unique(rows.astype(np.int64)).tolist():
        yield int(offsets[row]), int(offsets[row + 1])


def _spread(count: int) -> np.ndarray:
    return np.linspace(0, count - 1, min(_TRIED, count)).astype(np.int64)


def _end(reader: RecordReader, offset: int) -> int | None:
    """Where the record ends; None if it is damaged: it is set aside when it is read."""
    try:
        return reader.end_of(offset)
    except FramingError:
        return None


def _is_gap(end: int | None, following: int) -> TypeGuard[int]:
    return end is not None and end < following


def _walk(reader: RecordReader, begin: int, stop: int) -> Iterator[int]:
    """The records that follow each other from byte ``begin`` on and end by byte ``stop``."""
    while begin < stop and (end := _end(reader, begin)) is not None and end <= stop:
        yield begin
        begin = end
