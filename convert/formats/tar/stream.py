"""Files joined end to end as one stream of bytes, inflated where they are gzipped.

Archives are cut into pieces by bytes, and data sets come in many archives. Here both are the same:
all files in order make one stream. It has a *start* wherever a file begins that does not continue
the compressed data before it; whether an archive begins there is for the reader of tars to tell.

Uncompressed files can be read anywhere, and so can those that were inflated into a spool
(:mod:`facepack.convert.formats.tar.spool`). Else gzipped ones are read from the beginning on;
reading, hashing and inflating then go on in threads while what was inflated is used. Memory holds a
few blocks, whatever the data claim. Python's ``tarfile`` takes 4 times as long to read members,
knows no pieces, and ends in silence at the second gzip member.

Inflated by zlib. JPEGs hardly repeat themselves, and are little but literals to inflate: zlib
1.2.13 makes 371 MB/s of 40,000 drawn faces, isal 1.9.1 434 and zlib-ng 1.1.0 486, of real faces
alike. Of the CPU time of a whole ``tar2lmdb`` that inflated twice they saved 4 and 8 % (medians of
five rounds, AMD EPYC, by ``benchmarks/inflate.py``); of one that inflates once zlib-ng saves 10 %,
where one archive lies in pieces 8 % (four rounds, a busy machine): too little for a dependency with
errors and limits of its own.
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from facepack.closing import Closing
from facepack.convert.formats.tar.glint360k import MD5, PublishedSum
from facepack.convert.formats.tar.headers import BLOCK, is_header
from facepack.convert.read_ahead import ReadAhead
from facepack.convert.source_file import SourceFile, file_name, require_file
from facepack.errors import SourceError

_BLOCK = 128 << 10  # bytes of an uncompressed file read at once, after a jump farther than that
_MOST = 2 << 20  # the same, of blocks that follow each other
_SQUEEZED = 1 << 20  # bytes of a compressed file read at once
_INFLATED = 2 << 20  # bytes inflated at once
_DEPTH = 4  # blocks between two threads
_LOOK = 4096  # bytes of a file that tell whether an archive begins there
_GZIP = b"\x1f\x8b\x08"
_GZIP_WINDOW = 31  # zlib: a gzip header, any window

Sums = Callable[[int, str], None]
"""Told the number and the XXH3-128 of each file, in hexadecimal, as soon as all of it was read."""


class StreamEndError(SourceError):
    """The stream ended inside what was to be read."""


@dataclass(frozen=True, eq=False)
class Files:
    """Files that are read as one stream.

    Attributes:
        sizes: bytes of each, when they were looked at.
        begins: whether each begins with an archive, a gzipped one where any is; of the first,
            nobody asks.
        base: where the first begins in the stream of all files of which these are some.
        compressed: whether any is gzipped; ``base`` is that of the inflated stream.
    """

    paths: tuple[Path, ...]
    sizes: tuple[int, ...]
    begins: tuple[bool, ...]
    base: int
    compressed: bool

    @classmethod
    def look_at(cls, paths: Sequence[Path]) -> Files:
        """Measure the files.

        Raises:
            SourceError: one is no regular file, is empty, or cannot be read.
        """
        sizes, plain, gzipped, compressed = [], [], [], False
        for path in paths:
            require_file(path)
            with SourceFile(path) as file:
                if not file.size:
                    raise SourceError(f"{path}: the file is empty; fetch it again")
                data = file.read(min(_LOOK, file.size), 0)
                compressed |= data.startswith(_GZIP)
                sizes.append(file.size)
                plain.append(is_header(data[:BLOCK]))
                gzipped.append(begins_archive(data))
        # What looks like a header among gzipped files may lie in a block that is stored as it is.
        begins = gzipped if compressed else plain
        return cls(tuple(paths), tuple(sizes), tuple(begins), 0, compressed)

    @cached_property
    def names(self) -> list[str]:
        """The name of each file."""
        return [file_name(path) for path in self.paths]

    @cached_property
    def starts(self) -> list[int]:
        """Where each file begins in the stream of uncompressed files, and where the last ends."""
        return [*accumulate(self.sizes, initial=self.base)]

    def number_at(self, position: int) -> int | None:
        """The uncompressed file that holds the byte ``position`` of the stream; None behind all."""
        number = bisect_right(self.starts, position) - 1
        return number if number < len(self.paths) else None

    def between(self, begin: int, end: int) -> Files:
        """The uncompressed files that hold bytes ``[begin, end)`` of the stream."""
        starts = self.starts
        first = bisect_right(starts, begin) - 1
        last = max(bisect_right(starts, end - 1), first + 1)
        return self._some(first, last, starts[first])

    def apart(self) -> list[Files]:
        """The files that begin with an archive, each with those behind it that do not.

        Each is a stream of its own.
        """
        firsts = [number for number, begins in enumerate(self.begins) if begins or not number]
        return [self._some(first, stop, 0) for first, stop in pairwise([*firsts, len(self.paths)])]

    def _some(self, first: int, stop: int, base: int) -> Files:
        which = slice(first, stop)
        return Files(
            self.paths[which], self.sizes[which], self.begins[which], base, self.compressed
        )

    def open(self, sums: Sums | None = None) -> Stream:
        """The stream, at its beginning; ``sums`` is called only where files are compressed."""
        return GzipStream(self, sums) if self.compressed else PlainStream(self)

    def source(self, number: int) -> SourceFile:
        """A file, opened."""
        return SourceFile(self.paths[number], self.sizes[number])


class Stream(Closing):
    """Bytes of files joined; ``position`` counts from the beginning of the stream.

    Attributes:
        foreign: where data that are not gzipped, and follow such as are in the same file, were
            last met; -1 where they were not. Inside an archive they are damage.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self.foreign = -1
        self._chunk = b""
        self._at = 0  # of the next byte, in the chunk
        self._base = files.base  # of the chunk, in the stream

    @property
    def position(self) -> int:
        """The offset of the next byte."""
        return self._base + self._at

    def peek(self, count: int) -> bytes:
        """The next ``count`` bytes, which remain; fewer only where the stream ends."""
        while len(self._chunk) - self._at < count:
            more = self._more()
            if not more:
                break
            self._base += self._at
            self._chunk = self._chunk[self._at :] + more
            self._at = 0
        return self._chunk[self._at : self._at + count]

    def buffered(self) -> tuple[bytes, int]:
        """What is in memory: bytes of the stream, and which of them is the next."""
        return self._chunk, self._at

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes.

        Raises:
            StreamEndError: there are fewer.
            SourceError: the files cannot be read on.
        """
        at = self._at
        if at + count <= len(self._chunk):
            self._at = at + count
            return self._chunk[at : at + count]
        pieces = [self._chunk[at:]]
        missing = count - len(pieces[0])
        while missing:
            self._advance()
            self._at = min(missing, len(self._chunk))
            pieces.append(self._chunk[: self._at])
            missing -= self._at
        return b"".join(pieces)

    def read_block(self, count: int) -> memoryview:
        """As :meth:`read`, into memory that suits what is kept."""
        return memoryview(self.read(count))

    def seek(self, position: int) -> None:
        """Go to ``position``.

        Raises:
            StreamEndError: it lies behind the end.
            SourceError: the files cannot be read.
        """
        at = position - self._base
        if 0 <= at <= len(self._chunk):
            self._at = at
        else:
            self._go(position)

    def skip(self, count: int) -> None:
        """Pass over ``count`` bytes; as :meth:`seek`."""
        self.seek(self.position + count)

    def skip_zeros(self) -> bool:
        """Go to the next byte that is not 0; returns whether there is one.

        Raises:
            SourceError: the files cannot be read on; checksums are looked at on the way.
        """
        while True:
            rest = self._chunk[self._at :].lstrip(b"\0")
            if rest:
                self._at = len(self._chunk) - len(rest)
                return True
            more = self._more()
            if not more:
                self._at = len(self._chunk)
                return False
            self._base += len(self._chunk)
            self._chunk, self._at = more, 0

    @abstractmethod
    def name_byte(self, position: int) -> str:
        """Where a byte of the stream lies, in words: file and byte."""

    @property
    @abstractmethod
    def start(self) -> int:
        """The last start up to the next byte, or up to what was looked at behind it."""

    @property
    @abstractmethod
    def number(self) -> int:
        """The number of the file that the next byte is from."""

    @abstractmethod
    def ends(self) -> int | None:
        """Where the next start or the end of the stream lies, if that is known."""

    @abstractmethod
    def consumed(self) -> int:
        """About how many bytes of the files lie before the next byte of the stream."""

    @abstractmethod
    def sizes(self) -> tuple[int, ...]:
        """How many bytes each file gives, once the stream was read to its end."""

    @abstractmethod
    def close(self) -> None:
        """Close files and threads."""

    @abstractmethod
    def _more(self) -> bytes:
        """The chunk behind the present one, which the caller puts in place; empty at the end."""

    @abstractmethod
    def _go(self, position: int) -> None:
        """Go to a position outside the chunk."""

    def _advance(self) -> None:
        more = self._more()
        if not more:
            self._at = len(self._chunk)
            raise StreamEndError(
                f"{self.name_byte(self.position)}: the data end here, inside the archive: the file "
                "is cut short, or a piece that follows is missing; fetch it again or give all "
                "pieces in order"
            )
        self._base += len(self._chunk)
        self._chunk, self._at = more, 0


class Piece:
    """Bytes of a stream, from ``begin`` on, that are in memory, to read headers from."""

    def __init__(self, data: memoryview, begin: int, stream: Stream) -> None:
        self._data = data
        self._begin = begin
        self.position = begin
        self.name_byte = stream.name_byte

    def seek(self, position: int) -> None:
        """Go to ``position`` of the stream."""
        self.position = position

    def skip(self, count: int) -> None:
        """Pass over ``count`` bytes."""
        self.position += count

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes, or what there is of them."""
        at = self.position - self._begin
        self.position += count
        return bytes(self._data[at : at + count])


