"""Verification of probes against a gallery: F2C's variant of MegaFace, exact and as published.

Probes lie in folders of persons; the gallery has the same persons' images, or others of them, and
folders of distractors. Every probe with every gallery image is a pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from facepack.errors import EvaluationError
from facepack.evaluate.faces.faces import SourceFaces
from facepack.evaluate.protocol import Protocol, unusable_notice
from facepack.evaluate.protocols.f2c_metrics import tar_of_bins
from facepack.evaluate.protocols.findings import share_figure, tar_notices
from facepack.evaluate.results.result import Figure, Result
from facepack.evaluate.scores.collectors import LargestScores
from facepack.evaluate.scores.intervals import NOTICE
from facepack.evaluate.scores.matching import Collector, Matching, Tile
from facepack.evaluate.scores.operating_point import far_text, most_false_accepts
from facepack.evaluate.sets.named_images import NamedImages
from facepack.train.ranks.group import Ranks

FARS = (1e-6, 1e-7, 1e-8, 1e-9)
DISTRACTOR = "distractor"
"""What the name of a gallery's folder contains whose images are all of others."""

_BLOCK = 65_536  # gallery images whose unit rows are in memory at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbesAndGallery:
    """Positions among some images, and who they show."""

    images: NamedImages  # the images
    probes: np.ndarray  # (p,) positions, and probe_labels (p,) int64
    probe_labels: np.ndarray
    gallery: np.ndarray  # (g,) positions, and gallery_labels (g,), -1 for distractors
    gallery_labels: np.ndarray
    # (p,) of each probe the place in the gallery of the image of the same name, of the same person;
    # -1 where there is none
    twins: np.ndarray


def find_probes_and_gallery(images: NamedImages, probe: str, gallery: str) -> ProbesAndGallery:
    """Find both in folders of these names; the folder below them is the person.

    Raises:
        EvaluationError: there are no probes or no gallery.
    """
    found = {folder: images.below(folder) for folder in (probe, gallery)}
    if absent := [folder for folder, those in found.items() if not len(those)]:
        raise EvaluationError(
            f"{images.path}: there are no images in a folder {absent[0]!r}: give the folder that "
            f"holds {probe} and {gallery}, or say what they are called with --probe and --gallery"
        )
    paths = {
        folder: [f"/{images.names[position]}".split(f"/{folder}/", 1)[1] for position in those]
        for folder, those in found.items()
    }
    persons: dict[str, int] = {}
    labels = {}
    for folder, its in paths.items():
        names = [path.split("/", 1)[0] for path in its]
        nobody = [folder == gallery and DISTRACTOR in name for name in names]
        labels[folder] = np.array(
            [
                -1 if none else persons.setdefault(name, len(persons))
                for name, none in zip(names, nobody, strict=True)
            ],
            np.int64,
        )
    places = {path: place for place, path in enumerate(paths[gallery])}
    return ProbesAndGallery(
        images=images,
        probes=found[probe],
        probe_labels=labels[probe],
        gallery=found[gallery],
        gallery_labels=labels[gallery],
        twins=np.array([places.get(path, -1) for path in paths[probe]], np.int64),
    )


