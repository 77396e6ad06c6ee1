"""Rebuilding whatever stands beside the shards from the shards themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from facepack import lfs
from facepack.care.shard_check import ShardContent, check_shard
from facepack.errors import DamageError, NewerFormatError, PackError
from facepack.reading import parse_npy, read_bytes, read_json
from facepack.store import format as fmt
from facepack.store.finish import finish_pack, settle
from facepack.store.labelmap import apply_label_map, map_names, read_label_map
from facepack.store.manifest import read_manifest
from facepack.store.plan import PackPlan, check_plan, is_joined
from facepack.store.selection import with_selection
from facepack.store.target import Target


def reindex(path: Path, *, partial: bool = False) -> dict[str, Any]:
    """Rebuild the indexes, the plan, the names and the manifest of a pack.

    Tables of an evaluation set and the label maps of a merged pack are not in the shards: they must
    still be there, and of a merged pack or a selection the plan too. They must have the digests
    that the old manifest, where it can be read, or the plan states. ``partial`` makes a pack of
    what is there though shards are missing.

    Returns:
        The new manifest.

    Raises:
        DamageError: a shard is damaged, missing, of another pack, or a table is missing.
        NewerFormatError: the pack or a shard needs a newer facepack.
    """
    names = sorted(file.stem for file in path.glob("*.mdb"))
    if not names:
        raise PackError(f"{path} holds no shards (*.mdb): there is nothing to rebuild from")
    with Target(path):
        before = _old_manifest(path)
        if before is not None:
            settle(path, before)
        unfinished = _unfinished_id(path)
        found = {name: _read(path, name) for name in names}
        contents = {k: v for k, v in found.items() if v.meta["pack_id"] != unfinished}
        if not contents:
            raise DamageError(
                f"{path}: by its {fmt.APPENDING} all its shards belong to an unfinished append: "
                "complete that with --resume, or remove the file if they are the pack's own"
            )
        joined = _joined(path, contents)
        if joined is None:
            _require_whole_shards(path, contents, before)
            return _finish(path, _of_one_pack(path, contents, partial), before)
        return _finish(path, _of_joined_pack(path, contents, joined, partial), before)


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """The shards that make the pack, in order, and what they are to be."""

    plan: PackPlan
    contents: Sequence[ShardContent]  # of each shard
    label_maps: Sequence[str | None]  # of each shard the file that maps its labels, or None
    # of each shard which of its records are the pack's, or None: all
    selections: Sequence[dict[str, Any] | None]
    partial: bool  # whether shards are missing


def _finish(path: Path, chosen: _Chosen, before: dict[str, Any] | None) -> dict[str, Any]:
    plan = chosen.plan
    records = sum(content.meta["records"] for content in chosen.contents)
    tables = {name: _table(path, name, records, before) for name in plan.fields["tables"]}
    stated = plan.fields.get("label_maps", {})
    label_maps = {name: _label_map(path, name, stated[name]) for name in sorted(stated)}
    shards = []
    for content, file, selection in zip(
        chosen.contents, chosen.label_maps, chosen.selections, strict=True
    ):
        label_map = label_maps[file] if file else None
        content.labels = apply_label_map(label_map, content.labels)
        content.identity_names = map_names(label_map, content.identity_names)
        keys = content.narrow(path, selection)
        written = content.write_index(path, keys)
        info = with_selection(replace(written.info, label_map=file), selection)
        shards.append(written._replace(info=info))
    return finish_pack(
        path,
        plan,
        shards,
        tables=tables,
        label_maps=label_maps,
        partial=chosen.partial,
        before=[before] if before is not None else [],
    )


def _read(path: Path, name: str) -> ShardContent:
    file = path / f"{fmt.check_shard_name(name)}.mdb"
    lfs.require_content(file, DamageError)
    content = check_shard(path, name, canonical=True)
    if content.is_foreign:
        raise PackError(
            f"{file}: is not a shard of a pack, but an LMDB database written by another program: "
            f"move it out of {path}; facepack kv2lmdb converts those of F2C"
        )
    if content.damage:
        raise DamageError(
            f"{path}: {content.damage[0]}: a damaged shard is not indexed; copy it again or "
            "convert again"
        )
    return content


def _old_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest that is to be replaced, if it can be read.

    Raises:
        NewerFormatError: what it requires would be lost.
    """
    try:
        return read_manifest(path)
    except NewerFormatError:
        raise
    except PackError:
        return None


def _read_plan(file: Path) -> dict[str, Any]:
    """The plan in a JSON file; an empty one if there is none that can be worked with.

    Raises:
        NewerFormatError: this facepack does not know all that it requires.
    """
    try:
        value = read_json(file)
    except (OSError, ValueError):
        return {}
    if not isinstance(value, dict) or "format" not in value:
        return {}
    fmt.require_known(value, str(file))
    try:
        check_plan(value)
    except ValueError:
        return {}
    return value


