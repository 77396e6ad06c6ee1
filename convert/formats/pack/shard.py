"""One shard of a pack, read for conversion: its columns, and where each image lies.

Images are views into the mapped file. Their offsets come from one sweep over the leaf pages in the
order of the file, so that it is read from the disk in one go though its records are wanted in
another order. Every offset is checked: a damaged page costs its own records and no others.
"""

from __future__ import annotations

import mmap
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from facepack import system
from facepack.convert.source_file import cannot_read
from facepack.errors import DamageError, SourceError
from facepack.reading import open_regular, read_bytes
from facepack.store import environments
from facepack.store import format as fmt
from facepack.store.lmdb_read import ScanError
from facepack.store.manifest import shard_file
from facepack.store.plan import check_meta
from facepack.store.selection import selected_keys, shard_records
from facepack.store.shard_nodes import record_keys, shard_nodes

_AHEAD = 128 << 10  # what every system agrees to read ahead at one request


class StatedShard(NamedTuple):
    """What of a shard's entry in ``pack.json`` suffices to know it again; it pickles small."""

    name: str
    pack_id: str
    shard: int
    records: int  # in its file
    size: int  # bytes of its file
    index_digest: str
    selection: dict[str, Any] | None  # what part of the records is the pack's; None: all

    @classmethod
    def of(cls, entry: dict[str, Any]) -> StatedShard:
        """From the shard's entry in ``pack.json``."""
        index = entry["files"][f"{entry['name']}.kv"]
        return cls(
            **{field: entry[field] for field in ("name", "pack_id", "shard")},
            records=shard_records(entry),
            size=shard_file(entry)["bytes"],
            index_digest=index["xxh3_128"],
            selection=entry.get("selection"),
        )


