"""Image records in MXNet RecordIO (``train.rec``), read and written without MXNet.

The payload of an image record is an ``IRHeader`` (flag ``u32``, label ``f32``, id ``u64``, id2
``u64``), ``flag`` labels of ``f32``, and the encoded image. How payloads lie in the file is told in
:mod:`facepack.convert.formats.rec.framing`.

Source: MXNet ``python/mxnet/recordio.py`` (1.9.1).
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

from facepack.closing import Closing
from facepack.convert.formats.rec.framing import (
    FETCH_AGAIN,
    MAGIC,
    MAGIC_BYTES,
    MAX_PAYLOAD,
    PART,
    WRONG_INDEX,
    FramingError,
    RecordError,
    find_usual,
    frame,
    padded,
    read_record,
    walk_parts,
)
from facepack.convert.source_file import SourceFile
from facepack.convert.sweep import MAX_BLOCK
from facepack.errors import SourceError

MAX_CLASS = (1 << 24) - 1
"""The largest class a label can name: labels are float32, where 2^24 and 2^24 + 1 are the same."""

IR_HEADER = struct.Struct("<IfQQ")

# A block is the unit of sequential reading. Records are views into it, so it must not be reused.
_BLOCK = MAX_BLOCK
# How much is read after the start of the last wanted record, whose length is not known yet.
_TAIL = 64 << 10


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


_NOWHERE = (None, None, None)  # path, offset and key: whoever read the payload knows them


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


def unpack_header(payload: bytes | memoryview) -> Header:
    """Take ``payload`` apart without copying the image.

    Raises :class:`RecordError` when the payload is too short for its own header.
    """
    if len(payload) < IR_HEADER.size:
        raise RecordError(
            *_NOWHERE,
            f"its payload has {len(payload)} bytes, an image record has at least "
            f"{IR_HEADER.size} (the IRHeader)",
            FETCH_AGAIN,
        )
    flag, label, id_, id2 = IR_HEADER.unpack_from(payload)
    start = IR_HEADER.size + 4 * flag
    if start > len(payload):
        raise RecordError(
            *_NOWHERE,
            f"its flag announces {flag} labels, its payload of {len(payload)} bytes has room for "
            f"{(len(payload) - IR_HEADER.size) // 4}",
            FETCH_AGAIN,
        )
    labels = struct.unpack_from(f"<{flag}f", payload, IR_HEADER.size) if flag else (label,)
    return Header(flag, labels, id_, id2, memoryview(payload)[start:])


def are_blank(data: memoryview, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Which payloads hold a header and no image: bool (n,).

    Args:
        data: the memory that holds them.
        starts: where each begins in it, at a multiple of four: int64 (n,).
        stops: where each ends: int64 (n,).
    """
    sizes = stops - starts
    blank = sizes >= IR_HEADER.size
    flags = np.frombuffer(data, "<u4", len(data) >> 2)[starts[blank] >> 2]
    blank[blank] = sizes[blank] == IR_HEADER.size + 4 * flags.astype(np.int64)
    return blank


def class_label(header: Header) -> int:
    """The class of an image: its scalar label, or the first element of a vector ``[class, …]``.

    A label of -1 means that the image has no class. Raises :class:`RecordError` for a label that is
    neither: not finite, below -1, fractional, or above :data:`MAX_CLASS`.
    """
    label = header.labels[0]
    # NaN fails both comparisons, so the one condition refuses all that is not a class.
    if -1 <= label <= MAX_CLASS and label.is_integer():
        return int(label)
    raise RecordError(
        *_NOWHERE,
        f"its label is {label!r}, a class is a whole number from 0 to {MAX_CLASS}, or -1 for none",
        "correct the label in the source's list and write the .rec again, or leave the record out",
    )


