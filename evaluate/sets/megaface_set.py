"""MegaFace's images, lists and feature files, as its development kit and packs have them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

import facepack
from facepack.convert.files import Root
from facepack.convert.formats.benchmarks.megaface import (
    SETS,
    MegaFaceSource,
    mark_noisy,
    parse_kit_list,
)
from facepack.errors import EvaluationError
from facepack.evaluate.embedding.embed import normalize
from facepack.evaluate.embedding.feature_files import write_features
from facepack.evaluate.sets.named_images import FolderImages
from facepack.hashing import hash64
from facepack.loading.source import ImageSource
from facepack.reading import read_bytes
from facepack.store.home import is_pack

_SUBSET = re.compile(r"megaface_features_list\.json_(\d+)_(\d+)")
_BLOCK = 4096  # distractors whose features are written together
_MARK = 100.0  # the value of the extra dimension that removes a distractor, as published
_FOLDERS = tuple(f"{which}_images/" for which in SETS)


@dataclass(frozen=True, kw_only=True, eq=False)
class MegaFaceSet:
    """Probes and distractors."""

    name: str  # what results call the set
    source: ImageSource  # the images
    names: Sequence[str]  # (n,) paths, which begin with facescrub_images/ or megaface_images/
    persons: np.ndarray  # (n,) int64, -1 for distractors
    distractor: np.ndarray  # (n,) bool
    noisy: np.ndarray  # (n,) bool: in one of the noise lists
    notices: tuple[str, ...]  # what was passed over

    def path(self, position: int) -> str:
        """What the kit's lists call the image: its path without the folder of all its set."""
        name = self.names[position]
        return name.removeprefix(_FOLDERS[bool(self.distractor[position])])

    def hashes(self, positions: np.ndarray) -> np.ndarray:
        """uint64 (k,) of the images' paths, on which random choices rest.

        The same images are so chosen from a pack, shuffled or not, as from a folder.
        """
        paths = (self.path(position).encode() for position in positions.tolist())
        return np.fromiter(map(xxhash.xxh3_64_intdigest, paths), np.uint64, len(positions))


def open_megaface(path: Path, noises: Sequence[Path] = ()) -> MegaFaceSet:
    """Open the pack that ``facepack megaface2lmdb`` wrote, or the folder that it reads.

    ``noises`` are lists of noisy images, instead of those that it was marked by.

    Raises:
        EvaluationError: the pack is none of MegaFace.
        PackError, SourceError: it cannot be opened, or a list is malformed.
    """
    return _open_pack(path, noises) if is_pack(path) else _open_folder(path, noises)


def _open_pack(path: Path, noises: Sequence[Path]) -> MegaFaceSet:
    pack = facepack.open(path)
    if pack.manifest["kind"] != "megaface":
        raise EvaluationError(
            f"{path} is a pack of kind {pack.manifest['kind']!r}, not of MegaFace: facepack "
            "megaface2lmdb makes one"
        )
    distractor = pack.table("sets") == 1
    names = [name or "" for name in pack.source_names()]
    noisy = pack.table("noisy")
    notices: list[str] = []
    if noises:
        noisy, notices = mark_noisy((name.encode() for name in names), distractor, noises)
    if refused := pack.manifest["quarantined"]:
        notices.append(
            f"{refused:,} images could not be packed: results do not compare with published ones"
        )
    return MegaFaceSet(
        name=pack.name,
        source=pack,
        names=names,
        persons=pack.labels,
        distractor=distractor,
        noisy=noisy,
        notices=tuple(notices),
    )


