"""The framing of RecordIO (``train.rec``): where records begin and end, whoever reads them.

A record is one or more *parts*: ``u32`` magic, ``u32`` (cflag << 29 | length), payload, zeros up to
a multiple of four; all integers little-endian. Whole records have cflag 0. A payload that holds the
magic at a multiple of four is cut there: the parts have cflag 1, 2 … 2, 3, and the four magic bytes
between them are not stored.

Two parsers read them: :func:`walk_parts` takes any record and tells every fault, and
:func:`find_usual` takes whole records by the thousand, and leaves the rest to the other. MXNet,
which this replaces, ended with NumPy 1.23 and Python 3.11, and reads one record at a time.

Source: dmlc-core ``include/dmlc/recordio.h``, as of MXNet 1.9.1.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from facepack.errors import SourceError

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
MAX_PAYLOAD = (1 << 29) - 1
"""The largest payload of a record, bytes: the length field has 29 bits. A word that is larger has a
cflag: the record has several parts."""

PART = struct.Struct("<II")  # what precedes the payload of a part: the magic, and cflag and length

_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)

Read = Callable[[int, int], bytes | memoryview]
"""Gives so many bytes from an offset on, which lie within the records."""

FETCH_AGAIN = "fetch or copy the file again and compare its size and checksum with the publisher's"
WRONG_INDEX = (
    "if the .idx was made for another file, remove it and the .rec will be scanned; else "
    f"{FETCH_AGAIN}"
)
# Where there is no index, and records are found by walking from one to the next.
NO_RECORDIO = f"this is not a RecordIO file, or its first record is damaged: {FETCH_AGAIN}"
NO_INDEX = (
    "the file is damaged or cut short, and no .idx tells where records behind this one begin: "
    f"{FETCH_AGAIN}, or put its .idx beside it, and records that are broken by themselves are set "
    "aside"
)


class RecordError(SourceError):
    """One record cannot be used; the records after it can.

    Attributes are what a list of refused records needs: ``path``, ``offset`` (byte in the file),
    ``key`` (of the index), ``reason`` and ``remedy``. Any of the first three may be None where the
    payload was not read from a file.
    """

    def __init__(
        self, path: Path | None, offset: int | None, key: int | None, reason: str, remedy: str
    ) -> None:
        # All of them are passed on, so that the error survives the way back from a worker process.
        super().__init__(path, offset, key, reason, remedy)
        self.path = path
        self.offset = offset
        self.key = key
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        where = "record" if self.offset is None else f"record at byte {self.offset}"
        if self.key is not None:
            where += f" (key {self.key})"
        file = "" if self.path is None else f"{self.path}: "
        return f"{file}{where}: {self.reason}; {self.remedy}"


class FramingError(RecordError):
    """A record's parts are damaged, or no record begins where one is looked for.

    ``offset`` is the byte that is wrong: the record's own, or that of one of its parts.
    """

    def __str__(self) -> str:
        return f"{self.path}: byte {self.offset}: {self.reason}; {self.remedy}"


class OverlongError(FramingError):
    """A part of a record claims more bytes than there are."""


def padded(length: int) -> int:
    """``length`` filled up to a multiple of four."""
    return length + (-length & 3)


def frame(payload: bytes) -> Iterator[bytes]:
    """The bytes of a record, in pieces: its payload cut into parts."""
    start = 0
    hit = payload.find(MAGIC_BYTES)
    while hit >= 0:
        if hit % 4:
            hit = payload.find(MAGIC_BYTES, hit + 1)
            continue
        yield PART.pack(MAGIC, (_MIDDLE if start else _FIRST) << 29 | hit - start)
        yield payload[start:hit]
        start = hit + 4
        hit = payload.find(MAGIC_BYTES, start)
    length = len(payload) - start
    yield PART.pack(MAGIC, (_LAST if start else _WHOLE) << 29 | length)
    yield payload[start:]
    yield bytes(-length & 3)


def walk_parts(read: Read, size: int, offset: int, path: Path) -> Iterator[tuple[int, int]]:
    """Yield ``(start, length)`` of the payload of each part of the record at ``offset``.

    ``size`` is the bytes of all records.

    Raises:
        FramingError: the record is damaged, or none begins there.
    """

    def fault(
        at: int, found: str, remedy: str, kind: type[FramingError] = FramingError
    ) -> FramingError:
        return kind(path, at, None, found, remedy)

    if offset < 0 or offset >= size:
        raise fault(offset, f"lies outside the file, which has {size} bytes", WRONG_INDEX)
    position = offset
    total = 0
    flag = None
    while flag not in (_WHOLE, _LAST):
        if position + PART.size > size:
            raise fault(
                offset,
                f"the file ends at byte {size}, inside the head of a part that begins at byte "
                f"{position}",
                f"the file is cut short: {FETCH_AGAIN}",
            )
        magic, word = PART.unpack(read(PART.size, position))
        flag, length = word >> 29, word & MAX_PAYLOAD
        if magic != MAGIC:
            raise fault(
                position,
                f"0x{magic:08x} where a part's magic 0x{MAGIC:08x} must be",
                f"this is not the start of a record, or it is damaged: {WRONG_INDEX}",
            )
        allowed = (_WHOLE, _FIRST) if position == offset else (_MIDDLE, _LAST)
        if flag not in allowed:
            raise fault(
                position,
                f"a part with cflag {flag} where {allowed[0]} or {allowed[1]} must be",
                f"the record's parts are not in order: {WRONG_INDEX}",
            )
        start = position + PART.size
        position = start + padded(length)
        if position > size:
            raise fault(
                offset,
                f"a part of {length} bytes reaches to byte {position}, the file ends at byte "
                f"{size}",
                f"the file is cut short or its length field is damaged: {FETCH_AGAIN}",
                OverlongError,
            )
        total += length + 4 * (flag in (_FIRST, _MIDDLE))
        if total > MAX_PAYLOAD or (flag in (_FIRST, _MIDDLE) and length % 4):
            raise fault(
                offset,
                f"a part of {length} bytes with cflag {flag}, {total} bytes so far; parts "
                f"before the last are multiples of 4 and a record has at most {MAX_PAYLOAD}",
                f"the length field is damaged: {FETCH_AGAIN}",
            )
        yield start, length


def read_record(read: Read, size: int, offset: int, path: Path) -> tuple[memoryview, int]:
    """The payload of the record at ``offset``, and the offset behind it; as :func:`walk_parts`."""
    pieces = []
    for start, length in walk_parts(read, size, offset, path):
        pieces.append(read(length, start))
    return memoryview(MAGIC_BYTES.join(pieces)), start + padded(length)


def find_payloads(
    block: memoryview, offsets: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`find_usual`, of the first records as far as all are usual."""
    begins, ends, usual = find_usual(block, offsets, count)
    taken = count if usual.all() else int(np.argmin(usual))
    return begins[:taken], ends[:taken]


