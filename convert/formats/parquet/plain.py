"""Images that lie in a Parquet file as they are, read from there without the library.

``datasets`` stores images uncompressed and ``PLAIN``: in pages, behind their lengths. The library
copies them twice before they can be had; here they are read past the page cache into the memory
that is kept, as those of a ``.rec`` are. All else, and all that is damaged, is the library's to
read: nothing is refused here.

Source: Apache Parquet, ``parquet.thrift``, ``Encodings.md``. By pyarrow 26.0.1, ``parquet2lmdb``
takes 1.3 times the CPU time (``benchmarks/builds.py``).
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from facepack.convert.formats.parquet.thrift import read_struct, read_varint
from facepack.convert.source_file import SourceFile
from facepack.convert.sweep import MAX_BLOCK

_TAIL = struct.Struct("<I4s")  # of the file: the bytes of the footer before it, and the mark
_MARK = b"PAR1"
_LARGEST_FOOTER = 4 << 20
_LENGTH = struct.Struct("<I")  # of a value, and of the levels of a page
_LARGEST_HEAD = 16 << 10  # bytes of a page's header; statistics may hold two values of 4 KiB

# Fields of parquet.thrift's structures, by their numbers there.
_ROW_GROUPS = 4
_CHUNKS = 1
_CHUNK_FILE, _CHUNK_META = 1, 3
_TYPE, _ENCODINGS, _CODEC, _BYTES, _FIRST_PAGE, _DICTIONARY = 1, 2, 4, 7, 9, 11
_PAGE_TYPE, _PAGE_INFLATED, _PAGE_BYTES, _DATA_PAGE = 1, 2, 3, 5  # and 4, a CRC, to be checked
_PAGE_VALUES, _PAGE_ENCODING, _LEVEL_ENCODING, _REPETITION_ENCODING = 1, 2, 3, 4
_BYTE_ARRAY, _UNCOMPRESSED = 6, 0
_PLAIN, _RLE, _BIT_PACKED = 0, 3, 4


class PlainChunk(NamedTuple):
    """The images of a row group, one for each row, in pages that follow each other."""

    begin: int  # byte of the file
    end: int  # the byte behind it


class Images(NamedTuple):
    """Images of rows that follow each other, in one piece of memory."""

    data: memoryview
    starts: np.ndarray  # int64 (n,), where each begins in it
    stops: np.ndarray  # int64 (n,), where it ends


def find_chunks(file: SourceFile, leaf: int) -> list[PlainChunk | None]:
    """Where a column lies in each row group; None where it is stored in another way.

    Args:
        file: a Parquet file that the library could open.
        leaf: the column's number among those that hold values; none of its values are repeated.

    Raises:
        SourceError: the file cannot be read.
    """
    size, mark = _TAIL.unpack(file.read(_TAIL.size, file.size - _TAIL.size))
    if mark != _MARK or size > min(_LARGEST_FOOTER, file.size - _TAIL.size):
        return []
    footer = memoryview(file.read(size, file.size - _TAIL.size - size))
    try:
        groups = read_struct(footer, 0)[0][_ROW_GROUPS]
        return [_chunk(group[_CHUNKS][leaf], file.size) for group in groups]
    except (ValueError, LookupError, TypeError):  # the library tells what is wrong
        return []


def _chunk(chunk: dict[int, Any], file_size: int) -> PlainChunk | None:
    meta = chunk[_CHUNK_META]
    begin, size = meta[_FIRST_PAGE], meta[_BYTES]
    if (
        _CHUNK_FILE in chunk
        or meta[_TYPE] != _BYTE_ARRAY
        or meta[_CODEC] != _UNCOMPRESSED
        or not {*meta[_ENCODINGS]} <= {_PLAIN, _RLE, _BIT_PACKED}
        or meta.get(_DICTIONARY)
        or not 0 <= begin <= begin + size <= file_size
    ):
        return None
    return PlainChunk(begin, begin + size)


def read_images(
    file: SourceFile, chunk: PlainChunk, level: int, start: int, stop: int, *, once: bool
) -> Iterator[Images]:
    """Read the images of rows of a row group, in order, up to a page that is not as usual.

    Args:
        file: the Parquet file.
        chunk: where they lie.
        level: the definition level of an image that is there.
        start: the first row, in the row group.
        stop: the row behind the last.
        once: nobody will read them again, so that they need not go through the page cache.

    Raises:
        SourceError: the file cannot be read on.
    """
    try:
        row, at = _pass_over(file, chunk, start)
        if once:
            file.sweep(at, chunk.end)
        pages = _Pages(at, chunk.end, level)
        while row < stop:
            size = min(max(pages.need, MAX_BLOCK), chunk.end - pages.at)
            block = file.read_block(size, pages.at)
            starts, stops = pages.walk(block, stop - row)
            skipped = max(start - row, 0)
            row += len(starts)
            if len(starts) > skipped:
                yield Images(block, starts[skipped:], stops[skipped:])
    except (ValueError, LookupError, TypeError):  # a page is not as usual
        return


class _Pages:
    """Finds the values of pages that follow each other, block by block of the file.

    Attributes:
        at: the byte of the file at which the next block is to begin.
        need: bytes that it must have at least, as far as is known.
    """

    def __init__(self, at: int, end: int, level: int) -> None:
        self.at = at
        self.need = 0
        self._end = end  # of all pages
        self._level = level
        self._left = 0  # values of the page that were not found yet
        self._page_end = at

    def walk(self, block: memoryview, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Where up to ``most`` of the next values begin and end in a block: int64 (n,).

        Raises:
            ValueError: it begins with what is not as usual.
            LookupError: the same, or a page is cut short.
        """
        base, at, self.need = self.at, 0, 0
        starts, stops = array("q"), array("q")
        while len(starts) < most:
            if not self._left:
                try:
                    at = self._enter(block, base, at)
                except IndexError:  # it goes on behind the block
                    if not at:
                        raise
                    break
            walked = len(starts)
            end = self._page_end - base
            at = _walk(block, at, end, min(self._left, most - walked), starts, stops)
            self._left -= len(starts) - walked
            if not self._left:
                at = end
            elif len(starts) < most:
                self.need = _value_bytes(block, at, end)
                break
        self.at = base + at
        return np.array(starts, np.int64), np.array(stops, np.int64)

    def _enter(self, block: memoryview, base: int, at: int) -> int:
        """Begin the page at byte ``at`` of a block; returns where its first value is there."""
        count, begin, size = _page(block[at:])
        begin += _levels(block[at + begin :], count, self._level)
        if not begin <= size <= self._end - base - at:
            raise ValueError("a page that ends elsewhere")
        self._left, self._page_end = count, base + at + size
        return at + begin


