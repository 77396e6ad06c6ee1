"""What gzipped files hold, inflated once: into a file without a name, from which it is read again.

The first reading of archives must reach their end before anything can be planned. What it inflates
is kept, so that the second one inflates nothing, starts anywhere, and goes on in several processes.
Several processes may fill a spool, for each file has a region of its own in it.

The spool lies in ``TMPDIR``, or else where large temporary files do. It has no name, so that
nothing is left of it when the process that made it ends, in whatever way. It takes no more than
half of the memory that is free, so that the page cache holds it, and half of that disk: what would
take more, or claims to hold much more than its size, is not kept, and inflated again instead.
"""

from __future__ import annotations

import mmap
import os
import secrets
import shutil
import tempfile
from bisect import bisect_right
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

from facepack import system
from facepack.convert.formats.tar.stream import (
    Chunk,
    Files,
    GzipStream,
    PlainStream,
    Stream,
    Sums,
    inflate,
)
from facepack.convert.read_ahead import ReadAhead
from facepack.convert.source_file import SourceFile
from facepack.memory import free_memory

_USUAL = 1.5  # bytes that a byte inflates to; images are compressed, headers and padding are not
_MOST = 16  # the same; a file may have 1 MiB more
_PAGE = mmap.ALLOCATIONGRANULARITY  # regions begin where they can be mapped
_AHEAD = 2  # chunks that are inflated and not written yet, and such that are not used yet
_LARGE = Path("/var/tmp")


class SpoolError(Exception):
    """The spool cannot take it all: read the files without one."""


class SpoolFile:
    """A file without a name, known by the token that it begins with.

    Pickled, it is opened again where the system has a way to, else it is None.

    Attributes:
        path: where other processes find it; None if they cannot.
    """

    def __init__(self, descriptor: int, path: Path | None, token: bytes) -> None:
        self.descriptor = descriptor
        self.path = path
        self._token = token

    @classmethod
    def new(cls, folder: Path | None) -> SpoolFile:
        """An empty one; raises OSError where there can be none."""
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            descriptor = os.dup(file.fileno())
        token = secrets.token_bytes(16)
        spool = cls(descriptor, system.path_of_open_file(descriptor), token)
        spool.write(token, 0)
        return spool

    @classmethod
    def reopened(cls, path: Path | None, token: bytes) -> SpoolFile | None:
        """One of another process; None if it has ended, or is on another machine."""
        try:
            found = cls(os.open(path or "", system.READ), path, token)
            if system.read_at(found.descriptor, len(token), 0) != token:
                return None
            return cls(os.open(path or "", system.READ_AND_WRITE), path, token)
        except OSError:
            return None

    def __reduce__(self) -> tuple[object, ...]:
        return SpoolFile.reopened, (self.path, self._token)

    def write(self, data: bytes, offset: int) -> None:
        """Write all of ``data``; raises OSError."""
        rest = memoryview(data)
        while rest:
            count = system.write_at(self.descriptor, rest, offset)
            rest, offset = rest[count:], offset + count

    def __del__(self) -> None:
        os.close(self.descriptor)


