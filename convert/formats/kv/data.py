"""The LMDB file of a data set, read without the engine, after a look at whether it is whole."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facepack.convert.formats.kv.tree import KvTree, read_tree, stated_bytes
from facepack.convert.source_file import SourceFile, cannot_read, file_name, require_file
from facepack.errors import SourceError
from facepack.store.lmdb_format import MAGIC, MAX_PAGE_SIZE, PAGE_HEADER
from facepack.store.lmdb_read import ScanError, is_lmdb_1

DATA = "data.mdb"  # in an LMDB folder
_HEAD = 64  # bytes that tell what a file is
_BATCH_BYTES = 4 << 20  # of values that are read together
_GAP = MAX_PAGE_SIZE  # bytes between two values that are read too


@dataclass(frozen=True, kw_only=True)
class KvData:
    """An LMDB data file as it was when it was looked at."""

    path: Path  # the file; data.mdb of an LMDB folder
    size: int  # its bytes

    @classmethod
    def look(cls, path: Path) -> KvData:
        """Make sure that the file is an LMDB file, and as long as it says.

        Raises:
            SourceError: it is not, or cannot be read.
        """
        require_file(path)
        try:
            with path.open("rb") as file:
                head = file.read(2 * MAX_PAGE_SIZE)
            size = path.stat().st_size
            needed = stated_bytes(head)
        except OSError as error:
            raise cannot_read(path, error) from error
        except (ScanError, struct.error) as error:
            raise SourceError(
                f"{path}: {error}; pass a database that LMDB 0.9 wrote (its records can be copied "
                "into one by py-lmdb), or fetch it again"
            ) from error
        if size < needed:  # reading what is missing through a map would kill the process
            raise SourceError(
                f"{path}: {size:,} bytes, but its meta page tells of {needed:,}: it is truncated; "
                "copy it again, or with `mdb_copy -c` if LMDB itself left it so"
            )
        return cls(path=path, size=size)

    @property
    def name(self) -> str:
        """The name of the file, or of its folder if it is an LMDB folder."""
        return file_name(self.path.parent if self.path.name == DATA else self.path)

    def check(self) -> None:
        """Make sure that the file is still there and has its size.

        Raises:
            SourceError: it is not.
        """
        try:
            size = self.path.stat().st_size
        except OSError as error:
            raise SourceError(
                f"{self.path}: can no longer be read ({error.strerror}): bring it back, then run "
                "again with --resume"
            ) from error
        if size != self.size:
            raise SourceError(
                f"{self.path}: had {self.size:,} bytes and has {size:,} now: somebody writes to "
                "it; wait until it is whole, then start anew with --overwrite"
            )

    @contextmanager
    def open(self) -> Iterator[KvReader]:
        """The file, for reading.

        Raises:
            SourceError: it is gone, or no longer the same.
        """
        self.check()
        with SourceFile(self.path, self.size) as file:
            yield KvReader(self, file)


class KvReader:
    """Reads an open :class:`KvData`: which records there are, and their values."""

    def __init__(self, data: KvData, file: SourceFile) -> None:
        self._data = data
        self._file = file

    def tree(self) -> KvTree:
        """All records.

        Raises:
            SourceError: the file cannot be read, or is no LMDB file any more.
        """
        try:
            return read_tree(self._file)
        except (ScanError, struct.error) as error:
            raise SourceError(f"{self._data.path}: {error}; fetch it again") from error

    def value(self, offset: int, size: int) -> bytes:
        """The bytes of one value."""
        return self._file.read(size, offset)

    def values(
        self, offsets: np.ndarray, sizes: np.ndarray, *, once: bool = False
    ) -> Iterator[tuple[memoryview, np.ndarray]]:
        """The values of records in their order, some MB at a time, each read in the file's order.

        Args:
            offsets: int64 (n,).
            sizes: int64 (n,); nothing is read for 0.
            once: nobody will read them again, so that the system may forget what was read.

        Yields:
            Memory that holds the next values, and where each begins in it, int64.

        Raises:
            SourceError: the file is no longer the same, or cannot be read on.
        """
        forward = once and bool((np.diff(offsets) > 0).all())
        behind = self._file.once(int(offsets[0])) if forward and len(offsets) else None
        ends = np.cumsum(sizes)
        done = 0
        while done < len(sizes):
            self._data.check()
            before = int(ends[done - 1]) if done else 0
            stop = max(int(np.searchsorted(ends, before + _BATCH_BYTES, "right")), done + 1)
            yield self._read(offsets[done:stop], sizes[done:stop])
            if behind is not None:
                behind.reached(int(offsets[stop - 1]))
            done = stop

    def _read(self, offsets: np.ndarray, sizes: np.ndarray) -> tuple[memoryview, np.ndarray]:
        """The values, and where each begins in what was read: no more than a few ranges, mostly."""
        order = np.argsort(offsets, kind="stable")
        order = order[sizes[order] > 0]
        begins, ends = offsets[order], (offsets + sizes)[order]
        # One range goes on over the ends of pages, and over a page or two between large values.
        first = np.ones(len(order), bool)
        first[1:] = begins[1:] - ends[:-1] > _GAP
        heads = np.flatnonzero(first)
        starts, stops = begins[heads], ends[np.append(heads[1:] - 1, len(order) - 1)[: len(heads)]]
        data = self._file.read_blocks(
            list(zip((stops - starts).tolist(), starts.tolist(), strict=True))
        )
        shift = np.cumsum(stops - starts) - stops  # from an offset to where it is read to
        places = np.zeros(len(offsets), np.int64)
        places[order] = begins + shift[np.cumsum(first) - 1]
        return data, places


def is_data_file(path: Path) -> bool:
    """Whether ``path`` begins like an LMDB data file, of whatever version."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return head[PAGE_HEADER : PAGE_HEADER + 4] == MAGIC.to_bytes(4, "little") or is_lmdb_1(head)
