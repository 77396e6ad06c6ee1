"""TinyFace: which images are probes, mates and distractors, by MATLAB's lists or by folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facepack.errors import EvaluationError
from facepack.evaluate.sets.matlab import read_matlab
from facepack.evaluate.sets.named_images import NamedImages, missing_notice

PROBE, MATCH, DISTRACTOR = "Probe", "Gallery_Match", "Gallery_Distractor"
_LISTS = {PROBE: "probe", MATCH: "gallery_match"}
_FIELDS = {PROBE: "probe", MATCH: "gallery"}
_PLACES = ("", "Testing_Set", "tinyface/Testing_Set", "Face_Identification_Evaluation")
_METADATA = "metadata.pt"


@dataclass(frozen=True, kw_only=True, eq=False)
class TinyFaceSet:
    """Positions among some images, and who they show."""

    images: NamedImages  # the images
    probes: np.ndarray  # (p,) positions
    probe_labels: np.ndarray  # (p,) int64
    gallery: np.ndarray  # (g,) positions, those of distractors behind the others
    gallery_labels: np.ndarray  # (g,) int64, -1 for distractors
    notices: tuple[str, ...]  # what is missing


class _Listed:
    """Images of one kind: names, and the identity of each as a text."""

    def __init__(self, names: Sequence[str], persons: Sequence[str] | None = None) -> None:
        self.names = names
        self.persons = [_person(name) for name in names] if persons is None else list(persons)


def open_tinyface(images: NamedImages, lists: Path | None = None) -> TinyFaceSet:
    """Find TinyFace's three kinds of images.

    MATLAB's lists (``probe_img_ID_pairs.mat``, ``gallery_match_img_ID_pairs.mat``) or CVLface's
    ``metadata.pt`` say which images are meant, where they are there; else the folders ``Probe`` and
    ``Gallery_Match`` do. A name is found whatever its suffix, in its folder or a folder below. The
    identity is what MATLAB's list says, or what is before the first ``_`` of the name; every image
    in ``Gallery_Distractor`` is somebody of whom there is no probe. ``lists`` is the folder or file
    of the lists; None looks in that of the images.

    Raises:
        EvaluationError: a list is missing or malformed, or there are no probes or no mates.
    """
    folder = images.path if lists is None else lists
    metadata = folder if folder.suffix == ".pt" else folder / _METADATA
    if metadata.is_file():
        listed = _read_metadata(metadata)
    else:
        listed = {kind: _read_list(images, kind, folder) for kind in _LISTS}
        below = images.below(DISTRACTOR)
        listed[DISTRACTOR] = _Listed([images.names[position] for position in below.tolist()])
        if lists is not None and not any(_find_list(folder, kind) for kind in _LISTS):
            raise EvaluationError(
                f"{lists} holds neither {_METADATA} nor {_LISTS[PROBE]}_img_ID_pairs.mat: give the "
                "folder of the lists, or none and name images IDENTITY_….jpg"
            )
    notices: list[str] = []
    found = {kind: _find(images, kind, each, notices) for kind, each in listed.items()}
    for kind in (PROBE, MATCH):
        if not len(found[kind][0]):
            raise EvaluationError(
                f"{images.path}: there are no images of {kind}: give the folder that holds "
                f"{PROBE}, {MATCH} and {DISTRACTOR}"
            )
    if not len(found[DISTRACTOR][0]):
        notices.append(
            f"there are no distractors ({DISTRACTOR}): results do not compare with published ones"
        )
    everyone = sorted({*found[PROBE][1], *found[MATCH][1]})
    numbers = {person: number for number, person in enumerate(everyone)}
    nobody = np.full(len(found[DISTRACTOR][0]), -1)
    return TinyFaceSet(
        images=images,
        probes=found[PROBE][0],
        probe_labels=np.array([numbers[person] for person in found[PROBE][1]], np.int64),
        gallery=np.concatenate([found[MATCH][0], found[DISTRACTOR][0]]),
        gallery_labels=np.append([numbers[person] for person in found[MATCH][1]], nobody),
        notices=tuple(notices),
    )


def _find(
    images: NamedImages, kind: str, listed: _Listed, notices: list[str]
) -> tuple[np.ndarray, list[str]]:
    positions = images.find(listed.names)
    notices += missing_notice(f"images of {kind}", listed.names, positions)
    there = positions >= 0
    return positions[there], [
        person for person, found in zip(listed.persons, there, strict=True) if found
    ]


def _read_list(images: NamedImages, kind: str, folder: Path) -> _Listed:
    file = _find_list(folder, kind)
    if file is None:
        below = images.below(kind)
        return _Listed([images.names[position] for position in below.tolist()])
    content = read_matlab(file)
    names, ids = (content.get(f"{_FIELDS[kind]}_{what}") for what in ("set", "ids"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise EvaluationError(
            f"{file}: has no list of names {_FIELDS[kind]}_set, but {', '.join(content) or 'none'}:"
            " fetch it again"
        )
    paths = [f"{kind}/{name}" for name in map(str, names)]
    if not isinstance(ids, np.ndarray):
        return _Listed(paths)
    if ids.size != len(paths):
        raise EvaluationError(
            f"{file}: {len(paths):,} names and {ids.size:,} identities: fetch it again"
        )
    return _Listed(paths, [f"{number:g}" for number in ids.ravel().tolist()])


def _find_list(folder: Path, kind: str) -> Path | None:
    files = (folder / place / f"{_LISTS[kind]}_img_ID_pairs.mat" for place in _PLACES)
    return next((file for file in files if file.is_file()), None)


def _read_metadata(file: Path) -> dict[str, _Listed]:
    """CVLface's lists of paths, of which the names tell the images."""
    import torch

    fields = {PROBE: "probe_paths", MATCH: "gallery_paths", DISTRACTOR: "distractor_paths"}
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        return {
            kind: _Listed([str(path).rpartition("/")[2] for path in content[field]])
            for kind, field in fields.items()
        }
    except Exception as error:  # torch names no types for what it does not take
        raise EvaluationError(
            f"{file}: holds no lists {', '.join(fields.values())} of CVLface "
            f"({type(error).__name__}: {error}): fetch it again"
        ) from error


def _person(name: str) -> str:
    """``25`` of ``Probe/25_3.jpg``."""
    return name.rpartition("/")[2].partition("_")[0]
