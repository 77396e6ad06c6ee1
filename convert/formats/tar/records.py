"""An MXNet ``.rec`` that is a member of a tar: found, indexed and read without unpacking it.

The records are walked once, as the archive goes by; what
:mod:`facepack.convert.formats.rec.layout` finds by probing is then known: where each begins, its
label, whether it holds an image. Keys come from the ``.idx`` if the archive has one, before the
``.rec`` or behind it. Memory holds some 25 bytes a record.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from facepack import images
from facepack.convert.formats.rec.framing import (
    MAGIC,
    MAGIC_BYTES,
    MAX_PAYLOAD,
    PART,
    FramingError,
    OverlongError,
    find_payloads,
    padded,
    read_record,
    walk_parts,
)
from facepack.convert.formats.rec.index import parse_index
from facepack.convert.formats.rec.layout import announces
from facepack.convert.formats.rec.omitted import number_on
from facepack.convert.formats.rec.recordio import MAX_CLASS
from facepack.convert.formats.rec.source import RecordPart
from facepack.convert.formats.tar.images import TOO_LARGE, in_blocks
from facepack.convert.formats.tar.stream import Files, Stream, opened
from facepack.convert.source import Entry, Group, Refusal, Source, shard_stem
from facepack.errors import SourceError
from facepack.store.format import NO_IDENTITY
from facepack.store.record import RecordRun, SourceRecord
from facepack.wording import count_of

_HEAD = struct.Struct("<IfQQf")  # the IRHeader and, if it has a vector, the first of its labels
_SCALAR = _HEAD.size - 4
_BLOCK = 1 << 20  # bytes of records, about, that are read at once
_MOST_BEFORE = 4096  # bytes before an image in its record


class Records(NamedTuple):
    """The records of a ``.rec``, in order."""

    name: str  # of the member
    begin: int  # where its data begin in the stream
    size: int  # bytes of its data
    offsets: np.ndarray  # int64 (n,) where each record begins in the data
    extents: np.ndarray  # uint32 (n,) bytes of each, framing and padding included
    # float32 (n,) the class of each image, and the first label of each other record
    labels: np.ndarray
    blank: np.ndarray  # bool (n,) whether it holds no image
    digest: str  # a hash of all that precedes images


def scan_records(stream: Stream, name: str, size: int) -> Records:
    """Walk over the records of the ``.rec`` whose ``size`` bytes of data come next in ``stream``.

    Raises:
        SourceError: they are no RecordIO, or damaged.
    """
    begin = stream.position
    end = begin + size
    offsets, extents = array("q"), array("I")
    labels, blank = array("f"), array("B")
    digest = xxhash.xxh3_128()
    while (at := stream.position) < end:
        head = stream.peek(PART.size + _HEAD.size)
        magic, word = PART.unpack_from(head) if len(head) >= PART.size else (0, 0)
        if magic == MAGIC and word <= MAX_PAYLOAD:  # a whole record, as nearly all are
            length, head = word, head[PART.size : PART.size + word]
            stream.skip(PART.size + length + (-length & 3))
        else:
            length, head = _pass_parts(stream, name, begin, size)
        after = stream.position
        if after > end:
            raise _fault(stream, name, begin, at, "a record that reaches over the end of the file")
        offsets.append(at - begin)
        extents.append(after - at)
        label, empty = _look(head, length)
        labels.append(label)
        blank.append(empty)
        digest.update(head)
    digest.update(offsets)
    return Records(
        name,
        begin,
        size,
        np.frombuffer(offsets, np.int64),
        np.frombuffer(extents, np.uint32),
        np.frombuffer(labels, np.float32),
        np.frombuffer(blank, np.uint8).view(bool),
        digest.hexdigest(),
    )


def _look(head: bytes, length: int) -> tuple[float, bool]:
    """The first label of a payload that begins with ``head``, and whether it holds no image."""
    if len(head) < _SCALAR:
        return float("nan"), False  # refused, with the reason, when it is read
    flag, label, _, _, first = _HEAD.unpack(head[: _HEAD.size].ljust(_HEAD.size, b"\0"))
    return first if flag else label, length == _SCALAR + 4 * flag


def _pass_parts(stream: Stream, name: str, begin: int, size: int) -> tuple[int, bytes]:
    """Pass over a record of several parts; returns its length and how it begins."""

    def read(count: int, offset: int) -> bytes:
        stream.seek(begin + offset)
        return stream.read(count)

    head = b""
    total = end = 0
    try:
        for start, length in walk_parts(read, size, stream.position - begin, Path(name)):
            if end:  # this is not the first part
                head += MAGIC_BYTES
                total += len(MAGIC_BYTES)
            head += read(min(length, max(0, _HEAD.size - len(head))), start)
            total += length
            end = start + padded(length)
    except FramingError as error:
        found = (
            "a record that reaches over the end of the file"
            if isinstance(error, OverlongError)
            else "no part of a record, or one out of turn"
        )
        raise _fault(stream, name, begin, begin + (error.offset or 0), found) from error
    stream.seek(begin + end)
    return total, head[: _HEAD.size]


def _fault(stream: Stream, name: str, begin: int, at: int, found: str) -> SourceError:
    return SourceError(
        f"{stream.name_byte(at)}: {name}: byte {at - begin}: {found}; fetch the archive again, "
        "or unpack it and convert the .rec with its .idx beside it, which lets broken records be "
        "set aside"
    )


def read_index(stream: Stream, name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys and offsets of the ``.idx`` whose ``size`` bytes of data come next, by offset.

    Raises:
        SourceError: a line is malformed.
    """
    all_keys, all_offsets = parse_index(Path(name), in_blocks(stream, size))
    if not (np.diff(all_offsets) > 0).all():
        order = np.argsort(all_offsets, kind="stable")
        all_keys, all_offsets = all_keys[order], all_offsets[order]
    return all_keys, all_offsets