@dataclass(frozen=True, eq=False)
class Spool:
    """Room for what each of some files inflates to.

    Attributes:
        file: where it lies; None where it cannot be had.
        regions: where that of each file begins in it, and where the last ends.
        room: bytes that all files may take together.
    """

    file: SpoolFile | None
    regions: tuple[int, ...]
    room: int

    @classmethod
    def new(cls, files: Files) -> Spool:
        """An empty one, for gzipped files.

        Raises:
            SpoolError: there is no room.
        """
        folder = None if "TMPDIR" in os.environ or not _LARGE.is_dir() else _LARGE
        free = room(folder or Path(tempfile.gettempdir()))
        if sum(files.sizes) * _USUAL > free:
            raise SpoolError
        most = ((size * _MOST + (1 << 20)) // _PAGE * _PAGE for size in files.sizes)
        try:
            return cls(SpoolFile.new(folder), tuple(accumulate(most, initial=_PAGE)), free)
        except OSError as error:
            raise SpoolError from error

    @property
    def shared(self) -> bool:
        """Whether other processes can open it, too."""
        return self.file is not None and self.file.path is not None

    def some(self, first: int, count: int) -> Spool:
        """That of ``count`` of the files."""
        return Spool(self.file, self.regions[first : first + count + 1], self.room)


class SpoolingStream(GzipStream):
    """Gzipped files, whose bytes are kept in a spool as they are inflated.

    Args:
        sums: told the XXH3-128 of each.
        ahead: have threads read, inflate and write what comes next meanwhile.

    Raises:
        SpoolError: the spool cannot take it; so does whatever reads.
    """

    def __init__(self, files: Files, sums: Sums | None, spool: Spool, *, ahead: bool) -> None:
        self._spool = spool
        self._ahead = ahead
        super().__init__(files, sums)

    def _inflate(self) -> ReadAhead[Chunk] | Generator[Chunk, None, None]:
        chunks = inflate(self.files, self._sums, ahead=self._ahead)
        if not self._ahead:
            return self._keep(chunks)
        return ReadAhead(self._keep(ReadAhead(chunks, _AHEAD)), _AHEAD)

    def _keep(self, chunks: Iterator[Chunk]) -> Generator[Chunk, None, None]:
        if self._spool.file is None:
            raise SpoolError
        regions, number, at = self._spool.regions, 0, self._spool.regions[0]
        kept = 0
        for chunk in chunks:
            if chunk.file != number:
                number, at = chunk.file, regions[chunk.file]
            kept += len(chunk.data)
            if at + len(chunk.data) > regions[number + 1] or kept > self._spool.room:
                raise SpoolError
            try:
                self._spool.file.write(chunk.data, at)
                # Others fill it as well, where they can: then the system tells how full it is.
                if system.disk_bytes(self._spool.file.descriptor) > self._spool.room:
                    raise SpoolError
            except OSError as error:
                raise SpoolError from error
            at += len(chunk.data)
            yield chunk


class _Region(SourceFile):
    """The part of a spool that holds what one file inflated to."""

    def __init__(self, spool: SpoolFile, path: Path, begin: int, size: int) -> None:
        self._spool = spool
        self._begin = begin
        super().__init__(path, size)

    def _open(self) -> int:
        return os.dup(self._spool.descriptor)

    def check(self) -> None:
        """Nobody else changes it."""

    def read(self, count: int, offset: int) -> bytes:
        """The ``count`` bytes at ``offset`` of what the file inflated to."""
        return super().read(count, self._begin + offset)

    def read_block(self, count: int, offset: int) -> memoryview:
        """As :meth:`read`, but the pages of the cache themselves: what is there does not change."""
        if self._mapped is None:
            return super().read_block(count, self._begin + offset)
        return self._mapped[offset : offset + count]

    @cached_property
    def _mapped(self) -> memoryview | None:
        """All of it; None where the file system maps no files."""
        try:
            return memoryview(
                mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_READ, offset=self._begin)
            )
        except OSError:
            return None


@dataclass(frozen=True, eq=False)
class SpooledFiles(Files):
    """Gzipped files by the bytes that they inflate to, which ``sizes`` and ``base`` count.

    Attributes:
        spool: where these lie; None, or without a file, where they do not: then what is wanted of
            them is inflated again.
        gzipped: the files as they are, with those before them up to where an archive begins.
    """

    spool: Spool | None
    gzipped: Files

    @classmethod
    def of(cls, files: Files, sizes: tuple[int, ...], spool: Spool | None) -> SpooledFiles:
        """All files that a stream is of, each with the bytes that it inflated to."""
        return cls(files.paths, sizes, files.begins, files.base, False, spool, files)

    @property
    def longest(self) -> int:
        """The most bytes from where a file begins an archive to where the next one does."""
        return max(sum(some.sizes) for some in self.apart())

    def between(self, begin: int, end: int) -> Files:
        """The files that hold bytes ``[begin, end)`` of the stream."""
        some = super().between(begin, end)
        first = bisect_right(self.starts, some.base) - 1
        count = len(some.paths)
        before = len(self.gzipped.paths) - len(self.paths)
        archive = before + first
        while archive and not self.gzipped.begins[archive]:
            archive -= 1
        which = slice(archive, before + first + count)
        gzipped = Files(
            self.gzipped.paths[which],
            self.gzipped.sizes[which],
            self.gzipped.begins[which],
            self.starts[archive - before] if archive >= before else self.gzipped.base,
            True,
        )
        spool = self.spool and self.spool.some(first, count)
        return SpooledFiles(some.paths, some.sizes, some.begins, some.base, False, spool, gzipped)

    def open(self, sums: Sums | None = None) -> Stream:
        """The stream; where nothing was kept, that of the files themselves."""
        return self.gzipped.open(sums) if self._file is None else PlainStream(self)

    def source(self, number: int) -> SourceFile:
        """What a file inflated to."""
        assert self.spool is not None and self._file is not None
        region = self.spool.regions[number]
        return _Region(self._file, self.paths[number], region, self.sizes[number])

    @property
    def _file(self) -> SpoolFile | None:
        return None if self.spool is None else self.spool.file


def room(folder: Path) -> int:
    """Bytes that a spool in ``folder`` may take."""
    return min(free_memory(), shutil.disk_usage(folder).free) // 2
