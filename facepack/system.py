"""What not every operating system has, each with a plain fallback where it is missing.

Linux has all of it and Windows hardly any. Nothing else in facepack asks :mod:`os` for these or
imports :mod:`fcntl`; :mod:`facepack.processors` counts processors either way.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

_BINARY: int = getattr(os, "O_BINARY", 0)  # else Windows changes the ends of lines
READ: int = os.O_RDONLY | _BINARY
"""Flags of :func:`os.open` for a file that is read. Descriptors are not inherited anyway."""

READ_AND_WRITE: int = os.O_RDWR | _BINARY
"""The same, for one that is written as well."""

NO_WAIT: int = getattr(os, "O_NONBLOCK", 0)
"""A flag of :func:`os.open`: a pipe without anybody at its other end is not waited for."""

_DIRECT: int = getattr(os, "O_DIRECT", 0)
_FOLDER: int = getattr(os, "O_DIRECTORY", 0)
_NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
_WRITE = os.O_WRONLY | os.O_CREAT | _NO_FOLLOW | _BINARY

_positions = threading.Lock()  # of descriptors, which threads share


def read_at(descriptor: int, count: int, offset: int) -> bytes:
    """Up to ``count`` bytes of a file from ``offset`` on; none at its end.

    Where the system has no ``pread`` it moves the position of the descriptor.
    """
    if hasattr(os, "pread"):
        return os.pread(descriptor, count, offset)
    with _positions:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, count)


def read_into(descriptor: int, block: memoryview, offset: int) -> int:
    """As :func:`read_at`, into memory that is there; returns how many bytes it was."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [block], offset)
    data = read_at(descriptor, len(block), offset)
    block[: len(data)] = data
    return len(data)


def write_at(descriptor: int, data: memoryview, offset: int) -> int:
    """Write some of ``data`` to a file at ``offset``; returns how many bytes it was.

    Where the system has no ``pwrite`` it moves the position of the descriptor.
    """
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, offset)
    with _positions:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.write(descriptor, data)


def path_of_open_file(descriptor: int) -> Path | None:
    """A path by which another process can open a file that this one has open, named or not.

    None where the system has none.
    """
    path = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    return path if path.exists() else None


def block_bytes(folder: Path) -> int:
    """Bytes of a block, of which a file in ``folder`` takes whole ones, if the system tells."""
    return os.statvfs(folder).f_frsize if hasattr(os, "statvfs") else 4096


def free_files(folder: Path) -> int | None:
    """How many more files the disk of ``folder`` takes; None where no limit is told."""
    if not hasattr(os, "statvfs"):
        return None
    disk = os.statvfs(folder)
    return disk.f_favail if disk.f_files else None


def disk_bytes(descriptor: int) -> int:
    """Bytes that an open file takes, its holes aside; 0 where the system does not tell."""
    return 512 * getattr(os.fstat(descriptor), "st_blocks", 0)


def will_read(descriptor: int, offset: int, length: int) -> None:
    """Have the system begin to read a part of a file, if it can be asked to.

    Raises:
        OSError: it does not do so for this file.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_WILLNEED)


def was_read(descriptor: int, offset: int = 0, length: int = 0) -> None:
    """Let the page cache forget a part of a file; a ``length`` of 0 means up to its end."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)


