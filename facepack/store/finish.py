"""The end of every pack's making: what stands beside the shards, the manifest last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facepack.reading import read_bytes
from facepack.store import format as fmt
from facepack.store.files import write_file
from facepack.store.labelmap import label_map_bytes
from facepack.store.manifest import shard_file
from facepack.store.plan import PackPlan
from facepack.store.shard import ShardInfo, WrittenShard, content_id, shard_figures
from facepack.system import sync_folder


def finish_pack(
    folder: Path,
    plan: PackPlan,
    shards: Sequence[WrittenShard],
    *,
    refused: Sequence[dict[str, Any]] = (),
    identity_names: Mapping[int, str] | None = None,
    tables: Mapping[str, np.ndarray] | None = None,
    label_maps: Mapping[str, np.ndarray] | None = None,
    partial: bool = False,
    replacing: bool = False,
    before: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Write what stands beside the shards, the manifest last, and return the manifest.

    Args:
        shards: in order; their indexes are there.
        refused: lines of ``quarantine.jsonl`` that come before those of the shards.
        identity_names: names of identities, by label, beside those that the shards know.
        tables: tables of an evaluation set, by name.
        label_maps: those that ``shards`` name, by file name.
        partial: shards were left out.
        replacing: the folder holds a finished pack, which stays whole until its manifest is
            replaced: until then, new files have other names, by which readers find them.
        before: the manifests that told of these shards until now; what later versions added to
            them is kept of all that is still the same.
    """
    files: dict[str, dict[str, Any]] = {}

    def put(name: str, data: bytes) -> None:
        waiting = folder / fmt.next_name(name, plan.pack_id)
        digest, size = write_file(waiting if replacing else folder / name, [data])
        files[name] = {"bytes": size, "xxh3_128": digest}
        if not replacing:
            waiting.unlink(missing_ok=True)

    infos = [shard.info for shard in shards]
    labels = [
        fmt.kv_labels(read_bytes(folder / f"{info.name}.kv", None), f"{info.name}.kv")
        for info in infos
    ]
    names_of = dict(identity_names or {})
    for shard in shards:
        names_of |= shard.identity_names
    if names_of:
        classes = plan.class_count(int(_present_labels(labels).max(initial=-1)))
        put(fmt.LABELS, fmt.labels_text(names_of, classes).encode())
    refused = [*refused, *(entry for shard in shards for entry in shard.refused)]
    if refused:
        put(fmt.QUARANTINE, fmt.json_lines(refused))
    for name, table in (tables or {}).items():
        put(f"{name}.npy", fmt.npy_bytes(table))
    for name, label_map in (label_maps or {}).items():
        put(name, label_map_bytes(label_map))
    put(fmt.PLAN, fmt.json_text(plan.fields).encode())
    manifest = build_manifest(
        plan,
        infos,
        labels=labels,
        quarantined=len(refused),
        pairs=len(tables["pairs"]) if tables and "pairs" in tables else None,
        partial=partial,
        files=files,
    )
    for old in before:
        _keep_unknown(manifest, old)
    write_file(folder / fmt.MANIFEST, [fmt.json_text(manifest).encode()])
    if replacing:
        settle(folder, manifest)
    return manifest


def _keep_unknown(manifest: dict[str, Any], old: dict[str, Any]) -> None:
    """Take over what a later version said in ``old`` of what is the same in ``manifest``.

    That is the pack while its ``content_id`` stays, and a shard or another file while its digest
    does.
    """

    def by_digest(manifest: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        for entry in manifest["shards"]:
            yield f"shard {shard_file(entry)['xxh3_128']}", entry
            yield from ((stated["xxh3_128"], stated) for stated in entry["files"].values())
        yield from ((stated["xxh3_128"], stated) for stated in manifest["files"].values())
        yield f"pack {manifest['content_id']}", manifest

    known = dict(by_digest(old))
    for digest, new in by_digest(manifest):
        told = known.get(digest, {})
        new |= {key: told[key] for key in told if key not in new and key != fmt.CHANNELS}


def settle(folder: Path, manifest: dict[str, Any]) -> None:
    """Give the files that came with ``manifest``, which is in place, their own names."""
    for name in manifest["files"]:
        waiting = folder / fmt.next_name(name, manifest["pack_id"])
        if waiting.exists():
            waiting.replace(folder / name)
    sync_folder(folder)


def build_manifest(
    plan: PackPlan,
    shards: Sequence[ShardInfo],
    *,
    labels: Sequence[np.ndarray],
    quarantined: int,
    pairs: int | None,
    partial: bool,
    files: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """The manifest that these shards, with these labels, and these other files give."""
    present = _present_labels(labels)
    channels = fmt.stored_channels(plan.fields)
    selected = any(shard.selection is not None for shard in shards)
    return {
        "format": fmt.FORMAT_VERSION,
        "requires": fmt.required_features(channels=channels, selected=selected),
        **fmt.channels_field(channels),
        "pack_id": plan.pack_id,
        "content_id": content_id(shards, files),
        "partial": partial,
        **{key: plan.fields[key] for key in ("kind", "order", "seed", "source")},
        "classes": plan.class_count(int(present.max(initial=-1))),
        "identities": len(present),
        **(shard_figures(shards) | {"quarantined": quarantined}),
        "pairs": pairs,
        "shards": [shard.as_json() for shard in shards],
        "files": files,
    }


def _present_labels(labels: Sequence[np.ndarray]) -> np.ndarray:
    """The different labels, ascending, -1 left out."""
    present = np.unique(np.concatenate([np.unique(part) for part in labels]))
    return present[present >= 0]
