"""One shard of a pack, read for conversion: its columns, and where each image lies.

Images are views into the mapped file. Their places come from one sweep over the leaf pages in the
order of the file, so that it is read from the disk in one go though its records are wanted in
another order. Every offset is checked: a damaged page costs its own records and no others.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from facepack import system
from facepack.errors import DamageError, SourceError
from facepack.reading import open_regular, read_bytes
from facepack.store import environments
from facepack.store import format as fmt
from facepack.store.lmdb_read import ScanError
from facepack.store.plan import check_meta
from facepack.store.shard_nodes import record_keys, shard_nodes

_AHEAD = 128 << 10  # what every system agrees to read ahead at one request


class StatedShard(NamedTuple):
    """A shard as a manifest states it: enough to know it again.

    Attributes:
        name: of its files.
        pack_id: of the pack that it was made for.
        number: its number there.
        records: how many it has.
        size: bytes of its file.
        index_digest: XXH3-128 of its key-label index.
    """

    name: str
    pack_id: str
    number: int
    records: int
    size: int
    index_digest: str

    @classmethod
    def of(cls, entry: dict[str, Any]) -> StatedShard:
        """From the shard's entry in ``pack.json``."""
        name, files = entry["name"], entry["files"]
        return cls(
            name,
            entry["pack_id"],
            entry["shard"],
            entry["records"],
            files[f"{name}.mdb"]["bytes"],
            files[f"{name}.kv"]["xxh3_128"],
        )


class PackShard:
    """A shard's file, found to be the one that was stated.

    Args:
        folder: the pack.
        stated: the shard.

    Raises:
        SourceError: the file is missing or another one.
        DamageError: the shard's own account of itself is damaged.
    """

    def __init__(self, folder: Path, stated: StatedShard) -> None:
        self.name = stated.name
        self.records = stated.records
        self._stated = stated
        self._folder = folder
        self._path = folder / f"{stated.name}.mdb"
        try:
            found = self._path.stat().st_size
        except OSError as error:
            raise SourceError(f"{self._path}: cannot be read: {error.strerror}") from error
        self._meta = meta = (self._reserved(fmt.META) if found == stated.size else None) or {}
        own = (meta.get("pack_id"), meta.get("shard"), meta.get("records"))
        if own != (stated.pack_id, stated.number, stated.records):
            raise SourceError(
                f"{self._path} changed since the pack was opened: run again when the pack is whole"
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

    @property
    def span(self) -> dict[str, Any] | None:
        """Its entry in that list; None in a streamed pack."""
        span: dict[str, Any] | None = self._meta["span"]
        return span

    def labels(self) -> np.ndarray:
        """The label of each record in the pack, by place: int64 (records,)."""
        path = self._folder / f"{self.name}.kv"
        try:
            data = read_bytes(path, None)
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
        if xxhash.xxh3_128_hexdigest(data) != self._stated.index_digest:
            raise DamageError(
                f"{path} differs from what the manifest states: rebuild it with: "
                f"facepack reindex {self._folder}"
            )
        return fmt.kv_labels(data, str(path))

    def names(self) -> list[str | None] | None:
        """The source's name of each record, by place; None where it had none."""
        names: list[str | None] | None = self._reserved(fmt.NAMES)
        if names is not None and len(names) != self.records:
            raise DamageError(f"{self._path}: {len(names)} names for {self.records} records")
        return names

    def order(self) -> np.ndarray:
        """The places of the records in the order of the source that the pack was made of."""
        return np.argsort(self.ordinals(), kind="stable")

    def ordinals(self) -> np.ndarray:
        """The place of each record among those of that source, by place here: int64 (records,)."""
        extra = self._extra()
        ordinals = fmt.unpack_column(extra["ordinal"], self.records).astype(np.int64)
        return ordinals + int(extra["first"])

    def columns(self) -> dict[str, np.ndarray]:
        """What else the source said of each record, by place: arrays (records,)."""
        columns = self._extra()["columns"]
        return {key: fmt.unpack_column(column, self.records) for key, column in columns.items()}

    def sums(self) -> np.ndarray:
        """The sum of each record, by place: uint64 (records,)."""
        return fmt.unpack_column(self._required(fmt.CHECKSUMS), self.records)

    def identity_names(self) -> dict[int, str]:
        """The source's names of the identities present, by their labels in the pack."""
        packed = self._reserved(fmt.IDENTITIES)
        if packed is None:
            return {}
        # A shard that was merged into this pack still has the labels of its own.
        own = fmt.unpack_column(self._required(fmt.LABEL_COLUMN), self.records)
        distinct, first = np.unique(own, return_index=True)
        label_in_pack = dict(zip(distinct.tolist(), self.labels()[first].tolist(), strict=True))
        labels = fmt.unpack_column(packed["labels"], len(packed["names"])).tolist()
        return {
            label_in_pack[label]: name
            for label, name in zip(labels, packed["names"], strict=True)
            if label in label_in_pack
        }

    def images(self) -> tuple[memoryview, np.ndarray, np.ndarray]:
        """The file, and where each image lies in it.

        The file stays mapped as long as a view into it lives.

        Returns:
            The mapped file, and offset and size of each image by place: int64 (records,); the size
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
            raise SourceError(f"{self._path}: cannot be read: {error.strerror}") from error

    def _extra(self) -> dict[str, Any]:
        extra: dict[str, Any] = self._required(fmt.EXTRA)
        return extra

    def _required(self, key: bytes) -> Any:
        value = self._reserved(key)
        if value is None:
            raise DamageError(
                f"{self._path}: {key.decode()} is missing: facepack verify tells more"
            )
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
    """Offset and size of each image of a shard's file, by place: int64 (records,), size -1: none.

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
