"""Verifying a pack: every file's digest, and whether what its files say agrees."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from facepack.care.shard_check import (
    CHANGED_OUTSIDE,
    Damage,
    ShardContent,
    check_index,
    check_shard,
)
from facepack.errors import DamageError
from facepack.progress import Progress
from facepack.reading import parse_npy, read_bytes
from facepack.store import format as fmt
from facepack.store.digests import digest_ahead, file_digest
from facepack.store.finish import build_manifest
from facepack.store.labelmap import apply_label_map, read_label_map
from facepack.store.manifest import manifest_files, read_manifest, shard_file, states
from facepack.store.pack_files import is_stated, read_file, read_plan
from facepack.store.plan import PackPlan
from facepack.store.selection import describe_selection, with_selection
from facepack.store.sets import split_set, subset_manifest
from facepack.store.shard_nodes import map_file


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of verifying a pack."""

    records: int
    file_bytes: int
    damage: list[Damage]

    def as_json(self) -> dict[str, Any]:
        """``{"ok", "records", "file_bytes", "damage": [{"shard", "key", "reason"}]}``."""
        return {
            "ok": not self.damage,
            "records": self.records,
            "file_bytes": self.file_bytes,
            "damage": [vars(damage) for damage in self.damage],
        }


def verify(path: Path, *, deep: bool = False, decode: bool = False) -> Report:
    """Check a finished pack, every byte of it; of a shard set, its shards and the pack's own files.

    Args:
        path: the pack's folder, or ``PACK:SET``.
        deep: compute every record's checksum, even in shards whose digest matches: that finds
            errors made in writing, where the digest finds what changed afterwards.
        decode: also decode every image.

    Raises:
        PackError: no finished pack is there.
        DamageError: the manifest cannot be read.
    """
    path, shard_set = split_set(path)
    manifest = read_manifest(path)
    if shard_set is not None:
        manifest = subset_manifest(path, manifest, shard_set)
    damage: list[Damage] = []
    contents: list[ShardContent] = []
    stated = manifest_files(manifest)
    size = sum(entry["bytes"] for entry in stated.values())
    with Progress(size, unit="bytes", label="verify") as progress:
        for name in manifest["files"]:
            damage += _check_file(path, manifest, name)
            progress.update(stated[name]["bytes"])
        label_maps = _label_maps(path, manifest)
        names = [fmt.check_shard_name(shard["name"]) for shard in manifest["shards"]]
        reads = digest_ahead([path / f"{name}.mdb" for name in names], cached=deep or decode)
        for name, shard, read in zip(names, manifest["shards"], reads, strict=True):
            digest = shard_file(shard)["xxh3_128"]
            content = check_shard(path, name, deep=deep, decode=decode, digest=digest, read=read)
            content.ordinals = content.ordinals[:0]  # of no use here, and there may be many shards
            contents.append(content)
            found = content.damage
            if content.meta:
                found += _map_labels(content, shard["label_map"], label_maps)
                found += _check_selected(path, shard, content, deep=deep or decode)
            found += _compare_with_manifest(path, shard, content)
            damage += found
            progress.update(sum(entry["bytes"] for entry in shard["files"].values()))
    if not damage and shard_set is None:  # the manifest's figures are those of all shards
        damage += _check_manifest(path, manifest, contents)
    records = sum(shard["records"] for shard in manifest["shards"])
    return Report(records=records, file_bytes=size, damage=damage)


def _check_file(path: Path, manifest: dict[str, Any], name: str) -> Iterator[Damage]:
    stated = manifest["files"][name]
    try:
        data = read_file(path, manifest, name)
    except FileNotFoundError:
        yield Damage(name, None, "the file is missing")
    except OSError as error:
        yield Damage(name, None, f"the file cannot be read: {error.strerror or error}")
    else:
        if not is_stated(stated, data):
            yield Damage(name, None, "the file differs from what the manifest states")