def opened(files: Files, shared: Stream | None) -> AbstractContextManager[Stream]:
    """The stream ``shared``, which stays open, or where it is None one that is closed again."""
    return files.open() if shared is None else nullcontext(shared)


class PlainStream(Stream):
    """Uncompressed files, which can be read anywhere."""

    def __init__(self, files: Files) -> None:
        super().__init__(files)
        self._starts = files.starts
        self._file: SourceFile | None = None
        self._opened = -1  # the number of that file
        self._block = _BLOCK

    def name_byte(self, position: int) -> str:
        """The file and the byte in it."""
        number = self._file_at(min(position, self._starts[-1] - 1))
        return f"{self.files.names[number]}: byte {position - self._starts[number]}"

    @property
    def start(self) -> int:
        """Where the file of the next byte begins."""
        return self._starts[self.number]

    @property
    def number(self) -> int:
        """The file of the next byte, or the last one."""
        return min(self._file_at(self.position), len(self.files.paths) - 1)

    def ends(self) -> int | None:
        """Where the file of the next byte ends."""
        return self._starts[min(self._file_at(self.position) + 1, len(self._starts) - 1)]

    def consumed(self) -> int:
        """The bytes before the next."""
        return self.position - self.files.base

    def sizes(self) -> tuple[int, ...]:
        """The bytes of each file."""
        return self.files.sizes

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def read_block(self, count: int) -> memoryview:
        """As :meth:`read`, not copied from where the system puts it if that is in one file."""
        position = self.position
        number = self._file_at(position)
        if number < len(self.files.paths) and position + count <= self._starts[number + 1]:
            block = self._open(number).read_block(count, position - self._starts[number])
            self.seek(position + count)
            return block
        return super().read_block(count)

    def _file_at(self, position: int) -> int:
        return bisect_right(self._starts, position) - 1

    def _open(self, number: int) -> SourceFile:
        if self._file is None or number != self._opened:
            self.close()
            self._file = self.files.source(number)
            self._opened = number
        return self._file

    def _go(self, position: int) -> None:
        end = self._starts[-1]
        # Past what little is left of a member, reading goes on; a jump may want little there.
        if not 0 <= position - self._base - len(self._chunk) < _BLOCK:
            self._block = _BLOCK
        self._base, self._chunk, self._at = min(position, end), b"", 0
        if position > end:
            self._advance()

    def _more(self) -> bytes:
        position = self._base + len(self._chunk)
        number = self._file_at(position)
        if number >= len(self.files.paths):
            return b""
        at = position - self._starts[number]
        count = min(self._block, self.files.sizes[number] - at)
        self._block = min(2 * self._block, _MOST)
        return self._open(number).read(count, at)


