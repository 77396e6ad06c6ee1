"""An MXNet ``.rec`` data set as a source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from facepack.convert.rec_layout import read_layout
from facepack.convert.recordio import RecordError, RecordReader, class_label, unpack_header
from facepack.convert.source import Refusal, Span, cut, file_name, shard_stem
from facepack.shard import SourceRecord

_LEAVE_OUT = "fetch the file again, or go on without this record"
_SAMPLE = 64  # records whose content tells two sources apart that have the same index


class RecSource:
    """The images of a ``.rec``, in the physical order of the file.

    Args:
        path: a ``.rec``, or a folder that holds ``train.rec``.

    Raises:
        SourceError: the files are malformed or hold no image.
    """

    kind = "rec"
    content = "train"

    def __init__(self, path: Path) -> None:
        self._layout = read_layout(path)
        self.notices = list(self._layout.notices)
        self.classes = self._layout.classes

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

    @property
    def payload_bytes(self) -> int:
        """Bytes of all image records, their headers included."""
        return int(self._layout.extents.sum())

    def spans(self, *, records: int, size: int) -> list[Span]:
        """Runs of records as they follow each other in the file."""
        stem = shard_stem(self._layout.rec.stem)
        return cut(stem, self._layout.extents, records=records, size=size)

    def read(self, start: int, stop: int) -> Iterator[SourceRecord | Refusal]:
        """Read records ``[start, stop)`` in one sweep over the file.

        A record that is broken in itself is refused, and the sweep goes on behind it.

        Raises:
            SourceError: the file cannot be read on, or is no longer the one that was looked at.
        """
        layout = self._layout
        with RecordReader(layout.rec) as reader:
            reader.check_size(layout.file_size)
            ordinal = start
            while ordinal < stop:
                payloads = reader.iter_at(layout.offsets[ordinal:stop])
                try:
                    for payload in payloads:
                        yield self._record(ordinal, payload)
                        ordinal += 1
                except RecordError as error:
                    reader.check_size(layout.file_size)
                    reason = error.reason
                    if error.offset != layout.offsets[ordinal]:  # in one of its later parts
                        reason = f"at byte {error.offset}: {reason}"
                    yield self._refuse(ordinal, reason, error.remedy)
                    ordinal += 1

    def _record(self, ordinal: int, payload: memoryview) -> SourceRecord | Refusal:
        try:
            header = unpack_header(payload)
            if not header.image:
                remedy = "nothing needs to be done if it is a header record"
                return self._refuse(ordinal, "it holds no image", remedy)
            label = class_label(header)
        except RecordError as error:
            return self._refuse(ordinal, error.reason, error.remedy)
        extra: dict[str, float | int] = {"flag": header.flag, "id": header.id, "id2": header.id2}
        if self._layout.keys_unique:  # else a key names no one record
            extra["key"] = int(self._layout.keys[ordinal])
        for place, value in enumerate(header.labels[1:], start=1):
            extra[f"label_{place}"] = value
        return SourceRecord(ordinal, header.image, label, None, extra)

    def _refuse(self, ordinal: int, reason: str, remedy: str) -> Refusal:
        layout = self._layout
        offset, key = int(layout.offsets[ordinal]), str(layout.keys[ordinal])
        return Refusal(ordinal, file_name(layout.rec), offset, key, reason, remedy)

    def refuse(self, record: SourceRecord, reason: str) -> Refusal:
        """The refusal of a record that was read but cannot be packed."""
        return self._refuse(record.ordinal, reason, _LEAVE_OUT)

    def identity_name(self, label: int) -> str | None:
        """None: a ``.rec`` knows identities by number."""
        return None

    def tables(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """None: a ``.rec`` is a training set."""
        return {}
