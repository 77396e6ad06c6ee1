"""What ``facepack shards`` lists: the shards of a pack and its shard sets, in figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from facepack.errors import PackError
from facepack.store.pack import Pack
from facepack.store.sets import ShardSet, choose_shards, read_sets


@dataclass(frozen=True, kw_only=True)
class ShardRow:
    """A shard; ``identities`` counts the labels that occur in it."""

    name: str
    records: int
    identities: int


@dataclass(frozen=True, kw_only=True)
class SetRow:
    """A shard set.

    Attributes:
        name: what it is called.
        patterns: names or patterns of its shards.
        own: whether the user made it.
        shards: how many it has.
        records: in these.
        identities: labels that occur in these.
        classes: the width of a head: the highest label + 1.
        missing: zips that the set should have and the pack lacks.
        error: why the set cannot be used, or None.
    """

    name: str
    patterns: tuple[str, ...]
    own: bool
    shards: int
    records: int
    identities: int
    classes: int
    missing: tuple[str, ...]
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The shards and the shard sets of a pack."""

    shards: list[ShardRow]
    sets: list[SetRow]

    def as_json(self) -> dict[str, Any]:
        """``{"shards": […], "sets": […]}``, rows as maps."""
        return asdict(self)


def list_shards(pack: Pack) -> Listing:
    """List the shards and sets of ``pack``; reads its index, not its images.

    Raises:
        DamageError: ``sets.json`` cannot be understood.
    """
    sets = read_sets(pack.path, pack.shard_names).values()
    counts = [shard["records"] for shard in pack.manifest["shards"]]
    labels = np.split(pack.labels, np.cumsum(counts)[:-1])
    present = dict(zip(pack.shard_names, map(np.unique, labels), strict=True))
    records = dict(zip(pack.shard_names, counts, strict=True))
    rows = [
        ShardRow(name=name, records=records[name], identities=int((present[name] >= 0).sum()))
        for name in pack.shard_names
    ]
    return Listing(shards=rows, sets=[_set_row(shard_set, records, present) for shard_set in sets])


def _set_row(
    shard_set: ShardSet, records: dict[str, int], present: dict[str, np.ndarray]
) -> SetRow:
    error = None
    try:
        chosen = choose_shards(list(records), shard_set.patterns)
    except PackError as problem:
        chosen, error = [], str(problem)
    labels = np.unique(np.concatenate([present[name] for name in chosen] or [np.zeros(0, int)]))
    return SetRow(
        name=shard_set.name,
        patterns=shard_set.patterns,
        own=shard_set.own,
        shards=len(chosen),
        records=sum(records[name] for name in chosen),
        identities=int((labels >= 0).sum()),
        classes=int(labels.max(initial=-1)) + 1,
        missing=shard_set.missing,
        error=error,
    )
