"""Reading packs."""

from __future__ import annotations

import operator
import os
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, cast, overload

import lmdb
import numpy as np

from facepack.closing import Closing
from facepack.errors import DamageError, DecodeError, PackError
from facepack.images import decode
from facepack.reading import parse_npy
from facepack.store import environments
from facepack.store import format as fmt
from facepack.store.manifest import check_sizes, read_manifest
from facepack.store.pack_files import read_identity_names, read_stated_file
from facepack.store.selection import select_entry, selected_keys, shard_records
from facepack.store.sets import recount, split_set, subset_manifest
from facepack.store.transactions import HeldShards


class Record(NamedTuple):
    """A packed image: the encoded bytes, the label (-1: no identity), and ``shard/key``."""

    image: bytes
    label: int
    key: str


def open(path: str | os.PathLike[str], *, shards: str | Sequence[str] | None = None) -> Pack:
    """Open the pack in the folder ``path``, or some of its shards as a pack.

    Of some shards, positions count through them in the order of the pack, labels stay what they
    are, and ``classes`` is the highest label + 1.

    Args:
        path: the pack's folder; or ``PACK:SET``, which is a shard set of it.
        shards: names or shell patterns of shards (``["0_0", "1_*"]``), or the name of a shard set
            (``"webface12m"``); None opens all.

    Raises:
        PackError: no finished pack is there, or not those shards.
        DamageError: a file is missing or has not the size that the manifest states.
    """
    folder, shard_set = (Path(path), None) if shards is not None else split_set(Path(path))
    return Pack(folder, shards if shard_set is None else shard_set)


