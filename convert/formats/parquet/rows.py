"""The rows of Parquet files and Arrow folders, as records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from facepack.convert.formats.parquet.columns import Columns, are_numbers, find_columns
from facepack.convert.formats.parquet.engine import arrow, arrow_compute, engine_errors
from facepack.convert.formats.parquet.folders import find_files, set_name
from facepack.convert.formats.parquet.plain import Images
from facepack.convert.formats.parquet.tables import BYTES, PATH, Piece, TableFile, open_table
from facepack.convert.inputs import require_once
from facepack.convert.source import Entry, PartInRuns, Refusal, Source
from facepack.convert.source_file import SourceFile, file_name
from facepack.errors import SourceError
from facepack.store.format import MAX_LABEL, NO_IDENTITY
from facepack.store.record import RecordRun, SourceRecord
from facepack.wording import count_of

_SAMPLE, _SAMPLED = 64, 4096  # places of a file, and bytes there, that tell it from another
_SHOWN = 80  # characters of a path
_NO_WHOLE = np.iinfo(np.int64).min  # stands for a number with a fraction
_OTHER_LABELS = "correct it, or name other labels with --label-column"


class Stretch(NamedTuple):
    """Rows of one piece of a file that follow each other."""

    path: Path
    size: int  # bytes of the file when it was looked at
    piece: Piece
    first_row: int  # of the piece, in the file
    start: int  # the first row that is wanted, in the piece
    stop: int


@dataclass(eq=False, kw_only=True)
class RowsPart(PartInRuns):
    """Rows that follow each other, in whatever files."""

    waits_for_disk = True
    remedy = "fetch the file again, or go on without this row"
    start: int
    columns: Columns  # which are read
    stretches: Sequence[Stretch]  # where the rows lie
    # names of the identities; where labels are texts, these are the texts, and none if all of them
    # are numbers
    identities: tuple[str, ...]

    def __post_init__(self) -> None:
        self._ends = np.cumsum([each.stop - each.start for each in self.stretches])
        self.stop = self.start + int(self._ends[-1] if len(self._ends) else 0)

    def _sweep(
        self, rows: np.ndarray, *, once: bool
    ) -> Iterator[RecordRun | SourceRecord | Refusal]:
        for table, stretch, begin in self._stretches_of(rows):
            for at, batch, images in _with_images(table, stretch, self.columns, once=once):
                first = begin + at
                some = _between(rows, first, batch.num_rows)
                if len(some):
                    yield from self._records(first, batch, images, some)

    def entries(self) -> Iterator[Entry]:
        """Label and path of each; -1 where the label is none."""
        for _, batch in self.batches(images=False):
            labels = self._labels(batch)
            labels[~_are_labels(labels)] = NO_IDENTITY
            _, paths = picture(batch, self.columns.images[0])
            names = [None] * len(labels) if paths is None else paths.to_pylist()
            yield from map(Entry, labels.tolist(), names)

    def identity_names(self) -> Mapping[int, str]:
        """The names of all identities."""
        return dict(enumerate(self.identities))

    def batches(self, *, images: bool = True) -> Iterator[tuple[int, Any]]:
        """Read batches of rows, each with its first row in the part.

        Args:
            images: whether the images are wanted.

        Raises:
            SourceError: a file cannot be read on, or is no longer the one that was looked at.
        """
        wanted = self.columns.wanted(images=images)
        for table, stretch, begin in self._stretches_of(np.arange(self.stop - self.start)):
            for at, batch in _cut(table.batches(stretch.piece, wanted), stretch):
                yield begin + at, batch

    def _stretches_of(self, rows: np.ndarray) -> Iterator[tuple[TableFile, Stretch, int]]:
        """The stretches in which any of ``rows`` are, each in its file, open until the next one is
        asked for, and with the row of the part that the first row of its piece would be."""
        table: TableFile | None = None
        begin = 0
        try:
            for stretch, end in zip(self.stretches, self._ends.tolist(), strict=True):
                if len(_between(rows, begin, end - begin)):
                    if table is None or table.path != stretch.path:
                        if table is not None:
                            table.close()
                        table = open_table(stretch.path, stretch.size)
                    yield table, stretch, begin - stretch.start
                begin = end
        finally:
            if table is not None:
                table.close()

    def _records(
        self, first: int, batch: Any, images: Images, rows: np.ndarray
    ) -> Iterator[RecordRun | SourceRecord | Refusal]:
        """The ``rows`` of this part, all of which lie in ``batch``, whose first row is given."""
        _, paths = picture(batch, self.columns.images[0])
        data, starts, stops = images
        names = None if paths is None else paths.to_pylist()
        labels = self._labels(batch)
        inside = rows - first
        labelled = _are_labels(labels)
        there = ((stops > starts) & labelled)[inside]
        bounds = [0, *(np.flatnonzero(np.diff(there)) + 1).tolist(), len(there)]
        for begin, end in pairwise(bounds):
            some = inside[begin:end]
            if not there[begin]:
                for k in some.tolist():
                    name = None if names is None else names[k]
                    why = absent(name) if labelled[k] else _no_label(int(labels[k]))
                    yield self._refuse(first + k, None, *why)
                continue
            yield RecordRun(
                ordinals=self.start + rows[begin:end],
                data=data,
                starts=starts[some],
                stops=stops[some],
                labels=labels[some],
                names=None if names is None else [names[k] for k in some.tolist()],
                extra={},
            )

    def _labels(self, batch: Any) -> np.ndarray:
        """The label of each row: int64 (rows,), -1 where there is none."""
        if self.columns.label is None:
            return np.full(batch.num_rows, NO_IDENTITY, np.int64)
        column = batch.column(self.columns.label)
        if not self.columns.texts:
            return numbers(column, NO_IDENTITY)
        column = column.cast(arrow().string())
        if not self.identities:
            return numbers(column.cast(arrow().int64()), NO_IDENTITY)
        texts = arrow().array(self.identities, arrow().string())
        return numbers(arrow_compute().index_in(column, value_set=texts), NO_IDENTITY)

    def _refuse(self, row: int, name: str | None, reason: str, remedy: str) -> Refusal:
        k = int(np.searchsorted(self._ends, row, side="right"))
        stretch = self.stretches[k]
        begin = int(self._ends[k]) - (stretch.stop - stretch.start)
        in_file = stretch.first_row + stretch.start + row - begin
        return Refusal(
            self.start + row, file_name(stretch.path), None, f"row {in_file}", reason, remedy
        )


class ParquetRows(Source):
    """The rows of Parquet files or Arrow streams, in their order, file by file: a training set.

    Args:
        paths: the files, or folders of them: see
            :func:`~facepack.convert.formats.parquet.folders.find_files`.
        image_column: name of the column of the images; none: it is found.
        label_column: the same of the labels.

    Raises:
        MissingExtraError: ``pyarrow`` is not installed.
        SourceError: a file is damaged, or has other columns or names of labels than the first.
        ConfigError: a column that is named is not there.
    """

    kind = "parquet"

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        image_column: Sequence[str] = (),
        label_column: str | None = None,
    ) -> None:
        arrow()
        files, self.notices = find_files(paths)
        require_once(files)
        self.name = set_name(paths)
        self._stretches: list[Stretch] = []
        texts: set[str] = set()
        columns: Columns | None = None
        for path in files:
            with open_table(path) as table:
                with engine_errors(str(path)):  # names of columns may be no text
                    own = find_columns(
                        table.schema, image_column, label_column, file=file_name(path)
                    )
                if columns is None:
                    columns = own
                elif replace(columns, notice=None) != replace(own, notice=None):
                    raise SourceError(_disagreement(path, files[0], columns, own))
                first = 0
                for piece in table.pieces(own.images):
                    self._stretches.append(Stretch(path, table.size, piece, first, 0, piece.rows))
                    first += piece.rows
                    if own.texts:
                        texts |= _texts(table, piece, own)
        assert columns is not None
        self.columns = columns  # which they are, pairs among them
        self._ends = np.cumsum([each.piece.rows for each in self._stretches], dtype=np.int64)
        if not len(self):
            raise SourceError(
                f"{files[0]}: no row in {count_of(len(files), 'file')}; check the files"
            )
        if columns.notice is not None:
            self.notices.append(columns.notice)
        names = columns.names
        if columns.texts:
            # Numbers that were written as texts are labels, as they are in lists.
            written = all(map(_is_label, texts))
            names = None if written else tuple(sorted(texts, key=str.encode))
        self.classes = None if names is None else len(names)
        self._identities = () if names is None or are_numbers(names) else names

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def describe(self) -> dict[str, Any]:
        """Columns, hash of the identities' names; of each file name, size, rows, and a sample.

        The sample is a hash of bytes at places spread evenly over the file, the end among them,
        where Parquet describes itself.

        Raises:
            SourceError: a file cannot be read.
        """
        files: dict[Path, dict[str, Any]] = {}
        for each in self._stretches:
            if each.path not in files:
                files[each.path] = {
                    "file": file_name(each.path),
                    "bytes": each.size,
                    "rows": 0,
                    "sample_xxh3_128": _sample(each.path, each.size),
                }
            files[each.path]["rows"] += each.piece.rows
        names = "\n".join(self._identities).encode()
        return {
            "kind": self.kind,
            "images": len(self),
            "image_columns": list(self.columns.images),
            "label_column": self.columns.label,
            "identity_names_xxh3_128": xxhash.xxh3_128_hexdigest(names),
            "files": list(files.values()),
        }

    def sizes(self) -> np.ndarray:
        """Of each image the mean of those that are stored with it."""
        return self._sizes

    @cached_property
    def _sizes(self) -> np.ndarray:
        means = [min(each.piece.row_bytes, 0xFFFFFFFF) for each in self._stretches]
        rows = [each.piece.rows for each in self._stretches]
        return np.repeat(np.asarray(means, np.uint32), rows)

    def part(self, start: int, stop: int) -> RowsPart:
        """The rows ``[start, stop)``."""
        first, last = np.searchsorted(self._ends, (start, stop - 1), side="right").tolist()
        stretches = self._stretches[first : last + 1] if stop > start else []
        if stretches:
            before = int(self._ends[first]) - stretches[0].piece.rows
            stretches[0] = stretches[0]._replace(start=start - before)
            behind = int(self._ends[last]) - stop
            stretches[-1] = stretches[-1]._replace(stop=stretches[-1].piece.rows - behind)
        return RowsPart(
            start=start,
            columns=self.columns,
            stretches=stretches,
            identities=self._identities,
        )


def _disagreement(path: Path, first: Path, columns: Columns, own: Columns) -> str:
    """What sets the file at ``path`` apart from the ``first`` one, and what to do."""
    if replace(columns, notice=None) == replace(own, notice=None, names=columns.names):
        return (
            f"{path}: the names of its labels are not those of {first}, so that equal labels are "
            "other people: convert the files apart, and merge the packs with --by-name"
        )
    return (
        f"{path}: its columns are not those of {first} (there {_said(columns)}; here "
        f"{_said(own)}): name columns that all files have, or convert the files apart"
    )


def _said(columns: Columns) -> str:
    fields = [
        f"{name!r} ({', '.join(own) or 'binary'})"
        for name, own in zip(columns.images, columns.fields, strict=True)
    ]
    label = "no labels" if columns.label is None else f"labels {columns.label!r}"
    return f"images {' and '.join(fields)}, {label}{' of text' * columns.texts}"


def absent(path: str | None) -> tuple[str, str]:
    """Why there is no image in a row, and what to do: only its path may be there."""
    if path is None:
        return "it holds no image", "nothing can be done if the data set has none there"
    return (
        f"it holds no image, but the path of one on the machine that wrote the file: "
        f"{path[-_SHOWN:]!r}",
        "write the data set again there with its images embedded, or convert that folder",
    )


def _are_labels(labels: np.ndarray) -> np.ndarray:
    return (labels >= NO_IDENTITY) & (labels <= MAX_LABEL)


def _is_label(text: str) -> bool:
    digits = text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_LABEL))
    return digits and int(text) <= MAX_LABEL


def _no_label(label: int) -> tuple[str, str]:
    """Why a number in the column of labels is none, and what to do."""
    if label == _NO_WHOLE:
        return "its label is no whole number", _OTHER_LABELS
    return f"label {label}: allowed are 0 to {MAX_LABEL}, and -1 for no identity", _OTHER_LABELS


def image_bytes(column: Any) -> Images:
    """Where the values of a binary column are, without a copy; one that is null has no bytes.

    Raises:
        SourceError: the column's own account of that is wrong.
    """
    kind = column.type
    if arrow().types.is_binary_view(kind):
        column = column.cast(arrow().large_binary())
        kind = column.type
    width = np.int64 if arrow().types.is_large_binary(kind) else np.int32
    _, offsets, values = column.buffers()
    bounds = np.zeros(1, np.int64)
    if offsets is not None and len(column):
        skipped = column.offset * np.dtype(width).itemsize
        bounds = np.frombuffer(offsets, width, len(column) + 1, skipped).astype(np.int64)
    data = memoryview(b"") if values is None else memoryview(values).cast("B")
    starts, stops = bounds[:-1], bounds[1:].copy()
    if column.null_count:
        stops = np.where(column.is_null().to_numpy(zero_copy_only=False), starts, stops)
    return Images(data, starts, stops)


def numbers(column: Any, missing: int) -> np.ndarray:
    """A column of numbers or booleans: int64 (n,), ``missing`` where it is null or NaN.

    What an int64 cannot hold is one that is no label.
    """
    types = arrow().types
    if types.is_floating(column.type):
        real = column.cast(arrow().float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
        held = (real == np.trunc(real)) & (np.abs(real) < 2.0**63)
        whole = np.where(held, real, 0).astype(np.int64)
        return np.where(held, whole, np.where(np.isnan(real), missing, _NO_WHOLE))
    if types.is_boolean(column.type):
        column = column.cast(arrow().uint8())
    nulls = None
    if column.null_count:  # these two import pyarrow.compute, which takes a while
        nulls = column.is_null().to_numpy(zero_copy_only=False)
        column = column.fill_null(0)
    values: np.ndarray = column.to_numpy(zero_copy_only=False)
    if values.dtype == np.uint64:  # what is too large stays so
        values = np.minimum(values, np.uint64(np.iinfo(np.int64).max))
    values = values.astype(np.int64)
    return values if nulls is None else np.where(nulls, missing, values)


def picture(batch: Any, name: str) -> tuple[Any, Any]:
    """The bytes and the paths of a column of images; of what is not there, None."""
    if name not in batch.schema.names:
        return None, None
    column = batch.column(name)
    if not arrow().types.is_struct(column.type):
        return column, None
    fields = [field.name for field in column.type]
    inner = dict(zip(fields, column.flatten(), strict=True))
    return inner.get(BYTES), inner.get(PATH)


def _between(rows: np.ndarray, first: int, count: int) -> np.ndarray:
    """Which of ``rows``, which ascend, are among the ``count`` from ``first`` on."""
    return rows[slice(*np.searchsorted(rows, (first, first + count)))]


def _with_images(
    table: TableFile, stretch: Stretch, columns: Columns, *, once: bool
) -> Iterator[tuple[int, Any, Images]]:
    """Batches of a stretch, each with its first row in the piece and its images.

    Images that lie in the file as they are are read from there, and not in the batches.
    """
    name, fields = columns.images[0], columns.fields[0]
    row, batch, used = stretch.start, None, 0
    others = _cut(table.batches(stretch.piece, columns.wanted(images=False)), stretch)
    leaf = f"{name}.{BYTES}" if fields else name
    for data, starts, stops in table.plain_images(
        stretch.piece, leaf, stretch.start, stretch.stop, once=once
    ):
        done = 0
        while done < len(starts):
            if batch is None or used == batch.num_rows:
                (_, batch), used = next(others), 0
            count = min(batch.num_rows - used, len(starts) - done)
            some = slice(done, done + count)
            yield row, batch.slice(used, count), Images(data, starts[some], stops[some])
            row, used, done = row + count, used + count, done + count
    if row < stretch.stop:
        wanted = columns.wanted(images=True)
        rest = stretch._replace(start=row)
        for row, batch in _cut(table.batches(stretch.piece, wanted), rest):
            images, _ = picture(batch, name)
            yield row, batch, image_bytes(images)
        if once and stretch.stop - stretch.start == stretch.piece.rows:
            table.was_read(stretch.piece)  # by nobody else


def _cut(batches: Iterator[Any], stretch: Stretch) -> Iterator[tuple[int, Any]]:
    """What ``batches`` of a piece hold of ``stretch``, each with its first row in the piece."""
    at = 0
    for batch in batches:
        low, high = max(stretch.start, at), min(stretch.stop, at + batch.num_rows)
        if low < high:
            yield low, batch.slice(low - at, high - low)
        at += batch.num_rows
        if at >= stretch.stop:
            return


def _texts(table: TableFile, piece: Piece, columns: Columns) -> set[str]:
    """The different labels of a piece, which are texts."""
    label = columns.label
    assert label is not None
    found: set[str] = set()
    for batch in table.batches(piece, {label: ()}):
        column = batch.column(label).cast(arrow().string())
        found.update(text for text in column.unique().to_pylist() if text is not None)
    return found


def _sample(path: Path, size: int) -> str:
    digest = xxhash.xxh3_128()
    offsets = np.linspace(0, max(size - _SAMPLED, 0), _SAMPLE).astype(np.int64).tolist()
    with SourceFile(path, size) as file:
        for offset in offsets:  # so that the disk seeks them together
            file.will_read(_SAMPLED, offset)
        for offset in offsets:
            digest.update(file.read(min(_SAMPLED, size), offset))
    return digest.hexdigest()