def _open_folder(path: Path, noises: Sequence[Path]) -> MegaFaceSet:
    source = MegaFaceSource(path, noises=tuple(noises))
    count = len(source)
    entries = list(source.part(0, count).entries())
    tables = source.tables(np.arange(count))
    notices = list(source.notices)
    there = np.flatnonzero(source.sizes())
    if len(there) < count:
        lost = entries[int(np.argmin(source.sizes() > 0))].name
        notices.append(
            f"{count - len(there):,} of {count:,} images of the lists are missing, first {lost}: "
            "they are left out, so that results do not compare with published ones"
        )
    names = [entries[row].name or "" for row in there.tolist()]
    return MegaFaceSet(
        name=path.name,
        source=FolderImages(Root(path), names),
        names=names,
        persons=np.array([entries[row].label for row in there.tolist()], np.int64),
        distractor=tables["sets"][there] == 1,
        noisy=tables["noisy"][there],
        notices=tuple(notices),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Subset:
    """Some distractors: ``size`` by name, the ``number``-th of that size, their positions."""

    size: int
    number: int
    positions: np.ndarray


def draw_subsets(megaface: MegaFaceSet, sizes: Sequence[int], seed: int) -> list[Subset]:
    """Random distractors, of each of ``sizes``; a smaller subset lies in the larger ones.

    A size that is larger than the set is all of it, once.
    """
    positions = np.flatnonzero(megaface.distractor)
    order = np.argsort(hash64(seed, megaface.hashes(positions)), kind="stable")
    drawn = sorted({min(size, len(positions)) for size in sizes if size})
    return [
        Subset(size=size, number=1, positions=np.sort(positions[order[:size]])) for size in drawn
    ]


def read_subsets(megaface: MegaFaceSet, folder: Path) -> tuple[list[Subset], list[str]]:
    """The subsets of the kit's lists ``megaface_features_list.json_<size>_<set>``, and notices.

    Raises:
        EvaluationError: there is no such list, or one names no image that is there.
        SourceError: a list is malformed.
    """
    lists = {_SUBSET.fullmatch(file.name): file for file in folder.glob("*_features_list.json_*")}
    found = {(int(match[1]), int(match[2])): file for match, file in lists.items() if match}
    if not found:
        raise EvaluationError(
            f"{folder} holds no megaface_features_list.json_<size>_<set>: give the kit's "
            "templatelists"
        )
    positions = {
        megaface.path(position): position
        for position in np.flatnonzero(megaface.distractor).tolist()
    }
    subsets, notices = [], []
    for (size, number), file in sorted(found.items()):
        try:
            paths, _ = parse_kit_list(file, read_bytes(file), with_persons=False)
        except OSError as error:
            raise EvaluationError(f"{file}: cannot be read: {error.strerror}") from error
        known = [positions.get(path.decode(), -1) for path in paths]
        there = np.array([position for position in known if position >= 0], np.int64)
        if not len(there):
            raise EvaluationError(
                f"{file}: none of its {len(paths):,} images is among the distractors of "
                f"{megaface.name}: give the lists that belong to it"
            )
        if len(there) < len(paths):
            first = paths[known.index(-1)].decode()
            notices.append(
                f"{file.name}: {len(paths) - len(there):,} of {len(paths):,} images are missing, "
                f"first {first}: they are left out"
            )
        subsets.append(Subset(size=size, number=number, positions=np.unique(there)))
    return subsets, notices


def write_kit(
    megaface: MegaFaceSet,
    folder: Path,
    *,
    algorithm: str,
    probes: tuple[np.ndarray, np.ndarray],
    embeddings: np.ndarray,
    removed: np.ndarray,
    subsets: Sequence[Subset],
) -> None:
    """Write what the development kit asks for: feature files, and lists of probes and subsets.

    They lie in ``facescrub``, ``megaface`` and ``templatelists``. Features are of unit length and
    have an extra dimension: 0, and 100 in distractors that are removed, as the published script
    writes them.

    Args:
        algorithm: the feature files' ending is ``_ALGORITHM.bin``.
        probes: (k,) positions, and (k, F) their unit embeddings, noisy ones replaced.
        embeddings: (n, F) of all images, not normalised; those of distractors are written.
        removed: (n,) bool: distractors that are out of play.
        subsets: whose lists are written, beside that of the probes.

    Raises:
        EvaluationError: an image's path leads out of the folder, or nothing can be written there.
    """
    ending = f"_{algorithm}.bin"
    positions, rows = probes
    paths = [megaface.path(position) for position in positions.tolist()]
    try:
        write_features(folder / SETS[0], paths, _marked(rows, False), ending=ending)
        of_megaface = np.flatnonzero(megaface.distractor)
        for start in range(0, len(of_megaface), _BLOCK):
            some = of_megaface[start : start + _BLOCK]
            write_features(
                folder / SETS[1],
                [megaface.path(position) for position in some.tolist()],
                _marked(normalize(np.asarray(embeddings[some], np.float32))[0], removed[some]),
                ending=ending,
            )
        lists = folder / "templatelists"
        lists.mkdir(exist_ok=True)
        persons = [path.split("/")[0] for path in paths]
        _write_list(lists / f"{SETS[0]}_features_list.json", {"id": persons, "path": paths})
        for subset in subsets:
            listed = [megaface.path(position) for position in subset.positions.tolist()]
            name = f"{SETS[1]}_features_list.json_{subset.size}_{subset.number}"
            _write_list(lists / name, {"path": listed})
    except OSError as error:
        raise EvaluationError(f"{folder}: cannot be written: {error.strerror}") from error


def _marked(rows: np.ndarray, removed: np.ndarray | bool) -> np.ndarray:
    """``rows`` (n, F) with the published extra dimension."""
    marks = np.where(np.broadcast_to(removed, len(rows)), _MARK, 0)
    return np.column_stack([rows, marks]).astype(np.float32)


def split_marks(
    embeddings: np.ndarray, distractor: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Embeddings without the published extra dimension, and the distractors that it removes.

    Of (n, F) embeddings, perhaps of feature files that the published script cleaned, and bool (n,).

    Returns:
        (n, F - 1) and (n,) bool, if the last dimension is 0 in all probes and 0 or 100 in
        distractors; else the embeddings as they are, and None.
    """
    last = np.asarray(embeddings[:, -1], np.float32)
    removed = distractor & (last == _MARK)
    if not removed.any() or np.any(last[~removed]):
        return embeddings, None
    return embeddings[:, :-1], removed


def _write_list(file: Path, content: dict[str, list[str]]) -> None:
    file.write_text(json.dumps(content, sort_keys=True, indent=4), encoding="utf-8")