class RecordWriter(Closing):
    """Writes a ``.rec`` and its ``.idx`` as MXNet 1.9.1 does, byte for byte.

    A context manager. Both files are replaced if they exist, but for the bytes to ``keep`` of both,
    as an earlier :meth:`sync` gave them.
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
        for piece in frame(payload):
            self._file.write(piece)
            self._offset += len(piece)
        self._index.write(b"%d\t%d\n" % (key, offset))
        return offset

    def sync(self) -> tuple[int, int]:
        """Bring all that was written to the disk; return the bytes of both files."""
        for file in (self._file, self._index):
            file.flush()
            os.fsync(file.fileno())
        return self._offset, self._index.tell()

    def close(self) -> None:
        """Flush and close both files."""
        self._files.close()


class RecordReader(SourceFile):
    """Reads records of one ``.rec``, one by one or in sequence.

    Every malformation is a :class:`FramingError` with file and byte offset; nothing is allocated
    for a length that the file cannot hold.
    """

    def __init__(self, path: Path | str, size: int | None = None) -> None:
        super().__init__(path, size)
        if self.size == 0:
            self.close()
            raise SourceError(f"{self.path}: the file is empty; {FETCH_AGAIN}")

    def read_at(self, offset: int) -> memoryview:
        """The payload of the record that begins at byte ``offset``."""
        return read_record(self.read, self.size, offset, self.path)[0]

    def end_of(self, offset: int) -> int:
        """The byte offset after the record that begins at byte ``offset``, its padding included."""
        for start, length in walk_parts(self.read, self.size, offset, self.path):
            end = start + padded(length)
        return end

    def begins_at(self, offset: int) -> bool:
        """Whether a record begins, and is whole, at byte ``offset``."""
        try:
            self.end_of(offset)
        except FramingError:
            return False
        return True

    def iter_at(self, offsets: np.ndarray) -> Iterator[memoryview]:
        """Yield the payload of the record at each of ``offsets``, int64 and increasing.

        Records between them are skipped. A record that does not end where the next one, or one that
        is skipped, begins is refused. A payload is a view into a block of 4 MiB that lives as long
        as one of its payloads.
        """
        for item in self.iter_blocks(offsets):
            if isinstance(item, memoryview):
                yield item
            elif isinstance(item, FramingError):
                raise item
            else:
                block, begins, ends = item
                for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
                    yield block[begin:end]

    def iter_blocks(
        self, offsets: np.ndarray, *, once: bool = False
    ) -> Iterator[memoryview | FramingError | tuple[memoryview, np.ndarray, np.ndarray]]:
        """As :meth:`iter_at`, but usual records that follow each other come together.

        Of these: memory that holds them, and where each payload begins and ends in it, int64 (n,).
        Of a record that is refused: the error. What is read ``once`` the system may forget.
        """
        count = len(offsets)
        done = 0
        if once and count:
            self.sweep(int(offsets[0]), int(offsets[-1]) + _TAIL)
        while done < count:
            start = int(offsets[done])
            upto = int(np.searchsorted(offsets, start + _BLOCK))
            stop = min(int(offsets[upto - 1]) + _TAIL, start + _BLOCK, self.size)
            inside = 0 <= start <= stop - PART.size
            block = self.read_block(stop - start, start) if inside else memoryview(b"")
            at = offsets[done : upto + 1] - start
            begins, ends, usual = find_usual(block, at, upto - done)
            # The last one may go on behind the block: then it begins the next one.
            if not usual[-1] and len(usual) > 1:
                usual = usual[:-1]
            for first, last in pairwise((0, *np.flatnonzero(np.diff(usual)) + 1, len(usual))):
                if usual[first]:
                    yield block, begins[first:last], ends[first:last]
                    continue
                for k in range(done + first, done + last):
                    yield self._read_unusual(offsets[k : k + 2].tolist(), block, start)
            done += len(usual)

    def _read_unusual(
        self, offsets: Sequence[int], block: memoryview, start: int
    ) -> memoryview | FramingError:
        """The payload of any record, or why it is refused.

        ``offsets`` are its own and that of the next one, if any follows; ``block`` holds the bytes
        from ``start`` on, as many as were read.
        """

        def read(count: int, offset: int) -> bytes | memoryview:
            at = offset - start
            return block[at : at + count] if at + count <= len(block) else self.read(count, offset)

        try:
            payload, after = read_record(read, self.size, offsets[0], self.path)
            for following in offsets[1:]:
                self._check_following(offsets[0], after, following)
        except FramingError as error:
            return error
        return payload

    def offsets(self) -> np.ndarray:
        """Find every record by walking from part to part: int64 byte offsets, increasing.

        Payloads larger than a block are skipped, not read.
        """
        found = array("q")
        append, unpack = found.append, PART.unpack_from
        part_size, magic_number = PART.size, MAGIC
        start = 0
        while start < self.size:
            block = self.read(min(_BLOCK, self.size - start), start)
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

    def _check_following(self, offset: int, after: int, following: int) -> None:
        if after > following:
            found = f"the record reaches to byte {after}, over the next one at byte {following}"
        elif after < following and self.read(len(MAGIC_BYTES), after) != MAGIC_BYTES:
            found = f"the record ends at byte {after}, where no other begins"
        else:
            return
        remedy = f"its length field is damaged: {WRONG_INDEX}"
        raise FramingError(self.path, offset, None, found, remedy)