class PackShard:
    """A shard's file, found to be the one that was stated; columns are read as they are wanted.

    Raises:
        SourceError: the file is missing or another one.
        DamageError: the shard's own account of itself is damaged.
    """

    def __init__(self, folder: Path, stated: StatedShard) -> None:
        self.name = stated.name
        # how many its file has, those that are not the pack's included
        self.records = stated.records
        self._stated = stated
        self._folder = folder
        self._path = folder / f"{self.name}.mdb"
        try:
            found = self._path.stat().st_size
        except OSError as error:
            raise cannot_read(self._path, error) from error
        self._meta = meta = (self._reserved(fmt.META) if found == stated.size else None) or {}
        if (meta.get("pack_id"), meta.get("shard"), meta.get("records")) != stated[1:4]:
            raise SourceError(
                f"{self._path} changed since the pack was opened: run again once it is complete"
            )
        try:
            check_meta(meta)
        except ValueError as error:
            raise DamageError(
                f"{self._path}: {error}: see what is wrong with: facepack verify {folder}"
            ) from error

    @property
    def plan(self) -> dict[str, Any]:
        """The plan it was made under, without the list of shards."""
        return dict(self._meta["plan"])

    @cached_property
    def labels(self) -> np.ndarray:
        """The label of each record in the pack, by key: int64 (records,).

        Of records that are not the pack's it is -1.
        """
        name, index = str(self._index_path), self._index
        labels = np.full(self.records, fmt.NO_IDENTITY, np.int64)
        labels[self.keys] = fmt.kv_labels(index, name)
        return labels

    @cached_property
    def keys(self) -> np.ndarray:
        """The keys of the records that are the pack's, ascending: int64 (n,)."""
        index = self._index
        entry = {"records": len(index) // fmt.KV_LINE, "selection": self._stated.selection}
        return np.asarray(selected_keys(index, entry, str(self._index_path)), np.int64)

    @property
    def _index_path(self) -> Path:
        return self._folder / f"{self.name}.kv"

    @cached_property
    def _index(self) -> bytes:
        path = self._index_path
        try:
            data = read_bytes(path, None)
        except OSError as error:
            raise cannot_read(path, error) from error
        if xxhash.xxh3_128_hexdigest(data) != self._stated.index_digest:
            raise DamageError(
                f"{path} differs from what the manifest states: rebuild it with: "
                f"facepack reindex {self._folder}"
            )
        return data

    @cached_property
    def names(self) -> list[str | None] | None:
        """The source's name of each record, by key; None where it had none."""
        names: list[str | None] | None = self._reserved(fmt.NAMES)
        if names is not None and len(names) != self.records:
            raise DamageError(f"{self._path}: {len(names)} names for {self.records} records")
        return names

    def keys_in_source_order(self) -> np.ndarray:
        """The keys of the pack's records in the order of the source that the shard was made of."""
        return self.keys[np.argsort(self.ordinals[self.keys], kind="stable")]

    @cached_property
    def ordinals(self) -> np.ndarray:
        """The ordinal that each record had in that source, by key: int64 (records,)."""
        return fmt.unpack_ordinals(self._required(fmt.EXTRA), self.records)

    @property
    def first_ordinal(self) -> int:
        """The ordinal that it begins with, also where that record was set aside."""
        span = self._meta["span"]
        return int(self.ordinals.min(initial=0) if span is None else span["start"])

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """What else the source said of each record, by key: arrays (records,)."""
        columns = self._required(fmt.EXTRA)["columns"]
        return {name: fmt.unpack_column(column, self.records) for name, column in columns.items()}

    @cached_property
    def checksums(self) -> np.ndarray:
        """The checksum of each record, by key: uint64 (records,)."""
        return fmt.unpack_column(self._required(fmt.CHECKSUMS), self.records)

    def identity_names(self) -> dict[int, str]:
        """The source's names of the identities present, by their labels in the pack."""
        names = fmt.unpack_identity_names(self._reserved(fmt.IDENTITIES))
        if not names:
            return {}
        # A shard that was merged into this pack still has the labels of its own.
        own = fmt.unpack_column(self._required(fmt.LABEL_COLUMN), self.records)[self.keys]
        distinct, first = np.unique(own, return_index=True)
        labels = zip(distinct.tolist(), self.labels[self.keys][first].tolist(), strict=True)
        return {label: names[inside] for inside, label in labels if inside in names}

    def images(self) -> tuple[memoryview, np.ndarray, np.ndarray]:
        """The file, and where each image lies in it.

        The file stays mapped as long as a view into it lives.

        Returns:
            The mapped file, and offset and size of each image by key: int64 (records,); the size
            is -1 where there is none.

        Raises:
            SourceError: the file cannot be read.
            DamageError: it is no LMDB file.
        """
        try:
            with open_regular(self._path) as file:
                data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                if len(data) != self._stated.size:
                    raise SourceError(f"{self._path} changed while it was read: run again")
                for start in range(0, self._stated.size, _AHEAD):
                    system.will_read(file.fileno(), start, _AHEAD)
            return data, *find_images(data, self.records)
        except ScanError as error:
            raise DamageError(f"{self._path}: {error}") from error
        except OSError as error:
            raise cannot_read(self._path, error) from error

    def _required(self, key: bytes) -> Any:
        value = self._reserved(key)
        if value is None:
            raise DamageError(f"{self._path}: {key.decode()} is missing: see facepack verify")
        return value

    def _reserved(self, key: bytes) -> Any:
        """A reserved record, or None."""
        file_id, environment = environments.acquire(self._path)
        try:
            with environments.engine_calls:
                value = environments.get(environment, key)
        finally:
            environments.release(file_id)
        return None if value is None else fmt.unpack_reserved(key, value)


def find_images(data: memoryview, records: int) -> tuple[np.ndarray, np.ndarray]:
    """Offset and size of each image of a shard's file, by key: int64 (records,), size -1: none.

    Raises:
        ScanError: not an LMDB file, or it claims more records than a shard can have.
    """
    _, nodes = shard_nodes(data)
    keys = record_keys(data, nodes)
    images = np.flatnonzero((keys >= 0) & (keys < records))
    offsets, sizes = np.zeros(records, np.int64), np.full(records, -1, np.int64)
    offsets[keys[images]] = nodes.starts[images]
    sizes[keys[images]] = nodes.sizes[images]
    return offsets, sizes
