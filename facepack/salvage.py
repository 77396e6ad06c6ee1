"""Copying what is good out of a damaged pack.

A record is good if its sum says so. Nothing else in a shard needs to be whole for that: leaf pages
are found by their own heads, not through the tree, and of a damaged column of sums or labels most
numbers are still right. What cannot be proven is taken only if the image decodes fully, and told.

The result is a sound pack. It is to the damaged one what a pack is to its source: a record's
ordinal is its position in the damaged pack, and what is lost stands in ``quarantine.jsonl``.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from facepack import format as fmt
from facepack.errors import DamageError, DecodeError, PackError
from facepack.images import decode
from facepack.labelmap import apply_label_map, map_names, read_label_map
from facepack.lmdbfile import (
    Nodes,
    ScanError,
    guess_page_size,
    leaf_candidates,
    read_nodes,
)
from facepack.pack import read_manifest
from facepack.progress import Progress
from facepack.shard import ShardBuilder, ShardInfo, SourceRecord
from facepack.target import Target
from facepack.verify import check_meta, record_places, record_sums
from facepack.writer import finish_pack, make_plan, shard_meta

_READ = 8 << 20
_SECTOR = 4096  # what is given up at once where a disk cannot read
_MOST_NODES = 1 << 22  # bytes of images may pass for leaf pages
_COLUMN_FRAME = range(20, 48)  # bytes around a column's numbers, its sum left out
_SUM = 9  # bytes of a reserved record's sum
_LINE = re.compile(rb"(\d{10}) (-\d{7}|\d{8})\n")
_UNKNOWN = -2  # in a column of labels
_REMEDY = "copy the shard from another place, or convert its source again"


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

    @property
    def is_kept(self) -> bool:
        """Whether the record is in the new pack."""
        return self <= Fate.LABEL_IN_DOUBT


_REASONS = {
    Fate.DECODED: "its sum is lost: it decodes, but nothing proves that it is what was packed",
    Fate.LABEL_IN_DOUBT: "its label is known from a damaged index only",
    Fate.MISSING: "the record was not found: its page or its key is damaged",
    Fate.DIFFERS: "the record differs from what was packed",
    Fate.UNDECODABLE: "its sum is lost, and it does not decode",
    Fate.NO_LABEL: "its label is lost",
    Fate.SHARD_GONE: "nothing of its shard can be read",
    Fate.FOREIGN: "in its place is another shard, or one of another pack",
    Fate.REFUSED: "the image cannot be packed",
}


@dataclass(frozen=True, kw_only=True)
class Salvaged:
    """What came of salvaging a pack: found records are salvaged or lost, always.

    Attributes:
        out: the new pack.
        found: records that the damaged pack had, as far as anything in it tells.
        salvaged: records in the new pack.
        lost: records that are not; they stand in its ``quarantine.jsonl``.
        doubtful: of those salvaged, what could not be proven: ``{"shard", "key", "reason"}``.
        shards: ``{"name", "found", "salvaged", "lost"}`` of each.
        notices: what else was lost.
    """

    out: str
    found: int
    salvaged: int
    lost: int
    doubtful: list[dict[str, str]]
    shards: list[dict[str, Any]]
    notices: list[str]


def salvage(path: Path, out: Path, *, overwrite: bool = False) -> Salvaged:
    """Copy what is good out of the damaged pack ``path`` into the new pack ``out``.

    Args:
        path: a folder with shards; whatever else it holds helps.
        out: a new or empty folder.
        overwrite: replace the pack that ``out`` holds.

    Raises:
        PackError: no shards are there, or the target cannot be written.
        DamageError: nothing can be salvaged, or the folder holds shards of several packs.
    """
    if out.exists() and path.exists() and out.samefile(path):
        raise PackError(f"{out} is the damaged pack itself: choose another target")
    wreck = _Wreck.survey(path)
    # Twice through the shards: what the new pack will hold stands in its plan, which comes first.
    with Progress(wreck.file_bytes, unit="bytes", label="look") as progress:
        for entry in wreck.entries:
            entry.judge(wreck)
            progress.update(entry.file_bytes)
    wreck.turn_down_foreigners()
    if not any((entry.chosen >= 0).any() for entry in wreck.entries):
        raise DamageError(f"{path}: nothing can be salvaged: no record is whole")
    plan = wreck.plan()
    pack_id = fmt.content_id(plan)
    infos: list[ShardInfo] = []
    refused: list[dict[str, Any]] = []
    names_of: dict[int, str] = {}
    with Target(out, overwrite=overwrite) as target:
        target.require_space(wreck.file_bytes)
        target.begin(plan)
        with Progress(sum(map(len, wreck.entries)), label=out.name) as progress:
            for k, entry in enumerate(wreck.entries):
                builder = entry.rescue(wreck)
                meta = shard_meta(plan, pack_id, k, len(wreck.entries))
                info, _ = builder.write(
                    out, entry.name, order=plan["order"], seed=plan["seed"], meta=meta
                )
                infos.append(info)
                refused += builder.refused
                names_of |= builder.identity_names
                progress.update(len(entry))
        finish_pack(
            out,
            plan=plan,
            pack_id=pack_id,
            shards=infos,
            refused=refused,
            identity_names=names_of,
            tables=wreck.salvaged_tables(),
        )
    return wreck.result(out)


# What is left of a pack ---------------------------------------------------------------------------


@dataclass
class _Entry:
    """A shard of the damaged pack.

    Attributes:
        file: its ``.mdb`` file; None where there is none.
        name: its name in the new pack, as in the old one.
        stated: what the manifest says of it; empty where it says nothing.
        start: the position of its first record.
        fates: of each record, uint8.
        chosen: which of the nodes found is the record, int32; -1 where none is.
        digest: the XXH3-128 of the file as it was read.
        meta: what the shard says of itself, if that is whole.
    """

    file: Path | None
    name: str
    stated: dict[str, Any]
    start: int = 0
    fates: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    chosen: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    digest: str | None = None
    meta: dict[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.fates)

    @property
    def file_bytes(self) -> int:
        return self.file.stat().st_size if self.file else 0

    def lose(self, count: int, fate: Fate) -> None:
        """Give up ``count`` records, all of them."""
        self.fates = np.full(count, fate, np.uint8)
        self.chosen = np.full(count, -1, np.int32)

    def judge(self, wreck: _Wreck) -> None:
        """Find every record and decide what becomes of it."""
        stated = min(int(self.stated.get("records", 0)), fmt.MAX_SHARD_RECORDS)
        if self.file is None:
            self.lose(stated, Fate.SHARD_GONE)
            return
        try:
            remains = _Remains(self.file, self.stated, wreck)
        except (ScanError, OSError) as error:
            wreck.notices.append(f"{self.file.name}: nothing can be read: {error}")
            kv = self.file.with_suffix(".kv")
            lines = kv.stat().st_size // fmt.KV_LINE if kv.is_file() else 0
            self.lose(stated or min(lines, fmt.MAX_SHARD_RECORDS), Fate.SHARD_GONE)
            return
        self.digest, self.meta = remains.digest, remains.meta
        self.fates, self.chosen = remains.judge()
        wreck.notices += remains.notices

    def rescue(self, wreck: _Wreck) -> ShardBuilder:
        """The records that are kept, and what is to be said of the others."""
        builder = ShardBuilder()
        reasons: dict[int, str] = {}
        if self.file is not None and (self.chosen >= 0).any():
            remains = _Remains(self.file, self.stated, wreck)
            for place in np.flatnonzero(self.chosen >= 0).tolist():
                record = remains.record(place, int(self.chosen[place]))
                try:
                    builder.add(replace(record, ordinal=self.start + place))
                except (DecodeError, PackError) as error:
                    self.fates[place], self.chosen[place] = Fate.REFUSED, -1
                    reasons[place] = str(error)
            names = remains.identity_names
            builder.identity_names = {k: names[k] for k in set(builder.labels) if k in names}
        for place in np.flatnonzero(self.chosen < 0).tolist():
            entry = {
                "ordinal": self.start + place,
                "file": f"{self.name}.mdb",
                "offset": None,
                "key": f"{place:010d}",
                "reason": reasons.get(place, _REASONS[Fate(int(self.fates[place]))]),
                "remedy": _REMEDY,
            }
            builder.refused.append(entry)
        return builder


@dataclass
class _Wreck:
    """What is left of a pack, beside the content of its shards."""

    path: Path
    manifest: dict[str, Any]  # empty where it cannot be read
    entries: list[_Entry]
    label_maps: dict[str, np.ndarray]
    identity_names: dict[int, str]  # of labels.txt, where that is whole
    tables: dict[str, np.ndarray]
    notices: list[str]

    @classmethod
    def survey(cls, path: Path) -> _Wreck:
        """Find the shards, and read what stands beside them."""
        notices: list[str] = []
        try:
            manifest = read_manifest(path)
        except PackError as error:
            manifest = {}
            notices.append(f"the manifest is of no help: {error}")
        shards = sorted(path.glob("*.mdb")) if path.is_dir() else []
        files = {file.stem: file for file in shards if file.is_file()}
        if not files:
            raise PackError(f"{path} holds no shards (*.mdb): there is nothing to salvage")
        names = [shard["name"] for shard in manifest.get("shards", [])]
        if len({*names}) < len(names) or not all(map(_is_name, names)):
            notices.append("the manifest is of no help: its shards have impossible names")
            manifest = {}
        entries = [
            _Entry(file=files.pop(stated["name"], None), name=stated["name"], stated=stated)
            for stated in manifest.get("shards", [])
        ]
        for name, file in files.items():
            if _is_name(name):
                entries.append(_Entry(file=file, name=name, stated={}))
            else:
                notices.append(f"{file.name!r} is no name of a shard: left aside")
        wreck = cls(path, manifest, entries, {}, {}, {}, notices)
        wreck._read_files()
        return wreck

    @property
    def file_bytes(self) -> int:
        return sum(entry.file_bytes for entry in self.entries)

    def _read_files(self) -> None:
        """Take what stands beside the shards, as far as the manifest's digests prove it whole."""
        for name, stated in self.manifest.get("files", {}).items():
            data = self._proven(name, stated["xxh3_128"])
            try:
                if data is None:
                    continue
                if fmt.is_label_map(name):
                    self.label_maps[name] = read_label_map(data, name)
                elif name.endswith(".npy"):
                    self.tables[name[:-4]] = np.load(io.BytesIO(data), allow_pickle=False)
                elif name == fmt.LABELS:
                    names = fmt.read_labels_text(data.decode())
                    self.identity_names = {k: text for k, text in enumerate(names) if text}
            except (DamageError, ValueError, EOFError) as error:
                self.notices.append(f"{name}: {error}")

    def _proven(self, name: str, digest: str) -> bytes | None:
        try:
            data = (self.path / name).read_bytes()
        except OSError as error:
            self.notices.append(f"{name}: {error.strerror}")
            return None
        if xxhash.xxh3_128_hexdigest(data) != digest:
            if name.endswith(".npy") or name == fmt.LABELS:
                self.notices.append(f"{name} is damaged: it is of no help")
            return None
        return data

    def turn_down_foreigners(self) -> None:
        """Lose the shards that are none of this pack's, and number the records of the others."""
        told = {entry.stated["pack_id"] for entry in self.entries if entry.stated}
        found = Counter(entry.meta["pack_id"] for entry in self.entries if entry.meta)
        if not told & {*found}:  # the manifest tells nothing: the shards must agree
            if len(found) > 1:
                raise DamageError(
                    f"{self.path} holds shards of {len(found)} packs "
                    f"({', '.join(sorted(found))}): move the others away"
                )
            told = {*found}
        owners = {
            (entry.stated["pack_id"], entry.stated["own_name"]): entry.name
            for entry in self.entries
            if entry.stated
        }
        unlisted = set()
        for entry in self.entries:
            own = (entry.meta["pack_id"], entry.meta["name"]) if entry.meta else None
            if own is None:
                foreign = bool(self.manifest) and not entry.stated
            else:
                foreign = own[0] not in told or owners.get(own, entry.name) != entry.name
            if foreign:
                self.notices.append(f"{entry.name}.mdb is none of this pack's shards: left aside")
                entry.lose(len(entry) if entry.stated else 0, Fate.FOREIGN)
            elif entry.meta and not entry.stated:
                unlisted.add((entry.meta["pack_id"], entry.meta["shard"]))
        # A shard that the manifest calls by a damaged name is there after all, under its own.
        self.entries = [
            entry
            for entry in self.entries
            if (entry.stated or len(entry))
            and (entry.file or (entry.stated["pack_id"], entry.stated["shard"]) not in unlisted)
        ]
        if not self.manifest:
            self.entries.sort(key=lambda e: e.meta["shard"] if e.meta else math.inf)
        start = 0
        for entry in self.entries:
            entry.start = start
            start += len(entry)

    def plan(self) -> dict[str, Any]:
        """The plan of the new pack."""
        plans = [entry.meta["plan"] for entry in self.entries if entry.meta]
        classes = [self.manifest.get("classes"), *(plan.get("classes") for plan in plans)]
        known = [n for n in classes if isinstance(n, int) and 0 <= n <= fmt.MAX_LABEL + 1]
        complete = not any((entry.chosen < 0).any() for entry in self.entries)
        self._choose_tables({t for plan in plans for t in plan.get("tables", [])}, complete)
        kind = "pairs" if "pairs" in self.tables else "train"
        if self.tables.keys() - {"pairs"}:
            kind = self.manifest["kind"]
        spans = [
            {"name": entry.name, "start": entry.start, "stop": entry.start + len(entry)}
            for entry in self.entries
        ]
        return make_plan(
            kind=kind,
            source={
                "kind": "salvage",
                "pack_id": self.manifest.get("pack_id"),
                "shards": {entry.name: entry.digest for entry in self.entries},
            },
            order="source",
            classes=max(known, default=None),
            tables=sorted(self.tables),
            shards=spans,
        )

    def _choose_tables(self, planned: set[str], complete: bool) -> None:
        """Keep the tables that still mean something once records are lost."""
        records = sum(map(len, self.entries))
        if "pairs" in self.tables:
            try:
                fmt.check_pairs(self.tables["pairs"], records, "pairs.npy")
            except DamageError as error:
                self.notices.append(str(error))
                del self.tables["pairs"]
        for name in sorted({*self.tables} - {"pairs"}):
            if not complete:
                self.notices.append(
                    f"the table {name}.npy is left out: records are lost, and it speaks of all"
                )
                del self.tables[name]
        for name in sorted(planned - {*self.tables}):
            self.notices.append(f"the table {name}.npy is not in the new pack")

    def salvaged_tables(self) -> dict[str, np.ndarray]:
        """The tables of the new pack: pairs point at the new positions."""
        tables = dict(self.tables)
        if "pairs" in tables:
            kept = np.concatenate([entry.chosen >= 0 for entry in self.entries])
            positions = np.where(kept, np.cumsum(kept) - 1, -1)
            pairs = tables["pairs"].astype(np.int64)
            pairs[:, :2] = positions[pairs[:, :2]]
            whole = (pairs[:, :2] >= 0).all(axis=1)
            tables["pairs"] = pairs[whole].astype(tables["pairs"].dtype)
            if not whole.all():
                self.notices.append(
                    f"{np.count_nonzero(~whole)} of {len(whole)} pairs are left out, as images of "
                    "theirs are lost: figures from the rest are not the protocol's"
                )
        return tables

    def result(self, out: Path) -> Salvaged:
        """What is reported, once everything is written."""
        shards, doubtful = [], []
        for entry in self.entries:
            kept = int(np.count_nonzero(entry.chosen >= 0))
            shards.append(
                {
                    "name": entry.name,
                    "found": len(entry),
                    "salvaged": kept,
                    "lost": len(entry) - kept,
                }
            )
            for place in np.flatnonzero((entry.chosen >= 0) & (entry.fates > 0)).tolist():
                reason = _REASONS[Fate(int(entry.fates[place]))]
                doubtful.append({"shard": entry.name, "key": f"{place:010d}", "reason": reason})
        return Salvaged(
            out=str(out),
            found=sum(shard["found"] for shard in shards),
            salvaged=sum(shard["salvaged"] for shard in shards),
            lost=sum(shard["lost"] for shard in shards),
            doubtful=doubtful,
            shards=shards,
            notices=self.notices,
        )


