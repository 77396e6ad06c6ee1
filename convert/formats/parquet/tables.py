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
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from facepack.convert.blocks import ReadOnce
from facepack.convert.formats.parquet.engine import arrow, engine_errors
from facepack.convert.formats.parquet.plain import Images, PlainChunk, find_chunks, read_images
from facepack.convert.source_file import SourceFile, require_file
from facepack.errors import SourceError

_BATCH_BYTES = 2 << 20  # of images that are read together; for more, Arrow takes new memory
_BATCH_ROWS = 4096
_BUFFER = 512 << 10
_PARQUET, _ENCRYPTED = b"PAR1", b"PARE"
_ARROW_FILE = b"ARROW1"
_STREAM = b"\xff\xff\xff\xff"  # begins each message of an Arrow stream
_RECORD_BATCH = 3  # among the kinds of messages
_HEAD = struct.Struct("<4si")  # of a message: the mark, and the size of what tells of it
_OFFSET, _SIGNED, _SHORT = struct.Struct("<I"), struct.Struct("<i"), struct.Struct("<H")
_BYTE, _LONG, _RANGE = struct.Struct("<B"), struct.Struct("<q"), struct.Struct("<qq")
_FREE = 256 << 20  # inflated bytes that are not compared with the compressed ones
_MOST = 100  # inflated bytes of one compressed, of what is no attack: images hardly shrink


BYTES, PATH = "bytes", "path"  # the fields of an Image column

Fields = Mapping[str, Sequence[str]]
"""Columns, and of those that are structs the fields that are wanted."""


class Piece(NamedTuple):
    """Rows of a file that are stored together."""

    number: int  # of the piece in the file
    at: int  # where it is: of a record batch the byte; of a row group, the number again
    rows: int  # how many it has
    row_bytes: int  # about how many bytes a row's images have, at most
    end: int  # about the byte behind it