def send(target: int, descriptor: int, offset: int, count: int) -> int:
    """Send up to ``count`` bytes of a file to another within the kernel; returns how many.

    Raises:
        OSError: among others, the system can send to sockets only, or not at all.
    """
    if sys.platform != "linux" or not hasattr(os, "sendfile"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return os.sendfile(target, descriptor, offset, count)


def open_past_cache(descriptor: int) -> int:
    """Another descriptor of an open file, which reads it past the page cache; -1 if there is none.

    Only file systems on block devices have one: others have ways of their own to read ahead.
    """
    if not _DIRECT or not os.major(os.fstat(descriptor).st_dev):
        return -1
    try:
        return os.open(f"/proc/self/fd/{descriptor}", READ | _DIRECT)
    except OSError:
        return -1


def is_cached(descriptor: int, offset: int) -> bool:
    """Whether the page cache holds a byte of an open file, as far as the system tells.

    Where it does not, the system may read that page of the file, and hold it from then on.
    """
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    try:
        probe = os.open(f"/proc/self/fd/{descriptor}", READ)
    except OSError:
        return False
    try:
        # Else the system would read on from there.
        os.posix_fadvise(probe, 0, 0, os.POSIX_FADV_RANDOM)
        return os.preadv(probe, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except OSError:
        return False
    finally:
        os.close(probe)


def pass_the_cache(file: FileIO, yes: bool) -> None:
    """Read and write a file past the page cache from now on, if the system can; or no longer."""
    if not _DIRECT:
        return
    from fcntl import F_GETFL, F_SETFL, fcntl

    flags = fcntl(file, F_GETFL) & ~_DIRECT
    with contextlib.suppress(OSError):  # some file systems are nothing but a cache
        fcntl(file, F_SETFL, flags | _DIRECT if yes else flags)


def lock_file(descriptor: int) -> bool:
    """Lock an open file for this process alone, until it is closed.

    Returns:
        Whether it is locked: not where the system has neither ``flock`` nor Windows's locks.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file system locks nothing.
    """
    try:
        import fcntl
    except ImportError:
        return _lock_byte(descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True


def _lock_byte(descriptor: int) -> bool:
    try:
        import msvcrt
    except ImportError:
        return False
    windows: Any = msvcrt
    try:
        windows.locking(descriptor, windows.LK_NBLCK, 1)
    except PermissionError as error:  # what Windows says of a byte that another process locked
        raise BlockingIOError(error.errno, error.strerror) from None
    return True


def remove_open(path: Path, descriptor: int) -> None:
    """Remove an open file, and close it: in this order, but on Windows, which removes none."""
    try:
        path.unlink(missing_ok=True)
    except PermissionError:
        os.close(descriptor)
        path.unlink(missing_ok=True)
    else:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a power cut; only POSIX can be asked to."""
    if not _FOLDER:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hard_link(old: Path, new: Path) -> None:
    """Give a file a second name.

    Raises:
        OSError: the system or the file system has no second names, or not there.
    """
    if not hasattr(os, "link"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), os.fspath(new))
    os.link(old, new)


def is_read_only(folder: Path) -> bool:
    """Whether nothing can be written to the file system of ``folder``; False if nobody can tell."""
    try:
        return hasattr(os, "statvfs") and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError:  # of a link that leads nowhere, for one
        return False


def open_new(path: Path | str, *, replace: bool = True) -> int:
    """A descriptor of an empty file for writing; one that is there is emptied, a link refused.

    Raises:
        FileExistsError: not to ``replace`` it, and something is there.
    """
    if not _NO_FOLLOW and os.path.islink(path):  # noqa: PTH114
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
    return os.open(path, _WRITE | (os.O_TRUNC if replace else os.O_EXCL), 0o666)


class OpenFolder:
    """A folder that is held open while files in it are opened by name.

    Where the system knows no such thing, the files are opened by their paths.

    Raises:
        OSError: it is not there, or no folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = os.fsencode(folder)
        self._descriptor = -1
        if _FOLDER:
            self._descriptor = os.open(folder, os.O_RDONLY | _FOLDER)
        else:
            os.scandir(folder).close()

    def open(self, name: bytes) -> int:
        """A descriptor of the file ``name`` for reading; a pipe is not waited for."""
        if self._descriptor < 0:
            return os.open(os.path.join(self._path, name), READ | NO_WAIT)  # noqa: PTH118
        return os.open(name, READ | NO_WAIT, dir_fd=self._descriptor)

    def close(self) -> None:
        """Close it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)


def wait_again(descriptor: int) -> None:
    """Undo :data:`NO_WAIT` for an open file."""
    if NO_WAIT:
        os.set_blocking(descriptor, True)


def at_fork(**calls: Callable[[], None]) -> None:
    """:func:`os.register_at_fork`, where processes can fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(**calls)


def can_fork_safely() -> bool:
    """Whether a fork of this process is sure to find no lock held by a thread that it lacks.

    Only Linux tells of all threads, those of libraries included.
    """
    try:
        return hasattr(os, "fork") and len([*Path("/proc/self/task").iterdir()]) == 1
    except OSError:
        return False


def physical_memory() -> int | None:
    """Bytes of memory that the machine has; None where the system does not say."""
    if not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
