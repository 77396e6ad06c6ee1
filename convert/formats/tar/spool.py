"""What gzipped files hold, inflated once: into a file without a name, from which it is read again.

The first reading of archives must reach their end before anything can be planned. What it inflates
is kept, so that the second one inflates nothing, starts anywhere, and goes on in several processes.
Files that begin archives of their own are inflated side by side, by threads, for zlib leaves
Python's lock free; the pieces of one archive are inflated by one.

The spool lies in ``TMPDIR``, or else where large temporary files do. It has no name, so that
nothing is left of it when the process ends, in whatever way. It takes no more than half of the
memory that is free, so that the page cache holds it, and half of that disk: what would take more,
or claims to hold much more than its size, is not kept, and inflated again instead.
"""

from __future__ import annotations

import mmap
import os
import secrets
import shutil
import tempfile
import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np

from facepack import system
from facepack.convert.formats.tar.stream import (
    Chunk,
    Files,
    GzipStream,
    PlainStream,
    Stream,
    Sums,
    begins_archive,
    inflate,
)
from facepack.convert.read_ahead import ReadAhead
from facepack.convert.source_file import SourceFile
from facepack.memory import free_memory
from facepack.processors import usable_processors

_BLOCK = 1 << 20  # bytes of the spool that are read at once while it grows
_LOOK = 4096  # bytes of a file that tell whether an archive begins there
_USUAL = 1.5  # bytes that a byte inflates to; images are compressed, headers and padding are not
_MOST = 16  # the same; a file may have 1 MiB more
_PAGE = mmap.ALLOCATIONGRANULARITY  # regions begin where they can be mapped
_THREADS = 16  # more than one reader follows
_AHEAD = 2  # chunks that are inflated and not written yet, of each
_LARGE = Path("/var/tmp")


class SpoolError(Exception):
    """The spool cannot take it all: read the files without one."""


