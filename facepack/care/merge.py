"""Joining packs into one whose shards are theirs, unchanged."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facepack.care.bring import BroughtShard, LabelMaps, SourcePack
from facepack.care.joined import JoinedPack, write_packs
from facepack.errors import ConfigError, PackError
from facepack.store import format as fmt
from facepack.store.labelmap import LabelNames, map_names
from facepack.store.manifest import shard_file


def merge(
    packs: Sequence[Path],
    out: Path,
    *,
    by_name: bool = False,
    copy: bool = False,
    overwrite: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Join training packs into the pack ``out``.

    No shard is rewritten: their files are linked, or copied where that cannot be, and the
    key-label indexes are written anew with the labels of the whole. Those of the first pack stay;
    those of the next begin at its ``classes``, and so on.

    Args:
        by_name: identities of equal names share a label; new ones are numbered on.
        copy: copy the shards, so that no file is shared.

    Returns:
        The new pack's manifest.

    Raises:
        PackError: a pack is no training pack, two hold the same shard, ``by_name`` without names,
            or ``out`` cannot be written.
        DamageError: a file of a pack is missing, or differs from its manifest.
    """
    joined = plan_merge(packs, out, by_name=by_name)
    (manifest,) = write_packs([joined], copy=copy, overwrite=overwrite, resume=resume)
    return manifest


def plan_merge(packs: Sequence[Path], out: Path, *, by_name: bool = False) -> JoinedPack:
    """The pack that :func:`merge` would write, of which nothing is written."""
    if len(packs) < 2:
        raise ConfigError("at least two packs are needed, and the folder of the new one")
    sources = [SourcePack.open(path, "only training packs are merged") for path in packs]
    for source in sources:
        if os.path.realpath(source.path) == os.path.realpath(out):
            raise PackError(f"{out} is one of the packs that are merged: choose another target")
    _require_distinct(sources)
    _require_one_order(sources)
    maps, classes = _join_labels(sources, by_name)
    shards, label_maps = _plan_shards(sources, maps)
    names: dict[int, str] = {}
    for source, label_map in zip(sources, maps, strict=True):
        known = {k: name for k, name in enumerate(source.names) if name}
        names = map_names(label_map, known) | names
    return JoinedPack.of(
        out,
        {"kind": "merge", "by_name": by_name},
        sources,
        classes=classes,
        shards=shards,
        label_maps=label_maps,
        names=names,
        with_refused=True,
    )


def _require_distinct(sources: Sequence[SourcePack]) -> None:
    """Refuse to count images twice; selections of one shard may differ in all their records."""
    seen: dict[str, list[tuple[SourcePack, dict[str, Any]]]] = defaultdict(list)
    for source in sources:
        for entry in source.manifest["shards"]:
            same = seen[shard_file(entry)["xxh3_128"]]
            for other, known in same:
                if _share_records((other, known), (source, entry)):
                    raise PackError(
                        f"{other.path / known['name']}.mdb and {source.path / entry['name']}.mdb "
                        "are the same shard: its images would be duplicated; merge packs that have "
                        "no shard in common, or no record of one"
                    )
            same.append((source, entry))


def _require_one_order(sources: Sequence[SourcePack]) -> None:
    """Refuse packs whose colours are stored in different orders: a pack has one."""
    first, *others = sources
    channels = fmt.stored_channels(first.manifest)
    for other in others:
        found = fmt.stored_channels(other.manifest)
        if found != channels:
            swapped = other.path if found == "bgr" else first.path
            raise PackError(
                f"{first.path} has channels {channels} and {other.path} {found}, and a pack has "
                f"one order: make one of RGB first, which encodes its images anew, by: facepack "
                f"lmdb2lmdb {swapped} OUT --color convert"
            )


def _share_records(*shards: tuple[SourcePack, dict[str, Any]]) -> bool:
    """Whether two packs' selections of one shard have a record in common."""
    keys = np.concatenate([np.asarray(source.read_index(entry)[1]) for source, entry in shards])
    return len(np.unique(keys)) < len(keys)


# Labels ------------------------------------------------------------------------------------------


def _join_labels(
    sources: Sequence[SourcePack], by_name: bool
) -> tuple[list[np.ndarray | None], int]:
    """For each pack the new label of each of its labels (None: they stay), and the classes."""
    names = LabelNames()
    maps: list[np.ndarray | None] = []
    classes = 0
    for k, source in enumerate(sources):
        own = source.manifest["classes"]
        label_map = np.arange(classes, classes + own)
        if by_name:
            if not source.names:
                raise PackError(
                    f"{source.path} has no {fmt.LABELS}: its identities have no names to be "
                    "joined by; merge without --by-name"
                )
            label_map = _map_by_name(source, names, classes)
        maps.append(None if k == 0 else label_map)
        classes = max(classes, int(label_map.max(initial=-1)) + 1)
    if classes > fmt.MAX_LABEL + 1:
        raise PackError(f"{classes} classes in all: a pack has at most {fmt.MAX_LABEL + 1}")
    return maps, classes


def _map_by_name(source: SourcePack, names: LabelNames, classes: int) -> np.ndarray:
    """The label of each identity of ``source``; those of new names join ``names``."""
    own = LabelNames(source.names)
    label_map = np.empty(source.manifest["classes"], np.int64)
    following = classes
    try:
        for label in range(len(label_map)):
            name = source.names[label] if label < len(source.names) else ""
            if name:
                own.label(name)  # raises where two have it
            known = names.label(name) if name else None
            label_map[label] = following if known is None else known
            following += known is None
    except PackError as error:
        raise PackError(f"{source.path}: {error}; merge without --by-name") from error
    names.add(zip(label_map.tolist(), source.names, strict=False))
    return label_map


# Shards ------------------------------------------------------------------------------------------


def _plan_shards(
    sources: Sequence[SourcePack], maps: Sequence[np.ndarray | None]
) -> tuple[list[BroughtShard], dict[str, np.ndarray]]:
    """All shards under names that no two share, and the label maps by file name."""
    # train-000 and train-001 go together: either both get a prefix or neither.
    stems = [{_stem(entry["name"]) for entry in s.manifest["shards"]} for s in sources]
    packs_with = Counter(stem for each in stems for stem in each)
    prefixes = _prefixes([source.path for source in sources])
    shards = []
    label_maps = LabelMaps()
    for k, source in enumerate(sources):
        for entry in source.manifest["shards"]:
            label_map = label_maps.name(source, entry["label_map"], maps[k])
            name = entry["name"]
            if packs_with[_stem(name)] > 1:
                name = fmt.check_shard_name(f"{prefixes[k]}-{name}")
            selection = entry.get("selection")
            shards.append(BroughtShard(source, entry, name, maps[k], label_map, None, selection))
    twice = [name for name, n in Counter(shard.name for shard in shards).items() if n > 1]
    if twice:
        raise PackError(f"two shards would be named {twice[0]!r}: rename the folder of a pack")
    return shards, label_maps.files


def _stem(name: str) -> str:
    return re.sub(r"-\d{3,}$", "", name)


def _prefixes(paths: Sequence[Path]) -> list[str]:
    """What tells the shards of one pack from those of another: the folder's name."""
    plain = [
        re.sub(r"[^A-Za-z0-9_.-]", "_", path.resolve().name).lstrip(".-")[:60] or "pack"
        for path in paths
    ]
    return [
        name if plain.count(name) == 1 else f"{name}-{plain[: k + 1].count(name)}"
        for k, name in enumerate(plain)
    ]
