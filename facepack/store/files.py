"""Writing the files of a pack: synced, hashed, and with errors that say what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import xxhash

from facepack.atomic import replacing
from facepack.errors import PackError
from facepack.store.direct import BlockWriter
from facepack.store.record import Buffer


class FileWriter:
    """Takes the bytes of a file that :func:`writing` makes."""

    def __init__(self, writer: BlockWriter) -> None:
        self._writer = writer
        self._digest = xxhash.xxh3_128()
        self.size = 0  # how many bytes it took

    @property
    def digest(self) -> str:
        """Their XXH3-128, in hexadecimal."""
        return self._digest.hexdigest()

    def write(self, data: Buffer) -> None:
        """Take some bytes."""
        self._digest.update(data)
        self._writer.write(data)
        self.size += len(data)


@contextmanager
def writing(path: Path) -> Iterator[FileWriter]:
    """Within, ``path`` is written; then it is there whole, and else not at all.

    The bytes go to a temporary name beside it, are synced, then renamed; the folder is synced.

    Raises:
        PackError: the disk is full or the file cannot be written; says what to do.
    """
    with (
        write_errors(path),
        replacing(path) as part,
        FileIO(part, "x") as file,
        BlockWriter(file) as writer,
    ):
        yield FileWriter(writer)
        writer.finish()
        os.fsync(file.fileno())


def write_file(path: Path, pieces: Iterable[Buffer]) -> tuple[str, int]:
    """Write ``path`` as :func:`writing` does; returns its XXH3-128 and size.

    Raises:
        PackError: the disk is full or the file cannot be written; says what to do.
    """
    with writing(path) as file:
        for piece in pieces:
            file.write(piece)
    return file.digest, file.size


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Within, a failure to write ``path``, or below it, is the :func:`write_error` of it."""
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error


def write_error(path: Path, error: OSError) -> PackError:
    """The error of a failed write, in words, with a remedy."""
    remedies = {
        errno.ENOSPC: "the disk is full: free some space, or files if df -i tells of none left, "
        "then run the command again with --resume",
        errno.EDQUOT: "the quota is used up: free some space, then run again with --resume",
        errno.EROFS: "the file system is read-only: choose another target",
        errno.EACCES: "permission denied: choose another target or change its permissions",
    }
    for blocked in (errno.EEXIST, errno.ENOTDIR, errno.ELOOP):
        remedies[blocked] = (
            "a file, or a link that leads nowhere, is in a folder's place: choose another target"
        )
    what = remedies.get(error.errno or 0, f"{error.strerror or error}")
    return PackError(f"cannot write {path}: {what}")
