"""The LMDB file of a kv data set, read through the engine, after a look at whether it is whole."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb

from facepack import images
from facepack.convert.source_file import file_name, require_file
from facepack.errors import PackError, SourceError
from facepack.store.environments import acquire, engine_calls, release
from facepack.store.lmdb_format import MAGIC, MAX_PAGE_SIZE, META_SIZE, PAGE_HEADER
from facepack.store.lmdb_read import ScanError, is_lmdb_1, read_page_size

DATA = "data.mdb"  # in an LMDB folder
_HEAD = 64  # bytes that tell what a file is
_BATCH_BYTES = 8 << 20  # of values copied at a time
_last_page = struct.Struct("<QQ")  # the end of a meta page: last page in use, transaction


@dataclass(frozen=True, kw_only=True)
class KvData:
    """An LMDB data file as it was when it was looked at.

    The engine that reads it believes what pages say of each other: a file that is damaged in the
    middle, or made to do harm, can end the process.

    Attributes:
        path: the file; ``data.mdb`` of an LMDB folder.
        size: its bytes.
    """

    path: Path
    size: int

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
            needed = _stated_bytes(head)
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
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
            SourceError: it is gone, is no longer the same, or LMDB cannot open it.
        """
        self.check()
        try:
            file_id, environment = acquire(self.path)
        except PackError as error:
            raise SourceError(str(error)) from error
        try:
            yield KvReader(self, environment)
        finally:
            release(file_id)


class KvReader:
    """Reads values of an open :class:`KvData`."""

    def __init__(self, data: KvData, environment: Any) -> None:
        self._data = data
        self._environment = environment

    def entries(self) -> int:
        """How many records the database has."""
        with engine_calls:
            return int(self._environment.stat()["entries"])

    def sizes(self, keys: Iterable[bytes]) -> list[int | None]:
        """Bytes of each key's value, None where there is none; the values are not read.

        Raises:
            SourceError: LMDB cannot read on.
        """
        with self._transaction() as transaction:
            values = (transaction.get(key) for key in keys)
            return [None if value is None else len(value) for value in values]

    def values(self, keys: Iterable[bytes]) -> list[bytes | int | None]:
        """The values of the first of ``keys``, as many as make up some MB, at least one.

        None stands for a key that is not there, an integer for a value of so many bytes that it is
        not taken (:data:`facepack.images.MAX_BYTES`).

        Raises:
            SourceError: the file is no longer the same, or LMDB cannot read on.
        """
        self._data.check()
        values: list[bytes | int | None] = []
        size = 0
        with self._transaction() as transaction:
            for key in keys:
                view = transaction.get(key)
                if view is None or len(view) > images.MAX_BYTES:
                    values.append(view if view is None else len(view))
                    continue
                values.append(bytes(view))
                size += len(view)
                if size >= _BATCH_BYTES:
                    break
        return values

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        try:
            with engine_calls, self._environment.begin(buffers=True) as transaction:
                yield transaction
        except lmdb.Error as error:
            raise SourceError(
                f"{self._data.path}: LMDB cannot read on ({error}): `python -m lmdb verify` tells "
                "what is wrong with the file; copy it again"
            ) from error


def is_data_file(path: Path) -> bool:
    """Whether ``path`` begins like an LMDB data file, of whatever version."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return head[PAGE_HEADER : PAGE_HEADER + 4] == MAGIC.to_bytes(4, "little") or is_lmdb_1(head)


def _stated_bytes(head: bytes) -> int:
    """The bytes that the newer of the two meta pages says the file has."""
    page_size = read_page_size(head)
    metas = [
        _last_page.unpack_from(head, page + PAGE_HEADER + META_SIZE - _last_page.size)
        for page in (0, page_size)
    ]
    last, _ = max(metas, key=lambda meta: meta[1])
    return (int(last) + 1) * page_size
