"""What a source of images is to a converter."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from facepack import lfs
from facepack.errors import (
    DecodeError,
    FacepackError,
    PackError,
    SourceError,
)
from facepack.progress import Progress
from facepack.store.record import RecordRun, SourceRecord

_LONGEST_STEM = 100
_PROGRESS_STEP = 256  # records between two looks at the clock


@dataclass(frozen=True, slots=True)
class Refusal:
    """A source record that cannot be packed: where it is, why, and what to do.

    Attributes:
        ordinal: its place in the source, from 0.
        file: the source file's name.
        offset: its byte in the file, where it has one.
        key: its key or name in the source.
        reason: what is wrong.
        remedy: what the user can do.
    """

    ordinal: int
    file: str
    offset: int | None
    key: str | None
    reason: str
    remedy: str

    def as_json(self) -> dict[str, Any]:
        """The line of ``quarantine.jsonl``."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __str__(self) -> str:
        place = "" if self.offset is None else f" at byte {self.offset}"
        key = "" if self.key is None else f" (key {self.key})"
        return f"{self.file}: record {self.ordinal}{place}{key}: {self.reason}; {self.remedy}"


@dataclass(frozen=True, kw_only=True)
class Span:
    """A run of source records ``[start, stop)`` that makes one shard."""

    name: str
    start: int
    stop: int


class Group(NamedTuple):
    """A run of source records that shares no shard with others: those of one file of many."""

    stem: str
    start: int
    stop: int


class Entry(NamedTuple):
    """What can be said of a record without its image: label (-1: none) and the source's name."""

    label: int
    name: str | None


class Part(Protocol):
    """The records ``[start, stop)`` of a source, as a worker process needs them to read them.

    A part pickles small: it knows its own records and not the whole source.
    """

    start: int
    stop: int

    def read(self, keep: np.ndarray | None = None) -> Iterator[SourceRecord | Refusal]:
        """Read each record, in order: it, or why it cannot be had.

        Args:
            keep: bool (stop - start,); records that are False are passed over.

        Raises:
            SourceError: the source itself cannot be read on.
        """

    def entries(self) -> Iterator[Entry]:
        """Label and name of each record, in order, one for each; images are not looked at.

        Raises:
            SourceError: the source itself cannot be read on.
        """

    def refuse(self, record: SourceRecord, reason: str) -> Refusal:
        """The refusal of a record that was read but cannot be packed."""

    def identity_names(self) -> Mapping[int, str]:
        """The source's names of identities, by label: at least those of this part."""


@runtime_checkable
class PartInRuns(Protocol):
    """A part that can also be read many records at a time."""

    def read_runs(self) -> Iterator[RecordRun | SourceRecord | Refusal]:
        """What :meth:`Part.read` gives, in the same order, some of it together."""