class ProbeGallery(Protocol):
    """TAR at low FARs of every probe with every gallery image.

    ``published`` adds the figures of F2C's script, which adds no mirror image's embedding.
    """

    name = "probe-gallery"

    def __init__(
        self, found: ProbesAndGallery, *, target: str, published: bool = False, flip: bool = True
    ) -> None:
        self.target = target
        self.flip = flip
        self._found = found
        self._published = published
        every = np.concatenate([found.probes, found.gallery])
        chosen, rows = np.unique(every, return_inverse=True)
        self._probes, self._gallery = np.split(rows, [len(found.probes)])
        self.faces = SourceFaces(found.images.choose(chosen), target)

    def measure(self, embeddings: np.ndarray, norms: np.ndarray) -> Result:
        """As :meth:`Protocol.measure`: images without an embedding are left out.

        A probe that is in the gallery too, under the same name and person, is no mate of itself.
        """
        found = self._found
        probes = np.flatnonzero(np.isfinite(norms[self._probes]))
        gallery = np.flatnonzero(np.isfinite(norms[self._gallery]))
        if not len(probes) or not len(gallery):
            raise EvaluationError(
                f"{self.target}: {len(probes):,} probes and {len(gallery):,} gallery images have "
                "embeddings; some of both are needed"
            )
        labels, gallery_labels = found.probe_labels[probes], found.gallery_labels[gallery]
        impostors = _count_impostors(labels, gallery_labels)
        largest = LargestScores(most_false_accepts(max(FARS), impostors) + 1)
        bins, of_mates = ScoreBins(), ScoreBins()
        collectors: list[Collector] = [largest, bins] if self._published else [largest]
        kept: list[np.ndarray] = []
        persons: list[np.ndarray] = []
        rows = embeddings[self._probes[probes]]
        for start in range(0, len(gallery), _BLOCK):
            part = gallery[start : start + _BLOCK]
            matching = Matching.between(
                rows,
                labels,
                embeddings[self._gallery[part]],
                found.gallery_labels[part],
                device=self.device,
            )
            matching.scan(collectors)
            for first, second, scores in _mates(matching):
                own = found.twins[probes[first]] == part[second]
                kept.append(scores[~own])
                persons.append(labels[first[~own]])
                of_mates.add(torch.from_numpy(scores))
        mates = np.concatenate(kept) if kept else np.empty(0, np.float32)
        whose = np.concatenate(persons) if persons else np.empty(0, np.int64)
        highest = largest.descending()
        figures = {
            f"TAR@{far_text(far)}": _tar(mates, whose, highest, far, impostors) for far in FARS
        }
        notices = unusable_notice(self.faces, norms)
        notices += tar_notices(FARS, len(mates), impostors, "person")
        if self._published:
            counts = of_mates.counts
            counts[-1] -= len(probes)
            if (lone := np.count_nonzero(found.twins[probes] < 0)) or counts[-1] < 0:
                notices.append(
                    f"{lone:,} of {len(probes):,} probes are not in the gallery themselves; F2C's "
                    "script takes one mate of each out of its last bin all the same, so that its "
                    "figures mislead here"
                )
            for far in FARS:
                defined = counts.sum() > 0 and impostors
                value = tar_of_bins(counts, bins.counts, far) if defined else None
                figures[f"TAR@{far_text(far)} (F2C)"] = Figure(value=value)
        if any(figure.interval for figure in figures.values()):
            notices.append(NOTICE)
        return Result(
            target=self.target,
            protocol=self.name,
            counts={
                "probes": len(probes),
                "gallery": len(gallery),
                "mates": len(mates),
                "impostors": impostors,
            },
            figures=figures,
            notices=tuple(notices),
        )


class ScoreBins:
    """F2C's histogram: 10,000 bins between -1 and 1.00001, counted without rounding.

    The script counts in float32, which stands still at 16,777,216 in a bin.
    """

    BINS, LOW, HIGH = 10_000, -1.0, 1.0 + 1e-5

    def __init__(self) -> None:
        self.counts = np.zeros(self.BINS, np.int64)

    def take(self, tile: Tile) -> None:
        """Count a tile's impostors."""
        self.add(tile.scores)

    def add(self, scores: Tensor) -> None:
        """Count scores of any shape; -inf is none."""
        inside = scores[(scores >= self.LOW) & (scores <= self.HIGH)]
        which = ((inside - self.LOW) * self.BINS / (self.HIGH - self.LOW)).long()
        counts = torch.bincount(which.clamp_(max=self.BINS - 1), minlength=self.BINS)
        self.counts += counts.cpu().numpy()

    def merge(self, ranks: Ranks) -> None:
        """The sum over the ranks."""
        self.counts = ranks.all_reduce(torch.from_numpy(self.counts)).numpy()


def _mates(matching: Matching) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Places among probes and gallery as they were given, and scores, of all mates."""
    for some in matching.mates():
        rows, columns, scores = (part.cpu().numpy() for part in some)
        yield matching.first.order[rows], matching.second.order[columns], scores


def _count_impostors(labels: np.ndarray, gallery: np.ndarray) -> int:
    known, counts = np.unique(labels[labels >= 0], return_counts=True)
    ordered = np.sort(gallery)
    mates = np.searchsorted(ordered, known, "right") - np.searchsorted(ordered, known)
    return len(labels) * len(gallery) - int((counts * mates).sum())


def _tar(
    mates: np.ndarray, whose: np.ndarray, highest: np.ndarray, far: float, impostors: int
) -> Figure:
    if not len(mates) or not impostors:
        return Figure(value=None)
    return share_figure(mates > highest[most_false_accepts(far, impostors)], whose)
