"""What a source of images is to a converter."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from facepack.store.format import NO_IDENTITY
from facepack.store.record import RecordRun, SourceRecord

_LONGEST_STEM = 100


@dataclass(frozen=True, slots=True)
class Refusal:
    """A source record that cannot be packed: where it is, why, and what to do."""

    ordinal: int  #: its number in the source, from 0
    file: str  #: the source file's name
    offset: int | None  #: its byte in the file, where it has one
    key: str | None  #: its key or name in the source
    reason: str  #: what is wrong
    remedy: str  #: what the user can do

    def as_json(self) -> dict[str, Any]:
        """The line of ``quarantine.jsonl``."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __str__(self) -> str:
        where = "" if self.offset is None else f" at byte {self.offset}"
        key = "" if self.key is None else f" (key {self.key})"
        return f"{self.file}: record {self.ordinal}{where}{key}: {self.reason}; {self.remedy}"


class Group(NamedTuple):
    """A run of source records that shares no shard with others: those of one file of many."""

    stem: str
    start: int
    stop: int


class Entry(NamedTuple):
    """What can be said of a record without its image: label (-1: none) and the source's name."""

    label: int
    name: str | None


class RecordNames(NamedTuple):
    """What the records of a part are called, as columns."""

    labels: np.ndarray  #: int64 (n,), -1 for none
    names: Sequence[str | None] | None  #: the source's; None where it has none at all
    numbers: np.ndarray  #: int64 (n,), those of the source, or else ordinals