def _pass_over(file: SourceFile, chunk: PlainChunk, start: int) -> tuple[int, int]:
    """The first row of the page in which row ``start`` is, and where that page begins."""
    row, at = 0, chunk.begin
    while True:
        count, _, size = _page(memoryview(file.read(min(_LARGEST_HEAD, chunk.end - at), at)))
        if row + count > start:
            return row, at
        row, at = row + count, at + size


def _page(data: memoryview) -> tuple[int, int, int]:
    """Of the page that begins with ``data``: its values, bytes of its header, bytes of all.

    Raises:
        ValueError: it is none with images as they are.
        LookupError: the same, or it goes on behind ``data``.
    """
    head, begin = read_struct(data[:_LARGEST_HEAD], 0)
    page, size = head[_DATA_PAGE], head[_PAGE_BYTES]
    if (
        len(head) != 4
        or head[_PAGE_TYPE] != 0
        or head[_PAGE_INFLATED] != size
        or page[_PAGE_ENCODING] != _PLAIN
        or page[_LEVEL_ENCODING] != _RLE
        or page[_REPETITION_ENCODING] not in (_RLE, _BIT_PACKED)
        or not 0 <= page[_PAGE_VALUES] <= size
    ):
        raise ValueError("a page that is not as usual")
    return page[_PAGE_VALUES], begin, begin + size


def _levels(data: memoryview, count: int, level: int) -> int:
    """The bytes that the levels of ``count`` values take, which say that each is there.

    They are runs: of one value, or of eight values each as bits.

    Raises:
        ValueError: one is not there.
        IndexError: they go on behind ``data``.
    """
    if not level:
        return 0
    width = level.bit_length()
    end = _LENGTH.size + int.from_bytes(data[: _LENGTH.size], "little")
    if len(data) < end:
        raise IndexError
    levels, at = data[_LENGTH.size : end], 0
    while count > 0:
        run, at = read_varint(levels, at)
        values, size = run >> 1, 1
        if run & 1:
            values, size = min(values * 8, count), values * width
            bits = np.unpackbits(np.frombuffer(levels[at : at + size], np.uint8), bitorder="little")
            found = bits[: values * width].reshape(values, width) @ (1 << np.arange(width))
        else:
            found = np.array(levels[at])
        if not values or (found != level).any():
            raise ValueError("a value that is not there")
        count, at = count - values, at + size
    return end


def _walk(
    data: memoryview, at: int, end: int, count: int, starts: array[int], stops: array[int]
) -> int:
    """Find up to ``count`` values that lie whole in ``data`` before ``end``; returns where the next
    one begins, with its length."""
    end = min(end, len(data))
    unpack = _LENGTH.unpack_from
    for _ in range(count):
        start = at + _LENGTH.size
        if start > end:
            break
        stop = start + unpack(data, at)[0]
        if stop > end:
            break
        starts.append(start)
        stops.append(stop)
        at = stop
    return at


def _value_bytes(data: memoryview, at: int, end: int) -> int:
    """Bytes of the value at ``at`` with its length, or of that alone; raises ValueError if the page
    has fewer."""
    size = _LENGTH.size
    if at + size <= len(data):
        size += int(_LENGTH.unpack_from(data, at)[0])
    if at + size > end:
        raise ValueError("a value that reaches beyond its page")
    return size