class TableFile(ABC):
    """A file of rows, open; a context manager.

    Args:
        path: the file.
        size: the bytes that it had when it was looked at first; None the first time.

    Raises:
        SourceError: it cannot be opened, is damaged, or has another size now.
    """

    piece_name: ClassVar[str]
    schema: Any  # of its columns, a pyarrow.Schema

    def __init__(self, path: Path, size: int | None = None) -> None:
        self.path = path
        self._plain = SourceFile(path, size)
        self._behind: ReadOnce | None = None
        self.size = self._plain.size  # its bytes
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

        Raises:
            SourceError: the piece is damaged: the error names it.
        """
        rows = 0
        with engine_errors(f"{self.path}: {self.piece_name} {piece.number}"):
            for batch in self._batches(piece, columns):
                batch.validate(full=True)
                rows += batch.num_rows
                yield batch
            if rows != piece.rows:
                raise ValueError(f"{rows:,} rows, where {piece.rows:,} are stated")

    def plain_images(
        self, piece: Piece, column: str, start: int, stop: int, *, once: bool
    ) -> Iterator[Images]:
        """Read the images of a piece's rows ``[start, stop)`` as far as they lie there as they are.

        Args:
            piece: it.
            column: the path of the column in the schema.
            start: the first row.
            stop: the row behind the last.
            once: nobody will read them again.

        Raises:
            SourceError: the file cannot be read on.
        """
        return iter(())

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

    def _require_honest(self, squeezed: int, inflated: int) -> None:
        """Make sure that bytes that are compressed do not fill the memory."""
        if inflated > _FREE and inflated > _MOST * squeezed:
            raise SourceError(
                f"{self.path}: {squeezed:,} bytes inflate to {inflated:,}, more than {_MOST} times "
                "as many: these are no images; leave this file out"
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
        self._plain_chunks: dict[str, tuple[int, list[PlainChunk | None]]] = {}

    def pieces(self, images: Sequence[str]) -> list[Piece]:
        """The row groups."""
        # All columns together: to ask for one that is damaged ends the process, for the library's
        # ``RowGroupMetaData.column`` (26.0.1) lets no exception out.
        metadata = self._parquet.metadata
        self._require_plausible(metadata.num_rows)
        least = self.size // max(metadata.num_rows, 1)  # some writers state no sizes
        pieces = []
        end = inflated = 0
        with engine_errors(str(self.path)):
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                self._require_plausible(group.num_rows)
                row_bytes = max(group.total_byte_size // max(group.num_rows, 1), least)
                end = min(end + max(group.total_byte_size, 0), self.size)
                inflated += max(group.total_byte_size, 0)
                self._require_honest(self.size, inflated)
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

    def plain_images(
        self, piece: Piece, column: str, start: int, stop: int, *, once: bool
    ) -> Iterator[Images]:
        """Read the images of some rows as far as they lie in the file as they are."""
        if column not in self._plain_chunks:
            leaves = self._parquet.schema
            number = [leaves.column(k).path for k in range(len(leaves))].index(column)
            leaf = leaves.column(number)
            chunks = [] if leaf.max_repetition_level else find_chunks(self._plain, number)
            self._plain_chunks[column] = leaf.max_definition_level, chunks
        level, chunks = self._plain_chunks[column]
        chunk = chunks[piece.number] if piece.number < len(chunks) else None
        if chunk is None:
            return iter(())
        return read_images(self._plain, chunk, level, start, stop, once=once)


class ArrowTable(TableFile):
    """An Arrow stream, whose pieces are its record batches."""

    piece_name = "record batch"

    def _open(self) -> None:
        self.schema = arrow().ipc.read_schema(self._file)
        for field in self.schema:
            if arrow().types.is_dictionary(field.type):
                raise SourceError(
                    f"{self.path}: its column {field.name!r} is a dictionary, which is not read "
                    "from an Arrow stream: write the table as Parquet with pyarrow"
                )

    def pieces(self, images: Sequence[str]) -> list[Piece]:
        """The record batches: of each only the head is read."""
        pieces: list[Piece] = []
        at = 0
        while True:
            where = f"{self.path}: {self.piece_name} {len(pieces)}"
            with engine_errors(where):
                kind, rows, end = self._message(at)
            if kind is None:
                break
            if kind == _RECORD_BATCH:
                self._require_plausible(rows)
                row_bytes = (end - at) // max(rows, 1)
                pieces.append(Piece(len(pieces), at, rows, row_bytes, end))
            at = end
        if end != self.size:
            raise SourceError(
                f"{self.path}: byte {end}: the stream ends, the file goes on to byte {self.size}: "
                "fetch it again"
            )
        return pieces

    def _message(self, at: int) -> tuple[int | None, int, int]:
        """The kind of the message at a byte, the rows of a record batch, and where it ends.

        The kind is None at the mark that ends the stream. The fields are those of ``Message.fbs``
        and of ``RecordBatch`` there, as FlatBuffers lays tables out.

        Raises:
            ValueError: the file ends before that mark, or there is no message.
            struct.error: the message is damaged.
        """
        if at + _HEAD.size > self.size:
            raise ValueError("the mark that ends a stream is not at its end")
        mark, size = _HEAD.unpack(self._plain.read(_HEAD.size, at))
        start = at + _HEAD.size
        if mark != _STREAM or size < 0 or start + size > self.size:
            raise ValueError(f"byte {at}: no message begins here")
        if not size:
            return None, 0, start
        head = self._plain.read(size, start)
        message = _table(head, 0)
        kind = _scalar(head, message, 1, _BYTE)
        body = _scalar(head, message, 3, _LONG)
        end = start + size + body
        if body < 0 or end > self.size:
            raise ValueError("it reaches beyond the end of the file")
        rows = 0
        if kind == _RECORD_BATCH:
            batch = _table(head, _field(head, message, 2))
            rows = _scalar(head, batch, 0, _LONG)
            self._require_honest(end - at, self._inflated(head, batch, start + size))
        return kind, rows, end

    def _inflated(self, head: bytes, batch: int, body: int) -> int:
        """What the buffers of a record batch state that they inflate to; 0 if they are not to be.

        Args:
            head: what tells of the batch.
            batch: where its table is there.
            body: the byte of the file at which the buffers begin.
        """
        buffers = _field(head, batch, 2)
        if not (buffers and _field(head, batch, 3)):
            return 0
        first = _table(head, buffers) + _OFFSET.size
        count = int(_OFFSET.unpack_from(head, first - _OFFSET.size)[0])
        stated = [
            _LONG.unpack(self._plain.read(_LONG.size, body + offset))[0]
            for offset, size in _RANGE.iter_unpack(head[first : first + _RANGE.size * count])
            if size >= _LONG.size and 0 <= offset <= self.size - body - _LONG.size
        ]
        return sum(max(size, 0) for size in stated)  # -1: it is stored as it is

    def _batches(self, piece: Piece, columns: Fields) -> Iterator[Any]:
        self._file.seek(piece.at)
        batch = arrow().ipc.read_record_batch(self._file, self.schema)
        yield batch.select(list(columns))


def _table(data: bytes, at: int) -> int:
    """Where the FlatBuffers table is to which the offset at a byte leads."""
    return at + int(_OFFSET.unpack_from(data, at)[0])


def _field(data: bytes, table: int, number: int) -> int:
    """Where a field of a table is; 0 where it is left out."""
    names = table - _SIGNED.unpack_from(data, table)[0]
    if names < 0 or 4 + 2 * number >= _SHORT.unpack_from(data, names)[0]:
        return 0
    offset = int(_SHORT.unpack_from(data, names + 4 + 2 * number)[0])
    return table + offset if offset else 0


def _scalar(data: bytes, table: int, number: int, kind: struct.Struct) -> int:
    """A number in a table; what is left out is 0."""
    at = _field(data, table, number)
    return int(kind.unpack_from(data, at)[0]) if at else 0


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
