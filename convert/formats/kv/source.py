"""LMDB databases of trainers as a source: F2C's with a kv file, others with labels of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from facepack import images
from facepack.convert.formats.kv.data import DATA, KvData, KvReader
from facepack.convert.formats.kv.index import read_kv
from facepack.convert.formats.kv.keys import Keys, key_name
from facepack.convert.formats.kv.msgpack_value import find_msgpack
from facepack.convert.formats.kv.own_index import read_own_index
from facepack.convert.formats.kv.pairs import KvPair, find_pairs, one_kv_file
from facepack.convert.formats.kv.tree import KvTree
from facepack.convert.formats.kv.value import read_value
from facepack.convert.inputs import require_once, unused_stem
from facepack.convert.source import Entry, Group, PartInRuns, Refusal, Source, shard_stem
from facepack.convert.source_file import file_name
from facepack.errors import DecodeError, SourceError
from facepack.store.format import MAX_LABEL, META, NO_IDENTITY
from facepack.store.record import RecordRun, SourceRecord

_SAMPLE = 64  # records whose content tells two databases apart that have the same keys
_MISSING, _SHARED = -1, -2  # in the place of an offset


@dataclass(eq=False, kw_only=True)
class KvPart(PartInRuns):
    """Records of one database, which follow each other in its kv file or its own list."""

    remedy = "mend the database, or go on without this record"
    data: KvData
    kv: str | None  # the kv file's name, if there is one
    pickled: bool  # whether the values are known to be pickles
    start: int
    keys: Keys
    # (n,) where each value begins in the data file; below 0 where there is none
    offsets: np.ndarray
    sizes: np.ndarray  # (n,) bytes of each
    labels: np.ndarray | None  # (n,) label of each, by the kv file; None: each value has its own
    first_label: int  # what is added to labels of their own
    # the label of a Datum that states none, before that; None: it has none
    unstated: int | None = None

    def __post_init__(self) -> None:
        self.stop = self.start + len(self.keys)

    def _sweep(
        self, rows: np.ndarray, *, once: bool
    ) -> Iterator[RecordRun | SourceRecord | Refusal]:
        """As of the class above.

        Raises:
            SourceError: the database cannot be read on, or is no longer the one that was looked at.
        """
        names = [key_name(key) for key in self.keys]
        there = (self.offsets[rows] >= 0) & (self.sizes[rows] <= images.MAX_BYTES)
        offsets = np.where(there, self.offsets[rows], 0)
        sizes = np.where(there, self.sizes[rows], 0).astype(np.int64)
        with self.data.open() as reader:
            done = 0
            for data, starts in reader.values(offsets, sizes, once=once):
                some = slice(done, done + len(starts))
                stops = starts + sizes[some]
                yield from self._runs(rows[some], names, there[some], data, starts, stops)
                done += len(starts)

    def _runs(
        self,
        rows: np.ndarray,
        names: list[str],
        there: np.ndarray,
        data: memoryview,
        starts: np.ndarray,
        stops: np.ndarray,
    ) -> Iterator[RecordRun | SourceRecord | Refusal]:
        """The records ``rows``, whose values lie in ``data`` where they are ``there``."""
        usual = np.zeros(len(rows), bool)
        if len(data):
            found = find_msgpack(data, starts, stops)
            usual = found.usual & there & (found.labels <= MAX_LABEL - self.first_label)
        for begin, end in pairwise([0, *(np.flatnonzero(np.diff(usual)) + 1).tolist(), len(rows)]):
            if usual[begin]:
                some = slice(begin, end)
                yield RecordRun(
                    ordinals=self.start + rows[some],
                    data=data,
                    starts=found.starts[some],
                    stops=found.stops[some],
                    labels=self._labels(rows[some], found.labels[some]),
                    names=[names[row] for row in rows[some].tolist()],
                    extra={},
                )
                continue
            for k in range(begin, end):
                value = data[int(starts[k]) : int(stops[k])] if there[k] else None
                yield self._record(int(rows[k]), names[int(rows[k])], value)

    def _labels(self, rows: np.ndarray, own: np.ndarray) -> np.ndarray:
        if self.labels is None:
            return own + self.first_label
        return self.labels[rows].astype(np.int64)

    def _record(self, row: int, name: str, value: memoryview | None) -> SourceRecord | Refusal:
        """Any record, by itself: what :meth:`_runs` makes of many usual ones, and more."""
        if value is None:
            return self._refuse(row, name, *self._why_not(row))
        try:
            image, label = read_value(value, pickled=self.pickled, unstated=self.unstated)
        except DecodeError as error:
            return self._refuse(row, name, str(error), error.remedy or self.remedy)
        if self.labels is not None:
            label = int(self.labels[row])
        elif label is None:
            remedy = "pass a kv file with lines of key and label behind the database"
            return self._refuse(row, name, "it has no label of its own", remedy)
        elif label > MAX_LABEL - self.first_label:
            reason = (
                f"its label is {label}, behind the {self.first_label} identities of the databases "
                f"before it; at most {MAX_LABEL} are allowed"
            )
            return self._refuse(row, name, reason, "convert fewer databases at once")
        elif label != NO_IDENTITY:
            label += self.first_label
        return SourceRecord(self.start + row, image, label, name)

    def _why_not(self, row: int) -> tuple[str, str]:
        """Reason and remedy of a record that is not read."""
        offset = int(self.offsets[row])
        if offset == _MISSING:
            remedy = f"correct {self.kv or 'its list of keys'}, or go on without this record"
            return "the database has no such key", remedy
        if offset == _SHARED:
            return "its value runs into another one: the database is damaged", self.remedy
        return (
            f"its value has {int(self.sizes[row]):,} bytes; at most {images.MAX_BYTES:,} are taken",
            "set the environment variable FACEPACK_MAX_IMAGE_BYTES to allow more",
        )

    def entries(self) -> Iterator[Entry]:
        """Label and key of each: by the kv file, or as its value says; -1 where that is broken."""
        names = (key_name(key) for key in self.keys)
        labels = self._own_labels() if self.labels is None else self.labels.tolist()
        yield from map(Entry, labels, names)

    def _own_labels(self) -> Iterator[int]:
        for item in self._sweep(np.arange(len(self.keys)), once=False):
            if isinstance(item, RecordRun):
                yield from item.labels.tolist()
            else:
                yield NO_IDENTITY if isinstance(item, Refusal) else item.label

    def _refuse(self, row: int, name: str | None, reason: str, remedy: str) -> Refusal:
        return Refusal(self.start + row, self.data.name, None, name, reason, remedy)


@dataclass(frozen=True, kw_only=True)
class _Listing:
    """Which records a database has, by its kv file or its own account."""

    keys: Keys  # of the records
    labels: np.ndarray | None  # int32 (n,) by the kv file; None: each value has its own
    told: dict[str, Any]  # what describes it
    pickled: bool = False  # whether the values are known to be pickles
    labelled: bool = True  # whether it is known that there are labels


class KvSource(Source):
    """The records of one or several databases, in the order of their kv files or own lists.

    The label is the kv file's where there is one, whatever the record says; -1 means no identity.
    Raw pixels in a Caffe Datum become a PNG: nothing else is encoded anew.

    Args:
        paths: databases and kv files in pairs, or folders that hold them; see
            :func:`~facepack.convert.formats.kv.pairs.find_pairs`.
        offset_labels: count each database's labels from where the one before it ends, as F2C does;
            otherwise all share their identities.

    Raises:
        SourceError: a kv file is missing, a line malformed, or a database damaged.
    """

    kind = "kv"

    def __init__(self, paths: Sequence[Path], *, offset_labels: bool = True) -> None:
        self.notices: list[str] = []
        self._offset_labels = offset_labels
        self._wholes: dict[str, KvPart] = {}  # of each database all records, by their stem
        self._told: list[dict[str, Any]] = []  # what describes each
        self._identities = 0
        self._stems: set[str] = set()
        pairs = find_pairs(paths)
        require_once(pair.data for pair in pairs)
        for number, pair in enumerate(pairs, start=1):
            self._look(pair, last=number == len(pairs))
        if len(pairs) > 1:  # what one of them states is not of all
            self.classes = None

    def _look(self, pair: KvPair, *, last: bool) -> None:
        """Find the records of a database, behind those of the databases before it."""
        data = KvData.look(pair.data)
        with data.open() as reader:
            tree = reader.tree()
            self._look_over(data, tree)
            if pair.kv:
                listing = self._by_kv(pair.kv, data, tree)
            else:
                listing = self._by_itself(data, tree, reader)
            rows = tree.keys.find(listing.keys)
            found = rows >= 0
            offsets = np.full(len(rows), _MISSING, np.int64)
            sizes = np.zeros(len(rows), np.uint32)
            offsets[found] = np.where(tree.shared, _SHARED, tree.offsets)[rows[found]]
            sizes[found] = tree.sizes[rows[found]]
            part = KvPart(
                data=data,
                kv=file_name(pair.kv) if pair.kv else None,
                pickled=listing.pickled,
                start=len(self),
                keys=listing.keys,
                offsets=offsets,
                sizes=sizes,
                labels=listing.labels,
                first_label=self._identities if self._offset_labels else 0,
            )
            sample, labels = _sample(part, reader)
        labelled = bool(labels - {None})
        if not (listing.labelled or labelled):
            database = _database(data)
            raise SourceError(
                f"{database}: {one_kv_file(database)} (its records hold no labels of their own)"
            )
        if listing.labels is None and labelled and None in labels and not _states_zero(part):
            part.unstated = 0
            self.notices.append(
                f"{data.name}: a Datum without a label has label 0, which no record states: "
                "writers by proto3 leave zeros out"
            )
        if self._offset_labels and listing.labels is None and not last:
            greatest = max((entry.label for entry in part.entries()), default=NO_IDENTITY)
            self._identities = max(self._identities, greatest + 1)
        told = {
            "lmdb": data.name,
            "bytes": data.size,
            "entries": len(tree),
            **listing.told,
            **({} if part.unstated is None else {"unstated_label": part.unstated}),
            "sample_xxh3_128": sample,
        }
        own = data.name.removesuffix(".lmdb").removesuffix(".mdb")
        name = pair.kv.stem.removesuffix("_kv") if pair.kv else own
        self._wholes[unused_stem(shard_stem(name), self._stems)] = part
        self._told.append(told)

    def _look_over(self, data: KvData, tree: KvTree) -> None:
        if tree.faults and not len(tree):
            raise SourceError(
                f"{data.path}: no record can be found ({tree.fault}): `python -m lmdb verify` "
                "tells what is wrong with the file; copy it again"
            )
        if tree.faults:
            self.notices.append(
                f"{data.name}: {tree.faults:,} of its pages and records are damaged and were "
                f"passed over, the first: {tree.fault}"
            )
        if tree.named:
            self.notices.append(f"{data.name}: named databases in it ({tree.named}) are not read")
        if tree.keys.row_of(META) is not None:
            raise SourceError(
                f"{_database(data)}: is a shard of a pack: convert the pack's folder with an "
                "lmdb2… command"
            )

    def _by_kv(self, kv: Path, data: KvData, tree: KvTree) -> _Listing:
        index = read_kv(kv)
        if not len(index):
            raise SourceError(f"{kv}: has no lines; leave this pair out")
        if self._offset_labels:
            self._identities = _offset(index.labels, self._identities, kv)
        name = file_name(kv)
        if len(tree) > len(index):  # there are records that no line can name
            self.notices.append(
                f"{name} has {len(index):,} lines for the {len(tree):,} records of {data.name}: "
                "those without a line were passed over"
            )
        told = {
            "kv": name,
            "kv_bytes": index.size,
            "lines": len(index),
            "kv_xxh3_128": index.digest,
        }
        keys = Keys(key_bytes=index.key_bytes, key_ends=index.key_ends)
        return _Listing(keys=keys, labels=index.labels, told=told)

    def _by_itself(self, data: KvData, tree: KvTree, reader: KvReader) -> _Listing:
        own = read_own_index(
            str(_database(data)),
            tree,
            lambda row: reader.value(int(tree.offsets[row]), int(tree.sizes[row])),
        )
        if not len(own.keys):
            raise SourceError(f"{_database(data)}: lists no records; leave it out")
        self.notices += own.notices
        self.classes = own.classes
        told = {"records": len(own.keys), "keys_xxh3_128": own.keys.checksum()}
        return _Listing(
            keys=own.keys, labels=None, told=told, pickled=own.pickled, labelled=own.listed
        )

    def __len__(self) -> int:
        return sum(len(whole.keys) for whole in self._wholes.values())

    def describe(self) -> dict[str, Any]:
        """Names, sizes and counts of all files, hashes of all keys or kv texts and of a sample."""
        return {
            "kind": self.kind,
            "images": len(self),
            "offset_labels": self._offset_labels,
            "sets": self._told,
        }

    def groups(self) -> list[Group]:
        """One for each database, called like its kv file, or like itself."""
        return [Group(stem, whole.start, whole.stop) for stem, whole in self._wholes.items()]

    def sizes(self) -> np.ndarray:
        """Bytes of each value."""
        return self._sizes

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.concatenate([whole.sizes for whole in self._wholes.values()])

    def part(self, start: int, stop: int) -> KvPart:
        """The records ``[start, stop)``, which lie in one database."""
        whole = next(whole for whole in self._wholes.values() if start < whole.stop)
        rows = slice(start - whole.start, stop - whole.start)
        return replace(
            whole,
            start=start,
            keys=whole.keys.keys(rows.start, rows.stop),
            offsets=whole.offsets[rows],
            sizes=whole.sizes[rows],
            labels=None if whole.labels is None else whole.labels[rows],
        )


def _sample(part: KvPart, reader: KvReader) -> tuple[str, set[int | None]]:
    """XXH3-128 of values spread evenly over ``part``, and their own labels; None for none."""
    count = len(part.keys)
    digest = xxhash.xxh3_128()
    labels: set[int | None] = set()
    for row in np.linspace(0, count - 1, min(_SAMPLE, count)).astype(int).tolist():
        offset, size = int(part.offsets[row]), int(part.sizes[row])
        readable = offset >= 0 and size <= images.MAX_BYTES
        value = reader.value(offset, size) if readable else b""
        digest.update(xxhash.xxh3_128_digest(value))
        try:
            labels.add(read_value(memoryview(value), pickled=part.pickled).label)
        except DecodeError:
            continue
    return digest.hexdigest(), labels


def _states_zero(part: KvPart) -> bool:
    """Whether a record states label 0, as writers by proto2 do, Caffe among them.

    All is read if none does, so that only databases are asked that seem to miss labels.
    """
    return any(entry.label == part.first_label for entry in part.entries())


def _database(data: KvData) -> Path:
    """The database as a user calls it: the folder of a ``data.mdb``."""
    return data.path.parent if data.path.name == DATA else data.path


def _offset(labels: np.ndarray, identities: int, kv: Path) -> int:
    """Count labels from ``identities`` up, in place; returns the number behind the last."""
    greatest = int(labels.max(initial=-1))
    if identities + greatest > MAX_LABEL:
        raise SourceError(
            f"{kv}: behind the {identities} identities of the pairs before it, labels reach "
            f"{identities + greatest}; at most {MAX_LABEL} are allowed: convert fewer pairs at once"
        )
    labels[labels >= 0] += identities
    return identities + greatest + 1
