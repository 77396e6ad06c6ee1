"""Files of rows, piece by piece: the row groups of Parquet, the record batches of Arrow streams.

Of either a piece can be read by itself, so that processes share the work, and a few megabytes of it
at a time, so that memory does not grow with what a writer took for a piece: some write a data set
as one. Two of the library's ways stand against that. ``iter_batches`` reads the columns of a row
group whole before its first batch unless ``pre_buffer`` is off *and* there is a ``buffer_size``;
then it takes page after page. And readers of Arrow streams go through a stream from its beginning,
while a message of which the offset is known can be read by itself.

Source: pyarrow 26.0.1; https://arrow.apache.org/docs/format/Columnar.html (encapsulated messages).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from facepack.convert.blocks import ReadOnce
from facepack.convert.formats.parquet.engine import arrow, engine_errors
from facepack.convert.source_file import SourceFile, require_file
from facepack.errors import SourceError

_BATCH_BYTES = 8 << 20  # of images that are read together
_BATCH_ROWS = 4096
_BUFFER = 1 << 20
_PARQUET, _ENCRYPTED = b"PAR1", b"PARE"
_ARROW_FILE = b"ARROW1"
_STREAM = b"\xff\xff\xff\xff"  # begins each message of an Arrow stream
_END = _STREAM + bytes(4)


BYTES, PATH = "bytes", "path"  # the fields of an Image column

Fields = Mapping[str, Sequence[str]]
"""Columns, and of those that are structs the fields that are wanted."""


class Piece(NamedTuple):
    """Rows of a file that are stored together.

    Attributes:
        number: of the piece in the file.
        at: where it is: of a record batch the byte; of a row group, the number again.
        rows: how many it has.
        row_bytes: about how many bytes a row's images have, at most.
        end: about the byte behind it.
    """

    number: int
    at: int
    rows: int
    row_bytes: int
    end: int


class TableFile(ABC):
    """A file of rows, open; a context manager.

    Args:
        path: the file.
        size: the bytes that it had when it was looked at first; None the first time.

    Attributes:
        path: the file.
        size: its bytes.
        schema: of its columns, a ``pyarrow.Schema``.

    Raises:
        SourceError: it cannot be opened, is damaged, or has another size now.
    """

    piece_name: ClassVar[str]
    schema: Any

    def __init__(self, path: Path, size: int | None = None) -> None:
        self.path = path
        self._plain = SourceFile(path, size)
        self._behind: ReadOnce | None = None
        self.size = self._plain.size
        with engine_errors(str(path)):
            self._file = arrow().OSFile(os.fsencode(path))
            self._open()

    @abstractmethod
    def _open(self) -> None:
        """Read what the file says of itself."""

    @abstractmethod
    def pieces(self, images: Sequence[str]) -> list[Piece]:
        """The pieces, in order; ``images`` are the columns of the images."""

    @abstractmethod
    def _batches(self, piece: Piece, columns: Fields) -> Iterator[Any]:
        """``columns`` of the piece's rows, as some record batches that follow each other."""

    def batches(self, piece: Piece, columns: Fields) -> Iterator[Any]:
        """Read a piece's rows, as record batches of a few megabytes that are sound in themselves.

        Args:
            piece: the piece.
            columns: what is wanted.

        Raises:
            SourceError: the piece is damaged: the error names it.
        """
        rows = 0
        with engine_errors(self.name_piece(piece)):
            for batch in self._batches(piece, columns):
                batch.validate(full=True)
                rows += batch.num_rows
                yield batch
            if rows != piece.rows:
                raise ValueError(f"{rows:,} rows, where {piece.rows:,} are stated")

    def name_piece(self, piece: Piece) -> str:
        """The piece, for messages."""
        return f"{self.path}: {self.piece_name} {piece.number}"

    def was_read(self, piece: Piece) -> None:
        """Let the system forget a piece, and those that this was called for before it."""
        if self._behind is None:
            self._behind = self._plain.once(max(piece.end - piece.rows * piece.row_bytes, 0))
        self._behind.reached(piece.end)

    def _require_plausible(self, rows: int) -> None:
        """Make sure that a damaged count asks for no memory: an image takes some bytes."""
        if not 0 <= rows <= self.size:
            raise SourceError(
                f"{self.path}: states {rows:,} rows in {self.size:,} bytes: it is damaged, or "
                "holds no images; fetch it again"
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._plain.close()

    def __enter__(self) -> TableFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ParquetTable(TableFile):
    """A Parquet file, whose pieces are its row groups."""

    piece_name = "row group"

    def _open(self) -> None:
        self._parquet = arrow().parquet.ParquetFile(
            self._file,
            pre_buffer=False,
            buffer_size=_BUFFER,
            page_checksum_verification=True,
            arrow_extensions_enabled=False,
        )
        self.schema = self._parquet.schema_arrow

    def pieces(self, images: Sequence[str]) -> list[Piece]:
        """The row groups."""
        # All columns together: to ask for one that is damaged ends the process, for the library's
        # ``RowGroupMetaData.column`` (26.0.1) lets no exception out.
        metadata = self._parquet.metadata
        self._require_plausible(metadata.num_rows)
        least = self.size // max(metadata.num_rows, 1)  # some writers state no sizes
        pieces = []
        end = 0
        with engine_errors(str(self.path)):
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                self._require_plausible(group.num_rows)
                row_bytes = max(group.total_byte_size // max(group.num_rows, 1), least)
                end = min(end + max(group.total_byte_size, 0), self.size)
                pieces.append(Piece(number, number, group.num_rows, row_bytes, end))
        return pieces

    def _batches(self, piece: Piece, columns: Fields) -> Iterator[Any]:
        leaves = [
            f"{name}.{field}" if field else name
            for name, fields in columns.items()
            for field in fields or ("",)
        ]
        rows = min(max(_BATCH_BYTES // max(piece.row_bytes, 1), 1), _BATCH_ROWS)
        batches: Iterator[Any] = self._parquet.iter_batches(
            rows, row_groups=[piece.at], columns=leaves, use_threads=False
        )
        return batches


class ArrowTable(TableFile):
    """An Arrow stream, whose pieces are its record batches."""

    piece_name = "record batch"

    def _open(self) -> None:
        self.schema = arrow().ipc.read_schema(self._file)

    def pieces(self, images: Sequence[str]) -> list[Piece]:
        """The record batches: of each only what tells of it is read, for the file is mapped."""
        pieces: list[Piece] = []
        with engine_errors(str(self.path)), arrow().memory_map(str(self.path)) as mapped:
            stream = arrow().ipc.open_stream(mapped)
            at = mapped.tell()
            while (batch := self._following(stream, len(pieces))) is not None:
                self._require_plausible(batch.num_rows)
                columns = [batch.column(name) for name in images]
                size = sum(column.get_total_buffer_size() for column in columns)
                row_bytes = size // max(batch.num_rows, 1)
                end = mapped.tell()
                pieces.append(Piece(len(pieces), at, batch.num_rows, row_bytes, end))
                at = end
            ends = mapped.tell()
            mapped.seek(max(self.size - len(_END), 0))
            if ends != self.size or mapped.read() != _END:
                raise ValueError("the mark that ends a stream is not at its end")
        return pieces

    def _following(self, stream: Any, number: int) -> Any:
        """The next record batch of the stream, None at its end."""
        with engine_errors(f"{self.path}: {self.piece_name} {number}"):
            try:
                return stream.read_next_batch()
            except StopIteration:
                return None

    def _batches(self, piece: Piece, columns: Fields) -> Iterator[Any]:
        self._file.seek(piece.at)
        batch = arrow().ipc.read_record_batch(self._file, self.schema)
        yield batch.select(list(columns))


def open_table(path: Path, size: int | None = None) -> TableFile:
    """Open a file of rows; the arguments are those of :class:`TableFile`.

    Raises:
        SourceError: it is none, cannot be opened, or is damaged.
    """
    require_file(path)
    with SourceFile(path, size) as file:
        head = file.read(min(file.size, len(_ARROW_FILE)), 0)
    if head.startswith(_PARQUET):
        return ParquetTable(path, size)
    if head.startswith(_STREAM):
        return ArrowTable(path, size)
    if head.startswith(_ENCRYPTED):
        raise SourceError(f"{path}: is an encrypted Parquet file: decrypt it first")
    if head.startswith(_ARROW_FILE):
        raise SourceError(
            f"{path}: is an Arrow file of the kind that Feather writes, not a stream as "
            "save_to_disk writes: rewrite it as Parquet with pyarrow"
        )
    raise SourceError(
        f"{path}: is neither a Parquet file nor an Arrow stream, by its first bytes; fetch it "
        "again, or use the command of its format"
    )