def find_usual(
    block: memoryview, offsets: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the payloads of usual records in a block begin and end.

    Usual are whole records that end in the block, where the next one, or another record, begins.

    Args:
        block: begins where a record begins, at a multiple of four in memory.
        offsets: int64, where ``count`` records begin in it; and one more, unless these are the last
            of all, behind which nothing is known.

    Returns:
        Begin and end of each payload, int64 (count,), and which records are usual, bool (count,):
        of others, begin and end may be anything.
    """
    if len(block) < PART.size:
        return offsets[:count], offsets[:count], np.zeros(count, bool)
    # Heads are multiples of four, so that each is two numbers of this view. An index that an odd
    # record would take out of the view is held at its end; ``good`` then leaves that record out.
    words = np.frombuffer(block, "<u4", len(block) >> 2)
    at = offsets[:count]
    good = (at & 3 == 0) & (at + PART.size <= len(block))
    head = np.where(good, at >> 2, 0)
    length = words[np.minimum(head + 1, len(words) - 1)].astype(np.int64)
    begins = at + PART.size
    ends = begins + length
    after = ends + (-length & 3)
    # Also false for a cflag other than 0, which makes the length larger than any block.
    good &= (words[head] == MAGIC) & (after <= len(block))
    next_word = np.where(good, after >> 2, 0)
    another = words[np.minimum(next_word, len(words) - 1)] == MAGIC
    another &= after + 4 <= len(block)
    following = offsets[1 : count + 1]
    known = len(following)
    good[:known] &= (after[:known] == following) | ((after[:known] < following) & another[:known])
    return begins, ends, good