class Part(ABC):
    """The records ``[start, stop)`` of a source, as a worker process needs them to read them.

    A part pickles small: it knows its own records and not the whole source.
    """

    waits_for_disk: ClassVar[bool] = False  #: whether reading it is hardly any work besides
    start: int  #: ordinal of the first
    stop: int  #: ordinal behind the last

    @abstractmethod
    def read(self, keep: np.ndarray | None = None) -> Iterator[SourceRecord | Refusal]:
        """Read each record, in order: it, or why it cannot be had.

        Of ``keep``, bool (stop - start,), records that are False are passed over.

        Raises:
            SourceError: the source itself cannot be read on.
        """

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Label and name of each record, in order, one for each; images are not looked at.

        Raises:
            SourceError: the source itself cannot be read on.
        """

    def record_names(self) -> RecordNames | None:
        """What the records are called, refused ones among them; None where it must be read.

        Raises:
            SourceError: the source itself cannot be read on.
        """
        return None

    @abstractmethod
    def refuse(self, record: SourceRecord, reason: str) -> Refusal:
        """The refusal of a record that was read but cannot be packed."""

    def identity_names(self) -> Mapping[int, str]:
        """Names of identities by label, if the source has any: at least those of this part."""
        return {}


class OwnPart(Part):
    """A part that looks nothing up in another: it refuses its records itself."""

    remedy: ClassVar[str]  #: what the user can do where a record that was read cannot be packed

    @abstractmethod
    def _refuse(self, row: int, name: str | None, reason: str, remedy: str) -> Refusal:
        """The refusal of the record ``row`` of this part; its name is given where it is known."""

    def refuse(self, record: SourceRecord, reason: str) -> Refusal:
        """The refusal of a record that was read but cannot be packed."""
        return self._refuse(record.ordinal - self.start, record.name, reason, self.remedy)


class PartInRuns(OwnPart):
    """A part that is read in one sweep, usual records that follow each other together."""

    @abstractmethod
    def _sweep(
        self, rows: np.ndarray, *, once: bool
    ) -> Iterator[RecordRun | SourceRecord | Refusal]:
        """Read the records ``rows`` of this part, int64 and increasing; ``once`` and for all."""

    def read(self, keep: np.ndarray | None = None) -> Iterator[SourceRecord | Refusal]:
        """Read the records in one sweep.

        A record that is broken in itself is refused, and the sweep goes on behind it.

        Raises:
            SourceError: the file cannot be read on, or is no longer the one that was looked at.
        """
        rows = np.arange(self.stop - self.start) if keep is None else np.flatnonzero(keep)
        for item in self._sweep(rows, once=False):
            if isinstance(item, RecordRun):
                yield from item.records()
            else:
                yield item

    def read_runs(self) -> Iterator[RecordRun | SourceRecord | Refusal]:
        """What :meth:`read` gives, in the same order, some of it together."""
        return self._sweep(np.arange(self.stop - self.start), once=True)


class Source(ABC):
    """A data set in a format of the field, as runs of records.

    A training set of one group, which several processes may read, need say no more of itself than
    its name, what it holds, and how to read a part.
    """

    kind: str  #: the format's name, as in the command
    name: str  #: what the shards of its one group are called, as shard_stem() makes it safe
    #: train (images with labels), pairs (a verification set), templates (IJB) or megaface
    content: str = "train"
    classes: int | None = None  #: the width of a head, if the source states it
    channels: str = "rgb"  #: the order of the colours in its images, as far as it knows: rgb or bgr
    notices: list[str]  #: for the user; tables() may add to them
    #: whether several processes may read parts at once; else parts are read one after the other, in
    #: order, in this process
    parallel: bool = True
    table_names: tuple[str, ...] = ()  #: the tables that tables() gives

    @abstractmethod
    def __len__(self) -> int:
        """How many image records there are."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What the plan says of the source: file name, sizes, hashes of the content; no paths."""

    def groups(self) -> list[Group]:
        """The runs of records that share no shard, in order; they cover the source."""
        return [Group(shard_stem(self.name), 0, len(self))]

    @abstractmethod
    def sizes(self) -> np.ndarray:
        """About how many bytes each record's image has: unsigned integers (n,)."""

    @abstractmethod
    def part(self, start: int, stop: int) -> Part:
        """The records ``[start, stop)``, which lie in one group."""

    def tables(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Tables of an evaluation set, given each record's position in the pack (-1: refused)."""
        return {}


class SourceView(Source):
    """Another source, seen through: what a view does not say otherwise is what that one says."""

    def __init__(self, inner: Source) -> None:
        self.inner = inner
        self.kind, self.content, self.classes = inner.kind, inner.content, inner.classes
        self.parallel, self.table_names = inner.parallel, inner.table_names
        self.channels, self.notices = inner.channels, inner.notices

    def __len__(self) -> int:
        return len(self.inner)

    def describe(self) -> dict[str, Any]:
        """The other's."""
        return self.inner.describe()

    def groups(self) -> list[Group]:
        """The other's."""
        return self.inner.groups()

    def sizes(self) -> np.ndarray:
        """The other's."""
        return self.inner.sizes()

    def part(self, start: int, stop: int) -> Part:
        """The other's."""
        return self.inner.part(start, stop)

    def tables(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """The other's."""
        return self.inner.tables(positions)


class PartView(Part):
    """Records of another part, all or some, under ordinals and labels of their own.

    Args:
        start: the ordinal of the first record here.
        kept: which of its records these are, ascending, counted from its first.
        labels: the new labels of identities; there is none for -1, which stays.
        other: the new label of an identity that ``labels`` does not have.
    """

    def __init__(
        self,
        inner: Part,
        start: int,
        kept: range | np.ndarray,
        labels: Mapping[int, int],
        other: Callable[[int], int] = int,
    ) -> None:
        self.start, self.stop = start, start + len(kept)
        self._inner, self._kept = inner, kept
        self._labels, self._other = labels, other

    def _label(self, label: int) -> int:
        if label == NO_IDENTITY:
            return label
        known = self._labels.get(label)
        return self._other(label) if known is None else known

    def read(self, keep: np.ndarray | None = None) -> Iterator[SourceRecord | Refusal]:
        """Read the records, in order."""
        rows = np.arange(len(self._kept)) if keep is None else np.flatnonzero(keep)
        inner = np.zeros(self._inner.stop - self._inner.start, bool)
        inner[np.asarray(self._kept)[rows]] = True
        for row, record in zip(rows.tolist(), self._inner.read(inner), strict=True):
            if isinstance(record, Refusal):
                yield replace(record, ordinal=self.start + row)
            else:
                record.ordinal = self.start + row
                record.label = self._label(record.label)
                yield record

    def entries(self) -> Iterator[Entry]:
        """New label and name of each."""
        entries = list(self._inner.entries())
        for row in self._kept:
            yield entries[row]._replace(label=self._label(entries[row].label))

    def record_names(self) -> RecordNames | None:
        """Those of the other part, under new labels."""
        inner = self._inner.record_names()
        if inner is None:
            return None
        kept, names = np.asarray(self._kept), inner.names
        labels = [self._label(label) for label in inner.labels[kept].tolist()]
        return RecordNames(
            np.array(labels, np.int64),
            None if names is None else [names[row] for row in kept.tolist()],
            inner.numbers[kept],
        )

    def refuse(self, record: SourceRecord, reason: str) -> Refusal:
        """The refusal of a record; its key and offset are those in the source."""
        row = record.ordinal - self.start
        record.ordinal = self._inner.start + int(self._kept[row])
        return replace(self._inner.refuse(record, reason), ordinal=self.start + row)

    def identity_names(self) -> dict[int, str]:
        """Names under the new labels."""
        names = self._inner.identity_names()
        return {new: names[old] for old, new in self._labels.items() if old in names}


def shard_stem(name: str) -> str:
    """What the shards of a source of this name are called: safe as a file name everywhere."""
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".-").replace(".part-", "_part-")
    return stem[:_LONGEST_STEM] or "shard"
