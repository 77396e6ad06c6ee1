"""What can still be read of a damaged shard, and how far it is proven.

A record is good if its checksum matches. Nothing else in the shard needs to be intact for that:
leaf pages are found by their own headers, not through the tree, and most numbers of a damaged
column of checksums or labels are still right.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from facepack import system
from facepack.errors import DamageError, DecodeError
from facepack.images import check_decodes
from facepack.reading import open_regular
from facepack.store import format as fmt
from facepack.store.labelmap import apply_label_map, map_names
from facepack.store.lmdb_read import guess_page_size, leaf_candidates, read_nodes
from facepack.store.plan import check_meta
from facepack.store.record import SourceRecord
from facepack.store.selection import shard_records
from facepack.store.shard_nodes import record_checksums, record_keys

_READ = 8 << 20
_SECTOR = 4096  # what is given up at once where a disk cannot read
_MOST_NODES = 1 << 22  # bytes of images may pass for leaf pages
_COLUMN_FRAME = range(20, 48)  # bytes around a column's numbers, its checksum left out
_CHECKSUM = 9  # bytes of a reserved record's checksum
_LINE = re.compile(rb"(\d{10}) (-\d{7}|\d{8})\n")
_UNKNOWN = -2  # in a column of labels


class Fate(IntEnum):
    """What becomes of a record."""

    PROVEN = 0
    DECODED = 1
    LABEL_IN_DOUBT = 2
    MISSING = 3
    DIFFERS = 4
    UNDECODABLE = 5
    NO_LABEL = 6
    SHARD_GONE = 7
    FOREIGN = 8
    REFUSED = 9


REASONS = {
    Fate.DECODED: "its checksum is lost: it decodes, but nothing proves that it is what was packed",
    Fate.LABEL_IN_DOUBT: "its label is known from a damaged index only",
    Fate.MISSING: "the record was not found: its page or its key is damaged",
    Fate.DIFFERS: "the record differs from what was packed",
    Fate.UNDECODABLE: "its sum is lost, and it does not decode",
    Fate.NO_LABEL: "its label is lost",
    Fate.SHARD_GONE: "nothing of its shard can be read",
    Fate.FOREIGN: "in its place is another shard, or one of another pack",
    Fate.REFUSED: "the image cannot be packed",
}


class Remains:
    """What can be read of a damaged shard.

    Args:
        stated: what the manifest says of it; empty where it says nothing.
        label_maps: those of the pack that are whole, by file name.
        known_names: the names of the pack's identities, by label, as far as they are known.

    Raises:
        ScanError: it holds no LMDB page that can be recognised.
        OSError: the file cannot be opened.
    """

    def __init__(
        self,
        file: Path,
        stated: dict[str, Any],
        label_maps: Mapping[str, np.ndarray],
        known_names: dict[int, str],
    ) -> None:
        self.notices: list[str] = []  # what is lost beside records
        self._name = file.stem
        self._data, bad = read_through(file)
        if bad:
            self.notices.append(f"{file.name}: {bad:,} bytes cannot be read from the disk")
        # the XXH3-128 of the file as it was read
        self.digest = xxhash.xxh3_128_hexdigest(self._data)
        page_size = guess_page_size(self._data)
        pages = leaf_candidates(self._data, page_size)
        self._nodes = read_nodes(self._data, pages, page_size, most=_MOST_NODES)
        self._keys = record_keys(self._data, self._nodes)
        self._sound: dict[bytes, Any] = {}
        self._damaged: dict[bytes, memoryview] = {}
        for index in np.flatnonzero(self._keys < 0).tolist():
            key, value = self._nodes.record(self._data, index)
            if key.startswith(b"__"):
                try:
                    self._sound[key] = fmt.unpack_reserved(key, value)
                except DamageError:
                    self._damaged[key] = value
        self.meta = self._sound_meta()  # what the shard says of itself, if that is whole
        self._count = self._count_records(stated, file)
        self._label_map = self._find_label_map(stated, label_maps)
        self._labels, self._proven = self._read_labels(stated, file)
        self._names = self._read_names()
        self._extras = self._read_extras()
        # the names of identities, by label in the pack
        self.identity_names = self._read_identity_names(known_names)

    def _sound_meta(self) -> dict[str, Any] | None:
        meta: dict[str, Any] | None = self._sound.get(fmt.META)
        try:
            check_meta(meta)
        except ValueError:
            return None
        return meta

    def _count_records(self, stated: dict[str, Any], file: Path) -> int:
        """How many records the shard had, by the best that tells."""
        if self.meta is not None:
            return int(self.meta["records"])
        if stated:
            return min(shard_records(stated), fmt.MAX_SHARD_RECORDS)
        checksums, names = self._sound.get(fmt.CHECKSUMS), self._sound.get(fmt.NAMES)
        if isinstance(checksums, dict) and len(checksums["data"]) > 8:
            return min(len(checksums["data"]) // 8, fmt.MAX_SHARD_RECORDS)
        if isinstance(names, list):
            return min(len(names), fmt.MAX_SHARD_RECORDS)
        kv = file.with_suffix(".kv")
        lines = kv.stat().st_size // fmt.KV_LINE if kv.is_file() else 0
        keys = self._keys[self._keys < fmt.MAX_SHARD_RECORDS]
        return min(max(lines, int(keys.max(initial=-1)) + 1), fmt.MAX_SHARD_RECORDS)

    def _column(self, column: Any) -> np.ndarray | None:
        try:
            return fmt.unpack_column(column, self._count)
        except DamageError:
            return None

    def _damaged_column(self, key: bytes, dtype: str) -> np.ndarray | None:
        """The numbers of a column whose record's checksum is wrong: most of them may be right."""
        value = self._damaged.get(key)
        size = self._count * np.dtype(dtype).itemsize
        if value is None or len(value) - _CHECKSUM - size not in _COLUMN_FRAME:
            return None
        return np.frombuffer(value[len(value) - _CHECKSUM - size : len(value) - _CHECKSUM], dtype)

    # Labels -----------------------------------------------------------------------------------

    def _find_label_map(
        self, stated: dict[str, Any], label_maps: Mapping[str, np.ndarray]
    ) -> np.ndarray | None:
        name = stated.get("label_map")
        if name is None:
            return None
        if name not in label_maps:
            self.notices.append(f"{self._name}: its label map {name} is lost")
            return np.zeros(0, "<i4")
        return label_maps[name]

    def _global(self, labels: np.ndarray | None) -> np.ndarray | None:
        """Labels of the shard as labels of the pack; those that are none are unknown."""
        if labels is None:
            return None
        labels = labels.astype(np.int64)
        most = fmt.MAX_LABEL if self._label_map is None else len(self._label_map) - 1
        good = (labels >= fmt.NO_IDENTITY) & (labels <= most)
        mapped = apply_label_map(self._label_map, np.where(good, labels, fmt.NO_IDENTITY))
        return np.where(good, mapped, _UNKNOWN)

    def _read_labels(self, stated: dict[str, Any], file: Path) -> tuple[np.ndarray, np.ndarray]:
        """The label of each record, -2 where it is lost, and whether it is proven."""
        whole = self._global(self._column(self._sound.get(fmt.LABEL_COLUMN)))
        if whole is not None and (whole != _UNKNOWN).all():
            return whole, np.ones(self._count, bool)
        index = file.with_suffix(".kv")
        lines, _ = read_through(index) if index.is_file() else (memoryview(b""), 0)
        listed = _lines(lines, self._count, selected="selection" in stated)
        digest = stated.get("files", {}).get(index.name, {}).get("xxh3_128")
        if xxhash.xxh3_128_hexdigest(lines) == digest or self._proves(listed):
            return listed, np.ones(self._count, bool)
        self.notices.append(f"{self._name}: its labels are damaged, and so is {index.name}")
        own = self._global(self._damaged_column(fmt.LABEL_COLUMN, "<i4"))
        if own is None:
            return listed, np.zeros(self._count, bool)
        # Unlike a line of the index, a column cannot show which of its numbers are damaged: it
        # counts only where both agree.
        agree = (own == listed) & (own != _UNKNOWN)
        return np.where(agree | (own == _UNKNOWN), listed, _UNKNOWN), agree

    def _proves(self, listed: np.ndarray) -> bool:
        """Whether the checksum of the damaged column is that of the labels ``listed``."""
        if fmt.LABEL_COLUMN not in self._damaged or self._label_map is not None:
            return False
        whole = fmt.pack_reserved(fmt.LABEL_COLUMN, fmt.pack_column(listed.astype("<i4")))
        return whole[-_CHECKSUM:] == self._damaged[fmt.LABEL_COLUMN][-_CHECKSUM:]

    # The rest of the columns ------------------------------------------------------------------

    def _read_names(self) -> list[str | None]:
        names = self._sound.get(fmt.NAMES)
        if isinstance(names, list) and len(names) == self._count:
            return names
        if names is not None or fmt.NAMES in self._damaged:
            self.notices.append(f"{self._name}: the names of its records are lost")
        return [None] * self._count

    def _read_extras(self) -> dict[str, list[float | int]]:
        extra = self._sound.get(fmt.EXTRA)
        if extra is None:
            self.notices.append(f"{self._name}: what else its source said of records is lost")
            return {}
        columns = {name: self._column(packed) for name, packed in extra["columns"].items()}
        return {name: found.tolist() for name, found in columns.items() if found is not None}

    def _read_identity_names(self, known: dict[int, str]) -> dict[int, str]:
        packed = self._sound.get(fmt.IDENTITIES)
        if packed is None:
            return known
        labels = fmt.unpack_column(packed["labels"], len(packed["names"]))
        own = dict(zip(labels.tolist(), packed["names"], strict=True))
        try:
            return map_names(self._label_map, own)
        except DamageError:
            return known

    # Records ----------------------------------------------------------------------------------

    def judge(self) -> tuple[np.ndarray, np.ndarray]:
        """The fate of each record (uint8), and which node it is (int32, -1: none)."""
        fates = np.full(self._count, Fate.MISSING, np.uint8)
        chosen = np.full(self._count, -1, np.int32)
        which = np.flatnonzero((self._keys >= 0) & (self._keys < self._count))
        keys = self._keys[which]
        checksums = self._column(self._sound.get(fmt.CHECKSUMS))
        certain = checksums is not None and checksums.dtype == np.uint64
        if not certain:
            checksums = self._damaged_column(fmt.CHECKSUMS, "<u8")
            self.notices.append(f"{self._name}: the checksums of its records are damaged")
        doubted = which
        if checksums is not None:
            right = record_checksums(self._data, self._nodes, which) == checksums[keys]
            fates[keys[right]], chosen[keys[right]] = Fate.PROVEN, which[right]
            doubted = which[~right & (chosen[keys] < 0)]
        if certain:
            fates[self._keys[doubted]] = Fate.DIFFERS
        else:
            for index in doubted.tolist():
                key = self._keys[index]
                if chosen[key] < 0:
                    whole = self._decodes(index)
                    fates[key] = Fate.DECODED if whole else Fate.UNDECODABLE
                    chosen[key] = index if whole else -1
        fates[(fates == Fate.PROVEN) & ~self._proven] = Fate.LABEL_IN_DOUBT
        unlabelled = (chosen >= 0) & (self._labels == _UNKNOWN)
        fates[unlabelled], chosen[unlabelled] = Fate.NO_LABEL, -1
        return fates, chosen

    def _decodes(self, index: int) -> bool:
        try:
            check_decodes(self._nodes.record(self._data, index)[1])
        except DecodeError:
            return False
        return True

    def record(self, key: int, index: int) -> SourceRecord:
        """The record at ``key``, which the node ``index`` is."""
        extra = {
            name: values[key]
            for name, values in self._extras.items()
            if values[key] == values[key]  # else it is NaN: the source said nothing of the record
        }
        return SourceRecord(
            key,
            self._nodes.record(self._data, index)[1],
            int(self._labels[key]),
            self._names[key],
            extra or None,
        )


