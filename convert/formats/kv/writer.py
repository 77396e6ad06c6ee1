"""Writing an LMDB database through the engine, as other projects' readers want it."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import lmdb

from facepack.convert.formats.kv.index import is_plain_key
from facepack.store.environments import engine_calls
from facepack.system import sync_folder

_ROUND = 1 << 20  # map sizes are multiples of whole pages of any size
_SCRATCH = 1 << 20  # bytes that a transaction needs beside its records


class KvItem(NamedTuple):
    """A value with the key that it should have, and the one for when that cannot be."""

    name: str | None
    fallback: str
    value: bytes


class KvWriter:
    """An LMDB folder that is open for writing, from ``with`` to its end.

    A batch is a transaction: it is there as a whole or not at all, whenever the process ends. Its
    pages are synced before it counts, so that a power cut takes the newest batches and breaks
    nothing. The caller sees to it that nobody else writes. Records that are there stay.

    ``map_size`` is the bytes that the data file may grow to; it is raised when they do not suffice.

    Raises:
        OSError: the folder or its files cannot be written.
    """

    def __init__(self, folder: Path, *, map_size: int) -> None:
        self._folder = folder
        self._map_size = _rounded(map_size)

    def __enter__(self) -> KvWriter:
        self._folder.mkdir(exist_ok=True)
        try:
            with engine_calls:
                self._environment = lmdb.open(
                    str(self._folder),
                    map_size=self._map_size,
                    metasync=False,
                    lock=False,
                    lib_version=0,  # LMDB 0.9, which everyone reads
                )
        except (lmdb.Error, UnicodeError) as error:
            raise OSError(errno.EIO, f"LMDB cannot open it: {error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        with engine_calls:
            self._environment.close()

    def put(self, batch: list[KvItem]) -> list[str]:
        """Write a batch; returns the key of each.

        A key that another value has is left to it, and the fallback is taken, with a number behind
        it if need be. A record that is there already is found again: it keeps its key.

        Raises:
            OSError: the disk is full, or the file cannot be written.
        """
        size = sum(len(item.value) for item in batch)
        while True:
            try:
                with engine_calls, self._environment.begin(write=True) as transaction:
                    return [_put(transaction, item) for item in batch]
            except lmdb.MapFullError:
                self._map_size = _rounded(2 * self._map_size + 2 * size)
                with engine_calls:
                    self._environment.set_mapsize(self._map_size)
            except lmdb.Error as error:
                raise self._failure(error, size) from error

    def sync(self) -> None:
        """Make sure that every batch so far survives a power cut.

        Raises:
            OSError: the file cannot be synced.
        """
        try:
            with engine_calls:
                self._environment.sync(True)
        except lmdb.Error as error:
            raise self._failure(error, 0) from error
        sync_folder(self._folder)
        sync_folder(self._folder.parent)

    def has(self, keys: Iterable[bytes]) -> bool:
        """Whether all ``keys`` are there."""
        with engine_calls, self._environment.begin(buffers=True) as transaction:
            return all(transaction.get(key) is not None for key in keys)

    def _failure(self, error: lmdb.Error, size: int) -> OSError:
        """What the engine calls an input/output error is most often a full disk."""
        free = shutil.disk_usage(self._folder).free
        if free < 2 * size + _SCRATCH:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return OSError(errno.EIO, f"LMDB: {error}")


def _put(transaction: lmdb.Transaction, item: KvItem) -> str:
    for key in _candidates(item):
        encoded = key.encode()
        if transaction.put(encoded, item.value, overwrite=False):
            return key
        if transaction.get(encoded) == item.value:
            return key
    raise AssertionError("there is always another key")


def _candidates(item: KvItem) -> Iterator[str]:
    if item.name is not None and is_plain_key(item.name):
        yield item.name
    yield item.fallback
    for number in itertools.count(2):
        yield f"{item.fallback}_{number}"


def _rounded(size: int) -> int:
    return (size + _ROUND - 1) // _ROUND * _ROUND
