"""An MXNet ``.rec`` data set as a source."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from facepack.convert.rec_layout import read_layout
from facepack.convert.recordio import RecordError, RecordReader, class_label, unpack_header
from facepack.convert.source import Refusal, Span, cut
from facepack.errors import SourceError
from facepack.shard import SourceRecord

_LEAVE_OUT = "fetch the file again, or go on without this record"


def _size(path: Path) -> int:
    """The file's size now; -1 where it is gone."""
    return path.stat().st_size if path.exists() else -1


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
        """File name and size, image count, and a hash of all keys and offsets."""
        layout = self._layout
        index = xxhash.xxh3_128()
        index.update(np.ascontiguousarray(layout.keys, "<i8").tobytes())
        index.update(np.ascontiguousarray(layout.offsets, "<i8").tobytes())
        return {
            "kind": self.kind,
            "file": layout.rec.name,
            "bytes": layout.file_size,
            "images": len(layout),
            "index_xxh3_128": index.hexdigest(),
        }

    @property
    def payload_bytes(self) -> int:
        """Bytes of all image records, their headers included."""
        return int(self._layout.extents.sum())

    def spans(self, *, records: int, size: int) -> list[Span]:
        """Runs of records as they follow each other in the file."""
        stem = re.sub(r"[^A-Za-z0-9_.-]", "_", self._layout.rec.stem).lstrip(".-") or "rec"
        return cut(stem, self._layout.extents, records=records, size=size)

    def read(self, start: int, stop: int) -> Iterator[SourceRecord | Refusal]:
        """Read records ``[start, stop)`` in one sweep over the file.

        A record that is broken in itself is refused, and the sweep goes on behind it.
        """
        layout = self._layout
        with RecordReader(layout.rec) as reader:
            ordinal = start
            while ordinal < stop:
                payloads = reader.iter_at(layout.offsets[ordinal:stop])
                try:
                    for payload in payloads:
                        yield self._record(ordinal, payload)
                        ordinal += 1
                except SourceError as error:
                    if _size(layout.rec) != layout.file_size:
                        raise SourceError(
                            f"{layout.rec} changed while it was read: run again with --resume once "
                            "it is whole"
                        ) from error
                    yield self._refuse(ordinal, str(error), _LEAVE_OUT)
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
        return Refusal(ordinal, layout.rec.name, offset, key, reason, remedy)

    def refuse(self, record: SourceRecord, reason: str) -> Refusal:
        """The refusal of a record that was read but cannot be packed."""
        return self._refuse(record.ordinal, reason, _LEAVE_OUT)

    def identity_name(self, label: int) -> str | None:
        """None: a ``.rec`` knows identities by number."""
        return None

    def tables(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """None: a ``.rec`` is a training set."""
        return {}
