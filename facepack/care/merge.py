"""Joining packs into one whose shards are theirs, unchanged."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from facepack import system
from facepack.atomic import replacing
from facepack.errors import ConfigError, DamageError, PackError
from facepack.progress import Progress
from facepack.reading import open_regular
from facepack.store import format as fmt
from facepack.store.digests import file_digest
from facepack.store.files import write_file
from facepack.store.finish import finish_pack
from facepack.store.labelmap import (
    LabelNames,
    apply_label_map,
    label_map_bytes,
    map_names,
    read_label_map,
)
from facepack.store.manifest import (
    check_sizes,
    read_manifest,
    read_training_manifest,
    shard_file,
)
from facepack.store.pack_files import read_identity_names, read_quarantine, read_stated_file
from facepack.store.plan import PackPlan, check_source
from facepack.store.shard import ShardInfo, WrittenShard
from facepack.store.target import Target

_CHUNK = 8 << 20


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
        packs: the folders of at least two packs.
        out: a new or empty folder.
        by_name: identities of equal names share a label; new ones are numbered on.
        copy: copy the shards, so that no file is shared.
        overwrite: replace the pack that ``out`` holds.
        resume: complete what an interrupted run left.

    Returns:
        The new pack's manifest.

    Raises:
        PackError: a pack is no training pack, two hold the same shard, ``by_name`` without names,
            or ``out`` cannot be written.
        DamageError: a file of a pack is missing, or differs from its manifest.
    """
    if len(packs) < 2:
        raise ConfigError("at least two packs are needed, and the folder of the new one")
    sources = [_Source.open(path) for path in packs]
    for source in sources:
        if os.path.realpath(source.path) == os.path.realpath(out):
            raise PackError(f"{out} is one of the packs that are merged: choose another target")
    _require_distinct(sources)
    maps, classes = _join_labels(sources, by_name)
    shards, label_maps = _plan_shards(sources, maps)
    plan = _plan(sources, shards, label_maps, classes, by_name)
    with Target(out, overwrite=overwrite, resume=resume) as target:
        target.require_space(_bytes_to_copy(shards, out, copy=copy, resume=resume))
        if target.begin(plan.fields):
            manifest = read_manifest(out)
            check_sizes(out, manifest)
            return manifest
        written = []
        size = sum(shard_file(shard.entry)["bytes"] for shard in shards)
        with Progress(size, unit="bytes", label=out.name) as progress:
            for shard in shards:
                written.append(_bring_shard(shard, out, copy=copy, resume=resume))
                progress.update(shard_file(shard.entry)["bytes"])
        names: dict[int, str] = {}
        for source, label_map in zip(sources, maps, strict=True):
            known = {k: name for k, name in enumerate(source.names) if name}
            names = map_names(label_map, known) | names
        return finish_pack(
            out,
            plan,
            written,
            refused=[
                line for each in sources for line in read_quarantine(each.path, each.manifest)
            ],
            identity_names=names,
            label_maps=label_maps,
            partial=any(source.manifest["partial"] for source in sources),
            before=[source.manifest for source in sources],
        )


class _Source(NamedTuple):
    """A pack that is merged; ``names`` of its identities by label, empty where they have none."""

    path: Path
    manifest: dict[str, Any]
    names: list[str]

    @classmethod
    def open(cls, path: Path) -> _Source:
        """The pack in ``path``, if it can be merged."""
        manifest = read_training_manifest(path, "only training packs are merged")
        check_sizes(path, manifest)
        try:
            check_source(manifest["source"])  # it becomes a part of the new plan
        except ValueError as error:
            raise DamageError(
                f"{path / fmt.MANIFEST}: {error}: rebuild it with: facepack reindex {path}"
            ) from error
        return cls(path, manifest, read_identity_names(path, manifest))

    def label_map(self, name: str | None) -> np.ndarray | None:
        """Its label map of that file name."""
        if name is None:
            return None
        return read_label_map(read_stated_file(self.path, self.manifest, name), name)


def _require_distinct(sources: Sequence[_Source]) -> None:
    """Refuse to count images twice."""
    seen: dict[str, tuple[Path, str]] = {}
    for source in sources:
        for entry in source.manifest["shards"]:
            digest = shard_file(entry)["xxh3_128"]
            if digest in seen:
                path, name = seen[digest]
                raise PackError(
                    f"{path / name}.mdb and {source.path / entry['name']}.mdb are the same shard: "
                    "its images would be duplicated; merge packs that have no shard in common"
                )
            seen[digest] = source.path, entry["name"]


# Labels ------------------------------------------------------------------------------------------


def _join_labels(sources: Sequence[_Source], by_name: bool) -> tuple[list[np.ndarray | None], int]:
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


def _map_by_name(source: _Source, names: LabelNames, classes: int) -> np.ndarray:
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


class _Shard(NamedTuple):
    """A shard that is merged."""

    source: _Source
    entry: dict[str, Any]  # in the manifest there
    name: str  # of its files in the merged pack
    relabel: np.ndarray | None  # the new label of each label of its pack, if they change
    label_map: str | None  # the file that takes the labels inside it to the new ones


