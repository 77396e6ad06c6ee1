"""What of a source a pack holds already, told by the images themselves.

A file is packed alone or with others, renamed, copied, appended, merged: its name and the plan it
went in by differ, its images do not. So a file of a source (a group, whose records share no shard
with others) is in a pack if shards there were made of as many records, and a sample of these are
the same images, by the checksums that the shards keep.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facepack.convert.formats.pack.shard import PackShard, StatedShard
from facepack.convert.formats.pack.source import PackSource
from facepack.convert.source import Group, Source
from facepack.errors import DecodeError
from facepack.store import format as fmt
from facepack.store.checks import ImageCheck
from facepack.store.record import Buffer, SourceRecord

_SAMPLE = 16  # records of a file that are compared
_SAMPLE_OF_STREAM = 4  # the first ones, where to read others means to read all before them


class HeldShard(NamedTuple):
    """A shard of the pack that holds records of the source."""

    entry: dict[str, Any]  # the manifest's
    shift: int  # what takes the ordinals that it states to those of the source
    check: dict[str, Any]  # how its images were looked at, as a plan has it


def held_files(path: Path, source: Source) -> dict[Group, list[HeldShard]]:
    """The groups of ``source`` that the pack in ``path`` holds, each with the shards it is in.

    A group of which no sampled record can be compared, all being set aside, is not held.

    Raises:
        SourceError: the source or a shard cannot be read.
        PackError: there is no finished pack.
    """
    runs = [_Run(path, entries) for entries in PackSource(path).runs()]
    held = {}
    for group in source.groups():
        matching = (run for run in runs if run.may_hold(group) and _same(run, group, source))
        if run := next(matching, None):
            held[group] = run.shards(group)
    return held


def notes_on_shared(packs: Sequence[Path]) -> list[str]:
    """Notes on files whose images two of ``packs`` hold.

    Raises:
        SourceError: a shard cannot be read.
        PackError: there is no finished pack.
    """
    notes = []
    for first, second in combinations(packs, 2):
        if held := held_files(first, PackSource(second)):
            images = sum(group.stop - group.start for group in held)
            notes.append(
                f"{first} and {second} were made of the same images: {images:,} "
                f"({', '.join(group.stem for group in held)}) are there twice; if that is not "
                "meant, merge packs that share none"
            )
    return notes


def _same(run: _Run, group: Group, source: Source) -> bool:
    """Whether the sampled records of the group are the run's."""
    verdicts = [run.has(group, record) for record in _sample(source, group)]
    return False not in verdicts and True in verdicts


def _sample(source: Source, group: Group) -> Iterator[SourceRecord]:
    """Some records of the group: of them all, or its first."""
    if source.parallel:
        count = min(_SAMPLE, group.stop - group.start)
        ordinals = np.linspace(group.start, group.stop - 1, count).astype(np.int64).tolist()
        parts = [(ordinal, ordinal + 1) for ordinal in ordinals]
    else:
        parts = [(group.start, min(group.start + _SAMPLE_OF_STREAM, group.stop))]
    for start, stop in parts:
        for record in source.part(start, stop).read():
            if isinstance(record, SourceRecord):
                yield record


class _Run:
    """The shards of a pack that were made of one file, in order."""

    def __init__(self, folder: Path, entries: Sequence[dict[str, Any]]) -> None:
        self._folder = folder
        self._entries = entries
        packed = [entry["records"] for entry in entries]
        found = [entry["records"] + entry["quarantined"] for entry in entries]
        self._packed = list(accumulate(packed, initial=0))
        self._found = list(accumulate(found, initial=0))
        self._shards: dict[int, PackShard] = {}

    def may_hold(self, group: Group) -> bool:
        """Whether it has as many records; a pack as a source has none that were set aside."""
        records = group.stop - group.start
        return records > 0 and records in (self._packed[-1], self._found[-1])

    def has(self, group: Group, record: SourceRecord) -> bool | None:
        """Whether ``record`` is the run's in its turn; None if there is none to be compared."""
        ordinal = record.ordinal - group.start  # in the run
        # Of a selection, ordinals have gaps that are no refused records.
        selected = any("selection" in entry for entry in self._entries)
        all_found = group.stop - group.start == self._found[-1] and not selected
        bounds = self._found if all_found else self._packed
        k = bisect_right(bounds, ordinal) - 1
        shard = self._shard(k)
        if all_found:
            keys = np.flatnonzero(shard.ordinals - shard.first_ordinal == ordinal - bounds[k])
        else:
            keys = shard.keys_in_source_order()[ordinal - bounds[k]][None]
        if not len(keys):
            return None  # it was set aside
        try:
            image = _as_packed(shard.plan["check"], record.image)
        except DecodeError:
            return None
        (key,) = keys.tolist()
        return fmt.record_checksum(fmt.record_key(key), image) == int(shard.checksums[key])

    def shards(self, group: Group) -> list[HeldShard]:
        """Its shards, as those of the records of ``group``."""
        held = []
        for k, entry in enumerate(self._entries):
            shard = self._shard(k)
            shift = group.start + self._found[k] - shard.first_ordinal
            held.append(HeldShard(entry, shift, shard.plan["check"]))
        return held

    def _shard(self, k: int) -> PackShard:
        if k not in self._shards:
            self._shards[k] = PackShard(self._folder, StatedShard.of(self._entries[k]))
        return self._shards[k]


def _as_packed(check: dict[str, Any], image: Buffer) -> Buffer:
    """The image as a conversion under ``check`` stores it.

    Raises:
        DecodeError: it is set aside.
    """
    made_by = ImageCheck.from_json(check)
    return made_by.look(image)[0] if made_by.encodes else image
