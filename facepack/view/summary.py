"""What a pack holds, in figures: drawn from its manifest and its index alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from facepack.store import format as fmt
from facepack.store.manifest import manifest_files
from facepack.store.pack import Pack
from facepack.view.histogram import Histogram, histogram, spread

SWAPPED = "red and blue are swapped in what is stored; decoding puts them right"
_CHUNK = 1 << 22  # labels counted at a time
_BINS = 16  # of the histogram of images per identity: it must fit a small terminal


@dataclass(frozen=True, kw_only=True)
class ShardFigures:
    """The figures of one shard; ``identities`` counts the labels that occur in it."""

    name: str
    records: int
    identities: int
    payload_bytes: int
    file_bytes: int
    page_size: int
    quarantined: int
    images: dict[str, Any]

    @property
    def overhead(self) -> float | None:
        """Bytes of its files over those of its images; None where it has no images."""
        return self.file_bytes / self.payload_bytes if self.payload_bytes else None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The figures of a pack; ``pairs`` is None where it is not an evaluation set."""

    path: str
    name: str
    kind: str
    records: int
    identities: int
    classes: int
    label_gaps: int  # classes that no record has as its label
    without_identity: int  # records whose label is -1
    shards: int
    partial: bool
    pairs: int | None
    same_pairs: int | None
    tables: list[str]
    payload_bytes: int
    file_bytes: int
    # bytes of all files over those of the images; None where there are no images
    overhead: float | None
    images_per_identity: dict[str, Any] | None  # min, median, mean and max; None without identities
    images_per_identity_histogram: Histogram  # how many identities have so many images
    images: dict[str, Any]  # formats, and the extremes of height and width in pixels
    channels: str  # the order of the colours in the stored images
    page_sizes: list[int]
    order: str
    seed: int
    quarantined: int
    source: dict[str, Any]
    pack_id: str
    content_id: str
    shard_figures: list[ShardFigures]  # those of each shard, in the order of the manifest

    def as_json(self) -> dict[str, Any]:
        """All figures as JSON has them; a histogram is ``[{"from", "to", "count"}]``."""
        figures = asdict(self)
        figures["images_per_identity_histogram"] = self.images_per_identity_histogram.as_json()
        return figures


def source_facts(source: dict[str, Any]) -> list[tuple[str, str]]:
    """What the manifest says of the source, as pairs of words; lists are only counted."""
    facts = []
    for name, value in sorted(source.items()):
        if isinstance(value, (list, dict)):
            words = f"{len(value):,} {'entry' if len(value) == 1 else 'entries'}"
        elif isinstance(value, int) and not isinstance(value, bool):
            words = f"{value:,}"
        else:
            words = str(value)
        facts.append((name, words))
    return facts


def summarize(pack: Pack) -> Summary:
    """Gather the figures of ``pack``; reads its index, not its images."""
    manifest = pack.manifest
    # The manifest cannot state its own size.
    files = sum(stated["bytes"] for stated in manifest_files(manifest).values())
    files += (pack.path / fmt.MANIFEST).stat().st_size
    counts = label_counts(pack.labels)
    present = counts[counts > 0]
    pairs = pack.pairs
    payload = manifest["payload_bytes"]
    return Summary(
        path=str(pack.path),
        name=pack.name,
        kind=manifest["kind"],
        records=len(pack),
        identities=len(present),
        classes=pack.classes,
        label_gaps=pack.classes - len(present),
        without_identity=len(pack) - int(counts.sum()),
        shards=len(manifest["shards"]),
        partial=manifest["partial"],
        pairs=None if pairs is None else len(pairs),
        same_pairs=None if pairs is None else int(pairs[:, 2].sum()),
        tables=fmt.table_names(manifest["files"]),
        payload_bytes=payload,
        file_bytes=files,
        overhead=files / payload if payload else None,
        images_per_identity=spread(present),
        images_per_identity_histogram=histogram(present, most=_BINS),
        images=manifest["images"],
        channels=pack.channels,
        page_sizes=sorted({shard["page_size"] for shard in manifest["shards"]}),
        order=manifest["order"],
        seed=manifest["seed"],
        quarantined=manifest["quarantined"],
        source=manifest["source"],
        pack_id=pack.pack_id,
        content_id=pack.content_id,
        shard_figures=_shard_figures(manifest["shards"], pack.labels, len(counts)),
    )


def label_counts(labels: np.ndarray) -> np.ndarray:
    """How many records each label from 0 up has: int64; records without identity are left out."""
    counts = np.zeros(int(labels.max(initial=-1)) + 1, np.int64)
    for start in range(0, len(labels), _CHUNK):  # bincount copies what it counts
        chunk = labels[start : start + _CHUNK]
        counts += np.bincount(chunk[chunk >= 0], minlength=len(counts))
    return counts


def _shard_figures(
    shards: list[dict[str, Any]], labels: np.ndarray, width: int
) -> list[ShardFigures]:
    figures = []
    seen = np.zeros(width, bool)  # marking labels is several times faster than sorting them
    start = 0
    for shard in shards:
        part = labels[start : start + shard["records"]]
        start += shard["records"]
        part = part[part >= 0]
        seen[part] = True
        identities = 0
        if len(part):
            low, high = int(part.min()), int(part.max()) + 1
            identities = int(np.count_nonzero(seen[low:high]))
            seen[low:high] = False
        figures.append(
            ShardFigures(
                name=shard["name"],
                records=shard["records"],
                identities=identities,
                payload_bytes=shard["payload_bytes"],
                file_bytes=sum(stated["bytes"] for stated in shard["files"].values()),
                page_size=shard["page_size"],
                quarantined=shard["quarantined"],
                images=shard["images"],
            )
        )
    return figures
