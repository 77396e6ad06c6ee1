"""What ``facepack shards`` lists: the shards of a pack and its shard sets, in figures."""

from __future__ import annotations

from typing import Any

import numpy as np

from facepack.errors import PackError
from facepack.store.pack import Pack
from facepack.store.sets import choose_shards, read_sets


def list_shards(pack: Pack) -> dict[str, list[dict[str, Any]]]:
    """List the shards and sets of ``pack``; reads its index, not its images.

    Returns:
        ``{"shards", "sets"}``. Of each shard ``{"name", "records", "identities"}``: how many labels
        occur in it. Of each set ``{"name", "patterns", "own", "shards", "records", "identities",
        "classes", "missing", "error"}``: what :class:`~facepack.store.sets.ShardSet` says of it,
        how many shards it has, the figures of these, the width of a head (the highest label + 1),
        and why it cannot be used, or None.

    Raises:
        DamageError: ``sets.json`` cannot be understood.
    """
    counts = [shard["records"] for shard in pack.manifest["shards"]]
    labels = np.split(pack.labels, np.cumsum(counts)[:-1])
    present = dict(zip(pack.shard_names, map(np.unique, labels), strict=True))
    records = dict(zip(pack.shard_names, counts, strict=True))

    def figures(names: list[str]) -> tuple[dict[str, int], int]:
        """Records and identities of some shards, and their highest label."""
        of = np.unique(np.concatenate([present[name] for name in names] or [np.zeros(0, int)]))
        together = sum(records[name] for name in names)
        return {"records": together, "identities": int((of >= 0).sum())}, int(of.max(initial=-1))

    sets = []
    for each in read_sets(pack.path, pack.shard_names).values():
        about = {"name": each.name, "patterns": each.patterns, "own": each.own}
        error = None
        try:
            chosen = choose_shards(pack.shard_names, each.patterns)
        except PackError as problem:
            chosen, error = [], str(problem)
        found, highest = figures(chosen)
        about |= {"shards": len(chosen), **found, "classes": highest + 1}
        sets.append({**about, "missing": each.missing, "error": error})
    return {
        "shards": [{"name": name, **figures([name])[0]} for name in pack.shard_names],
        "sets": sets,
    }
