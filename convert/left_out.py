"""What records have that a target has no place for: told before it is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from facepack.convert.source import Part, Source
from facepack.errors import FacepackError
from facepack.store.record import SourceRecord

_GROUPS = 32  # of which records are looked at
_TOGETHER = 8  # how many of each: the first may be one of few that lack something
_LONGEST_NUMBER = 20  # digits
_ALWAYS = {"key", "flag", "id"}  # of every .rec, made again from what is written or from nothing


@dataclass(frozen=True, kw_only=True)
class Keeps:
    """What a target keeps of a record beside image and label."""

    identities: bool = True  # their names
    names: Callable[[str], bool] = bool  # whether it keeps the name of an image
    numbers: str = "(?!)"  # a pattern of the names of those that it keeps


def none(name: str) -> bool:
    """Of a target that has no place for names of images."""
    return False


def note_left_out(source: Source, keeps: Keeps) -> None:
    """Tell, by the first records of groups, what of them a target does not keep."""
    names: list[str] = []
    identities: list[str] = []
    numbers: dict[str, None] = {}
    for part in _places(source):
        if not identities:
            identities += [name for name in part.identity_names().values() if name][:1]
        records = [*_readable(part)]
        if not names and not _are_counted(records):
            names += [r.name for r in records if r.name and not keeps.names(r.name)][:1]
        for record in records:
            numbers |= dict.fromkeys(
                name
                for name, value in (record.extra or {}).items()
                if name not in _ALWAYS and value and not re.fullmatch(keeps.numbers, name)
            )
    lost = [f"names of images (such as {name!r})" for name in names]
    if not keeps.identities:
        lost += [f"names of identities (such as {name!r})" for name in identities]
    if numbers:
        lost.append(f"numbers beside the label ({_listed([*numbers])})")
    if lost:
        source.notices.append(
            f"the target has no place for {' or '.join(lost)}, which are left out: a pack keeps "
            "them"
        )


def _places(source: Source) -> Iterator[Part]:
    """The first records of groups spread over the source: others may be dear to reach.

    Of a compressed file, all before them must be inflated; of a row group of Parquet, read.
    """
    groups = source.groups()
    thinned = groups[:: -(-len(groups) // _GROUPS) or 1] if source.parallel else groups[:1]
    for _, first, last in thinned:
        yield source.part(first, min(first + _TOGETHER, last))


def _readable(part: Part) -> Iterator[SourceRecord]:
    """The records of a part that can be read: what cannot is told when it is converted."""
    try:
        yield from (each for each in part.read() if isinstance(each, SourceRecord))
    except FacepackError:
        return


def _are_counted(records: Sequence[SourceRecord]) -> bool:
    """Whether names are but running numbers, as keys of a database: the order says the same."""
    names = [record.name or "" for record in records]
    if not all(name.isdecimal() and len(name) <= _LONGEST_NUMBER for name in names):
        return False
    return len({int(name) - r.ordinal for name, r in zip(names, records, strict=True)}) < 2


def _listed(names: list[str]) -> str:
    return ", ".join(names if len(names) < 4 else [*names[:2], "…", names[-1]])