class Pack(Closing):
    """A finished pack, for reading; a sequence of :class:`Record`.

    A pack may be used from many threads, is safe across ``fork``, and pickles as its path and the
    names of its shards. It is a context manager; leaving it closes the shards.
    """

    def __init__(
        self,
        path: Path,
        shards: str | Sequence[str] | None = None,
        keep: np.ndarray | None = None,
    ) -> None:
        self.path = Path(os.path.realpath(path))
        self.manifest = _read_checked(self.path, shards)
        self._chosen = shards is not None
        self._take_shards()
        self._labels: np.ndarray | None = None
        self._keys: dict[int, Sequence[int]] = {}  # of selections, by the number of the shard
        if self._chosen:
            self.manifest = recount(self.manifest, self.labels)
        self._keep = keep
        if keep is not None:
            self._narrow(keep)

    def _take_shards(self) -> None:
        """Take note of the shards that the manifest has now."""
        shards = self.manifest["shards"]
        self._names: list[str] = [shard["name"] for shard in shards]
        self._starts = list(accumulate((shard["records"] for shard in shards), initial=0))
        self._selected = any("selection" in shard for shard in shards)
        self._held = HeldShards([self.path / f"{name}.mdb" for name in self._names])
        weakref.finalize(self, self._held.release_all)

    def select(self, keep: np.ndarray) -> Pack:
        """The same pack with some of its records alone; labels and ``classes`` stay.

        Nothing is written; ``facepack.care.select`` makes a pack of a selection, whose
        ``content_id`` is the same. The payload in the manifest is an estimate, and its image
        statistics are those of the shards, as no image is read.

        Args:
            keep: of each record whether it stays: bool (len(self),).

        Raises:
            PackError: the pack has tables, which point at records by position.
        """
        if tables := fmt.table_names(self.manifest["files"]):
            raise PackError(
                f"{self.path}: its tables ({', '.join(tables)}) point at records by position, so "
                "its records are taken all or none"
            )
        if self._keep is not None:
            whole = self._keep.copy()
            whole[whole] = keep
            keep = whole
        return Pack(self.path, self._names if self._chosen else None, keep)

    def _narrow(self, keep: np.ndarray) -> None:
        """Keep the records that ``keep`` marks alone."""
        kept_keys: dict[int, Sequence[int]] = {}
        entries: list[dict[str, Any]] = []
        for k, entry in enumerate(self.manifest["shards"]):
            chosen = keep[self._starts[k] : self._starts[k + 1]]
            if not chosen.any():
                continue
            keys = np.asarray(self.shard_keys(k), np.int64)[chosen]
            labels = self.labels[self._starts[k] : self._starts[k + 1]][chosen]
            kept_keys[len(entries)] = memoryview(keys)
            entries.append(select_entry(entry, keys, labels))
        labels = self.labels[keep]
        labels.flags.writeable = False
        classes = self.manifest["classes"]
        requires = sorted({*self.manifest["requires"], fmt.SELECTION})
        self.manifest = {**self.manifest, "shards": entries, "requires": requires}
        self.manifest = {**recount(self.manifest, labels), "classes": classes}
        self._labels, self._keys = labels, kept_keys
        self._take_shards()

    # What it is -----------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def pack_id(self) -> str:
        """32 hex digits drawn from the plan; every shard says it, to find the others by."""
        return str(self.manifest["pack_id"])

    @property
    def content_id(self) -> str:
        """32 hex digits drawn from the digests of all shards: equal for equal content alone."""
        return str(self.manifest["content_id"])

    @property
    def shard_names(self) -> list[str]:
        """The names of the shards, in the order in which positions count through them."""
        return list(self._names)

    @property
    def classes(self) -> int:
        """The width of a classification head: every label lies below it; gaps are allowed."""
        return int(self.manifest["classes"])

    @property
    def identities(self) -> int:
        """How many different labels are present, -1 not counted."""
        return int(self.manifest["identities"])

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) of every image in pixels; None where sizes differ."""
        (low_h, high_h), (low_w, high_w) = (
            self.manifest["images"]["height"],
            self.manifest["images"]["width"],
        )
        return (low_h, low_w) if (low_h, low_w) == (high_h, high_w) else None

    @property
    def channels(self) -> str:
        """The order of the colours in the stored images: ``rgb``, or ``bgr``.

        Whatever decodes a pack's images gives RGB; the encoded bytes are as the source had them.
        """
        return fmt.stored_channels(self.manifest)

    @property
    def labels(self) -> np.ndarray:
        """All labels in the order of positions: int64 (len(self),), read-only."""
        if self._labels is None:
            labels = np.empty(len(self), np.int64)
            for k, name in enumerate(self._names):
                part = fmt.kv_labels(self._index(k), str(self.path / f"{name}.kv"))
                labels[self._starts[k] : self._starts[k + 1]] = part
            labels.flags.writeable = False
            self._labels = labels
        return self._labels

    def shard_keys(self, k: int) -> Sequence[int]:
        """The keys of the pack's records in its shard ``k``, ascending.

        Raises:
            DamageError: the index is not the one that the manifest states.
        """
        entry = self.manifest["shards"][k]
        if "selection" not in entry:
            return range(entry["records"])
        if k not in self._keys:
            name = str(self.path / f"{self._names[k]}.kv")
            # Of a view, unlike an array, a number is had as quickly as of a list.
            self._keys[k] = memoryview(selected_keys(self._index(k), entry, name))  # type: ignore
        return self._keys[k]

    def _index(self, k: int) -> bytes:
        return read_stated_file(self.path, self.manifest, f"{self._names[k]}.kv")

    @property
    def identity_names(self) -> list[str] | None:
        """The source's name of each identity, by label; None where it had none."""
        if fmt.LABELS not in self.manifest["files"]:
            return None
        return read_identity_names(self.path, self.manifest, checked=False)[: self.classes]

    def source_name(self, index: int) -> str | None:
        """The source's name of the record at ``index``; None where it had none."""
        k, key = self._locate(*_as_integers(self.path, [index]))
        name = self._all_names_of(k)[key]
        return None if name is None else str(name)

    def source_names(self) -> list[str | None]:
        """The source's name of every record, in the order of positions: some 100 bytes a record."""
        return [name for k in range(len(self._names)) for name in self._names_of(k)]

    def _names_of(self, k: int) -> list[str | None]:
        names = self._all_names_of(k)
        return [names[key] for key in self.shard_keys(k)] if self._selected else names

    def _all_names_of(self, k: int) -> list[str | None]:
        """The names of the records of shard ``k``, by their keys."""
        names: list[str | None] | None = self.read_reserved(k, fmt.NAMES)
        return names or [None] * shard_records(self.manifest["shards"][k])

    def read_reserved(self, k: int, key: bytes) -> Any:
        """The reserved record ``key`` of shard number ``k``; None where it has none."""
        with environments.engine_calls:
            file_id, environment = self._held.shard(k)
            try:
                value = environments.get(environment, key)
            finally:
                environments.release(file_id)
        return None if value is None else fmt.unpack_reserved(key, value)

    @property
    def pairs(self) -> np.ndarray | None:
        """The pairs of an evaluation set, or None.

        int64 (P, 3): the first image's position, the second's, and 1 for the same person; of a set
        with folds of its own (P, 4), the last the fold.
        """
        if "pairs.npy" not in self.manifest["files"]:
            return None
        pairs = self.table("pairs")
        fmt.check_pairs(pairs, len(self), f"{self.path / 'pairs.npy'}")
        return pairs.astype(np.int64)

    def table(self, name: str) -> np.ndarray:
        """The table ``name`` of an evaluation set.

        Raises:
            PackError: the pack has no such table.
            DamageError: it cannot be read, or differs from what the manifest states.
        """
        file = f"{name}.npy"
        if name not in fmt.table_names(self.manifest["files"]):
            have = fmt.table_names(self.manifest["files"])
            raise PackError(f"{self.path} has no table {name!r}; it has {have}")
        try:
            return parse_npy(read_stated_file(self.path, self.manifest, file))
        except ValueError as error:
            raise DamageError(
                f"{self.path / file}: {error}: copy the pack again or convert again"
            ) from error

    # Records --------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[Record]:
        for start in range(0, len(self), 256):
            yield from self.batch(range(start, min(start + 256, len(self))))

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return self.batch(range(*index.indices(len(self))))
        return self.batch([operator.index(index)])[0]

    def batch(self, positions: Sequence[int] | np.ndarray) -> list[Record]:
        """The records at ``positions``, in the order asked; negative ones count from the end."""
        chosen = _as_integers(self.path, positions)
        with self.views(chosen) as views:
            images = [bytes(view) for view in views]
        labels = self.labels[np.array(chosen, np.int64)].tolist()
        keys = map(self.key, chosen)
        return [Record(*fields) for fields in zip(images, labels, keys, strict=True)]

    @contextmanager
    def views(self, positions: Sequence[int] | np.ndarray) -> Iterator[list[memoryview]]:
        """The encoded images at ``positions`` without a copy, valid only inside the ``with``.

        Any thread may call it, also inside the ``with`` of another call.

        Raises:
            IndexError: a position outside the pack.
            DamageError: a shard lacks a record that the manifest counts, or was replaced.
        """
        chosen = _as_integers(self.path, positions)
        views = []
        with self._held.transactions() as transactions:
            opened = transactions.gets
            with environments.engine_calls:
                # In plain Python: a few calls of NumPy take longer than to find a few records.
                for k, key in map(self._locate, chosen):
                    try:
                        get = opened.get(k)
                        if get is None:
                            get = transactions.open(k, *self._held.shard(k))
                        view = get(fmt.record_key(key))
                    except lmdb.Error as error:
                        raise self._damage(k, key, f"LMDB says: {error}") from error
                    if view is None:
                        raise self._damage(k, key, "the record is missing")
                    views.append(view)
            yield views

    def _damage(self, k: int, key: int, reason: str) -> DamageError:
        return DamageError(
            f"{self.path}: {self._names[k]}/{key:010d}: {reason}: check the pack with: "
            f"facepack verify {self.path}"
        )

    def decode(self, index: int) -> np.ndarray:
        """The image at ``index`` as RGB: uint8 (height, width, 3).

        Raises:
            DecodeError: it does not decode; names its key.
        """
        record = self[index]
        try:
            return decode(record.image, self.channels)
        except DecodeError as error:
            raise DecodeError(f"{self.path}: {record.key}: {error}") from error

    def key(self, index: int) -> str:
        """``shard/key`` of a position: ``0_0/0000000012``."""
        k, key = self._locate(*_as_integers(self.path, [index]))
        return f"{self._names[k]}/{key:010d}"

    def position(self, key: str) -> int:
        """The position of a ``shard/key``.

        Raises:
            KeyError: the pack has no such record.
        """
        shard, _, digits = key.rpartition("/")
        if shard in self._names and len(digits) == 10 and digits.isascii() and digits.isdigit():
            k = self._names.index(shard)
            keys, number = self.shard_keys(k), int(digits)
            within = bisect_left(keys, number)
            if within < len(keys) and keys[within] == number:
                return self._starts[k] + within
        raise KeyError(f"{self.path} has no record {key!r}")

    def _locate(self, position: int) -> tuple[int, int]:
        """The number of a record's shard, and its key there."""
        from_start = position + len(self) if position < 0 else position
        k = bisect_right(self._starts, from_start) - 1
        if k < 0 or from_start >= self._starts[-1]:
            raise IndexError(f"position {position}: {self.path} has {len(self)} records")
        within = from_start - self._starts[k]
        return k, self.shard_keys(k)[within] if self._selected else within

    # Life -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the shards; they open again on the next use."""
        self._held.release_all()

    def __reduce__(self) -> tuple[Any, ...]:
        shards = self._names if self._chosen else None
        keep = None if self._keep is None else (np.packbits(self._keep), len(self._keep))
        return _reopen, (self.path, self.content_id, shards, keep)

    def __repr__(self) -> str:
        part = f" ({len(self._names)} of its shards)" if self._chosen else ""
        return f"<Pack {self.path}{part}: {len(self)} records, {self.identities} identities>"


def _reopen(
    path: Path,
    content_id: str,
    shards: list[str] | None,
    keep: tuple[np.ndarray, int] | None,
) -> Pack:
    kept = None if keep is None else np.unpackbits(keep[0], count=keep[1]).astype(bool)
    pack = Pack(path, shards, kept)
    if pack.content_id != content_id:
        raise PackError(f"{path} holds another pack than the one that was pickled: open it again")
    return pack


def _as_integers(path: Path, positions: Sequence[int] | np.ndarray) -> list[int]:
    given = np.asarray(positions)
    if given.dtype.kind not in "iu" and given.size:
        raise IndexError(f"positions must be integers, not {given.dtype}: {path}")
    return cast(list[int], given.tolist())


def _read_checked(path: Path, shards: str | Sequence[str] | None) -> dict[str, Any]:
    """The manifest, with all shards or those chosen, whose files have the right sizes."""
    while True:
        whole = read_manifest(path)
        manifest = whole if shards is None else subset_manifest(path, whole, shards)
        try:
            check_sizes(path, manifest)
        except DamageError:
            if read_manifest(path) == whole:
                raise
            continue  # the pack grew between the two looks
        return manifest
