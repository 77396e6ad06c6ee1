"""Verification of pairs that a list names: of images (SLLFW), or of templates (YTF)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facepack.convert.formats.pair_list.pair_list import PairList, read_pair_list
from facepack.errors import EvaluationError
from facepack.evaluate.faces.faces import Faces, SourceFaces
from facepack.evaluate.protocol import Protocol, unusable_notice
from facepack.evaluate.protocols.f2c_metrics import best_of_grid, best_score, f2c_figures
from facepack.evaluate.protocols.verification import (
    PairVerification,
    interval_notice,
    measure_pairs,
    roc_curves,
    squared_distances,
)
from facepack.evaluate.results.result import Result
from facepack.evaluate.sets.list_files import read_rows
from facepack.evaluate.sets.named_images import NamedImages, missing_notice

_ROWS = 8192  # embeddings that are added to their templates at a time


class LocatedPairs(NamedTuple):
    """Pairs whose images were found."""

    faces: SourceFaces  # the images, each once
    pairs: np.ndarray  # (k, 2) int64, positions among them of the pairs whose images are both there
    kept: np.ndarray  # bool (P,), which pairs these are
    notices: list[str]  # what is missing


def locate_pairs(images: NamedImages, pairs: PairList, *, target: str) -> LocatedPairs:
    """Find the images of pairs that are given by name.

    Raises:
        EvaluationError: of no pair both images are there.
    """
    names = list(dict.fromkeys([*pairs.first, *pairs.second]))
    positions = images.find(names)
    notices = missing_notice("images", names, positions)
    there = np.flatnonzero(positions >= 0)
    rows = np.full(len(names), -1)
    # Names may mean the same image: each is embedded once.
    chosen, rows[there] = np.unique(positions[there], return_inverse=True)
    numbers = dict(zip(names, rows.tolist(), strict=True))
    found = np.array(
        [[numbers[name] for name in side] for side in (pairs.first, pairs.second)], np.int64
    ).T
    kept = (found >= 0).all(axis=1)
    if not kept.any():
        raise EvaluationError(
            f"{target}: of none of {len(kept):,} pairs both images are in {images.path}: give the "
            "folder that the list speaks of"
        )
    if not kept.all():
        notices.append(_left_out(kept))
    return LocatedPairs(SourceFaces(images.choose(chosen), target), found[kept], kept, notices)


class ListedPairs(PairVerification):
    """Pairs of images by name, such as SLLFW's; with F2C's figures beside the field's.

    ``flip`` says whether the mirror image's embedding is added; F2C's script adds none.

    Raises:
        EvaluationError: of no pair both images are there.
    """

    name = "sllfw"

    def __init__(
        self, images: NamedImages, pairs: PairList, *, target: str, flip: bool = True
    ) -> None:
        self.target = target
        self.flip = flip
        found = locate_pairs(images, pairs, target=target)
        self.faces, self._notices = found.faces, found.notices
        self._pairs, self._issame = found.pairs, pairs.issame[found.kept]

    def measure(self, embeddings: np.ndarray, norms: np.ndarray) -> Result:
        """As :meth:`Protocol.measure`: pairs of an image without an embedding are left out."""
        result = super().measure(embeddings, norms)
        kept = np.isfinite(norms[self._pairs]).all(axis=1)
        scores = 1 - squared_distances(embeddings, self._pairs[kept]) / 2
        published = f2c_figures(scores, self._issame[kept], best_of_grid)
        return replace(
            result,
            figures={**result.figures, **published},
        )


class TemplatePairs(Protocol):
    """Pairs of templates, such as YTF's: a template is the normalised mean of its embeddings.

    Embeddings enter the mean with the lengths that the model gave them. ``members`` (m, 2) are the
    name of an image, and of the template that it belongs to. ``flip`` as in :class:`ListedPairs`.

    Raises:
        EvaluationError: of no pair both templates have images.
    """

    name = "ytf"

    def __init__(
        self,
        images: NamedImages,
        members: Sequence[Sequence[str]],
        pairs: PairList,
        *,
        target: str,
        flip: bool = True,
    ) -> None:
        self.target = target
        self.flip = flip
        wanted = list(dict.fromkeys([*pairs.first, *pairs.second]))
        numbers = {template: number for number, template in enumerate(wanted)}
        of_pairs = [
            (name, numbers[of]) for name, of in dict.fromkeys(map(tuple, members)) if of in numbers
        ]
        names = [name for name, _ in of_pairs]
        positions = images.find(names)
        there = positions >= 0
        self._notices = missing_notice("images", names, positions)
        if unused := len({of for _, of in members} - set(wanted)):
            self._notices.append(f"{unused:,} templates are in no pair: they are not embedded")
        chosen, self._rows = np.unique(positions[there], return_inverse=True)
        self._templates = np.array([of for _, of in of_pairs], np.int64)[there]
        self._names = wanted
        self._pairs = np.array(
            [[numbers[of] for of in side] for side in (pairs.first, pairs.second)], np.int64
        ).T
        self._issame = pairs.issame
        if not len(chosen):
            raise EvaluationError(
                f"{target}: none of the {len(names):,} images of its pairs is in {images.path}: "
                "give the folder that the list speaks of"
            )
        self.faces: Faces = SourceFaces(images.choose(chosen), target)

    def measure(self, embeddings: np.ndarray, norms: np.ndarray) -> Result:
        """As :meth:`Protocol.measure`: a template is made of the embeddings that there are."""
        sums = np.zeros((len(self._names), embeddings.shape[1]))
        usable = np.isfinite(norms[self._rows])
        rows, templates = self._rows[usable], self._templates[usable]
        for start in range(0, len(rows), _ROWS):
            some = slice(start, start + _ROWS)
            np.add.at(sums, templates[some], embeddings[rows[some]].astype(np.float64))
        counts = np.bincount(templates, minlength=len(sums))
        notices = [*self._notices, *unusable_notice(self.faces, norms)]
        if empty := np.flatnonzero(counts == 0).tolist():
            notices.append(
                f"{len(empty):,} of {len(counts):,} templates have no image, first "
                f"{self._names[empty[0]]}"
            )
        kept = (counts[self._pairs] > 0).all(axis=1)
        if not kept.any():
            raise EvaluationError(f"{self.target}: of no pair both templates have images")
        if not kept.all():
            notices.append(_left_out(kept))
        pairs, issame = self._pairs[kept], self._issame[kept]
        distances = squared_distances(sums, pairs)
        means = np.linalg.norm(sums, axis=1) / np.maximum(counts, 1)
        measured = measure_pairs(
            self.target, distances, issame, norm=float(means[pairs].mean()), members=pairs
        )
        return Result(
            target=self.target,
            protocol=self.name,
            counts={
                "pairs": len(pairs),
                "templates": len(np.unique(pairs)),
                "images": len(self.faces),
            },
            figures={
                **measured.figures,
                **f2c_figures(1 - distances / 2, issame, best_score),
            },
            curves=roc_curves(distances, issame),
            notices=(*notices, *measured.notices, *interval_notice(measured)),
        )


def _left_out(kept: np.ndarray) -> str:
    return (
        f"{np.count_nonzero(~kept):,} of {len(kept):,} pairs are left out: folds are cut from the "
        "pairs that remain, so that results do not compare with published ones"
    )


def open_sllfw(images: NamedImages, pairs: Path, *, target: str, flip: bool) -> ListedPairs:
    """The pairs of the list ``pairs``."""
    return ListedPairs(images, read_pair_list(pairs), target=target, flip=flip)


def open_ytf(
    images: NamedImages, members: Path, pairs: Path, *, target: str, flip: bool
) -> TemplatePairs:
    """The templates of the list ``members``, and the pairs of the list ``pairs``."""
    rows = read_rows(members, (2,), "an image and its template")
    return TemplatePairs(images, rows, read_pair_list(pairs), target=target, flip=flip)