class SpoolFile:
    """A file without a name, known by the token that it begins with.

    Pickled, it is opened again where the system has a way to, else it is None.

    Attributes:
        descriptor: it, open.
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
        """One of another process."""
        try:
            descriptor = os.open(path or "", system.READ)
        except OSError:  # on another machine, or that process has ended
            return None
        spool = cls(descriptor, path, token)
        return spool if system.read_at(descriptor, len(token), 0) == token else None

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
    """Gzipped files whose bytes lie inflated in a spool: ``sizes`` and ``base`` are of these bytes.

    Attributes:
        spool: where they lie; None where it cannot be had: then they are inflated again.
        regions: where those of each file begin in it.
        gzipped: the files as they are, with those before them up to where an archive begins.
        begins: for each of these, whether an archive begins there.
    """

    spool: SpoolFile | None
    regions: tuple[int, ...]
    gzipped: Files
    begins: tuple[bool, ...]

    @classmethod
    def not_kept(cls, stream: GzipStream) -> SpooledFiles:
        """Those of a stream that was read to its end: what is wanted of them is inflated again."""
        files = stream.files
        return cls(
            paths=files.paths,
            sizes=stream.inflated_sizes(),
            base=files.base,
            compressed=False,
            spool=None,
            regions=(0,) * len(files.paths),
            gzipped=files,
            begins=tuple(_begin_archives(files)),
        )

    @property
    def shared(self) -> bool:
        """Whether other processes can open the spool, too."""
        return self.spool is not None and self.spool.path is not None

    @property
    def longest(self) -> int:
        """The most bytes from where a file begins an archive to where the next one does."""
        begins = np.flatnonzero(self.begins)
        return int(np.add.reduceat(self.sizes, begins).max())

    def between(self, begin: int, end: int) -> Files:
        """The files that hold bytes ``[begin, end)`` of the stream."""
        some = super().between(begin, end)
        first = bisect_right(self.starts, some.base) - 1
        stop = first + len(some.paths)
        before = len(self.gzipped.paths) - len(self.paths)
        archive = before + first
        while not self.begins[archive]:
            archive -= 1
        which = slice(archive, before + stop)
        return SpooledFiles(
            paths=some.paths,
            sizes=some.sizes,
            base=some.base,
            compressed=False,
            spool=self.spool,
            regions=self.regions[first:stop],
            gzipped=Files(
                self.gzipped.paths[which],
                self.gzipped.sizes[which],
                self.starts[archive - before] if archive >= before else self.gzipped.base,
                True,
            ),
            begins=self.begins[which],
        )

    def open(self, sums: Sums | None = None) -> Stream:
        """The stream; where there is no spool, that of the files themselves."""
        return PlainStream(self) if self.spool is not None else self.gzipped.open(sums)

    def source(self, number: int) -> SourceFile:
        """What a file inflated to."""
        assert self.spool is not None
        return _Region(self.spool, self.paths[number], self.regions[number], self.sizes[number])


class GrowingStream(Stream):
    """Gzipped files while they are inflated into a spool; a context manager, which ends that.

    Args:
        files: the files.
        sums: told the XXH3-128 of each.

    Raises:
        SpoolError: there is no room for a spool; so does whatever reads.
    """

    def __init__(self, files: Files, sums: Sums | None) -> None:
        super().__init__(files)
        self._starts = [files.base]  # of the files that were reached
        self._inflating = _Inflating(files, sums)
        self._last = 0  # the file of the last byte of the chunk

    def spooled(self) -> SpooledFiles:
        """The files as they lie in the spool, once the stream was read to its end."""
        inflating = self._inflating
        return SpooledFiles(
            paths=self.files.paths,
            sizes=tuple(inflating.sizes),
            base=self.files.base,
            compressed=False,
            spool=inflating.spool,
            regions=inflating.regions,
            gzipped=self.files,
            begins=inflating.begins,
        )

    def name_byte(self, position: int) -> str:
        """The byte of the inflated stream, and about where in the files it comes from."""
        number = self._file_at(position)
        byte = self._inflating.origin(number, position - self._starts[number])
        return (
            f"{self.files.names[number]}: near byte {byte} (byte {position} of the inflated data)"
        )

    @property
    def start(self) -> int:
        """Where the last file begins that does not continue the compressed data before it."""
        number = self._last
        while number and not self._inflating.starting[number]:
            number -= 1
        return self._starts[number]

    @property
    def number(self) -> int:
        """The file of the next byte."""
        return self._file_at(self.position)

    def ends(self) -> int | None:
        """None: archives go on from one compressed file to the next wherever it was cut."""
        return None

    def consumed(self) -> int:
        """About how many bytes of the files lie before the next byte."""
        number = self.number
        origin = self._inflating.origin(number, self.position - self._starts[number])
        return sum(self.files.sizes[:number]) + origin

    def close(self) -> None:
        """Stop inflating."""
        self._inflating.stop()

    def _file_at(self, position: int) -> int:
        return max(bisect_right(self._starts, position) - 1, 0)

    def _go(self, position: int) -> None:
        if position < self._base:
            self._base, self._chunk, self._at = position, b"", 0
            self._last = self._file_at(position)
        while position > self._base + len(self._chunk):
            self._advance()
        self._at = position - self._base

    def _more(self) -> bytes:
        position = self._base + len(self._chunk)
        number = self._file_at(position)
        while not (data := self._inflating.read(number, position - self._starts[number])):
            number += 1
            if number == len(self.files.paths):
                return b""
            if number == len(self._starts):
                self._starts.append(position)
        self._last = number
        foreign = self._starts[number] + self._inflating.foreign[number]
        if position <= foreign < position + len(data):
            self.foreign = foreign
        return data


class _Inflating:
    """Threads that inflate files into a spool, and how far they are.

    Attributes:
        spool: the spool.
        begins: for each file, whether an archive begins with it.
        regions: where the bytes of each begin in the spool.
        sizes: how many bytes each has inflated to.
        starting: whether each begins by itself, no compressed data being continued.
        foreign: where in the bytes of each data begin that are not gzipped; far below 0: nowhere.
    """

    def __init__(self, files: Files, sums: Sums | None) -> None:
        count = len(files.paths)
        self._files, self._sums = files, sums
        self.begins = tuple(_begin_archives(files))
        folder = None if "TMPDIR" in os.environ or not _LARGE.is_dir() else _LARGE
        self._room = room(folder or Path(tempfile.gettempdir()))
        if sum(files.sizes) * _USUAL > self._room:
            raise SpoolError
        try:
            self.spool = SpoolFile.new(folder)
        except OSError as error:
            raise SpoolError from error
        self._regions = [*accumulate(map(_most, files.sizes), initial=_PAGE)]
        self.regions = tuple(self._regions[:-1])
        self.sizes = [0] * count
        self.starting = [False] * count
        self.foreign = [-1 << 62] * count
        self._origins = [(array("q"), array("q")) for _ in range(count)]
        self._whole = [False] * count
        self._errors: dict[int, BaseException] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._reader = _Region(self.spool, files.paths[0], 0, 0)
        firsts = [number for number, begins in enumerate(self.begins) if begins]
        self._archives = map(range, firsts, [*firsts[1:], count])
        processors = usable_processors()
        # Where each processor has an archive of its own, threads that read ahead and write behind
        # would only take turns with those that inflate.
        self._ahead = len(firsts) < processors
        self._threads = [
            threading.Thread(target=self._work, daemon=True)
            for _ in range(min(len(firsts), processors, _THREADS))
        ]
        for thread in self._threads:
            thread.start()

    def read(self, number: int, at: int) -> bytes:
        """Some of what the file ``number`` inflates to, from its byte ``at`` on; none at its end.

        Raises:
            SourceError: it cannot be inflated on.
            SpoolError: there is no room for it.
        """
        with self._changed:
            while self.sizes[number] <= at and not self._whole[number]:
                if number in self._errors:
                    raise self._errors[number]
                self._changed.wait()
            count = min(self.sizes[number] - at, _BLOCK)
        return self._reader.read(count, self.regions[number] + at)

    def origin(self, number: int, at: int) -> int:
        """About which byte of the file ``number`` inflates to byte ``at`` of what it holds."""
        inflated, bytes_ = self._origins[number]
        return bytes_[max(bisect_right(inflated, at) - 1, 0)] if bytes_ else 0

    def stop(self) -> None:
        """End the threads."""
        self._stopped = True
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._stopped:
            with self._changed:
                numbers = next(self._archives, None)
            if numbers is None:
                return
            self._inflate(numbers)

    def _inflate(self, numbers: range) -> None:
        number = numbers.start
        try:
            chunks = inflate(self._files, self._sums, numbers, ahead=self._ahead)
            # What is inflated is written while the next is inflated.
            for chunk in ReadAhead(chunks, _AHEAD) if self._ahead else chunks:
                if self._stopped:
                    return
                self._end(range(number, chunk.file))
                number = chunk.file
                self._keep(chunk)
            self._end(range(number, numbers.stop))
        except BaseException as error:
            with self._changed:
                self._errors[number] = error
                self._changed.notify_all()

    def _keep(self, chunk: Chunk) -> None:
        number, size = chunk.file, self.sizes[chunk.file]
        offset = self.regions[number] + size
        inflated, bytes_ = self._origins[number]
        inflated.append(size)
        bytes_.append(chunk.byte)
        self.starting[number] |= chunk.starts
        if chunk.foreign:
            self.foreign[number] = size
        if offset + len(chunk.data) > self._regions[number + 1]:
            raise SpoolError
        try:
            self.spool.write(chunk.data, offset)
        except OSError as error:
            raise SpoolError from error
        with self._changed:
            self._room -= len(chunk.data)
            if self._room < 0:
                raise SpoolError
            self.sizes[number] = size + len(chunk.data)
            self._changed.notify_all()

    def _end(self, numbers: range) -> None:
        with self._changed:
            for number in numbers:
                self._whole[number] = True
            self._changed.notify_all()


def room(folder: Path) -> int:
    """Bytes that a spool in ``folder`` may take."""
    return min(free_memory(), shutil.disk_usage(folder).free) // 2


def _most(size: int) -> int:
    """The bytes that the region of a file of ``size`` bytes has: whole pages."""
    return (size * _MOST + (1 << 20)) // _PAGE * _PAGE


def _begin_archives(files: Files) -> Iterator[bool]:
    """Whether each file begins an archive; the first one is taken to."""
    for number, size in enumerate(files.sizes):
        with files.source(number) as file:
            yield number == 0 or begins_archive(file.read(min(size, _LOOK), 0))
