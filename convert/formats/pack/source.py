"""A pack as a source."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facepack import images
from facepack.convert.formats.pack.shard import PackShard, StatedShard
from facepack.convert.formats.pack.tables import is_known, move_tables
from facepack.convert.source import Entry, Group, PartInRuns, RecordNames, Refusal, Source
from facepack.errors import DamageError
from facepack.reading import parse_npy
from facepack.store import format as fmt
from facepack.store.pack import open as open_pack
from facepack.store.pack_files import read_stated_file
from facepack.store.record import RecordRun, SourceRecord

_VERIFY = "look closer with facepack verify, and copy the pack again or convert anew"
_ALLOW = "set the environment variable FACEPACK_MAX_IMAGE_BYTES to take it"
_TOGETHER = 1024  # records that are looked at together
_NUMBERED = re.compile(r"(.+)-(\d{3,})")


class _Run(NamedTuple):
    """Records ``[start, stop)`` of a shard, counted in source order."""

    stated: StatedShard
    start: int
    stop: int


class PackPart(PartInRuns):
    """Records of a pack that followed each other in its source, and the ``runs`` they lie in."""

    remedy = "choose other checks, or leave it out"

    def __init__(self, folder: Path, start: int, runs: Sequence[_Run]) -> None:
        self._folder = folder
        self._runs = runs
        self._bounds = list(accumulate((run.stop - run.start for run in runs), initial=start))
        self.start, self.stop = start, self._bounds[-1]
        self._keys: dict[int, np.ndarray] = {}  # by run, as shards are opened

    def _sweep(
        self, rows: np.ndarray, *, once: bool
    ) -> Iterator[RecordRun | SourceRecord | Refusal]:
        """Read these records; one that is not what was packed is refused.

        Images are views into the mapped shard.

        Raises:
            SourceError: a shard is missing or another one.
            DamageError: a shard's own account of itself is damaged.
        """
        cuts = np.searchsorted(rows, np.asarray(self._bounds) - self.start).tolist()
        for k, (first, last) in enumerate(pairwise(cuts)):
            if first < last:
                yield from self._read(k, self.start + rows[first:last])

    def _read(self, k: int, ordinals: np.ndarray) -> Iterator[RecordRun | SourceRecord | Refusal]:
        shard, keys = self._open(k)
        keys = keys[ordinals - self._bounds[k]]
        data, offsets, sizes = shard.images()
        for begin in range(0, len(keys), _TOGETHER):
            some = keys[begin : begin + _TOGETHER]
            fits = (sizes[some] >= 0) & (sizes[some] <= images.MAX_BYTES)
            starts = offsets[some]
            stops = starts + np.where(fits, sizes[some], 0)
            sound = fits & (_checksums(data, some, starts, stops) == shard.checksums[some])
            bounds = [0, *(np.flatnonzero(np.diff(sound)) + 1).tolist(), len(some)]
            for first, last in pairwise(bounds):
                here = slice(begin + first, begin + last)
                if sound[first]:
                    yield from _records(
                        shard,
                        keys[here],
                        ordinals[here],
                        data,
                        starts[first:last],
                        stops[first:last],
                    )
                    continue
                for ordinal, size in zip(
                    ordinals[here].tolist(), sizes[keys[here]].tolist(), strict=True
                ):
                    yield self._refuse(ordinal - self.start, None, *_fault(size))

    def entries(self) -> Iterator[Entry]:
        """Label and name of each record, from the columns of its shard."""
        for k in range(len(self._runs)):
            shard, keys = self._open(k)
            names = shard.names
            chosen = (names[key] for key in keys.tolist()) if names else repeat(None)
            for label, name in zip(shard.labels[keys].tolist(), chosen, strict=False):
                yield Entry(label, name)

    def record_names(self) -> RecordNames:
        """From the columns of the shards."""
        labels, numbers = [], []
        names: list[str | None] = []
        for k, first in enumerate(self._bounds[:-1]):
            shard, keys = self._open(k)
            known, column = shard.names, shard.columns.get("key")
            labels.append(shard.labels[keys])
            names += [known[key] for key in keys.tolist()] if known else [None] * len(keys)
            ordinals = np.arange(first, self._bounds[k + 1])
            if column is not None:  # NaN stands for missing
                ordinals = np.where(np.isnan(column[keys]), ordinals, column[keys]).astype(np.int64)
            numbers.append(ordinals)
        return RecordNames(np.concatenate(labels), names, np.concatenate(numbers))

    def identity_names(self) -> dict[int, str]:
        """The names of the identities in these shards."""
        named: dict[int, str] = {}
        for run in self._runs:
            named |= PackShard(self._folder, run.stated).identity_names()
        return named

    def _refuse(self, row: int, name: str | None, reason: str, remedy: str) -> Refusal:
        ordinal = self.start + row
        k = bisect_right(self._bounds, ordinal) - 1
        keys = self._keys[k] if k in self._keys else self._open(k)[1]
        shard = self._runs[k].stated.name
        key = f"{shard}/{keys[ordinal - self._bounds[k]]:010d}"
        return Refusal(ordinal, f"{shard}.mdb", None, key, reason, remedy)

    def _open(self, k: int) -> tuple[PackShard, np.ndarray]:
        """A shard, and the keys of the records of this part in source order."""
        run = self._runs[k]
        shard = PackShard(self._folder, run.stated)
        if k not in self._keys:
            self._keys[k] = shard.keys_in_source_order()[run.start : run.stop]
        return shard, self._keys[k]


class PackSource(Source):
    """The records of a pack, shard by shard, each in the order of the source it was made of.

    Args:
        path: the pack's folder; or ``PACK:SET``, which is a shard set of it.
        shards: names or patterns of shards, or the name of a shard set; None reads all.

    Raises:
        PackError: no finished pack is there, or not those shards.
        DamageError: a file is missing or has not the size that the manifest states.
    """

    kind = "lmdb"
    parallel = True

    def __init__(self, path: Path, *, shards: str | Sequence[str] | None = None) -> None:
        with open_pack(path, shards=shards) as pack:
            self._folder, self._manifest, self._content_id = (
                pack.path,
                pack.manifest,
                pack.content_id,
            )
        self._entries = self._manifest["shards"]
        self._bounds = list(accumulate((e["records"] for e in self._entries), initial=0))
        self.content: str = self._manifest["kind"]
        self.classes: int | None = self._manifest["classes"]
        self.channels = fmt.stored_channels(self._manifest)
        self.notices: list[str] = []
        tables = fmt.table_names(self._manifest["files"])
        self.table_names = tuple(filter(is_known, tables))
        for name in sorted({*tables} - {*self.table_names}):
            self.notices.append(
                f"{name}.npy is left out: whether it speaks of positions is not known"
            )

    def __len__(self) -> int:
        return self._bounds[-1]

    def describe(self) -> dict[str, Any]:
        """The pack's content id, how many images, and how many shards."""
        return {
            "kind": self.kind,
            "content_id": self._content_id,
            "images": len(self),
            "shards": len(self._entries),
        }

    def groups(self) -> list[Group]:
        """The files that the pack was made of: shards cut from one are one group again."""
        groups = []
        k = 0
        for run in self.runs():
            stem = run[0]["name"]
            if len(run) > 1:
                stem = stem.rpartition("-")[0]
            groups.append(Group(stem, self._bounds[k], self._bounds[k + len(run)]))
            k += len(run)
        return groups

    def runs(self) -> list[list[dict[str, Any]]]:
        """The manifest's entries of the shards of each group."""
        names = {entry["name"] for entry in self._entries}
        runs = []
        k = 0
        while k < len(self._entries):
            stem, count = self._run(k)
            if count == 1 or stem in names:
                count = 1
            runs.append(self._entries[k : k + count])
            k += count
        return runs

    def _run(self, k: int) -> tuple[str, int]:
        """Stem and count of the shards ``stem-000 stem-001 …`` of one pack that begin at ``k``."""
        first = self._entries[k]
        stem = first["name"].rpartition("-")[0]
        count = 0
        for entry in self._entries[k:]:
            match = _NUMBERED.fullmatch(entry["name"])
            if not match or (match[1], int(match[2])) != (stem, count):
                break
            if (entry["pack_id"], entry["shard"] - count) != (first["pack_id"], first["shard"]):
                break
            count += 1
        return stem, max(count, 1)

    def sizes(self) -> np.ndarray:
        """For each record the mean of its shard, as what a shard states; uint32 (n,).

        The sums over whole shards are exact. Exact sizes would cost a look at every page.
        """
        sizes = np.empty(len(self), np.uint32)
        for k, entry in enumerate(self._entries):
            mean, rest = divmod(entry["payload_bytes"], max(entry["records"], 1))
            sizes[self._bounds[k] : self._bounds[k + 1]] = mean
            sizes[self._bounds[k] : self._bounds[k] + rest] += 1
        return sizes

    def part(self, start: int, stop: int) -> PackPart:
        """The records ``[start, stop)``."""
        runs = []
        k = bisect_right(self._bounds, start) - 1
        while k < len(self._entries) and self._bounds[k] < stop:
            low, high = max(start, self._bounds[k]), min(stop, self._bounds[k + 1])
            if low < high:
                stated = StatedShard.of(self._entries[k])
                runs.append(_Run(stated, low - self._bounds[k], high - self._bounds[k]))
            k += 1
        return PackPart(self._folder, start, runs)

    def tables(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """The pack's tables, made to say the same of the new positions.

        Raises:
            SourceError: a table is not what its name stands for.
        """
        moved = np.full(len(self), -1, np.int64)  # by position in this pack
        for k, entry in enumerate(self._entries):
            keys = PackShard(self._folder, StatedShard.of(entry)).keys_in_source_order()
            moved[self._bounds[k] + keys] = positions[self._bounds[k] : self._bounds[k + 1]]
        tables = {name: self._table(name) for name in self.table_names}
        tables, notices = move_tables(tables, moved)
        self.notices += notices
        return tables

    def _table(self, name: str) -> np.ndarray:
        file = f"{name}.npy"
        try:
            return parse_npy(read_stated_file(self._folder, self._manifest, file))
        except ValueError as error:
            raise DamageError(f"{self._folder / file}: {error}; {_VERIFY}") from error


def _checksums(
    data: memoryview, keys: np.ndarray, starts: np.ndarray, stops: np.ndarray
) -> np.ndarray:
    """Of the records ``keys`` (n,), whose images lie at these bytes: uint64 (n,)."""
    bounds = zip(starts.tolist(), stops.tolist(), strict=True)
    values = (data[start:stop] for start, stop in bounds)
    found = fmt.record_checksums(map(fmt.record_key, keys.tolist()), values)
    return np.fromiter(found, np.uint64, len(keys))


def _records(
    shard: PackShard,
    keys: np.ndarray,
    ordinals: np.ndarray,
    data: memoryview,
    starts: np.ndarray,
    stops: np.ndarray,
) -> Iterator[RecordRun | SourceRecord]:
    """Sound records: together, unless some lack a number that others have, or have a fraction."""
    extra = {name: column[keys] for name, column in shard.columns.items()}
    run = RecordRun(
        ordinals=ordinals,
        data=data,
        starts=starts,
        stops=stops,
        labels=shard.labels[keys],
        names=shard.names and [shard.names[key] for key in keys.tolist()],
        extra=extra,
    )
    if all(column.dtype.kind in "iu" for column in extra.values()):
        yield run
        return
    for record, numbers in zip(run.records(), _extras(shard.columns, keys), strict=False):
        record.extra = numbers
        yield record


def _fault(size: int) -> tuple[str, str]:
    """What is wrong with an image of so many bytes, -1 where there is none; and what to do."""
    if size < 0:
        return "it is missing", _VERIFY
    if size > images.MAX_BYTES:
        return f"{size:,} bytes; at most {images.MAX_BYTES:,} are taken", _ALLOW
    return "it differs from what was packed", _VERIFY


def _extras(columns: Mapping[str, np.ndarray], keys: np.ndarray) -> Iterator[dict[str, Any] | None]:
    """What the columns say of the records ``keys``, one by one; NaN stands for missing."""
    if not columns:
        return repeat(None)
    chosen = [column[keys] for column in columns.values()]
    rows = zip(*(values.tolist() for values in chosen), strict=True)
    if not any(np.isnan(values).any() for values in chosen):
        return (dict(zip(columns, row, strict=True)) for row in rows)
    return (
        {name: value for name, value in zip(columns, row, strict=True) if value == value}
        for row in rows
    )