class GzipStream(Stream):
    """Files of which some are gzipped: read from the beginning on, and again from there.

    Pickled, it is one that begins anew.
    """

    def __init__(self, files: Files, sums: Sums | None = None) -> None:
        super().__init__(files)
        self._sums = sums
        self._begin()

    def __reduce__(self) -> tuple[type[GzipStream], tuple[Files]]:
        return GzipStream, (self.files,)

    def _begin(self) -> None:
        self._chunks: ReadAhead[Chunk] | Generator[Chunk, None, None] | None = None
        self._base, self._chunk, self._at = self.files.base, b"", 0
        # where bytes begin that come from another block of a file; that file, and the block's byte
        self._origins = [(self.files.base, 0, 0)]
        self._start = self.files.base
        self._starts = [self.files.base]  # of the files that were reached

    def name_byte(self, position: int) -> str:
        """The byte of the inflated stream, and about where in the files it comes from."""
        number, byte = self._origin(position)
        return (
            f"{self.files.names[number]}: near byte {byte} (byte {position} of the inflated data)"
        )

    @property
    def start(self) -> int:
        """Where the last file begins that does not continue the compressed data before it."""
        return self._start

    @property
    def number(self) -> int:
        """The file of the next byte."""
        return self._origin(self.position)[0]

    def ends(self) -> int | None:
        """None: how much there is only shows when it is inflated."""
        return None

    def consumed(self) -> int:
        """The compressed bytes from which those before were inflated."""
        number, byte = self._origin(self.position)
        return self.files.starts[number] - self.files.base + byte

    def sizes(self) -> tuple[int, ...]:
        """How many bytes each file inflated to, once the stream was read to its end."""
        missing = len(self.files.paths) + 1 - len(self._starts)
        return tuple(np.diff([*self._starts, *[self.position] * missing]).tolist())

    def close(self) -> None:
        """End the threads."""
        if self._chunks is not None:
            self._chunks.close()
            self._chunks = None

    def _origin(self, position: int) -> tuple[int, int]:
        """The file that a byte of the stream comes from, and about its byte there."""
        return self._origins[bisect_right(self._origins, position, key=itemgetter(0)) - 1][1:]

    def _go(self, position: int) -> None:
        if position < self._base:
            self.close()
            self._begin()
        while position > self._base + len(self._chunk):
            self._advance()
        self._at = position - self._base

    def _more(self) -> bytes:
        chunk = self._next()
        return b"" if chunk is None else chunk.data

    def _inflate(self) -> ReadAhead[Chunk] | Generator[Chunk, None, None]:
        return ReadAhead(inflate(self.files, self._sums), _DEPTH)

    def _next(self) -> Chunk | None:
        if self._chunks is None:
            self._chunks = self._inflate()
        chunk = next(self._chunks, None)
        if chunk is not None:
            begin = self._base + len(self._chunk)
            if self._origins[-1][1:] != (chunk.file, chunk.byte):
                self._origins.append((begin, chunk.file, chunk.byte))
            self._starts += [begin] * (chunk.file + 1 - len(self._starts))
            if chunk.starts:
                self._start = begin
            if chunk.foreign:
                self.foreign = begin
        return chunk


