"""MXNet RecordIO (``train.rec``), read and written without MXNet.

A record is one or more *parts*: ``u32`` magic, ``u32`` (cflag << 29 | length), payload, zeros up to
a multiple of four; all integers little-endian. Whole records have cflag 0. A payload that holds the
magic at a multiple of four is cut there: the parts have cflag 1, 2 … 2, 3, and the four magic bytes
between them are not stored. The payload of an image record is an ``IRHeader`` (flag ``u32``, label
``f32``, id ``u64``, id2 ``u64``), ``flag`` labels of ``f32``, and the encoded image.

Source: dmlc-core ``include/dmlc/recordio.h`` and MXNet ``python/mxnet/recordio.py`` (1.9.1).
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facepack import system
from facepack.convert.blocks import Blocks, ReadOnce
from facepack.errors import SourceError

MAGIC = 0xCED7230A
MAX_PAYLOAD = (1 << 29) - 1
"""The largest payload of a record, bytes: the length field has 29 bits."""

MAX_CLASS = (1 << 24) - 1
"""The largest class a label can name: labels are float32, where 2^24 and 2^24 + 1 are the same."""

_MAGIC_BYTES = struct.pack("<I", MAGIC)
_PART = struct.Struct("<II")
PART_HEAD = _PART.size
"""Bytes before the payload of a part."""

IR_HEADER = struct.Struct("<IfQQ")
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)

# A block is the unit of sequential reading. Records are views into it, so it must not be reused;
# this size is past the point where reading more at a time is faster.
_BLOCK = 1 << 20
# How much is read after the start of the last wanted record, whose length is not known yet.
_TAIL = 64 << 10
_FETCH_AGAIN = "fetch or copy the file again and compare its size and checksum with the publisher's"
_WRONG_INDEX = (
    "if the .idx was made for another file, remove it and the .rec will be scanned; "
    f"else {_FETCH_AGAIN}"
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
        place = "record" if self.offset is None else f"record at byte {self.offset}"
        if self.key is not None:
            place += f" (key {self.key})"
        file = "" if self.path is None else f"{self.path}: "
        return f"{file}{place}: {self.reason}; {self.remedy}"


class FramingError(RecordError):
    """A record's parts are damaged, or no record begins where one is looked for.

    ``offset`` is the byte that is wrong: the record's own, or that of one of its parts.
    """

    def __str__(self) -> str:
        return f"{self.path}: byte {self.offset}: {self.reason}; {self.remedy}"


class ReadError(SourceError):
    """The file cannot be read on (the disk, the network, a file that shrinks).

    It says nothing of any record, so that no record may be set aside for it.
    """


class Header(NamedTuple):
    """What precedes an image in its record, and the image.

    ``labels`` has one element when ``flag`` is 0, else ``flag`` elements. An empty ``image`` marks
    the header record or an identity record of the InsightFace layout.
    """

    flag: int
    labels: tuple[float, ...]
    id: int
    id2: int
    image: memoryview


def pack_header(label: float | Sequence[float], id: int, id2: int = 0) -> bytes:
    """The bytes before the image: a scalar ``label`` is flag 0, a sequence is stored as a vector.

    Labels are rounded to float32. ``id`` and ``id2`` are below 2^64.
    """
    labels = np.asarray(label, "<f4")
    if labels.ndim == 0:
        return IR_HEADER.pack(0, labels.item(), id, id2)
    if labels.ndim > 1 or labels.size == 0:
        raise ValueError(f"labels of shape {labels.shape}; a label vector has one axis, not empty")
    return IR_HEADER.pack(labels.size, 0.0, id, id2) + labels.tobytes()


def unpack_header(
    payload: bytes | memoryview,
    *,
    path: Path | None = None,
    offset: int | None = None,
    key: int | None = None,
) -> Header:
    """Take ``payload`` apart without copying the image; the keywords name the record in an error.

    Raises :class:`RecordError` when the payload is too short for its own header.
    """
    if len(payload) < IR_HEADER.size:
        raise RecordError(
            path,
            offset,
            key,
            f"its payload has {len(payload)} bytes, an image record has at least "
            f"{IR_HEADER.size} (the IRHeader)",
            _FETCH_AGAIN,
        )
    flag, label, id_, id2 = IR_HEADER.unpack_from(payload)
    start = IR_HEADER.size + 4 * flag
    if start > len(payload):
        raise RecordError(
            path,
            offset,
            key,
            f"its flag announces {flag} labels, its payload of {len(payload)} bytes has room for "
            f"{(len(payload) - IR_HEADER.size) // 4}",
            _FETCH_AGAIN,
        )
    labels = struct.unpack_from(f"<{flag}f", payload, IR_HEADER.size) if flag else (label,)
    return Header(flag, labels, id_, id2, memoryview(payload)[start:])


def class_label(
    header: Header,
    *,
    path: Path | None = None,
    offset: int | None = None,
    key: int | None = None,
) -> int:
    """The class of an image: its scalar label, or the first element of a vector ``[class, …]``.

    A label of -1 means that the image has no class. Raises :class:`RecordError` for a label that is
    neither: not finite, below -1, fractional, or above :data:`MAX_CLASS`.
    """
    label = header.labels[0]
    # NaN fails both comparisons, so the one condition refuses all that is not a class.
    if -1 <= label <= MAX_CLASS and label.is_integer():
        return int(label)
    raise RecordError(
        path,
        offset,
        key,
        f"its label is {label!r}, a class is a whole number from 0 to {MAX_CLASS}, or -1 for none",
        "correct the label in the source's list and write the .rec again, or leave the record out",
    )


class RecordWriter:
    """Writes a ``.rec`` and its ``.idx`` as MXNet 1.9.1 does, byte for byte.

    A context manager. Both files are replaced if they exist, but for the bytes that are kept.

    Args:
        path: the ``.rec``.
        index_path: the ``.idx``.
        keep: bytes of both, as an earlier :meth:`sync` gave them, behind which to go on.
    """

    def __init__(
        self, path: Path | str, index_path: Path | str, *, keep: tuple[int, int] = (0, 0)
    ) -> None:
        with ExitStack() as files:
            self._file, self._index = (
                files.enter_context(Path(file).open("r+b" if size else "wb", buffering=1 << 20))
                for file, size in zip((path, index_path), keep, strict=True)
            )
            for file, size in zip((self._file, self._index), keep, strict=True):
                if size:
                    file.truncate(size)
                    file.seek(size)
            self._files = files.pop_all()
        self._offset = keep[0]

    def write(self, key: int, payload: bytes) -> int:
        """Append a record and its index line; return the record's byte offset."""
        if key < 0:
            raise ValueError(f"key {key} is negative; keys count from 0")
        if len(payload) > MAX_PAYLOAD:
            raise ValueError(
                f"key {key}: a payload of {len(payload)} bytes; a record holds at most "
                f"{MAX_PAYLOAD}"
            )
        offset = self._offset
        start = 0
        hit = payload.find(_MAGIC_BYTES)
        while hit >= 0:
            if hit % 4:
                hit = payload.find(_MAGIC_BYTES, hit + 1)
                continue
            self._write_part(_MIDDLE if start else _FIRST, payload[start:hit])
            start = hit + 4
            hit = payload.find(_MAGIC_BYTES, start)
        self._write_part(_LAST if start else _WHOLE, payload[start:])
        self._index.write(b"%d\t%d\n" % (key, offset))
        return offset

    def _write_part(self, flag: int, part: bytes) -> None:
        self._file.write(_PART.pack(MAGIC, flag << 29 | len(part)))
        self._file.write(part)
        self._file.write(bytes(-len(part) % 4))
        self._offset += _PART.size + _padded(len(part))

    def sync(self) -> tuple[int, int]:
        """Bring all that was written to the disk; return the bytes of both files."""
        for file in (self._file, self._index):
            file.flush()
            os.fsync(file.fileno())
        return self._offset, self._index.tell()

    def close(self) -> None:
        """Flush and close both files."""
        self._files.close()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RecordReader:
    """Reads records of one ``.rec``, one by one or in sequence.

    A context manager. Reading keeps no position, so that threads may share a reader. Every
    malformation is a :class:`FramingError`, a failure of the file itself a :class:`ReadError`, both
    with file and byte offset; nothing is allocated for a length that the file cannot hold.
    """

    def __init__(self, path: Path | str) -> None:
        self._descriptor = -1
        self._blocks = Blocks()
        self.path = Path(path)
        try:
            self._descriptor = os.open(self.path, system.READ)
            self.size = os.fstat(self._descriptor).st_size
        except OSError as error:
            raise SourceError(f"{self.path}: cannot be opened: {error.strerror}") from error
        if self.size == 0:
            self.close()
            raise SourceError(f"{self.path}: the file is empty; {_FETCH_AGAIN}")

    def close(self) -> None:
        """Close the file; payloads that were read stay valid."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> RecordReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def check_size(self, expected: int) -> None:
        """Make sure that the file has ``expected`` bytes now; raises :class:`ReadError` if not."""
        try:
            size = os.fstat(self._descriptor).st_size
        except OSError as error:
            raise self._unreadable(0, error) from error
        if size != expected:
            raise ReadError(
                f"{self.path} changed while it was read, from {expected} to {size} bytes; once it "
                "is whole again, run with --resume"
            )

    def read_at(self, offset: int) -> memoryview:
        """The payload of the record that begins at byte ``offset``."""
        return self._read_record(offset)[0]

    def end_of(self, offset: int) -> int:
        """The byte offset after the record that begins at byte ``offset``, its padding included."""
        for start, length in self._parts(offset):
            end = start + _padded(length)
        return end

    def begins_at(self, offset: int) -> bool:
        """Whether a record begins, and is whole, at byte ``offset``."""
        try:
            self.end_of(offset)
        except FramingError:
            return False
        return True

    def iter_range(
        self, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, memoryview]]:
        """Yield ``(offset, payload)`` of every record that begins in bytes ``[start, stop)``.

        ``start`` is the start of a record, ``stop`` defaults to the end of the file. A payload is a
        view into a block of 1 MiB that lives as long as one of its payloads.
        """
        stop = self.size if stop is None else min(stop, self.size)
        unpack, part_size, magic_number = _PART.unpack_from, _PART.size, MAGIC
        while start < stop:
            block = self._read_block(min(_BLOCK, stop - start), start)
            size = len(block)
            at = 0
            while at + part_size <= size:
                magic, length = unpack(block, at)
                end = at + part_size + length
                # Also false for a cflag other than 0, which makes the length larger than any block.
                if magic != magic_number or end + (-length & 3) > size:
                    break
                yield start + at, block[at + part_size : end]
                at = end + (-length & 3)
            if at == 0:
                payload, end = self._read_record(start)
                yield start, payload
                start = end
            else:
                start += at

    def iter_at(self, offsets: np.ndarray) -> Iterator[memoryview]:
        """Yield the payload of the record at each of ``offsets``, int64 and increasing.

        As fast as :meth:`iter_range` where the records follow each other; records between them are
        skipped. Payloads live as there. A record that does not end where the next one, or one that
        is skipped, begins is refused.
        """
        unpack, part_size, magic_number = _PART.unpack_from, _PART.size, MAGIC
        count = len(offsets)
        done = 0
        while done < count:
            start = int(offsets[done])
            upto = int(np.searchsorted(offsets, start + _BLOCK))
            stop = min(int(offsets[upto - 1]) + _TAIL, start + _BLOCK, self.size)
            block = self._read_block(max(stop - start, 0) if start >= 0 else 0, start)
            size = len(block)
            # Behind the last of all, nothing is known.
            bounds = (offsets[done : upto + 1] - start).tolist() + [None] * (upto == count)
            before = done
            for at, following in pairwise(bounds):
                if at + part_size > size:
                    break
                magic, length = unpack(block, at)
                end = at + part_size + length
                after = end + (-length & 3)
                if magic != magic_number or after > size:
                    break
                if (
                    after != following
                    and following is not None
                    and (after > following or block[after : after + 4] != _MAGIC_BYTES)
                ):
                    break
                done += 1
                yield block[at + part_size : end]
            if done == before:
                payload, after = self._read_record(start)
                if done + 1 < count:
                    self._check_following(start, after, int(offsets[done + 1]))
                done += 1
                yield payload

    def iter_blocks(
        self, offsets: np.ndarray
    ) -> Iterator[memoryview | tuple[memoryview, np.ndarray, np.ndarray]]:
        """As :meth:`iter_at`, but usual records that follow each other come together.

        Of these: memory that holds them, and where each payload begins and ends in it, int64 (n,).
        Others come as :meth:`iter_at` gives them, and are refused as there. The file is taken to
        be read for the only time.
        """
        count = len(offsets)
        done = 0
        once = ReadOnce(self._descriptor, int(offsets[0]) if count else 0)
        while done < count:
            start = int(offsets[done])
            once.reached(start)
            upto = int(np.searchsorted(offsets, start + _BLOCK))
            stop = min(int(offsets[upto - 1]) + _TAIL, start + _BLOCK, self.size)
            if 0 <= start < stop and start % 4 == 0:
                block = self._read_block(stop - start, start)
                begins, ends = _usual_payloads(block, offsets[done : upto + 1] - start, upto - done)
                if len(begins):
                    yield block, begins, ends
                    done += len(begins)
                    continue
            for payload in self.iter_at(offsets[done : done + 2]):
                yield payload
                break
            done += 1

    def offsets(self) -> np.ndarray:
        """Find every record by walking from part to part: int64 byte offsets, increasing.

        Payloads larger than a block are skipped, not read.
        """
        found = array("q")
        append, unpack = found.append, _PART.unpack_from
        part_size, magic_number = _PART.size, MAGIC
        start = 0
        while start < self.size:
            block = self._pread(min(_BLOCK, self.size - start), start)
            size = len(block)
            at = 0
            while at + part_size <= size:
                magic, length = unpack(block, at)
                if magic != magic_number or length > MAX_PAYLOAD:
                    break
                end = at + part_size + length + (-length & 3)
                if start + end > self.size:
                    break
                append(start + at)
                at = end
            if at == 0:
                append(start)
                start = self.end_of(start)
            else:
                start += at
        return np.frombuffer(found, np.int64)

    def _read_record(self, offset: int) -> tuple[memoryview, int]:
        """The payload at ``offset`` and the offset of the next record: any record, any fault."""
        payload = bytearray()
        for part, (start, length) in enumerate(self._parts(offset)):
            if part:
                payload += _MAGIC_BYTES
            payload += self._pread(length, start)
        return memoryview(payload).toreadonly(), start + _padded(length)

    def _check_following(self, offset: int, after: int, following: int) -> None:
        if after > following:
            raise self._fault(
                offset,
                f"the record reaches to byte {after}, over the next one at byte {following}",
                f"its length field is damaged: {_WRONG_INDEX}",
            )
        if after < following and self._pread(4, after) != _MAGIC_BYTES:
            raise self._fault(
                offset,
                f"the record ends at byte {after}, where no other begins",
                f"its length field is damaged: {_WRONG_INDEX}",
            )

    def _parts(self, offset: int) -> Iterator[tuple[int, int]]:
        """Yield ``(start, length)`` of the payload of each part of the record at ``offset``."""
        if offset < 0 or offset >= self.size:
            raise self._fault(
                offset, f"lies outside the file, which has {self.size} bytes", _WRONG_INDEX
            )
        position = offset
        total = 0
        while True:
            if position + _PART.size > self.size:
                raise self._fault(
                    offset,
                    f"the file ends at byte {self.size}, inside the head of a part that begins at "
                    f"byte {position}",
                    f"the file is cut short: {_FETCH_AGAIN}",
                )
            magic, word = _PART.unpack(self._pread(_PART.size, position))
            flag, length = word >> 29, word & MAX_PAYLOAD
            if magic != MAGIC:
                raise self._fault(
                    position,
                    f"0x{magic:08x} where a part's magic 0x{MAGIC:08x} must be",
                    "this is not a RecordIO file, or not the start of a record, or it is damaged: "
                    + _WRONG_INDEX,
                )
            allowed = (_WHOLE, _FIRST) if position == offset else (_MIDDLE, _LAST)
            if flag not in allowed:
                raise self._fault(
                    position,
                    f"a part with cflag {flag} where {allowed[0]} or {allowed[1]} must be",
                    f"the record's parts are not in order: {_WRONG_INDEX}",
                )
            start = position + _PART.size
            position = start + _padded(length)
            if position > self.size:
                raise self._fault(
                    offset,
                    f"a part of {length} bytes reaches to byte {position}, the file ends at byte "
                    f"{self.size}",
                    f"the file is cut short or its length field is damaged: {_FETCH_AGAIN}",
                )
            total += length + 4 * (flag in (_FIRST, _MIDDLE))
            if total > MAX_PAYLOAD or (flag in (_FIRST, _MIDDLE) and length % 4):
                raise self._fault(
                    offset,
                    f"a part of {length} bytes with cflag {flag}, {total} bytes so far; parts "
                    f"before the last are multiples of 4 and a record has at most {MAX_PAYLOAD}",
                    f"the length field is damaged: {_FETCH_AGAIN}",
                )
            yield start, length
            if flag in (_WHOLE, _LAST):
                return

    def _fault(self, offset: int, found: str, remedy: str) -> FramingError:
        return FramingError(self.path, offset, None, found, remedy)

    def _unreadable(self, offset: int, error: OSError) -> ReadError:
        return ReadError(
            f"{self.path}: byte {offset}: cannot be read: {error.strerror}; make sure that the "
            "disk is sound and mounted, then run again with --resume"
        )

    def _shrunk(self, offset: int) -> ReadError:
        return ReadError(
            f"{self.path}: byte {offset}: the file ends here, it had {self.size} bytes when it was "
            "opened; let whatever writes or truncates it finish, then run again with --resume"
        )

    def _pread(self, count: int, offset: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                more = system.read_at(self._descriptor, count - len(data), offset + len(data))
            except OSError as error:
                raise self._unreadable(offset + len(data), error) from error
            if not more:
                raise self._shrunk(offset + len(data))
            # The first read gives everything, nearly always, and must not be copied.
            data = data + more if data else more
        return data

    def _read_block(self, count: int, offset: int) -> memoryview:
        """As :meth:`_pread`, into memory that suits what is kept."""
        block = self._blocks.take(count)
        read = 0
        while read < count:
            try:
                more = system.read_into(self._descriptor, block[read:], offset + read)
            except OSError as error:
                raise self._unreadable(offset + read, error) from error
            if not more:
                raise self._shrunk(offset + read)
            read += more
        return block.toreadonly()


def _usual_payloads(
    block: memoryview, offsets: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where the payloads of the first records in a block begin and end, as far as all is usual.

    Usual are whole records that end in the block, where the next one, or another record, begins.

    Args:
        block: begins where a record begins.
        offsets: int64, where ``count`` records begin in it; and one more, unless these are the last
            of all, behind which nothing is known.
        count: how many to look at.
    """
    words = np.frombuffer(block, "<u4", len(block) >> 2)
    at = offsets[:count]
    good = (at & 3 == 0) & (at + _PART.size <= len(block))
    head = np.where(good, at >> 2, 0)
    length = words[np.minimum(head + 1, len(words) - 1)].astype(np.int64)
    begins = at + _PART.size
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
    taken = count if good.all() else int(np.argmin(good))
    return begins[:taken], ends[:taken]


def scan_offsets(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Keys and offsets of a ``.rec`` that has no ``.idx``: ``0 … n-1`` and where each begins.

    Both int64 of shape (n,). The whole file is walked.
    """
    with RecordReader(path) as reader:
        offsets = reader.offsets()
    return np.arange(len(offsets), dtype=np.int64), offsets


def _padded(length: int) -> int:
    return length + (-length & 3)