class Source(Protocol):
    """A data set in a format of the field, as runs of records.

    Attributes:
        kind: the format's name, as in the command.
        content: ``train`` (images with labels), ``pairs`` (a verification set), ``templates``
            (IJB) or ``megaface``.
        classes: the width of a head, if the source states it.
        notices: for the user; :meth:`tables` may add to them.
        parallel: whether several processes may read parts at once; else parts are read one after
            the other, in order, in this process.
        table_names: the tables that :meth:`tables` gives.
    """

    kind: str
    content: str
    classes: int | None
    notices: list[str]
    parallel: bool
    table_names: tuple[str, ...]

    def __len__(self) -> int:
        """How many image records there are."""

    def describe(self) -> dict[str, Any]:
        """What the plan says of the source: file name, sizes, hashes of the content; no paths."""

    def groups(self) -> list[Group]:
        """The runs of records that share no shard, in order; they cover the source."""

    def sizes(self) -> np.ndarray:
        """About how many bytes each record's image has: unsigned integers (n,)."""

    def part(self, start: int, stop: int) -> Part:
        """The records ``[start, stop)``, which lie in one group."""

    def tables(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Tables of an evaluation set, given each record's position in the pack (-1: refused)."""


def payload_bytes(source: Source) -> int:
    """About how many bytes of images there are."""
    return int(source.sizes().sum(dtype=np.int64))


def cut_spans(source: Source, *, records: int, size: int) -> list[Span]:
    """Cut every group into spans of at most so many records and bytes, in source order.

    Raises:
        SourceError: two groups have the same name.
    """
    sizes = source.sizes()
    spans: list[Span] = []
    for stem, start, stop in source.groups():
        spans += cut(stem, sizes[start:stop], records=records, size=size, first=start)
    names = Counter(span.name for span in spans)
    name, count = max(names.items(), key=itemgetter(1))
    if count > 1:
        raise SourceError(f"{count} files would make shards called {name!r}: rename one of them")
    return spans


def deliver(
    part: Part,
    accept: Callable[[SourceRecord], object],
    *,
    strict: bool,
    progress: Progress | None = None,
    accept_run: Callable[[RecordRun], Iterator[SourceRecord]] | None = None,
) -> list[dict[str, Any]]:
    """Hand each record of ``part`` to ``accept``.

    Args:
        part: the records.
        accept: takes a record, or raises DecodeError or PackError to refuse it. A failure to write
            must be another error.
        strict: stop at the first refusal.
        progress: counts records, refused ones too; in a worker process there is none.
        accept_run: takes records many at a time, and yields those that ``accept`` must take.

    Returns:
        The refusals, in source order, as lines of ``quarantine.jsonl``.

    Raises:
        SourceError: the source cannot be read on, or a record was refused under ``strict``.
    """
    refused = []
    records = part.read() if accept_run is None else _one_by_one(part, accept_run)
    for count, record in enumerate(records, start=1):
        refusal = record if isinstance(record, Refusal) else None
        if not isinstance(record, Refusal):
            try:
                accept(record)
            except (DecodeError, PackError) as error:
                refusal = refuse(part, record, error)
        if refusal is not None:
            if strict:
                raise SourceError(f"{refusal} (--strict stops here)")
            refused.append(refusal.as_json())
        if progress is not None and count % _PROGRESS_STEP == 0:
            progress.update(_PROGRESS_STEP)
    if progress is not None:
        progress.update((part.stop - part.start) % _PROGRESS_STEP)
    return refused


def refuse(part: Part, record: SourceRecord, error: FacepackError) -> Refusal:
    """The refusal of a record of ``part`` because of ``error``."""
    refusal = part.refuse(record, str(error))
    if isinstance(error, DecodeError) and error.remedy:  # to fetch it again would not help
        return replace(refusal, remedy=error.remedy)
    return refusal


def _one_by_one(
    part: Part, accept_run: Callable[[RecordRun], Iterator[SourceRecord]]
) -> Iterator[SourceRecord | Refusal]:
    """What is left of ``part`` when ``accept_run`` has had all runs of records."""
    for item in part.read_runs() if isinstance(part, PartInRuns) else part.read():
        if isinstance(item, RecordRun):
            yield from accept_run(item)
        else:
            yield item


def require_file(path: Path) -> None:
    """Make sure that ``path`` is a regular file: opening a pipe would wait for its writer.

    Raises:
        SourceError: it is none, cannot be looked at, or is a pointer of Git LFS.
    """
    try:
        path.stat()
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be read: {error.strerror}; check the name and its permissions"
        ) from error
    if not path.is_file():
        raise SourceError(
            f"{path}: is no regular file (but a folder, pipe, socket or device); copy the data "
            "into a file and pass that"
        )
    lfs.require_content(path, SourceError)


def file_name(path: Path) -> str:
    """The name of ``path`` as text that UTF-8 can hold; bytes that are none become ``\\xff``."""
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")


def shard_stem(name: str) -> str:
    """What the shards of a source of this name are called: safe as a file name everywhere."""
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".-").replace(".part-", "_part-")
    return stem[:_LONGEST_STEM] or "shard"


def cut(stem: str, sizes: np.ndarray, *, records: int, size: int, first: int = 0) -> list[Span]:
    """Cut records of these sizes into spans; one record may exceed ``size`` by itself.

    Args:
        stem: what the spans are called.
        sizes: bytes of each record.
        records: a span's greatest number of records.
        size: a span's greatest sum of bytes.
        first: the ordinal of the first record.
    """
    before = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    bounds = [0]
    while bounds[-1] < len(sizes):
        start = bounds[-1]
        stop = int(np.searchsorted(before, before[start] + size, side="right")) - 1
        bounds.append(min(max(stop, start + 1), start + records, len(sizes)))
    if len(bounds) == 1:
        bounds.append(0)  # an empty source still makes a shard, which tells of it
    names = shard_names(stem, len(bounds) - 1)
    return [
        Span(name=name, start=first + bounds[k], stop=first + bounds[k + 1])
        for k, name in enumerate(names)
    ]


def shard_names(stem: str, count: int) -> Sequence[str]:
    """``train`` for one shard, ``train-000 train-001 …`` for several."""
    if count == 1:
        return [stem]
    width = max(3, len(str(count - 1)))
    return [f"{stem}-{k:0{width}d}" for k in range(count)]