class RecordSet(Source):
    """The image records of a ``.rec`` in an archive, as a source wants them.

    Args:
        index: keys and offsets of its ``.idx``, by offset; None numbers the records.
        classes: what ``property`` states.
        only_indexed: leave out the records that the index does not list.
        shared: the stream to read from, if there is one; else each part opens its own.

    Raises:
        SourceError: no record holds an image, or none is listed as ``only_indexed`` wants it.
    """

    kind = "tar"

    def __init__(
        self,
        records: Records,
        index: tuple[np.ndarray, np.ndarray] | None,
        classes: int | None,
        *,
        only_indexed: bool,
        files: Files,
        shared: Stream | None,
    ) -> None:
        self._files = files
        self._shared = shared
        self.classes = classes
        self.notices: list[str] = []
        self.name = records.name
        self._begin = records.begin
        self._size = records.size
        self._digest = records.digest
        rows, keys, indexed = self._join(records, index, only_indexed)
        blank = records.blank[rows]
        images_at = rows[~blank]
        if not len(images_at):
            raise SourceError(
                f"{self.name}: none of its {len(rows)} records holds an image; take another .rec "
                "of the archive by --member"
            )
        if indexed:
            self._compare(records.labels[rows[blank & (keys == 0)]], len(images_at))
        self._keys = keys[~blank]
        repeated = int(np.count_nonzero(np.diff(np.sort(self._keys)) == 0))
        self._keys_unique = repeated == 0
        if repeated:
            self.notices.append(
                f"{self.name}: {count_of(repeated, 'key occurs', 'keys occur')} more than once; "
                "every image is taken"
            )
        self._offsets = records.offsets[images_at]
        self._extents = records.extents[images_at]
        self._labels = records.labels[images_at]

    def _join(
        self,
        records: Records,
        index: tuple[np.ndarray, np.ndarray] | None,
        only_indexed: bool,
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        """Rows of the records that count, the key of each, and whether it is from the index."""
        count = len(records.offsets)
        rows = np.arange(count)
        if index is None:
            self._require_index(only_indexed, "has no .idx beside it")
            self.notices.append(f"{self.name}: no .idx beside it: its records are numbered")
            return rows, rows, False
        keys, offsets = index
        if np.array_equal(offsets, records.offsets):
            return rows, keys, True
        found = np.searchsorted(records.offsets, offsets)
        found[found == count] = 0
        known = len(offsets) and (records.offsets[found] == offsets).all()
        if not known or (np.diff(found) == 0).any():
            self._require_index(only_indexed, "has an .idx that names bytes where no record begins")
            self.notices.append(
                f"{self.name}: its .idx is not used, for it names bytes at which no record "
                "begins: its records are numbered"
            )
            return rows, rows, False
        omitted = np.setdiff1d(rows, found, assume_unique=True)
        if only_indexed:
            return found, keys, True
        keys, _ = number_on(keys, offsets, records.offsets[omitted])
        if images := int(np.count_nonzero(~records.blank[omitted])):
            self.notices.append(
                f"{self.name}: its .idx omits "
                f"{count_of(images, 'image, which is', 'images, which are')} taken too, as MXNet's "
                "ImageRecordIter does; --only-indexed leaves them out, if the index was cleaned on "
                "purpose"
            )
        return rows, keys, True

    def _require_index(self, only_indexed: bool, found: str) -> None:
        if only_indexed:
            raise SourceError(
                f"{self.name}: {found}, and --only-indexed goes by it: leave that option out"
            )

    def _compare(self, header_labels: np.ndarray, count: int) -> None:
        """Compare what the header record, if there is one, announces with what was found."""
        for label in header_labels[:1].tolist():
            if not announces(label, count):
                self.notices.append(
                    f"{self.name}: the header record announces {label - 1:.0f} images, {count} "
                    "were found"
                )

    def __len__(self) -> int:
        return len(self._offsets)

    def describe(self) -> dict[str, Any]:
        """The member's name and size, and hashes of its keys and of all that precedes images."""
        return {
            "layout": "rec",
            "member": self.name,
            "member_bytes": self._size,
            "keys_xxh3_128": xxhash.xxh3_128_hexdigest(self._keys.astype("<i8").tobytes()),
            "records_xxh3_128": self._digest,
        }

    def groups(self) -> list[Group]:
        """One, called after the ``.rec``."""
        return [Group(shard_stem(Path(self.name).stem), 0, len(self))]

    def sizes(self) -> np.ndarray:
        """Bytes of each record, its header included; 0 for those that are too large to be read."""
        return np.where(_too_large(self._extents), np.uint32(0), self._extents)

    def part(self, start: int, stop: int) -> TarRecPart:
        """The records ``[start, stop)``."""
        files = self._files
        if self._shared is None:
            files = files.between(self._begin, self._begin + self._size)
        return TarRecPart(
            rec=Path(self.name),
            files=files,
            shared=self._shared,
            start=start,
            begin=self._begin,
            offsets=self._offsets[start:stop],
            extents=self._extents[start:stop],
            labels=self._labels[start:stop],
            keys=self._keys[start:stop],
            keys_unique=self._keys_unique,
        )


@dataclass(eq=False, kw_only=True)
class TarRecPart(RecordPart):
    """Images of a ``.rec`` in an archive that follow each other."""

    files: Files  # those of the archive
    shared: Stream | None  # the stream to read from; None opens one
    begin: int  # where the data of the .rec begin in the stream
    extents: np.ndarray  # (n,) bytes of each record
    labels: np.ndarray  # (n,) class of each

    def _sweep(
        self, rows: np.ndarray, *, once: bool
    ) -> Iterator[RecordRun | SourceRecord | Refusal]:
        # Read at once is what lies within a MiB; a record that is too large is by itself.
        large = _too_large(self.extents[rows])
        apart = np.diff(self.offsets[rows] // _BLOCK) > 0
        apart |= large[1:] | large[:-1]
        stretches = np.split(rows, np.flatnonzero(apart) + 1)
        with opened(self.files, self.shared) as stream:
            for some in filter(len, stretches):
                if _too_large(extent := self.extents[some[0]]):
                    reason = f"a record of {extent:,} bytes; at most {images.MAX_BYTES:,} are taken"
                    yield self._refuse(int(some[0]), None, reason, TOO_LARGE)
                else:
                    yield from self._read_stretch(stream, some)

    def _read_stretch(
        self, stream: Stream, rows: np.ndarray
    ) -> Iterator[RecordRun | SourceRecord | Refusal]:
        begin = int(self.offsets[rows[0]])
        at = self.offsets[rows] - begin
        stream.seek(self.begin + begin)
        block = stream.read_block(int(at[-1]) + int(self.extents[rows[-1]]))
        starts, stops = find_payloads(block, at, len(rows))
        usual = len(starts)
        if usual:
            yield from self._runs(rows[:usual], block, starts, stops)
        for row, offset in zip(rows[usual:].tolist(), at[usual:].tolist(), strict=True):
            try:
                payload, _ = read_record(
                    lambda count, start: block[start : start + count], len(block), offset, self.rec
                )
            except FramingError as error:  # it was whole when it was looked at
                raise SourceError(
                    f"{self.rec} changed while it was read; once the archive is whole again, "
                    "run with --resume"
                ) from error
            yield self._record(row, payload)

    def entries(self) -> Iterator[Entry]:
        """The label of each (-1 where it is none), and its key as its name where keys are unique.

        They are known; nothing is read.
        """
        labels = self.labels
        known = (labels >= 0) & (labels <= MAX_CLASS) & (labels == np.floor(labels))
        for label, key in zip(np.where(known, labels, NO_IDENTITY), self.keys, strict=True):
            yield Entry(int(label), str(key) if self.keys_unique else None)


def _too_large(extents: np.ndarray) -> np.ndarray:
    """Which records, of so many bytes, are not even read."""
    # What precedes an image may be a little; the image itself is measured when it is packed.
    return extents > images.MAX_BYTES + _MOST_BEFORE
