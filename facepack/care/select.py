"""Packs of some of a pack's records, whose shards are linked or copied, not rewritten."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from facepack.care.bring import BroughtShard, LabelMaps, SourcePack
from facepack.care.joined import JoinedPack, write_packs
from facepack.errors import ConfigError, DamageError, DecodeError, PackError
from facepack.progress import Progress
from facepack.store import format as fmt
from facepack.store.labelmap import map_names
from facepack.store.lmdb_read import ScanError
from facepack.store.manifest import read_training_manifest
from facepack.store.pack import open as open_pack
from facepack.store.selection import describe_selection
from facepack.store.sets import split_set
from facepack.store.shard_nodes import map_file


def split(
    path: Path,
    head: Path,
    tail: Path,
    *,
    min_images: int = 9,
    exclude: np.ndarray | None = None,
    copy: bool = False,
    overwrite: bool = False,
    resume: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part the identities of a pack by how many images they have.

    Both new packs number their identities from 0, in the order of their labels in ``path``, so that
    a classifier of the head has no row for the tail. Images without identity are in neither.

    Args:
        path: a training pack, or ``PACK:SET``.
        head: a new or empty folder, for identities with at least ``min_images``.
        tail: a new or empty folder, for the others.
        exclude: positions in ``path`` of records that are left out and not counted, int64 (n,).
        copy: copy the shards, so that no file is shared.

    Returns:
        The manifests of head and tail.

    Raises:
        PackError: no identity is in the head, or none in the tail; ``path`` is no training pack; or
            a target cannot be written.
        DamageError: a file of the pack is missing, or differs from its manifest.
    """
    halves = plan_split(path, head, tail, min_images=min_images, exclude=exclude)
    written = write_packs(halves, copy=copy, overwrite=overwrite, resume=resume)
    return written[0], written[1]


def plan_split(
    path: Path,
    head: Path,
    tail: Path,
    *,
    min_images: int = 9,
    exclude: np.ndarray | None = None,
) -> list[JoinedPack]:
    """The packs that :func:`split` would write, of which nothing is written."""
    if min_images < 1:
        raise ConfigError(f"min_images {min_images}: allowed are 1 and more")
    if os.path.realpath(head) == os.path.realpath(tail):
        raise PackError(f"{head} cannot be head and tail: choose two targets")
    with open_pack(path) as pack:
        labels, classes = pack.labels, pack.classes
    keep = _kept(len(labels), exclude)
    counts = np.bincount(labels[keep & (labels >= 0)], minlength=classes)
    is_head, is_tail = counts >= min_images, (counts > 0) & (counts < min_images)
    present = counts[counts > 0]
    if not len(present):
        raise PackError(f"{path}: no image in it has an identity: there is nothing to part")
    least, most = present.min(), present.max()
    for side, other, words in (
        (is_head, "tail", f"at least {min_images}"),
        (is_tail, "head", f"fewer than {min_images}"),
    ):
        if not side.any():
            spread = f"{least} to {most}" if least < most else f"{most}"
            raise PackError(
                f"{path}: none of its {len(present)} identities has {words} images, so all would "
                f"be {other}; they have {spread} images each: choose another --min-images"
            )
    chosen = {"min_images": min_images, **_chosen(exclude)}
    return [
        _select(
            path,
            out,
            keep & np.append(side, False)[labels],
            chosen={"part": part, **chosen},
            relabel=np.where(side, np.cumsum(side) - 1, fmt.NO_IDENTITY),
        )
        for part, side, out in (("head", is_head, head), ("tail", is_tail, tail))
    ]


def exclude(
    path: Path,
    out: Path,
    positions: np.ndarray,
    *,
    copy: bool = False,
    overwrite: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Make a pack of all records but some; labels and classes stay, so models fit both packs.

    Args:
        path: a training pack, or ``PACK:SET``.
        positions: in ``path``, of the records that are left out: int64 (n,).
        copy: copy the shards, so that no file is shared.

    Returns:
        The new pack's manifest.

    Raises:
        PackError: nothing would be left, ``path`` is no training pack, or ``out`` cannot be
            written.
        DamageError: a file of the pack is missing, or differs from its manifest.
    """
    selection = plan_exclude(path, out, positions)
    (manifest,) = write_packs([selection], copy=copy, overwrite=overwrite, resume=resume)
    return manifest


def plan_exclude(path: Path, out: Path, positions: np.ndarray) -> JoinedPack:
    """The pack that :func:`exclude` would write, of which nothing is written."""
    with open_pack(path) as pack:
        keep = _kept(len(pack), positions)
    return _select(path, out, keep, chosen=_chosen(positions), relabel=None)


def _kept(count: int, positions: np.ndarray | None) -> np.ndarray:
    keep = np.ones(count, bool)
    if positions is not None:
        keep[positions] = False
    return keep


def _chosen(positions: np.ndarray | None) -> dict[str, Any]:
    """How a plan tells what was left out; the digests of the selections tell it exactly."""
    if positions is None:
        return {}
    return {"exclude": len(np.unique(positions))}


def _select(
    path: Path,
    out: Path,
    keep: np.ndarray,
    *,
    chosen: Mapping[str, Any],
    relabel: np.ndarray | None,
) -> JoinedPack:
    """The pack ``out`` of the records of ``path`` that ``keep`` marks: bool (n,).

    ``relabel`` is the new label of each label, -1 for those of none of the records; None: all
    stay.
    """
    folder, _ = split_set(path)
    if os.path.realpath(folder) == os.path.realpath(out):
        raise PackError(f"{out} is the pack that is selected from: choose another target")
    if not keep.any():
        raise PackError(f"{path}: no record would be left")
    read_training_manifest(folder, "records are selected from training packs alone")
    with open_pack(path) as pack:
        source = SourcePack.of(pack.path, pack.manifest)
    shards, label_maps = _plan_shards(source, keep, relabel)
    classes = source.manifest["classes"]
    names = {k: name for k, name in enumerate(source.names) if name and k < classes}
    return JoinedPack.of(
        out,
        {"kind": "selection", "chosen": dict(chosen)},
        [source],
        classes=classes if relabel is None else int(relabel.max()) + 1,
        shards=shards,
        label_maps=label_maps,
        names=map_names(relabel, names),
    )


def _plan_shards(
    source: SourcePack, keep: np.ndarray, relabel: np.ndarray | None
) -> tuple[list[BroughtShard], dict[str, np.ndarray]]:
    """The shards that hold a record that is kept, and the label maps by file name."""
    shards = []
    label_maps = LabelMaps()
    start = 0
    with Progress(len(keep), label="choose") as progress:
        for entry in source.manifest["shards"]:
            chosen = keep[start : start + entry["records"]]
            start += entry["records"]
            progress.update(len(chosen))
            if not chosen.any():
                continue
            label_map = label_maps.name(source, entry["label_map"], relabel)
            keys = np.asarray(source.read_index(entry)[1], np.int64)[chosen]
            shard = source.path / f"{entry['name']}.mdb"
            try:
                selection = describe_selection(map_file(shard), keys)
            except (DamageError, DecodeError, ScanError, OSError, ValueError) as error:
                raise DamageError(
                    f"{shard}: {error}: see what is wrong with: facepack verify {source.path}"
                ) from error
            shards.append(
                BroughtShard(source, entry, entry["name"], relabel, label_map, chosen, selection)
            )
    return shards, label_maps.files
