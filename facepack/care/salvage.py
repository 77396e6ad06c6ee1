"""Copying what is good out of a damaged pack.

Records whose checksums match are copied, wherever they are found; what cannot be proven is copied
only if the image decodes fully, and is reported as in doubt.

The result is a sound pack. It is to the damaged one what a pack is to its source: a record's
ordinal is its position in the damaged pack, and what is lost stands in ``quarantine.jsonl``.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from facepack.care.remains import REASONS, Fate, Remains
from facepack.errors import DamageError, DecodeError, NewerFormatError, PackError
from facepack.progress import Progress
from facepack.reading import parse_npy, read_bytes
from facepack.store import format as fmt
from facepack.store.checks import ImageCheck
from facepack.store.finish import finish_pack
from facepack.store.labelmap import read_label_map
from facepack.store.lmdb_read import ScanError
from facepack.store.manifest import read_manifest
from facepack.store.plan import PackPlan
from facepack.store.selection import selected_keys
from facepack.store.shard import ShardBuilder
from facepack.store.target import Target

_ORDER = "source"  # positions, as far as records are salvaged, stay in their order
_REMEDY = "copy the shard from another place, or convert its source again"


@dataclass(frozen=True, kw_only=True)
class Salvaged:
    """What came of salvaging a pack: found records are salvaged or lost, always."""

    out: str  # the new pack
    found: int  # records that the damaged pack had, as far as can be determined
    salvaged: int  # records in the new pack
    lost: int  # records that are not; they stand in its quarantine.jsonl
    # of those salvaged, what could not be proven: {"shard", "key", "reason"}
    doubtful: list[dict[str, str]]
    shards: list[dict[str, Any]]  # {"name", "found", "salvaged", "lost"} of each
    notices: list[str]  # what else was lost


def salvage(
    path: Path,
    out: Path,
    *,
    decode: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Salvaged:
    """Copy what is good out of the damaged pack ``path`` into the new pack ``out``.

    ``path`` is a folder with shards; whatever else it holds helps. To ``decode`` every image is to
    lose those that are damaged though nothing has changed since they were packed.

    Raises:
        PackError: no shards are there, or the target cannot be written.
        DamageError: nothing can be salvaged, or the folder holds shards of several packs.
        NewerFormatError: the pack or a shard needs a newer facepack.
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
        raise DamageError(f"{path}: nothing can be salvaged: no record is intact")
    check = ImageCheck(decode=decode, channels=wreck.channels)
    plan = wreck.plan(check)
    target = Target(out, overwrite=overwrite)
    if dry_run:
        target.look(plan.fields)
        target.require_place()
        target.require_space(wreck.file_bytes)
        with Progress(sum(map(len, wreck.entries)), label="read") as progress:
            for entry in wreck.entries:
                entry.rescue(wreck, check)
                progress.update(len(entry))
        wreck.salvaged_tables()  # tells what they lose
        return wreck.result(out)
    shards = []
    with target:
        target.require_space(wreck.file_bytes)
        target.begin(plan.fields)
        with Progress(sum(map(len, wreck.entries)), label=out.name) as progress:
            for k, entry in enumerate(wreck.entries):
                builder = entry.rescue(wreck, check)
                written = builder.write(
                    out, entry.name, order=_ORDER, seed=0, meta=plan.shard_meta(k)
                )
                shards.append(written.without_ordinals())
                progress.update(len(entry))
        finish_pack(out, plan, shards, tables=wreck.salvaged_tables())
    return wreck.result(out)


# What is left of a pack ---------------------------------------------------------------------------


