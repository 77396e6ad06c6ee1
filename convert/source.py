"""What a source of images is to a converter."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from facepack.errors import DecodeError, PackError, SourceError
from facepack.progress import Progress
from facepack.shard import SourceRecord

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


class Source(Protocol):
    """A data set in a format of the field, as runs of records.

    ``kind`` is the format, ``content`` is ``train`` or ``pairs``, ``classes`` the width of a head
    if the source states it. ``notices`` are for the user; :meth:`tables` may add to them.
    """

    kind: str
    content: str
    notices: list[str]
    classes: int | None

    def __len__(self) -> int:
        """How many image records there are."""

    def describe(self) -> dict[str, Any]:
        """What the plan says of the source: file name, sizes, hashes of the content; no paths."""

    @property
    def payload_bytes(self) -> int:
        """About how many bytes of images there are."""

    def spans(self, *, records: int, size: int) -> list[Span]:
        """Cut the source into runs of at most so many records and bytes, in source order."""

    def read(self, start: int, stop: int) -> Iterator[SourceRecord | Refusal]:
        """Read the records ``[start, stop)``: each one, or why it cannot be had.

        Raises:
            SourceError: the source itself cannot be read on.
        """

    def refuse(self, record: SourceRecord, reason: str) -> Refusal:
        """The refusal of a record that was read but cannot be packed."""

    def identity_name(self, label: int) -> str | None:
        """The source's name of an identity; None where it has none."""

    def tables(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Tables of an evaluation set, given each record's position in the pack (-1: refused)."""


def deliver(
    source: Source,
    span: Span,
    accept: Callable[[SourceRecord], object],
    *,
    strict: bool,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Hand each record of ``span`` to ``accept``.

    Args:
        source: where the records come from.
        span: which records.
        accept: takes a record, or raises DecodeError or PackError to refuse it. A failure to write
            must be another error.
        strict: stop at the first refusal.
        progress: counts records, refused ones too.

    Returns:
        The refusals, in source order, as lines of ``quarantine.jsonl``.

    Raises:
        SourceError: the source cannot be read on, or a record was refused under ``strict``.
    """
    refused = []
    for count, record in enumerate(source.read(span.start, span.stop), start=1):
        refusal = record if isinstance(record, Refusal) else None
        if not isinstance(record, Refusal):
            try:
                accept(record)
            except (DecodeError, PackError) as error:
                refusal = source.refuse(record, str(error))
        if refusal is not None:
            if strict:
                raise SourceError(f"{refusal} (--strict stops here)")
            refused.append(refusal.as_json())
        if count % _PROGRESS_STEP == 0:
            progress.update(_PROGRESS_STEP)
    progress.update((span.stop - span.start) % _PROGRESS_STEP)
    return refused


def require_file(path: Path) -> None:
    """Make sure that ``path`` is a regular file: opening a pipe would wait for its writer.

    Raises:
        SourceError: it is none, or cannot be looked at.
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


def file_name(path: Path) -> str:
    """The name of ``path`` as text that UTF-8 can hold; bytes that are none become ``\\xff``."""
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")


def shard_stem(name: str) -> str:
    """What the shards of a source of this name are called: safe as a file name everywhere."""
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".-").replace(".part-", "_part-")
    return stem[:_LONGEST_STEM] or "shard"


def cut(stem: str, sizes: np.ndarray, *, records: int, size: int) -> list[Span]:
    """Cut records of these sizes into spans; one record may exceed ``size`` by itself."""
    before = np.concatenate([[0], np.cumsum(sizes)])
    bounds = [0]
    while bounds[-1] < len(sizes):
        start = bounds[-1]
        stop = int(np.searchsorted(before, before[start] + size, side="right")) - 1
        bounds.append(min(max(stop, start + 1), start + records, len(sizes)))
    if len(bounds) == 1:
        bounds.append(0)  # an empty source still makes a shard, which tells of it
    count = len(bounds) - 1
    names = shard_names(stem, count)
    return [Span(name=name, start=bounds[k], stop=bounds[k + 1]) for k, name in enumerate(names)]


def shard_names(stem: str, count: int) -> Sequence[str]:
    """``train`` for one shard, ``train-000 train-001 …`` for several."""
    if count == 1:
        return [stem]
    width = max(3, len(str(count - 1)))
    return [f"{stem}-{k:0{width}d}" for k in range(count)]