def _is_name(name: str) -> bool:
    try:
        return bool(fmt.check_shard_name(name))
    except PackError:
        return False


# What is left of a shard --------------------------------------------------------------------------


class _Remains:
    """What can be read of a shard.

    Raises:
        ScanError: nothing that could be told.
        OSError: the file cannot be opened.
    """

    def __init__(self, file: Path, stated: dict[str, Any], wreck: _Wreck) -> None:
        self.notices: list[str] = []
        self._name = file.stem
        self._data, bad = read_through(file)
        if bad:
            self.notices.append(f"{file.name}: {bad:,} bytes cannot be read from the disk")
        self.digest = xxhash.xxh3_128_hexdigest(self._data)
        page_size = guess_page_size(self._data)
        pages = leaf_candidates(self._data, page_size)
        self._nodes: Nodes = read_nodes(self._data, pages, page_size, most=_MOST_NODES)
        self._places = record_places(self._data, self._nodes)
        self._sound: dict[bytes, Any] = {}
        self._damaged: dict[bytes, memoryview] = {}
        for index in np.flatnonzero(self._places < 0).tolist():
            key, value = self._nodes.record(self._data, index)
            if key.startswith(b"__"):
                try:
                    self._sound[key] = fmt.unpack_reserved(key, value)
                except DamageError:
                    self._damaged[key] = value
        self.meta = self._sound_meta()
        self._count = self._count_records(stated, file)
        self._label_map = self._find_label_map(stated, wreck)
        self._labels, self._proven = self._read_labels(stated, file, wreck)
        self._names = self._read_names()
        self._extras = self._read_extras()
        self.identity_names = self._read_identity_names(wreck)

    def _sound_meta(self) -> dict[str, Any] | None:
        meta = self._sound.get(fmt.META)
        try:
            check_meta(meta)
        except ValueError:
            return None
        return dict(meta)

    def _count_records(self, stated: dict[str, Any], file: Path) -> int:
        """How many records the shard had, by the best that tells."""
        if self.meta is not None:
            return int(self.meta["records"])
        if stated:
            return min(int(stated["records"]), fmt.MAX_SHARD_RECORDS)
        sums, names = self._sound.get(fmt.SUMS), self._sound.get(fmt.NAMES)
        if isinstance(sums, dict) and len(sums["data"]) > 8:
            return min(len(sums["data"]) // 8, fmt.MAX_SHARD_RECORDS)
        if isinstance(names, list):
            return min(len(names), fmt.MAX_SHARD_RECORDS)
        kv = file.with_suffix(".kv")
        lines = kv.stat().st_size // fmt.KV_LINE if kv.is_file() else 0
        places = self._places[self._places < fmt.MAX_SHARD_RECORDS]
        return min(max(lines, int(places.max(initial=-1)) + 1), fmt.MAX_SHARD_RECORDS)

    def _column(self, column: Any) -> np.ndarray | None:
        try:
            return fmt.unpack_column(column, self._count)
        except DamageError:
            return None

    def _damaged_column(self, key: bytes, dtype: str) -> np.ndarray | None:
        """The numbers of a column whose record's sum is wrong: most of them may be right."""
        value = self._damaged.get(key)
        size = self._count * np.dtype(dtype).itemsize
        if value is None or len(value) - _SUM - size not in _COLUMN_FRAME:
            return None
        return np.frombuffer(value[len(value) - _SUM - size : len(value) - _SUM], dtype)

    # Labels -----------------------------------------------------------------------------------

    def _find_label_map(self, stated: dict[str, Any], wreck: _Wreck) -> np.ndarray | None:
        name = stated.get("label_map")
        if name is None:
            return None
        if name not in wreck.label_maps:
            self.notices.append(f"{self._name}: its label map {name} is lost")
            return np.zeros(0, "<i4")
        return wreck.label_maps[name]

    def _global(self, labels: np.ndarray | None) -> np.ndarray | None:
        """Labels of the shard as labels of the pack; those that are none are unknown."""
        if labels is None:
            return None
        labels = labels.astype(np.int64)
        most = fmt.MAX_LABEL if self._label_map is None else len(self._label_map) - 1
        good = (labels >= fmt.NO_IDENTITY) & (labels <= most)
        mapped = apply_label_map(self._label_map, np.where(good, labels, fmt.NO_IDENTITY))
        return np.where(good, mapped, _UNKNOWN)

    def _read_labels(
        self, stated: dict[str, Any], file: Path, wreck: _Wreck
    ) -> tuple[np.ndarray, np.ndarray]:
        """The label of each record, -2 where it is lost, and whether it is proven."""
        whole = self._global(self._column(self._sound.get(fmt.LABEL_COLUMN)))
        if whole is not None and (whole != _UNKNOWN).all():
            return whole, np.ones(self._count, bool)
        index = file.with_suffix(".kv")
        lines, _ = read_through(index) if index.is_file() else (memoryview(b""), 0)
        listed = _lines(lines, self._count)
        digest = stated.get("files", {}).get(index.name, {}).get("xxh3_128")
        if xxhash.xxh3_128_hexdigest(lines) == digest or self._proves(listed):
            return listed, np.ones(self._count, bool)
        self.notices.append(f"{self._name}: its labels are damaged, and so is {index.name}")
        own = self._global(self._damaged_column(fmt.LABEL_COLUMN, "<i4"))
        if own is None:
            return listed, np.zeros(self._count, bool)
        # A column cannot show that it is damaged at a place, as a line can: alone, it is not heard.
        agree = (own == listed) & (own != _UNKNOWN)
        return np.where(agree | (own == _UNKNOWN), listed, _UNKNOWN), agree

    def _proves(self, listed: np.ndarray) -> bool:
        """Whether the sum of the damaged column is that of the labels ``listed``."""
        if fmt.LABEL_COLUMN not in self._damaged or self._label_map is not None:
            return False
        whole = fmt.pack_reserved(fmt.LABEL_COLUMN, fmt.pack_column(listed.astype("<i4")))
        return whole[-_SUM:] == self._damaged[fmt.LABEL_COLUMN][-_SUM:]

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

    def _read_identity_names(self, wreck: _Wreck) -> dict[int, str]:
        packed = self._sound.get(fmt.IDENTITIES)
        if packed is None:
            return wreck.identity_names
        labels = fmt.unpack_column(packed["labels"], len(packed["names"]))
        own = dict(zip(labels.tolist(), packed["names"], strict=True))
        try:
            return map_names(self._label_map, own)
        except DamageError:
            return wreck.identity_names

    # Records ----------------------------------------------------------------------------------

    def judge(self) -> tuple[np.ndarray, np.ndarray]:
        """The fate of each record (uint8), and which node it is (int32, -1: none)."""
        fates = np.full(self._count, Fate.MISSING, np.uint8)
        chosen = np.full(self._count, -1, np.int32)
        which = np.flatnonzero((self._places >= 0) & (self._places < self._count))
        places = self._places[which]
        sums = self._column(self._sound.get(fmt.SUMS))
        certain = sums is not None and sums.dtype == np.uint64
        if not certain:
            sums = self._damaged_column(fmt.SUMS, "<u8")
            self.notices.append(f"{self._name}: the sums of its records are damaged")
        doubted = which
        if sums is not None:
            right = record_sums(self._data, self._nodes, which) == sums[places]
            fates[places[right]], chosen[places[right]] = Fate.PROVEN, which[right]
            doubted = which[~right & (chosen[places] < 0)]
        if certain:
            fates[self._places[doubted]] = Fate.DIFFERS
        else:
            for index in doubted.tolist():
                place = self._places[index]
                if chosen[place] < 0:
                    whole = self._decodes(index)
                    fates[place] = Fate.DECODED if whole else Fate.UNDECODABLE
                    chosen[place] = index if whole else -1
        fates[(fates == Fate.PROVEN) & ~self._proven] = Fate.LABEL_IN_DOUBT
        unlabelled = (chosen >= 0) & (self._labels == _UNKNOWN)
        fates[unlabelled], chosen[unlabelled] = Fate.NO_LABEL, -1
        return fates, chosen

    def _decodes(self, index: int) -> bool:
        try:
            decode(self._nodes.record(self._data, index)[1])
        except DecodeError:
            return False
        return True

    def record(self, place: int, index: int) -> SourceRecord:
        """The record at ``place``, which the node ``index`` is."""
        extra = {
            name: values[place]
            for name, values in self._extras.items()
            if not _is_nan(values[place])
        }
        return SourceRecord(
            place,
            self._nodes.record(self._data, index)[1],
            int(self._labels[place]),
            self._names[place],
            extra or None,
        )


def _is_nan(value: float | int) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _lines(data: memoryview, count: int) -> np.ndarray:
    """The labels (int64) of a damaged key-label index, line by line; -2 where a line is none."""
    labels = np.full(count, _UNKNOWN, np.int64)
    for place in range(min(count, len(data) // fmt.KV_LINE)):
        line = _LINE.fullmatch(bytes(data[fmt.KV_LINE * place : fmt.KV_LINE * (place + 1)]))
        if line and int(line[1]) == place and int(line[2]) >= fmt.NO_IDENTITY:
            labels[place] = int(line[2])
    return labels


def read_through(path: Path) -> tuple[memoryview, int]:
    """All that can be read of a file, zeros where a disk fails; and how many bytes those are.

    Raises:
        OSError: the file cannot be opened.
    """
    with path.open("rb", buffering=0) as file:
        data = memoryview(bytearray(file.seek(0, os.SEEK_END)))
        return data, sum(_fill(file.fileno(), data, 0))


def _fill(descriptor: int, data: memoryview, offset: int) -> Iterator[int]:
    """Fill ``data`` from ``offset`` of a file; yield the length of each part that fails."""
    at, step = 0, _READ
    while at < len(data):
        part = data[at : at + step]
        try:
            count = os.preadv(descriptor, [part], offset + at)
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
