"""What a source of images is to a converter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from facepack.shard import SourceRecord


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

    A source is picklable, so that a worker process can read its own run. ``kind`` is the format,
    ``content`` is ``train`` or ``pairs``, ``classes`` the width of a head if the source states it.
    """

    kind: str
    content: str
    notices: list[str]
    classes: int | None

    def __len__(self) -> int:
        """How many image records there are."""

    def describe(self) -> dict[str, Any]:
        """What the plan says of the source: files, sizes, a hash of the index; no paths."""

    @property
    def payload_bytes(self) -> int:
        """About how many bytes of images there are."""

    def spans(self, *, records: int, size: int) -> list[Span]:
        """Cut the source into runs of at most so many records and bytes, in source order."""

    def read(self, start: int, stop: int) -> Iterator[SourceRecord | Refusal]:
        """Read the records ``[start, stop)``: each one, or why it cannot be had."""

    def refuse(self, record: SourceRecord, reason: str) -> Refusal:
        """The refusal of a record that was read but cannot be packed."""

    def identity_name(self, label: int) -> str | None:
        """The source's name of an identity; None where it has none."""

    def tables(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Tables of an evaluation set, given each record's position in the pack (-1: refused)."""


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
