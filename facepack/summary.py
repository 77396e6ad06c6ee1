"""What a pack holds, in figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from facepack.pack import Pack, manifest_files


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The figures of a pack; ``pairs`` is None where it is no evaluation set."""

    path: str
    kind: str
    records: int
    identities: int
    classes: int
    shards: int
    pairs: int | None
    same_pairs: int | None
    payload_bytes: int
    file_bytes: int
    overhead: float | None
    images_per_identity: dict[str, float] | None
    images: dict[str, Any]
    page_sizes: list[int]
    order: str
    quarantined: int
    source: dict[str, Any]
    pack_id: str


def summarize(pack: Pack) -> Summary:
    """Gather the figures of ``pack``; reads its index, not its images."""
    manifest = pack.manifest
    # The manifest cannot state its own size.
    files = sum(stated["bytes"] for stated in manifest_files(manifest).values())
    files += (pack.path / "pack.json").stat().st_size
    labels = pack.labels
    counts = np.unique(labels[labels >= 0], return_counts=True)[1]
    pairs = pack.pairs
    return Summary(
        path=str(pack.path),
        kind=manifest["kind"],
        records=len(pack),
        identities=pack.identities,
        classes=pack.classes,
        shards=len(manifest["shards"]),
        pairs=None if pairs is None else len(pairs),
        same_pairs=None if pairs is None else int(pairs[:, 2].sum()),
        payload_bytes=manifest["payload_bytes"],
        file_bytes=files,
        overhead=files / manifest["payload_bytes"] if manifest["payload_bytes"] else None,
        images_per_identity=(
            {
                "min": int(counts.min()),
                "median": float(np.median(counts)),
                "max": int(counts.max()),
            }
            if len(counts)
            else None
        ),
        images=manifest["images"],
        page_sizes=sorted({shard["page_size"] for shard in manifest["shards"]}),
        order=manifest["order"],
        quarantined=manifest["quarantined"],
        source=manifest["source"],
        pack_id=pack.pack_id,
    )