class _Block(NamedTuple):
    file: int
    byte: int
    data: bytes


class Chunk(NamedTuple):
    """Inflated bytes, never empty, and about where in the files they come from."""

    data: bytes
    file: int
    byte: int
    starts: bool
    foreign: bool = False  # whether data that are not gzipped begin here, behind such as are


def inflate(files: Files, sums: Sums | None, *, ahead: bool = True) -> Iterator[Chunk]:
    """Inflate what is gzipped, and pass on what is not; a thread reads and hashes ``ahead``.

    ``sums`` are told the XXH3-128 of each file.

    Raises:
        SourceError: a file cannot be read on, is damaged or cut short, or, where there are
            ``sums``, differs from its published MD5.
    """
    blocks = _read(files, sums)
    return _inflate(files, ReadAhead(blocks, _DEPTH) if ahead else blocks)


def _read(files: Files, sums: Sums | None) -> Iterator[_Block]:
    for number, name in enumerate(files.names):
        digest, published = xxhash.xxh3_128(), PublishedSum(name)
        with files.source(number) as file:
            size = file.size
            for byte in range(0, size, _SQUEEZED):
                data = file.read(min(_SQUEEZED, size - byte), byte)
                if sums is not None:
                    digest.update(data)
                    published.update(data)
                yield _Block(number, byte, data)
            file.check()
        if sums is not None:
            published.check()
            sums(number, digest.hexdigest())


