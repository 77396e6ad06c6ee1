"""IJB-B or IJB-C opened: from a pack, or from the folder that InsightFace's archive holds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import facepack
from facepack.convert.files import Root
from facepack.convert.formats.benchmarks.ijb import IMAGES, IjbSource
from facepack.errors import EvaluationError
from facepack.evaluate.sets.alignment import LandmarkedFaces
from facepack.evaluate.sets.named_images import FolderImages
from facepack.store.format import table_names
from facepack.store.home import is_pack
from facepack.store.sets import split_set

_OF_IMAGES = ("landmarks", "scores", "template_ids", "media_ids")
_PAIRS = "template_pairs"
_GALLERY, _PROBE, _MIXED = "gallery_", "probe_", "probe_mixed"


@dataclass(frozen=True, kw_only=True, eq=False)
class IjbSet:
    """Images, the templates that they belong to, and the lists of both protocols."""

    faces: LandmarkedFaces  # the images, aligned as they are embedded
    scores: np.ndarray  # (n,) the detector's
    template_ids: np.ndarray  # (n,) of each image
    media_ids: np.ndarray  # (n,) of each image
    # (P, 3) two templates, and 1 for the same person; None without a list of pairs
    pairs: np.ndarray | None
    # name (G1) → (t, 2) templates and subjects, each pair of them once
    galleries: dict[str, np.ndarray]
    probes: np.ndarray  # (t, 2) likewise
    notices: tuple[str, ...]  # of what the set lacks


def open_ijb(path: Path, name: str) -> IjbSet:
    """Open the pack that ``facepack ijb2lmdb`` made, or the folder of ``loose_crop`` and ``meta``.

    Raises:
        EvaluationError: the pack is of something else, or of some shards only.
        PackError: the pack cannot be opened, or a table is damaged.
        SourceError: a list is missing or malformed.
    """
    if is_pack(split_set(path)[0]):
        return _open_pack(path, name)
    source = IjbSource(path)
    images = FolderImages(Root(path / IMAGES), [os.fsdecode(each) for each in source.names])
    tables = source.tables(np.arange(len(source)))
    faces = LandmarkedFaces(images, tables["landmarks"], name)
    return _make(faces, tables, source.notices)


def _open_pack(path: Path, name: str) -> IjbSet:
    pack = facepack.open(path)
    names = table_names(pack.manifest["files"])
    if missing := [each for each in _OF_IMAGES if each not in names]:
        raise EvaluationError(
            f"{path} is a pack without {', '.join(missing)}: it is not IJB-B or IJB-C. `facepack "
            "ijb2lmdb` makes such a pack of the folder that holds loose_crop and meta"
        )
    tables = {
        each: pack.table(each)
        for each in names
        if each in (*_OF_IMAGES, _PAIRS) or each.startswith((_GALLERY, _PROBE))
    }
    _check_shapes(path, tables)
    if len(tables["template_ids"]) != len(pack):
        raise EvaluationError(
            f"{path} opens {len(pack):,} images, but its tables tell of "
            f"{len(tables['template_ids']):,}: give the whole pack"
        )
    return _make(LandmarkedFaces(pack, tables["landmarks"], name), tables, [])


def _check_shapes(path: Path, tables: dict[str, np.ndarray]) -> None:
    """A checksum tells that a table is as it was written, not that it is one of IJB's."""
    images = len(tables["template_ids"])
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {
        "landmarks": ("f", (images, 5, 2)),
        "scores": ("f", (images,)),
        "template_ids": ("i", (images,)),
        "media_ids": ("i", (images,)),
    }
    for name, table in tables.items():
        kind, shape = wanted.get(name, ("i", (len(table) if table.ndim else 0, 3)))
        if table.dtype.kind != kind or table.shape != shape:
            raise EvaluationError(
                f"{path}: the table {name} is {table.dtype} {table.shape}; "
                f"{'floating point' if kind == 'f' else 'integers'} {shape} are needed: make the "
                "pack again with facepack ijb2lmdb"
            )


def _make(faces: LandmarkedFaces, tables: dict[str, np.ndarray], notices: list[str]) -> IjbSet:
    rosters = {
        each: np.unique(table[:, :2], axis=0)
        for each, table in tables.items()
        if each.startswith((_GALLERY, _PROBE))
    }
    # The published 1:N protocol searches with one list of all probes, which holds still images and
    # videos alike; lists of either kind are parts of it.
    probes = (
        [rosters[_MIXED]]
        if _MIXED in rosters
        else [roster for each, roster in rosters.items() if each.startswith(_PROBE)]
    )
    return IjbSet(
        faces=faces,
        scores=tables["scores"],
        template_ids=tables["template_ids"],
        media_ids=tables["media_ids"],
        pairs=tables.get(_PAIRS),
        galleries={
            each.removeprefix(_GALLERY): roster
            for each, roster in rosters.items()
            if each.startswith(_GALLERY)
        },
        probes=np.unique(np.concatenate([np.empty((0, 2), np.int64), *probes]), axis=0),
        notices=tuple(notices),
    )
