"""Writing a Parquet file of images row group by row group, as the Hugging Face Hub wants it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from facepack.convert.formats.parquet.engine import arrow
from facepack.convert.formats.parquet.tables import BYTES, PATH
from facepack.store.files import FileWriter, writing
from facepack.store.record import Buffer, RecordRun

GROUP_BYTES = 100_000_000
"""Bytes of images in a row group, as ``datasets`` cuts them: the Hub shows rows of such groups."""

_PAGE_VALUES = 128  # after so many a page may end: pages of large images are not large then
IMAGE = {"_type": "Image"}


def integers() -> dict[str, Any]:
    """The feature of a column of integers."""
    return {"dtype": "int64", "_type": "Value"}


def classes(names: Sequence[str]) -> dict[str, Any]:
    """The feature of a column of labels that have names."""
    return {"names": list(names), "_type": "ClassLabel"}


class TableWriter:
    """Takes rows, and writes them in groups of at most :data:`GROUP_BYTES`, if a row fits.

    A larger row has a group by itself. ``features`` are those of each column, in the terms of
    ``datasets``: images, or integers.
    """

    def __init__(self, file: FileWriter, features: Mapping[str, dict[str, Any]]) -> None:
        pa = arrow()
        self._images = [name for name, feature in features.items() if feature == IMAGE]
        self._numbers = [name for name in features if name not in self._images]
        kind = pa.struct([(BYTES, pa.binary()), (PATH, pa.string())])
        kinds = [(name, kind if name in self._images else pa.int64()) for name in features]
        told = json.dumps({"info": {"features": dict(features)}}, ensure_ascii=False)
        self._schema = pa.schema(kinds, {"huggingface": told})
        bytes_of = [f"{name}.{BYTES}" for name in self._images]
        others = [*(f"{name}.{PATH}" for name in self._images), *self._numbers]
        self._sink = _Sink(file)
        self._writer = pa.parquet.ParquetWriter(
            self._sink,
            self._schema,
            compression=dict.fromkeys(bytes_of, "none") | dict.fromkeys(others, "snappy"),
            column_encoding=dict.fromkeys(bytes_of, "PLAIN"),
            use_dictionary=others,
            write_statistics=others,  # those of images would be images
            write_page_index=True,
            write_batch_size=_PAGE_VALUES,
        )
        self.rows = self.payload = 0  # how many were taken, bytes of their images
        self._room = GROUP_BYTES // len(self._images)  # of each column in a row group
        # Memory that is used for one group after the other.
        self._blocks = [np.empty(self._room, np.uint8).data for _ in self._images]
        self._begin()

    def _begin(self) -> None:
        """Begin a row group."""
        self._ends: list[list[int]] = [[0] for _ in self._images]
        self._paths: list[list[str | None]] = [[] for _ in self._images]
        self._values: list[list[int]] = [[] for _ in self._numbers]

    def add(
        self, images: Sequence[Buffer], paths: Sequence[str | None], numbers: Sequence[int]
    ) -> None:
        """Take a row: its images, their paths, and its numbers, each in the order of columns."""
        if any(
            ends[-1] + len(image) > self._room
            for ends, image in zip(self._ends, images, strict=True)
        ):
            self._write_group()
        for k, (image, path) in enumerate(zip(images, paths, strict=True)):
            at, size = self._ends[k][-1], len(image)
            if size > len(self._blocks[k]):
                self._blocks[k] = np.empty(size, np.uint8).data
            self._blocks[k][at : at + size] = image
            self._ends[k].append(at + size)
            self._paths[k].append(path)
            self.payload += size
        for values, number in zip(self._values, numbers, strict=True):
            values.append(number)
        self.rows += 1

    def add_run(self, run: RecordRun) -> None:
        """Take a row of an image and a label for each record of ``run``, as :meth:`add` would."""
        ends = np.cumsum(run.stops - run.starts)
        row = 0
        while row < len(run):
            before = int(ends[row - 1]) if row else 0
            room = self._room - self._ends[0][-1]
            stop = int(np.searchsorted(ends, before + room, side="right"))
            if stop > row:
                self._extend(run[row:stop], ends[row:stop] - before)
            else:  # it begins a group, and may be larger than one
                for record in run[row : row + 1].records():
                    self.add([record.image], [record.name], [record.label])
                stop = row + 1
            row = stop

    def _extend(self, run: RecordRun, ends: np.ndarray) -> None:
        """Take records that fit into the row group, where they end behind what is in it."""
        block, data, at = self._blocks[0], run.data, self._ends[0][-1]
        size = int(ends[-1])
        if np.array_equal(run.stops[:-1], run.starts[1:]):
            block[at : at + size] = data[int(run.starts[0]) : int(run.stops[-1])]
        else:
            bounds = zip(run.starts.tolist(), run.stops.tolist(), (ends + at).tolist(), strict=True)
            for start, stop, end in bounds:
                block[end - stop + start : end] = data[start:stop]
        self._ends[0] += (ends + at).tolist()
        self._paths[0] += run.names or [None] * len(run)
        self._values[0] += run.labels.tolist()
        self.payload += size
        self.rows += len(run)

    def _write_group(self) -> None:
        pa = arrow()
        rows = len(self._ends[0]) - 1
        if not rows:
            return
        columns = {}
        for k, name in enumerate(self._images):
            ends = np.asarray(self._ends[k], np.int32)
            buffers = [None, pa.py_buffer(ends), pa.py_buffer(self._blocks[k])]
            images = pa.Array.from_buffers(pa.binary(), rows, buffers)
            paths = pa.array(self._paths[k], pa.string())
            columns[name] = pa.StructArray.from_arrays([images, paths], [BYTES, PATH])
        for name, values in zip(self._numbers, self._values, strict=True):
            columns[name] = pa.array(values, pa.int64())
        self._writer.write_batch(
            pa.RecordBatch.from_arrays(
                [columns[n] for n in self._schema.names], schema=self._schema
            )
        )
        self._begin()

    def close(self) -> None:
        """Write the last row group, and what stands behind all of them."""
        self._write_group()
        self._writer.close()

    def give_up(self) -> None:
        """Let nothing more be written: the library closes what is left open, and writes then."""
        self._sink.closed = True


@contextmanager
def writing_table(
    path: Path, features: Mapping[str, dict[str, Any]]
) -> Iterator[tuple[TableWriter, FileWriter]]:
    """Within, rows are written to ``path``; then it is there whole, and else not at all.

    Raises:
        PackError: the disk is full or the file cannot be written; says what to do.
    """
    with writing(path) as file:
        table = TableWriter(file, features)
        try:
            yield table, file
            table.close()
        finally:
            table.give_up()


class _Sink:
    """A file as the library writes it."""

    closed = False

    def __init__(self, file: FileWriter) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        if not self.closed:  # the library writes once more where it was given up
            self._file.write(data)
        return len(data)

    def tell(self) -> int:
        return self._file.size

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True