def _plan_shards(
    sources: Sequence[_Source], maps: Sequence[np.ndarray | None]
) -> tuple[list[_Shard], dict[str, np.ndarray]]:
    """All shards under names that no two share, and the label maps by file name."""
    # train-000 and train-001 go together: either both get a prefix or neither.
    stems = [{_stem(entry["name"]) for entry in s.manifest["shards"]} for s in sources]
    packs_with = Counter(stem for each in stems for stem in each)
    prefixes = _prefixes([source.path for source in sources])
    shards = []
    files: dict[tuple[int, str | None], str | None] = {}
    label_maps: dict[str, np.ndarray] = {}
    for k, source in enumerate(sources):
        for entry in source.manifest["shards"]:
            inner = entry["label_map"]
            if (k, inner) not in files:
                files[k, inner] = None
                composed = _compose(source.label_map(inner), maps[k])
                if composed is not None:
                    files[k, inner] = file = fmt.label_map_name(len(label_maps))
                    label_maps[file] = composed
            name = entry["name"]
            if packs_with[_stem(name)] > 1:
                name = fmt.check_shard_name(f"{prefixes[k]}-{name}")
            shards.append(_Shard(source, entry, name, maps[k], files[k, inner]))
    twice = [name for name, n in Counter(shard.name for shard in shards).items() if n > 1]
    if twice:
        raise PackError(f"two shards would be named {twice[0]!r}: rename the folder of a pack")
    return shards, label_maps


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


def _compose(inner: np.ndarray | None, outer: np.ndarray | None) -> np.ndarray | None:
    """``outer`` after ``inner``; None stands for labels that stay."""
    if inner is None or outer is None:
        return outer if inner is None else inner
    return apply_label_map(outer, inner.astype(np.int64))


def _plan(
    sources: Sequence[_Source],
    shards: Sequence[_Shard],
    label_maps: dict[str, np.ndarray],
    classes: int,
    by_name: bool,
) -> PackPlan:
    """The plan of the whole: each shard's file, and what the shard says of itself."""
    manifests = [source.manifest for source in sources]
    orders = {manifest["order"] for manifest in manifests}
    fields = {
        "format": fmt.FORMAT_VERSION,
        "kind": "train",
        "source": {
            "kind": "merge",
            "by_name": by_name,
            "packs": [
                {key: manifest[key] for key in ("pack_id", "content_id", "classes", "source")}
                for manifest in manifests
            ],
        },
        "order": orders.pop() if len(orders) == 1 else "mixed",
        "seed": manifests[0]["seed"],
        "classes": classes,
        "tables": [],
        "label_maps": {
            name: xxhash.xxh3_128_hexdigest(label_map_bytes(label_map))
            for name, label_map in label_maps.items()
        },
        "shards": [
            {
                "name": shard.name,
                "label_map": shard.label_map,
                **{key: shard.entry[key] for key in ("own_name", "pack_id", "shard")},
            }
            for shard in shards
        ],
    }
    return PackPlan.of(fields)


def _bytes_to_copy(shards: Sequence[_Shard], out: Path, *, copy: bool, resume: bool) -> int:
    """Bytes of the shards that are not there and cannot be links."""
    device = out.stat().st_dev
    return sum(
        shard_file(shard.entry)["bytes"]
        for shard in shards
        if (copy or shard.source.path.stat().st_dev != device)
        and not (resume and (out / f"{shard.name}.mdb").exists())
    )


def _bring_shard(shard: _Shard, out: Path, *, copy: bool, resume: bool) -> WrittenShard:
    """Bring a shard and its index into ``out``; returns its entry there."""
    source, old, name = shard.source, shard.entry["name"], shard.name
    data = read_stated_file(source.path, source.manifest, f"{old}.kv")
    # The index has its pack's labels, which differ from the shard's own where that was merged too.
    labels = apply_label_map(shard.relabel, fmt.kv_labels(data, str(source.path / f"{old}.kv")))
    digest, size = write_file(out / f"{name}.kv", [fmt.kv_bytes(labels)])
    stated = shard_file(shard.entry)
    _bring_file(source.path / f"{old}.mdb", out / f"{name}.mdb", stated, copy=copy, resume=resume)
    files = {f"{name}.kv": {"bytes": size, "xxh3_128": digest}, f"{name}.mdb": stated}
    info = ShardInfo.from_json(shard.entry)
    return WrittenShard(replace(info, name=name, files=files, label_map=shard.label_map))


def _bring_file(old: Path, new: Path, stated: dict[str, Any], *, copy: bool, resume: bool) -> None:
    """Make ``new`` the same file as ``old``, or a copy of it with the stated size and digest."""
    if resume and new.exists():
        linked = new.samefile(old)
        if not copy if linked else file_digest(new) == (stated["xxh3_128"], stated["bytes"]):
            return
        new.unlink()
    if not copy:
        try:
            with replacing(new) as part:
                # To the file: a symbolic link may lead nowhere from here.
                system.hard_link(old.resolve(), part)
            return
        except OSError:
            pass  # another file system, or one without links
    write_file(new, _checked(old, stated))


def _checked(path: Path, stated: dict[str, Any]) -> Iterator[bytes]:
    """The file, piece by piece; a DamageError at its end if it is not as stated."""
    digest = fmt.file_digest()
    size = 0
    try:
        with open_regular(path) as file:
            while piece := file.read(_CHUNK):
                digest.update(piece)
                size += len(piece)
                yield piece
    except OSError as error:
        raise DamageError(f"{path}: cannot be read: {error.strerror}") from error
    if size != stated["bytes"] or digest.hexdigest() != stated["xxh3_128"]:
        raise DamageError(
            f"{path} differs from what its manifest states: see what is wrong with: "
            f"facepack verify {path.parent}"
        )
