"""An open zip file: reads whose failures are errors of the source, never of one record."""

from __future__ import annotations

import os
from pathlib import Path

from facepack import system
from facepack.convert.blocks import Blocks, ReadOnce
from facepack.convert.source import require_file
from facepack.errors import SourceError


class ZipHandle:
    """Reads byte ranges of one file; a context manager.

    Args:
        path: the file.
        size: the bytes that it had when it was looked at first; None the first time.

    Attributes:
        path: the file.
        size: its bytes.

    Raises:
        SourceError: it cannot be opened, is no regular file, or has another size now.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        self._descriptor = -1
        self._blocks = Blocks()
        self.path = path
        require_file(path)
        try:
            self._descriptor = os.open(path, system.READ)
            self.size = os.fstat(self._descriptor).st_size
        except OSError as error:
            self.close()
            raise SourceError(f"{path}: cannot be opened: {error.strerror}") from error
        if size is not None and self.size != size:
            self.close()
            raise self.changed(f"from {size} to {self.size} bytes")

    def read(self, offset: int, count: int) -> bytes:
        """The ``count`` bytes at ``offset``, which lie in the file as it was opened.

        Raises:
            SourceError: the system cannot read them, or the file shrank.
        """
        pieces = []
        while count:
            try:
                piece = system.read_at(self._descriptor, count, offset)
            except OSError as error:
                raise self._unreadable(offset, error) from error
            if not piece:
                raise self._shrunk(offset)
            pieces.append(piece)
            offset += len(piece)
            count -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_block(self, offset: int, count: int) -> memoryview:
        """As :meth:`read`, into memory that suits what is kept."""
        block = self._blocks.take(count)
        done = 0
        while done < count:
            try:
                more = system.read_into(self._descriptor, block[done:], offset + done)
            except OSError as error:
                raise self._unreadable(offset + done, error) from error
            if not more:
                raise self._shrunk(offset + done)
            done += more
        return block.toreadonly()

    def once(self, start: int) -> ReadOnce:
        """Lets the system forget what a sweep from byte ``start`` on has read."""
        return ReadOnce(self._descriptor, start)

    def _unreadable(self, offset: int, error: OSError) -> SourceError:
        return SourceError(
            f"{self.path}: byte {offset}: cannot be read: {error.strerror}; once the disk answers "
            "again, run with --resume"
        )

    def _shrunk(self, offset: int) -> SourceError:
        return self.changed(f"it ends at byte {offset} now, not {self.size}")

    def changed(self, how: str) -> SourceError:
        """The error that the file is no longer the one that was looked at."""
        return SourceError(
            f"{self.path} changed while it was read ({how}); once it is whole again, run with "
            "--resume"
        )

    def close(self) -> None:
        """Close the file; bytes that were read stay valid."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> ZipHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
