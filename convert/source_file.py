"""A file of a source: whether it is one, what it is called, and reading it at any byte.

What fails here fails the source, never one record, so that none is set aside for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from facepack import lfs, system
from facepack.closing import Closing
from facepack.convert.blocks import Blocks, ReadOnce
from facepack.convert.sweep import Sweep
from facepack.errors import SourceError


class ReadError(SourceError):
    """The file cannot be read on (the disk, the network, a file that shrinks)."""


def require_file(path: Path) -> None:
    """Make sure that ``path`` is a regular file: opening a pipe would wait for its writer.

    Raises:
        SourceError: it is none, cannot be looked at, or is a pointer of Git LFS.
    """
    try:
        path.stat()
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be read: {error.strerror}; check the name and its permissions"
        ) from error
    if path.is_dir():
        raise SourceError(f"{path}: is no regular file but a folder; pass the file itself")
    if not path.is_file():
        raise SourceError(
            f"{path}: is no regular file (but a pipe, socket or device); copy the data into a "
            "file and pass that"
        )
    lfs.require_content(path, SourceError)


def file_name(path: Path) -> str:
    """The name of ``path`` as text that UTF-8 can hold; bytes that are none become ``\\xff``."""
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")


def cannot_read(path: Path | str, error: OSError) -> SourceError:
    """The error that says that ``path`` cannot be read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        remedy = "check the name"
    else:
        remedy = "check its permissions and the disk, then run the command again"
    return SourceError(f"{path}: cannot be read: {error.strerror}; {remedy}")


@contextmanager
def read_errors(path: Path | str) -> Iterator[None]:
    """Within, an error of the system is one of reading ``path``, a file of the source."""
    try:
        yield
    except OSError as error:
        raise cannot_read(path, error) from error


class SourceFile(Closing):
    """Reads byte ranges of one file; a context manager.

    Reading keeps no position, so that threads may share it. ``size`` is the bytes that the file had
    when it was looked at first; None the first time.

    Raises:
        SourceError: it cannot be opened, or has another size now.
    """

    def __init__(self, path: Path | str, size: int | None = None) -> None:
        self._descriptor = -1
        self._blocks = Blocks()
        self._sweep: Sweep | None = None
        self.path = Path(path)
        try:
            self._descriptor = self._open()
            self.size = os.fstat(self._descriptor).st_size if size is None else size  # its bytes
        except OSError as error:
            self.close()
            raise cannot_read(self.path, error) from error
        self.check()

    def _open(self) -> int:
        return os.open(self.path, system.READ)

    def check(self) -> None:
        """Make sure that the file still has its size; raises :class:`ReadError` if not."""
        try:
            size = os.fstat(self._descriptor).st_size
        except OSError as error:
            raise self._unreadable(0, error) from error
        if size != self.size:
            raise ReadError(
                f"{self.path} changed while it was read, from {self.size} to {size} bytes; once it "
                "is whole again, run with --resume"
            )

    def read(self, count: int, offset: int) -> bytes:
        """The ``count`` bytes at ``offset``, which lie in the file as it was looked at.

        Raises:
            ReadError: the system cannot read them, or the file shrank.
        """
        data = b""
        while len(data) < count:
            try:
                more = system.read_at(self._descriptor, count - len(data), offset + len(data))
            except OSError as error:
                raise self._unreadable(offset + len(data), error) from error
            if not more:
                raise self._shrunk(offset + len(data))
            # The first read gives everything, nearly always, and must not be copied.
            data = data + more if data else more
        return data

    def read_block(self, count: int, offset: int) -> memoryview:
        """As :meth:`read`, into memory that suits what is kept."""
        return self.read_blocks([(count, offset)])

    def read_blocks(self, ranges: Sequence[tuple[int, int]]) -> memoryview:
        """As :meth:`read_block`, of several ranges (count, offset), one behind the other."""
        if self._sweep is not None and len(ranges) == 1:
            swept = self._sweep.read(*ranges[0])
            if swept is not None:
                return swept
        block = self._blocks.take(sum(count for count, _ in ranges))
        done = 0
        for count, offset in ranges:
            shift, end = offset - done, done + count
            while done < end:
                try:
                    more = system.read_into(self._descriptor, block[done:end], shift + done)
                except OSError as error:
                    raise self._unreadable(shift + done, error) from error
                if not more:
                    raise self._shrunk(shift + done)
                done += more
        return block.toreadonly()

    def will_read(self, count: int, offset: int) -> None:
        """Let the system fetch the ``count`` bytes at ``offset`` before they are asked for."""
        with suppress(OSError):  # where it does not, reading them will do
            system.will_read(self._descriptor, offset, count)

    def once(self, start: int) -> ReadOnce:
        """Lets the system forget what is read from byte ``start`` on by others than this."""
        return ReadOnce(self._descriptor, start)

    def sweep(self, begin: int, end: int) -> None:
        """From now on blocks are read in order, for the last time, of bytes ``[begin, end)``."""
        self._end_sweep()
        self._sweep = Sweep(self._descriptor, begin, min(end, self.size), self._blocks)

    def _end_sweep(self) -> None:
        if self._sweep is not None:
            self._sweep.close()
            self._sweep = None

    def _unreadable(self, offset: int, error: OSError) -> ReadError:
        return ReadError(
            f"{self.path}: byte {offset}: cannot be read: {error.strerror}; make sure that the "
            "disk is sound and mounted, then run again with --resume"
        )

    def _shrunk(self, offset: int) -> ReadError:
        return ReadError(
            f"{self.path}: byte {offset}: the file ends here, it had {self.size} bytes when it was "
            "opened; let whatever writes or truncates it finish, then run again with --resume"
        )

    def close(self) -> None:
        """Close the file; bytes that were read stay valid."""
        self._end_sweep()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()