def _inflate(files: Files, blocks: Iterator[_Block]) -> Iterator[Chunk]:
    inflater = None
    gzipped = False  # whether the file is, or the one before of which it is a continuation
    for number, byte, data in blocks:
        if byte == 0 and inflater is not None and begins_archive(data):
            raise cut_short(files, number)
        starts = byte == 0 and inflater is None
        if starts and not (gzipped and data.startswith(b"\0")):  # zeros go on with padding
            gzipped = data.startswith(_GZIP)
        if not gzipped:
            yield Chunk(data, number, byte, starts)
            continue
        while data:
            if inflater is None:
                data = data.lstrip(b"\0")  # padding, as tapes have it
                if not data:
                    break
                if data[: len(_GZIP)] != _GZIP[: len(data)]:
                    gzipped = False
                    yield Chunk(data, number, byte, starts, foreign=True)
                    break
                inflater = zlib.decompressobj(_GZIP_WINDOW)
            try:
                inflated = inflater.decompress(data, _INFLATED)
            except zlib.error as error:
                raise _damaged(files, number, byte, error) from error
            if inflated:
                yield Chunk(inflated, number, byte, starts)
                starts = False
            data = inflater.unconsumed_tail
            if inflater.eof:
                data, inflater = inflater.unused_data, None
    if inflater is not None:
        last = len(files.paths) - 1
        raise StreamEndError(
            f"{files.names[last]}: byte {files.sizes[last]}: the file ends inside the gzipped "
            "data: it is cut short, or a piece that follows is missing; fetch it again or give "
            "all pieces in order"
        )


def cut_short(files: Files, number: int) -> StreamEndError:
    """The error of an archive that goes on where the file ``number`` begins one of its own."""
    names = files.names
    return StreamEndError(
        f"{names[number - 1]}: byte {files.sizes[number - 1]}: the file is cut short, for "
        f"{names[number]} does not continue it but begins an archive of its own: fetch it again; "
        "pieces must be given in order"
    )


def begins_archive(data: bytes) -> bool:
    """Whether a file that begins with ``data`` is gzipped, and begins a tar."""
    if not data.startswith(_GZIP):
        return False
    try:
        return is_header(zlib.decompressobj(_GZIP_WINDOW).decompress(data, BLOCK))
    except zlib.error:
        return False


def _damaged(files: Files, number: int, byte: int, error: zlib.error) -> SourceError:
    """The error of data that do not inflate; a piece that differs from its sum is named so."""
    path = files.paths[number]
    name = files.names[number]
    if name in MD5:
        published = PublishedSum(name)
        with path.open("rb", buffering=0) as file:
            while data := file.read(_SQUEEZED):
                published.update(data)
        published.check()
    words = str(error).removeprefix("Error ").partition(": ")[2] or str(error)
    return SourceError(
        f"{name}: the gzipped data are damaged in the {_SQUEEZED >> 10} KiB from byte {byte} on "
        f"({words}): fetch this file again; pieces must be given in order"
    )