@dataclass
class _Entry:
    """A shard of the damaged pack."""

    file: Path | None  # its .mdb file; None where there is none
    name: str  # its name in the new pack, as in the old one
    stated: dict[str, Any]  # what the manifest says of it; empty where it says nothing
    start: int = 0  # the position of its first record
    # of each record, uint8
    fates: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    # which of the nodes found is the record, int32; -1 where none is
    chosen: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    # of the records that are the pack's, int64; of all where that is not known
    keys: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    digest: str | None = None  # the XXH3-128 of the file as it was read
    meta: dict[str, Any] | None = None  # what the shard says of itself, if that is whole

    def __len__(self) -> int:
        return len(self.fates)

    @property
    def file_bytes(self) -> int:
        return self.file.stat().st_size if self.file else 0

    def lose(self, count: int, fate: Fate) -> None:
        """Give up ``count`` records, all of them."""
        self.fates = np.full(count, fate, np.uint8)
        self.chosen = np.full(count, -1, np.int32)
        self.keys = np.arange(count)

    def judge(self, wreck: _Wreck) -> None:
        """Find every record and decide what becomes of it."""
        stated = min(int(self.stated.get("records", 0)), fmt.MAX_SHARD_RECORDS)
        if self.file is None:
            self.lose(stated, Fate.SHARD_GONE)
            return
        try:
            remains = Remains(self.file, self.stated, wreck.label_maps, wreck.identity_names)
        except (ScanError, OSError) as error:
            wreck.notices.append(f"{self.file.name}: nothing can be read: {error}")
            kv = self.file.with_suffix(".kv")
            lines = kv.stat().st_size // fmt.KV_LINE if kv.is_file() else 0
            self.lose(stated or min(lines, fmt.MAX_SHARD_RECORDS), Fate.SHARD_GONE)
            return
        self.digest, self.meta = remains.digest, remains.meta
        fates, chosen = remains.judge()
        self.keys = self._selected(len(fates), wreck)
        self.fates, self.chosen = fates[self.keys], chosen[self.keys]
        wreck.notices += remains.notices

    def _selected(self, count: int, wreck: _Wreck) -> np.ndarray:
        """The keys of the records that are the pack's, of ``count``, as far as its index tells."""
        if self.file is None or "selection" not in self.stated:
            return np.arange(count)
        try:
            data = read_bytes(self.file.with_suffix(".kv"), None)
            fmt.kv_labels(data, f"{self.name}.kv")  # its form
            keys = np.asarray(selected_keys(data, self.stated, f"{self.name}.kv"), np.int64)
            return keys[keys < count]
        except (OSError, DamageError):
            wreck.notices.append(
                f"{self.name}: which of its records were selected is lost with its index: all are "
                "taken"
            )
            return np.arange(count)

    def rescue(self, wreck: _Wreck, check: ImageCheck) -> ShardBuilder:
        """The records that are kept, and what is to be said of the others."""
        builder = ShardBuilder(check=check)
        reasons: dict[int, str] = {}
        if self.file is not None and (self.chosen >= 0).any():
            remains = Remains(self.file, self.stated, wreck.label_maps, wreck.identity_names)
            for at in np.flatnonzero(self.chosen >= 0).tolist():
                record = remains.record(int(self.keys[at]), int(self.chosen[at]))
                try:
                    builder.add(replace(record, ordinal=self.start + at))
                except (DecodeError, PackError) as error:
                    self.fates[at], self.chosen[at] = Fate.REFUSED, -1
                    reasons[at] = str(error)
            names = remains.identity_names
            builder.identity_names = {k: names[k] for k in set(builder.labels) if k in names}
        for at in np.flatnonzero(self.chosen < 0).tolist():
            entry = {
                "ordinal": self.start + at,
                "file": f"{self.name}.mdb",
                "offset": None,
                "key": f"{self.keys[at]:010d}",
                "reason": reasons.get(at, REASONS[Fate(int(self.fates[at]))]),
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
        except NewerFormatError:
            raise
        except PackError as error:
            manifest = {}
            notices.append(f"the manifest is unusable: {error}")
        shards = sorted(path.glob("*.mdb")) if path.is_dir() else []
        files = {file.stem: file for file in shards if file.is_file()}
        if not files:
            raise PackError(f"{path} holds no shards (*.mdb): there is nothing to salvage")
        names = [shard["name"] for shard in manifest.get("shards", [])]
        if len({*names}) < len(names) or not all(map(_is_name, names)):
            notices.append("the manifest is unusable: its shards have impossible names")
            manifest = {}
        entries = [
            _Entry(file=files.pop(stated["name"], None), name=stated["name"], stated=stated)
            for stated in manifest.get("shards", [])
        ]
        for name, file in files.items():
            if _is_name(name):
                entries.append(_Entry(file=file, name=name, stated={}))
            else:
                notices.append(f"{file.name!r} is not a valid shard name: ignored")
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
                    self.tables[name[:-4]] = parse_npy(data)
                elif name == fmt.LABELS:
                    names = fmt.read_labels_text(data.decode())
                    self.identity_names = {k: text for k, text in enumerate(names) if text}
            except (DamageError, ValueError) as error:
                self.notices.append(f"{name}: {error}")

    def _proven(self, name: str, digest: str) -> bytes | None:
        try:
            data = read_bytes(self.path / name, None)
        except OSError as error:
            self.notices.append(f"{name}: {error.strerror}")
            return None
        if xxhash.xxh3_128_hexdigest(data) != digest:
            if name.endswith(".npy") or name == fmt.LABELS:
                self.notices.append(f"{name} is damaged and was ignored")
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
        owners = defaultdict(list)  # several may hold other records of one shard
        for entry in self.entries:
            if entry.stated:
                owners[entry.stated["pack_id"], entry.stated["own_name"]].append(entry.name)
        unlisted = set()
        for entry in self.entries:
            own = (entry.meta["pack_id"], entry.meta["name"]) if entry.meta else None
            if own is None:
                foreign = bool(self.manifest) and not entry.stated
            else:
                foreign = own[0] not in told or entry.name not in owners.get(own, [entry.name])
            if foreign:
                self.notices.append(f"{entry.name}.mdb is not a shard of this pack: ignored")
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

    @property
    def channels(self) -> str:
        """The order of the colours in the images, by whatever still tells it."""
        plans = (entry.meta["plan"] for entry in self.entries if entry.meta)
        return "bgr" if "bgr" in map(fmt.stored_channels, (self.manifest, *plans)) else "rgb"

    def plan(self, check: ImageCheck) -> PackPlan:
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
        return PackPlan.make(
            kind=kind,
            source={
                "kind": "salvage",
                "pack_id": self.manifest.get("pack_id"),
                "shards": {entry.name: entry.digest for entry in self.entries},
            },
            order=_ORDER,
            check=check,
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
            whole = np.min(pairs[:, :2], axis=1, initial=len(kept)) >= 0
            tables["pairs"] = pairs[whole].astype(tables["pairs"].dtype)
            if not whole.all():
                self.notices.append(
                    f"{np.count_nonzero(~whole)} of {len(whole)} pairs are left out, as images of "
                    "theirs are lost: figures from the rest are not the protocol's"
                )
        return tables

    def result(self, out: Path) -> Salvaged:
        """What is reported, once everything is written."""
        shards: list[dict[str, Any]] = []
        doubtful: list[dict[str, str]] = []
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
            for at in np.flatnonzero((entry.chosen >= 0) & (entry.fates > 0)).tolist():
                reason, key = REASONS[Fate(int(entry.fates[at]))], f"{entry.keys[at]:010d}"
                doubtful.append({"shard": entry.name, "key": key, "reason": reason})
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