def _lines(data: memoryview, count: int, *, selected: bool = False) -> np.ndarray:
    """The labels (int64) of a damaged key-label index by key; -2 where no line tells.

    Where all records are the pack's, a line's number is its key; of ``selected`` ones not.
    """
    labels = np.full(count, _UNKNOWN, np.int64)
    for number in range(min(count, len(data) // fmt.KV_LINE)):
        line = _LINE.fullmatch(bytes(data[fmt.KV_LINE * number : fmt.KV_LINE * (number + 1)]))
        if line and int(line[2]) >= fmt.NO_IDENTITY:
            key = int(line[1])
            if key == number or (selected and number < key < count):
                labels[key] = int(line[2])
    return labels


def read_through(path: Path) -> tuple[memoryview, int]:
    """All that can be read of a file, zeros where a disk fails; and how many bytes those are.

    Raises:
        OSError: the file cannot be opened.
    """
    with open_regular(path) as file:
        data = memoryview(bytearray(file.seek(0, os.SEEK_END)))
        return data, sum(_fill(file.fileno(), data, 0))


def _fill(descriptor: int, data: memoryview, offset: int) -> Iterator[int]:
    """Fill ``data`` from ``offset`` of a file; yield the length of each part that fails."""
    at, step = 0, _READ
    while at < len(data):
        part = data[at : at + step]
        try:
            count = system.read_into(descriptor, part, offset + at)
        except OSError:
            if step > _SECTOR:
                step = _SECTOR
                continue
            count = len(part)
            yield count
        if not count:  # it ends here: somebody cut it
            yield len(data) - at
            return
        at += count
        if at % _READ == 0:
            step = _READ
