"""TFRecord files as bytes: plain ones, and those that TensorFlow wrote with ZLIB or GZIP.

A compressed file can only be read from its beginning on. Its parts are mostly read one behind the
other, and so a process keeps the last such file where it was left: each inflates it once.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from facepack.closing import Closing
from facepack.convert.formats.tfrecord.framing import HEAD, find_head, stated_length
from facepack.convert.source_file import SourceFile, read_errors
from facepack.errors import SourceError

if TYPE_CHECKING:
    from zlib import _Decompress as Inflater  # has no other name

_SQUEEZED = 256 << 10  # bytes of a compressed file that are read at once
_INFLATED = 1 << 20  # bytes that are inflated at once
_STEPS = 256, 1  # compressed bytes that are read at once where the data are damaged
_EITHER = 47  # zlib: a gzip or a zlib header, any window
_SEARCHED = 1 << 20  # bytes in which the first sound record of a damaged file is looked for
_FREE = 64 << 20  # inflated bytes that are not compared with the compressed ones
_MOST = 100  # inflated bytes of one compressed, of what is no attack: images hardly shrink


class PlainFile(SourceFile):
    """A file that is not compressed."""

    fault = ""

    def read(self, count: int, offset: int) -> bytes:
        """The ``count`` bytes at ``offset``; fewer only where the file ends."""
        count = max(min(count, self.size - offset), 0)
        return super().read(count, offset) if count else b""

    def end(self) -> int:
        """Its size."""
        return self.size


class InflatedFile(Closing):
    """A compressed file, whose gzip members or zlib streams are read as one; a context manager.

    Reading goes on from where it was; before that, it begins anew. Blocks are the same whatever is
    asked for, so that damage ends the data always at the same byte.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        self._file = SourceFile(path, size)
        self.path, self.size = self._file.path, self._file.size
        self.state = _state(path)
        self._begin()

    def _begin(self) -> None:
        self._inflater = zlib.decompressobj(_EITHER)
        self._read = 0  # compressed bytes
        self._squeezed = b""  # of these, those that the inflater has not had
        self._base, self._chunk = 0, b""  # inflated bytes, and where they begin
        self._ended = False
        # why nothing can be inflated behind the end; empty if all is, or that is not yet reached
        self.fault = ""

    def read(self, count: int, offset: int) -> bytes:
        """The ``count`` bytes at ``offset`` of what is inflated; fewer only where that ends.

        Raises:
            SourceError: the file cannot be read, or inflates to what no images do.
        """
        if offset < self._base:
            self._begin()
        passed = min(offset - self._base, len(self._chunk))
        pieces = [self._chunk[passed:]]
        self._base += passed
        reached = self._base + len(pieces[0])
        while reached < offset + count and (more := self._more()):
            if reached <= offset:
                pieces, self._base = [], reached
            pieces.append(more)
            reached += len(more)
            self._compare(reached)
        self._chunk = b"".join(pieces)
        at = offset - self._base
        return self._chunk[at : at + count]

    def read_block(self, count: int, offset: int) -> memoryview:
        """As :meth:`read`, of bytes that were there when the file was looked at.

        Raises:
            SourceError: they are not any more.
        """
        data = self.read(count, offset)
        if len(data) < count:
            raise SourceError(
                f"{self.path}: no longer inflates to the same bytes: it changed since the "
                "conversion began; start anew with --overwrite"
            )
        return memoryview(data)

    def end(self) -> int:
        """How many bytes there are, inflated."""
        while self.read(_INFLATED, self._base + len(self._chunk)):
            pass
        return self._base + len(self._chunk)

    def check(self) -> None:
        """Make sure that the file still has its size; raises SourceError if not."""
        self._file.check()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _more(self) -> bytes:
        """The inflated bytes that follow; none at the end."""
        while not self._ended:
            if not self._squeezed:
                count = min(_SQUEEZED, self.size - self._read)
                self._squeezed = self._file.read(count, self._read)
                self._read += count
            if self._inflater.eof:
                self._squeezed = self._squeezed.lstrip(b"\0")  # files are padded
                if not self._squeezed:
                    self._ended = self._read == self.size
                    continue
                self._inflater = zlib.decompressobj(_EITHER)
            before = self._inflater.copy()
            try:
                data = self._inflater.decompress(self._squeezed, _INFLATED)
            except zlib.error as error:
                self.fault = f"nothing can be inflated from here on ({error})"
                self._ended = True
                return _up_to_damage(before, self._squeezed)
            self._squeezed = self._inflater.unused_data or self._inflater.unconsumed_tail
            if data:
                return data
            if not self._squeezed and not self._inflater.eof and self._read == self.size:
                self.fault = "the compressed data are cut short"
                self._ended = True
        return b""

    def _compare(self, inflated: int) -> None:
        if inflated > _FREE and inflated > _MOST * self._read:
            raise SourceError(
                f"{self.path}: {self._read:,} bytes inflate to more than {_MOST} times as many: "
                "these are no images; leave this file out"
            )


def _up_to_damage(inflater: Inflater, squeezed: bytes) -> bytes:
    """What can be inflated of data with which zlib gives up: it keeps what it had before."""
    pieces = []
    at = 0
    for step in _STEPS:
        with suppress(zlib.error):
            while at < len(squeezed):
                ahead = inflater.copy()
                pieces.append(ahead.decompress(squeezed[at : at + step]))
                inflater, at = ahead, at + step
    return b"".join(pieces)


def _state(path: Path) -> tuple[int, ...]:
    """What tells a file from another that takes its place."""
    with read_errors(path):
        status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def open_records(path: Path) -> PlainFile | InflatedFile:
    """The file at ``path``, compressed or not, as its first bytes tell.

    Raises:
        SourceError: it is no TFRecord file, or cannot be read.
    """
    plain = PlainFile(path)
    if not plain.size or stated_length(plain.read(HEAD, 0)) is not None:
        return plain
    inflated = InflatedFile(path)
    head = inflated.read(HEAD, 0)
    if stated_length(head) is not None or not (head or inflated.fault):
        return inflated
    for file in (inflated, plain):
        # Where there is no record, the search ends at the end of the file or behind what is
        # searched: at a byte that begins none.
        at = find_head(file, 1, _SEARCHED)
        if stated_length(file.read(HEAD, at)) is not None:
            return file
    raise SourceError(
        f"{path}: is no TFRecord file: it begins with no length that has its checksum, compressed "
        "or not; fetch it again, or pass another"
    )


_left: list[InflatedFile] = []  # the compressed file that was read last in this process


@contextmanager
def reopened(path: Path, size: int, *, compressed: bool) -> Iterator[PlainFile | InflatedFile]:
    """The file again, which had ``size`` bytes.

    Raises:
        SourceError: it has another size now, or cannot be read.
    """
    if not compressed:
        with PlainFile(path, size) as plain:
            yield plain
        return
    file = _take_left(_state(path)) or InflatedFile(path, size)
    file.check()
    try:
        yield file
    except BaseException:  # it may have failed in the midst of a block
        file.close()
        raise
    _left[:] = [file]


def _take_left(state: tuple[int, ...]) -> InflatedFile | None:
    """The file that was left, if it is still the one in that state; no other thread has it then."""
    with suppress(IndexError):
        file = _left.pop()
        if file.state == state:
            return file
        file.close()
    return None