def _unfinished_id(path: Path) -> str | None:
    """The id of shards that an interrupted append left here, which are not the pack's yet."""
    plan = _read_plan(path / fmt.APPENDING)
    appended = _read_plan(path / fmt.PLAN).get("appended", [])
    return fmt.content_id(plan) if plan and plan not in appended else None


# One conversion ----------------------------------------------------------------------------------


def _of_one_pack(path: Path, contents: dict[str, ShardContent], partial: bool) -> _Chosen:
    """The shards of a pack that was made at once."""
    ids = {content.meta["pack_id"] for content in contents.values()}
    if len(ids) > 1:
        raise DamageError(
            f"{path} holds shards of {len(ids)} packs ({', '.join(sorted(ids))}): move the others "
            f"away; or, if packs were merged here, copy back the {fmt.PLAN} that they had"
        )
    for name, content in contents.items():
        if content.meta["name"] != name:
            raise DamageError(
                f"{path}: {name}.mdb says that it is {content.meta['name']}.mdb: rename it back"
            )
    ordered = sorted(contents.values(), key=lambda content: content.meta["shard"])
    _check_complete(path, ordered, partial)
    plan = _plan_of(ordered)
    missing = _is_missing(ordered)
    if missing and (tables := plan.fields["tables"]):
        raise DamageError(
            f"{path}: its tables ({', '.join(tables)}) point at records by position, "
            "so no shard can be left out: copy the missing ones here"
        )
    return _Chosen(
        plan=plan,
        contents=ordered,
        label_maps=[None] * len(ordered),
        selections=[None] * len(ordered),
        partial=missing,
    )


def _require_whole_shards(
    path: Path, contents: dict[str, ShardContent], before: dict[str, Any] | None
) -> None:
    """Refuse to take all records of shards of which some were selected, by a plan that is lost."""
    stated = before is not None and fmt.SELECTION in before.get("requires", [])
    if stated or any(
        _has_gaps(path / f"{name}.kv", len(content.labels)) for name, content in contents.items()
    ):
        raise DamageError(
            f"{path} holds some of the records of its shards, and the {fmt.PLAN} that says which "
            "is lost or another one: copy that back, or split the pack again"
        )


def _has_gaps(index: Path, records: int) -> bool:
    """Whether a sound index leaves out some of ``records``, other than by being cut short."""
    try:
        data = read_bytes(index, None)
        fmt.kv_labels(data, index.name)  # its form
        keys = fmt.kv_keys(data, index.name)
    except (OSError, DamageError):
        return False
    return len(keys) > 0 and len(keys) <= int(keys[-1]) < records


def _plan_of(ordered: Sequence[ShardContent]) -> PackPlan:
    """The plan that shards were made under, as they say it."""
    spans = [content.meta["span"] for content in ordered]
    last = ordered[-1].meta
    return PackPlan({**last["plan"], "shards": spans if all(spans) else None}, last["pack_id"])


def _check_complete(path: Path, contents: Sequence[ShardContent], partial: bool) -> None:
    present = [content.meta["shard"] for content in contents]
    if len(set(present)) < len(present):
        raise DamageError(f"{path}: two files claim to be the same shard: move one away")
    if partial or not _is_missing(contents):
        return
    wanted = contents[-1].meta["shards"]
    if wanted is None:
        raise DamageError(
            f"{path}: the last shard is missing: copy it here, or take what is there with --partial"
        )
    missing = sorted(set(range(wanted)) - set(present))
    if not missing:
        raise DamageError(
            f"{path}: its shards do not agree how many they are ({len(present)} are here, the last "
            f"says {wanted}): move those away that are of another pack"
        )
    raise DamageError(
        f"{path}: {len(missing)} of {wanted} shards are missing (number {missing[0]} first): "
        "copy them here, or take what is there with --partial"
    )


def _is_missing(contents: Sequence[ShardContent]) -> bool:
    """Whether the pack had more shards than these, sorted by number."""
    return len(contents) != contents[-1].meta["shards"]


# Several conversions -----------------------------------------------------------------------------


def _joined(path: Path, contents: dict[str, ShardContent]) -> PackPlan | None:
    """The plan of a pack that was merged or appended to; None: it was made at once.

    ``plan.json`` has it. Without that, shards that were appended still say onto what.
    """
    fields = _read_plan(path / fmt.PLAN)
    ids = {content.meta["pack_id"] for content in contents.values()}
    if fields and (is_joined(fields["source"]) or fields.get("appended")):
        plan = PackPlan.of(fields)
        if ids <= {entry["pack_id"] for entry in _entries(plan, contents)}:
            return plan
    return _grown_plan(contents) if len(ids) > 1 else None