def _label_maps(path: Path, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    """The label maps of a merged pack, by file name; those that are none are left out."""
    label_maps = {}
    for name in filter(fmt.is_label_map, manifest["files"]):
        with contextlib.suppress(OSError, DamageError):  # the file's digest tells
            label_maps[name] = read_label_map(read_file(path, manifest, name), name)
    return label_maps


def _map_labels(
    content: ShardContent, name: str | None, label_maps: dict[str, np.ndarray]
) -> Iterator[Damage]:
    """Take the labels of a shard to those of the pack, by the label map ``name``."""
    if name is None or name not in label_maps:
        return
    try:
        content.labels = apply_label_map(label_maps[name], content.labels)
    except DamageError as error:
        yield Damage(content.meta["name"], None, f"{name}: {error}")


def _check_selected(
    path: Path, entry: dict[str, Any], content: ShardContent, *, deep: bool
) -> Iterator[Damage]:
    """Compare a shard's index with its labels, and narrow it to the records that are the pack's."""
    name = entry["name"]
    try:
        keys = content.narrow(path, entry.get("selection"))
        if deep and entry.get("selection") is not None and not content.damage:
            figures = describe_selection(map_file(path / f"{name}.mdb"), np.asarray(keys))
            if not states(entry["selection"], figures):
                raise DamageError("the figures of its selection are not those of its records")
    except (DamageError, OSError) as error:
        yield Damage(name, None, str(error))
    else:
        yield from check_index(path, name, content.labels, keys)


def _wrong_selections(plan: PackPlan, manifest: dict[str, Any]) -> list[str]:
    """The shards of which the manifest states another selection than the plan."""
    planned = {
        entry["name"]: entry["selection"]
        for part in plan.parts()
        for entry in part.fields["shards"] or []
        if "selection" in entry
    }
    stated = {entry["name"]: entry.get("selection") for entry in manifest["shards"]}
    wrong = (stated[name] != planned.get(name) for name in stated)
    return sorted(name for name, differs in zip(stated, wrong, strict=True) if differs)


def _compare_with_manifest(
    path: Path, entry: dict[str, Any], content: ShardContent
) -> Iterator[Damage]:
    """A shard's sizes and digests, and whether it is the shard that the manifest means."""
    name = entry["name"]
    for file, stated in entry["files"].items():
        target = path / file
        if not target.exists():
            continue  # said already
        size = target.stat().st_size
        if size != stated["bytes"]:
            kind = "truncated" if size < stated["bytes"] else "too long"
            reason = f"{file} is {kind}: {size} bytes, the manifest states {stated['bytes']}"
            yield Damage(name, None, reason)
        elif not content.damage:
            known = content.info.files.get(file) if content.info else None
            digest = known["xxh3_128"] if known else file_digest(target)[0]
            if digest != stated["xxh3_128"]:
                yield Damage(name, None, f"{file}: {CHANGED_OUTSIDE}")
    if not content.meta:
        return
    if content.meta["pack_id"] != entry["pack_id"]:
        ids = f"({content.meta['pack_id']}, not {entry['pack_id']})"
        yield Damage(name, None, f"it is of another pack {ids}")
    elif (content.meta["name"], content.meta["shard"]) != (entry["own_name"], entry["shard"]):
        own = f"{content.meta['name']}, number {content.meta['shard']}"
        yield Damage(name, None, f"it is another shard: {own}")


def _check_manifest(
    path: Path, manifest: dict[str, Any], contents: list[ShardContent]
) -> Iterator[Damage]:
    """Compare the manifest with the one that the shards give, field by field."""
    shards = []
    for content, entry in zip(contents, manifest["shards"], strict=True):
        assert content.info is not None
        stated = {key: entry[key] for key in ("files", "label_map")}
        info = with_selection(content.info, entry.get("selection"))
        shards.append(replace(info, **stated))
    plan = read_plan(path, manifest)
    if wrong := _wrong_selections(plan, manifest):
        reason = "it is not the selection that the plan states: facepack reindex"
        yield Damage(wrong[0], None, reason)
        return
    if untold := sorted(_expected_files(plan, contents) - manifest["files"].keys()):
        yield Damage(fmt.MANIFEST, None, f"it does not list {untold[0]}: facepack reindex")
        return
    label_maps = plan.fields.get("label_maps", {})
    wrong = sorted(k for k in label_maps if manifest["files"][k]["xxh3_128"] != label_maps[k])
    if wrong:
        reason = "it is not the label map that the packs were merged with: copy that back"
        yield Damage(wrong[0], None, reason)
        return
    pairs = "pairs.npy"
    count = None
    if pairs in manifest["files"]:
        try:
            table = parse_npy(read_file(path, manifest, pairs))
            fmt.check_pairs(table, manifest["records"], pairs)
            count = len(table)
        except (DamageError, ValueError) as error:
            yield Damage(pairs, None, str(error))
            return
    rebuilt = build_manifest(
        plan,
        shards,
        labels=[content.labels for content in contents],
        quarantined=sum(len(content.refused) for content in contents),
        pairs=count,
        partial=manifest["partial"],
        files=manifest["files"],
    )
    # The id of a stream has its content.
    planned = plan.fields["shards"] or plan.fields.get("appended")
    if planned and not manifest["partial"] and plan != PackPlan.of(plan.fields):
        yield Damage(fmt.MANIFEST, None, "the pack id is not that of the plan")
    for key in sorted(rebuilt):
        if not states(manifest.get(key), rebuilt[key]):
            reason = f"{key!r} differs from what the shards say: facepack reindex"
            yield Damage(fmt.MANIFEST, None, reason)
            return
    # How a later version writes its text is left to it.
    text = fmt.json_text(rebuilt).encode()
    if manifest == rebuilt and text != read_bytes(path / fmt.MANIFEST):
        reason = "the text differs, though it says the same: facepack reindex"
        yield Damage(fmt.MANIFEST, None, reason)


def _expected_files(plan: PackPlan, contents: list[ShardContent]) -> set[str]:
    """What must stand beside shards that say this, made under this plan."""
    files = {fmt.PLAN, *plan.fields.get("label_maps", {})}
    files |= {f"{table}.npy" for table in plan.fields["tables"]}
    if any(any(content.identity_names.values()) for content in contents):
        files.add(fmt.LABELS)
    if any(content.refused for content in contents):
        files.add(fmt.QUARANTINE)
    return files
