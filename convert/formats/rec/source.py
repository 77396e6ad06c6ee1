"""An MXNet ``.rec`` data set as a source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from facepack.convert.formats.rec.framing import PART, FramingError, RecordError, padded
from facepack.convert.formats.rec.layout import read_layout
from facepack.convert.formats.rec.recordio import (
    IR_HEADER,
    MAX_CLASS,
    RecordReader,
    class_label,
    unpack_header,
)
from facepack.convert.source import Entry, PartInRuns, Refusal, Source
from facepack.convert.source_file import file_name
from facepack.errors import SourceError
from facepack.store.format import NO_IDENTITY
from facepack.store.record import RecordRun, SourceRecord

_SAMPLE = 64  # records whose content tells two sources apart that have the same index


@dataclass(eq=False, kw_only=True)
class RecordPart(PartInRuns):
    """Image records of a ``.rec`` that follow each other, wherever the ``.rec`` lies.

    What a record says is told here; how its bytes are come by, by those that derive from it.
    """

    remedy = "fetch the file again, or go on without this record"
    rec: Path  # what the .rec is called, for messages
    start: int
    offsets: np.ndarray  # (n,) byte offset of each record in the .rec
    keys: np.ndarray  # (n,) key of each
    keys_unique: bool  # whether no two images of the whole .rec share a key

    def __post_init__(self) -> None:
        self.stop = self.start + len(self.offsets)

    def _runs(
        self, rows: np.ndarray, data: memoryview, starts: np.ndarray, stops: np.ndarray
    ) -> Iterator[RecordRun | SourceRecord | Refusal]:
        """The records ``rows``, whose payloads lie in ``data`` at multiples of four."""
        # An IRHeader is six words: flag, label, and two of 64 bits. One that is cut short is told
        # by its size: what is read of it then, perhaps the word at the end, is not used.
        words = np.frombuffer(data, "<u4", len(data) >> 2)
        flag, label, id_low, id_high, id2_low, id2_high = (
            words[np.minimum((starts >> 2) + k, len(words) - 1)] for k in range(6)
        )
        label = label.view("<f4")
        with np.errstate(invalid="ignore"):
            usual = (stops - starts > IR_HEADER.size) & (flag == 0)
            usual &= (label >= 0) & (label <= MAX_CLASS) & (label == np.floor(label))
        bounds = [0, *(np.flatnonzero(np.diff(usual)) + 1).tolist(), len(usual)]
        for begin, end in pairwise(bounds):
            if not usual[begin]:
                for k in range(begin, end):
                    yield self._record(int(rows[k]), data[int(starts[k]) : int(stops[k])])
                continue
            some = slice(begin, end)
            extra = {
                "flag": np.zeros(end - begin, np.uint32),
                "id": id_low[some] | id_high[some].astype(np.uint64) << np.uint64(32),
                "id2": id2_low[some] | id2_high[some].astype(np.uint64) << np.uint64(32),
            }
            if self.keys_unique:
                extra["key"] = self.keys[rows[some]]
            yield RecordRun(
                ordinals=self.start + rows[some],
                data=data,
                starts=starts[some] + IR_HEADER.size,
                stops=stops[some],
                labels=label[some].astype(np.int64),
                names=None,
                extra=extra,
            )

    def _record(self, row: int, payload: memoryview) -> SourceRecord | Refusal:
        """Any record, by itself: what :meth:`_runs` makes of many usual ones, and more."""
        try:
            header = unpack_header(payload)
            if not header.image:
                remedy = "nothing needs to be done if it is a header record"
                return self._refuse(row, None, "it holds no image", remedy)
            label = class_label(header)
        except RecordError as error:
            return self._refuse(row, None, error.reason, error.remedy)
        extra: dict[str, float | int] = {"flag": header.flag, "id": header.id, "id2": header.id2}
        if self.keys_unique:  # else a key names no one record
            extra["key"] = int(self.keys[row])
        for number, value in enumerate(header.labels[1:], start=1):
            extra[f"label_{number}"] = value
        return SourceRecord(self.start + row, header.image, label, None, extra)

    def _refuse(self, row: int, name: str | None, reason: str, remedy: str) -> Refusal:
        offset, key = int(self.offsets[row]), str(self.keys[row])
        return Refusal(self.start + row, file_name(self.rec), offset, key, reason, remedy)


@dataclass(eq=False, kw_only=True)
class RecPart(RecordPart):
    """Images of a ``.rec`` that follow each other in the file."""

    waits_for_disk = True
    file_size: int  # bytes of the file when it was looked at
    # offsets of all records between and behind them, the last of them the next image or the end of
    # the file; None: records that are not known of are meant to be left out
    others: np.ndarray | None

    def _sweep(
        self, rows: np.ndarray, *, once: bool
    ) -> Iterator[RecordRun | SourceRecord | Refusal]:
        done = 0
        with RecordReader(self.rec, self.file_size) as reader:
            for item in reader.iter_blocks(self.offsets[rows], once=once):
                if isinstance(item, tuple):
                    data, starts, stops = item
                    some = rows[done : done + len(starts)]
                    self._require_known_ends(reader, some, stops - starts)
                    yield from self._runs(some, data, starts, stops)
                    done += len(some)
                    continue
                row = int(rows[done])
                if isinstance(item, FramingError):
                    yield self._broken(reader, row, item)
                else:
                    self._require_known_end(reader, row, len(item))
                    yield self._record(row, item)
                done += 1

    def _require_known_ends(
        self, reader: RecordReader, rows: np.ndarray, lengths: np.ndarray
    ) -> None:
        """Make sure that behind records of one part, with payloads of so many bytes, nothing begins
        that was not known: a record between two others, which the index omits."""
        if self.others is None:
            return
        ends = self.offsets[rows] + PART.size + (lengths + 3 & ~3)
        # Nearly all end where the next image begins; behind the last one of all, that is not known.
        following = self.offsets[np.minimum(rows + 1, len(self.offsets) - 1)]
        for k in np.flatnonzero(ends != following).tolist():
            self._require_known_end(reader, int(rows[k]), int(lengths[k]))

    def _require_known_end(self, reader: RecordReader, row: int, length: int) -> None:
        """As :meth:`_require_known_ends`, of one record with a payload of ``length`` bytes."""
        if self.others is None:
            return
        offset = int(self.offsets[row])
        end = offset + PART.size + padded(length)
        if self._is_known(row, end):
            return
        end = reader.end_of(offset)  # it may have several parts
        if not self._is_known(row, end) and reader.begins_at(end):
            raise SourceError(
                f"{self.rec}: byte {end}: a record begins that {self.rec.with_suffix('.idx')} "
                "omits: remove the index, and the .rec is scanned, or pack only what it lists with "
                "--only-indexed; start anew with --overwrite"
            )

    def _is_known(self, row: int, end: int) -> bool:
        """Whether the next image, or a record without one, is known to begin at byte ``end``."""
        assert self.others is not None
        if row + 1 < len(self.offsets) and end == self.offsets[row + 1]:
            return True
        other = int(np.searchsorted(self.others, end))
        return other < len(self.others) and end == self.others[other]

    def entries(self) -> Iterator[Entry]:
        """The label of each, and the key as its name where keys are unique; -1 where broken."""
        for row, record in enumerate(self.read()):
            label = NO_IDENTITY if isinstance(record, Refusal) else record.label
            yield Entry(label, str(self.keys[row]) if self.keys_unique else None)

    def _broken(self, reader: RecordReader, row: int, error: FramingError) -> Refusal:
        """The refusal of a record that cannot be read, if the file is still the same."""
        reader.check()
        reason = error.reason
        if error.offset != self.offsets[row]:  # in one of its later parts
            reason = f"at byte {error.offset}: {reason}"
        return self._refuse(row, None, reason, error.remedy)


class RecSource(Source):
    """The images of a ``.rec``, or of ``train.rec`` in a folder, in the physical order of the file.

    With ``only_indexed``, images are left out that no line of the ``.idx`` names.

    Raises:
        SourceError: the files are malformed or hold no image.
    """

    kind = "rec"

    def __init__(self, path: Path, *, only_indexed: bool = False) -> None:
        self._layout = read_layout(path, only_indexed=only_indexed)
        self.notices = list(self._layout.notices)
        self.classes = self._layout.classes
        self.name = self._layout.rec.stem

    def __len__(self) -> int:
        return len(self._layout)

    def describe(self) -> dict[str, Any]:
        """File name and size, image count, a hash of all keys and offsets, and one of a sample.

        The sample are whole records, labels and images, spread evenly over the file.

        Raises:
            SourceError: the file cannot be read.
        """
        layout = self._layout
        index = xxhash.xxh3_128()
        index.update(np.ascontiguousarray(layout.keys, "<i8").tobytes())
        index.update(np.ascontiguousarray(layout.offsets, "<i8").tobytes())
        return {
            "kind": self.kind,
            "file": file_name(layout.rec),
            "bytes": layout.file_size,
            "images": len(layout),
            "index_xxh3_128": index.hexdigest(),
            "sample_xxh3_128": self._sample(),
        }

    def _sample(self) -> str:
        rows = np.linspace(0, len(self) - 1, min(_SAMPLE, len(self))).astype(np.int64)
        digest = xxhash.xxh3_128()
        with RecordReader(self._layout.rec) as reader:
            for offset in self._layout.offsets[rows].tolist():
                try:
                    payload = reader.read_at(offset)
                except RecordError as error:  # it is set aside when its turn comes
                    payload = memoryview(type(error).__name__.encode())
                digest.update(xxhash.xxh3_128_digest(payload))
        return digest.hexdigest()

    def sizes(self) -> np.ndarray:
        """Bytes of each record, its header included."""
        return self._layout.extents

    def part(self, start: int, stop: int) -> RecPart:
        """The records ``[start, stop)``."""
        layout = self._layout
        others = None
        if layout.complete and start < stop:
            begin, last = layout.offsets[start], layout.offsets[stop - 1]
            end = last + layout.extents[stop - 1]
            blank = layout.blank_offsets
            others = np.append(blank[slice(*np.searchsorted(blank, (begin, end)))], end)
        return RecPart(
            rec=layout.rec,
            file_size=layout.file_size,
            start=start,
            offsets=layout.offsets[start:stop],
            keys=layout.keys[start:stop],
            keys_unique=layout.keys_unique,
            others=others,
        )