def _entries(plan: PackPlan, contents: dict[str, ShardContent]) -> list[dict[str, Any]]:
    """Name, own name, pack id, number and label map of each shard that a joined plan names."""
    entries: list[dict[str, Any]] = []
    for part in plan.parts():
        source, spans = part.fields["source"], part.fields["shards"]
        if is_joined(source):
            entries += spans
            continue
        if spans is None:  # a stream: its shards are numbered, the last knows how many
            streamed = [c.meta for c in contents.values() if c.meta["pack_id"] == part.pack_id]
            count = max([meta["shards"] or meta["shard"] + 2 for meta in streamed], default=1)
            names = [f"{source.get('stem')}-{k:03d}" for k in range(count)]
        else:
            names = [span["name"] for span in spans]
        own = {"pack_id": part.pack_id, "label_map": None}
        entries += [
            {"name": name, "own_name": name, "shard": k, **own} for k, name in enumerate(names)
        ]
    return entries


def _grown_plan(contents: dict[str, ShardContent]) -> PackPlan | None:
    """The plan of a pack that was appended to, as its shards say it; None: they do not fit."""
    groups: dict[str, list[ShardContent]] = defaultdict(list)
    for content in sorted(contents.values(), key=lambda content: content.meta["shard"]):
        groups[content.meta["pack_id"]].append(content)
    if any(_is_missing(group) for group in groups.values()):
        return None
    plans = [_plan_of(group) for group in groups.values()]
    appended = [plan.fields for plan in plans if "onto" in plan.fields]
    following = {fields["onto"]: fields for fields in appended}
    bases = [plan for plan in plans if "onto" not in plan.fields]
    if len(bases) != 1 or len(following) != len(appended):
        return None
    (plan,) = bases
    while plan.pack_id in following:
        plan = plan.with_appended(following.pop(plan.pack_id))
    return None if following else plan


def _of_joined_pack(
    path: Path, contents: dict[str, ShardContent], plan: PackPlan, partial: bool
) -> _Chosen:
    """The shards of a pack that was merged or appended to, as its plan names them."""
    entries = _entries(plan, contents)
    here = [entry for entry in entries if entry["name"] in contents]
    for entry in here:
        meta = contents[entry["name"]].meta
        said = (meta["pack_id"], meta["name"], meta["shard"])
        if said != (entry["pack_id"], entry["own_name"], entry["shard"]):
            raise DamageError(
                f"{path}: {entry['name']}.mdb should be shard {entry['own_name']} (number "
                f"{entry['shard']} of pack {entry['pack_id']}), and says that it is {meta['name']} "
                f"(number {meta['shard']} of {meta['pack_id']}): copy the right one here"
            )
    strangers = sorted(set(contents) - {entry["name"] for entry in here})
    if strangers:
        raise DamageError(
            f"{path}: {strangers[0]}.mdb and {len(strangers) - 1} more are not named in "
            f"{fmt.PLAN}: move them away"
        )
    missing = [entry["name"] for entry in entries if entry["name"] not in contents]
    if missing and not partial:
        raise DamageError(
            f"{path}: {len(missing)} of {len(entries)} shards are missing ({missing[0]}.mdb "
            "first): copy them here, or take what is there with --partial"
        )
    return _Chosen(
        plan=plan,
        contents=[contents[entry["name"]] for entry in here],
        label_maps=[entry["label_map"] for entry in here],
        selections=[entry.get("selection") for entry in here],
        partial=bool(missing),
    )


# Files that the shards do not hold ----------------------------------------------------------------


def _label_map(path: Path, name: str, digest: str) -> np.ndarray:
    try:
        data = read_bytes(path / fmt.check_shard_name(name), None)
    except OSError as error:
        raise DamageError(
            f"{path}: the label map {name} cannot be read ({error.strerror}), and the shards of a "
            "merged pack have other labels without it: copy it again, or merge again"
        ) from error
    if xxhash.xxh3_128_hexdigest(data) != digest:
        raise DamageError(
            f"{path}: the label map {name} differs from what {fmt.PLAN} states: copy it again, or "
            "merge again"
        )
    return read_label_map(data, str(path / name))


def _table(path: Path, name: str, records: int, before: dict[str, Any] | None) -> np.ndarray:
    file = path / f"{fmt.check_shard_name(name)}.npy"
    try:
        data = read_bytes(file, None)
        table = parse_npy(data)
    except (OSError, ValueError) as error:
        raise DamageError(f"{path}: the table {file.name} cannot be read: {error}") from error
    stated = before["files"].get(file.name) if before else None
    if stated and xxhash.xxh3_128_hexdigest(data) != stated["xxh3_128"]:
        raise DamageError(
            f"{path}: the table {file.name} differs from what {fmt.MANIFEST} states: copy it again "
            "or convert again"
        )
    if name == "pairs":
        fmt.check_pairs(table, records, str(file))
    return table
