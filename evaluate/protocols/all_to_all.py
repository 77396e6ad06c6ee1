"""Every image with every other: the tracks of MFR (ICCV 2021) and of IFRT, by group and of all.

Images are private there and only models travel; the protocol takes any labelled images. All pairs
of images of one identity are mates, all others impostors, and TAR is told at one FAR: 1e-6 for
the multi-racial sets, within each race and of all, 1e-4 for children, and 1e-4 for masks, where
only pairs of an image with and one without a mask count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from facepack.errors import EvaluationError
from facepack.evaluate.faces.faces import Faces
from facepack.evaluate.protocol import Protocol, unusable_notice
from facepack.evaluate.protocols.findings import HARDEST, hard_pairs, share_figure, tar_notices
from facepack.evaluate.results.curves import roc_and_det
from facepack.evaluate.results.result import Curve, Figure, HardPair, Result
from facepack.evaluate.scores.intervals import NOTICE, bootstrap_interval
from facepack.evaluate.scores.matching import Matching
from facepack.evaluate.scores.nearest import NearestImages
from facepack.evaluate.scores.operating_point import far_text
from facepack.evaluate.scores.verification import Verification, verify
from facepack.evaluate.sets.groups import Groups

FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""Of any images of one's own: at which TAR is told."""

RANK_ONE = "rank-1"

_CURVE = 5_000_000_000  # impostors up to which a ROC is drawn: counting all scores halves the speed


@dataclass(frozen=True, kw_only=True)
class Track:
    """What is measured."""

    far: float  # at which TAR is told
    across: bool = False  # only pairs of images of two different groups count


TRACKS = {
    "multiracial": Track(far=1e-6),
    "children": Track(far=1e-4),
    "mask": Track(far=1e-4, across=True),
}


class _Found(NamedTuple):
    """What the pairs of some images say, and rank 1 by its name, where it is told."""

    verified: Verification
    rank_one: dict[str, Figure]


class AllToAll(Protocol):
    """Verification of all pairs, as a track of :data:`TRACKS` has it, or at other FARs.

    Labels (n,) are identities; -1 is nobody's, who has no mate. A track across groups needs two.

    Raises:
        EvaluationError: the track needs two groups, and there are others.
    """

    name = "mfr"
    ranked: ClassVar[bool] = False
    """Whether rank 1 is told, too."""

    def __init__(
        self,
        target: str,
        faces: Faces,
        labels: np.ndarray,
        *,
        track: str,
        groups: Groups | None = None,
        fars: tuple[float, ...] = (),
    ) -> None:
        self.target = target
        self.faces = faces
        self._labels = np.asarray(labels, np.int64)
        self._variant = track
        self._groups = groups
        self._across = TRACKS[track].across
        self._fars = tuple(sorted(set(fars))) or (TRACKS[track].far,)
        if self._across:
            names = [] if groups is None else groups.names
            if len(names) != 2:
                raise EvaluationError(
                    f"{target}: the track {track} compares the images of two groups; "
                    f"{len(names)} are given ({', '.join(names) or 'none'}): say with --group "
                    "which images show a mask"
                )

    def measure(self, embeddings: np.ndarray, norms: np.ndarray) -> Result:
        """As :meth:`Protocol.measure`: images without an embedding are left out."""
        notices = unusable_notice(self.faces, norms)
        usable = np.isfinite(norms)
        groups = self._groups
        if groups is not None and (lost := np.count_nonzero(groups.of < 0)):
            what = "left out" if self._across else "counted among all alone"
            notices.append(f"{lost:,} of {len(usable):,} images are in no group: they are {what}")
        if groups is not None and groups.unknown:
            notices.append(
                f"{len(groups.unknown):,} names in the table of groups are of no image or identity "
                f"here, first {groups.unknown[0]}"
            )
        if self._across and groups is not None:
            sides = [np.flatnonzero(usable & (groups.of == side)) for side in (0, 1)]
        else:
            sides = [np.flatnonzero(usable)]
        everyone = self._verify(embeddings, *sides, hardest=HARDEST)
        overall = everyone and everyone.verified
        notices += self._undefined("", overall)
        by_group: dict[str, dict[str, Figure]] = {}
        if groups is not None and not self._across:
            for number, name in enumerate(groups.names):
                members = np.flatnonzero(usable & (groups.of == number))
                found = self._verify(embeddings, members)
                by_group[name] = self._figures(found)
                notices += self._undefined(f"{name}: ", found and found.verified)
        figures = self._figures(everyone)
        if any(
            figure.interval for each in (figures, *by_group.values()) for figure in each.values()
        ):
            notices.append(NOTICE)
        images = np.concatenate(sides)
        labels = self._labels[images]
        return Result(
            target=self.target,
            protocol=self.name,
            variant=self._variant,
            counts={
                "images": len(images),
                "identities": len(np.unique(labels[labels >= 0])),
                "mates": overall.mates if overall else 0,
                "impostors": overall.impostors if overall else 0,
            },
            figures=figures,
            curves=_curves(overall),
            groups=by_group,
            hardest=self._hardest(overall, sides),
            notices=tuple(notices),
        )

    def _verify(
        self, embeddings: np.ndarray, *sides: np.ndarray, hardest: int = 0
    ) -> _Found | None:
        """All pairs of one side, or of one with the other; None where there is none."""
        if not all(map(len, sides)):
            return None
        # Embeddings of all images are not copied: of MFR's 1.6 million they take 3.3 GB.
        given = [
            part
            for side in sides
            for part in (
                embeddings if len(side) == len(embeddings) else embeddings[side],
                self._labels[side],
            )
        ]
        make = Matching.all_to_all if len(sides) == 1 else Matching.between
        matching = make(*given, device=self.device)
        curve = bool(hardest) and matching.impostor_count <= _CURVE
        nearest = NearestImages(matching) if self.ranked else None
        verified = verify(
            matching,
            self._fars,
            hardest=hardest,
            curve=curve,
            also=[] if nearest is None else [nearest],
        )
        return _Found(verified, _rank_one(nearest, verified) if nearest else {})

    def _figures(self, measured: _Found | None) -> dict[str, Figure]:
        if measured is None:
            names = [f"TAR@{far_text(far)}" for far in self._fars] + [RANK_ONE] * self.ranked
            return {name: Figure(value=None) for name in names}
        found = measured.verified
        whose = found.by_identity
        figures = {
            f"TAR@{far_text(far)}": Figure(
                value=found.points[far].tar,
                interval=(
                    bootstrap_interval(whose.accepted[far], whose.mates)
                    if found.points[far].tar is not None
                    else None
                ),
            )
            for far in self._fars
        }
        return {**figures, **measured.rank_one}

    def _undefined(self, group: str, found: Verification | None) -> list[str]:
        """What to say of images that leave TAR undefined, or too few to measure it."""
        mates, impostors = (found.mates, found.impostors) if found else (0, 0)
        notices = tar_notices(self._fars, mates, impostors, "identity")
        return [f"{group}{notice}" for notice in notices]

    def _hardest(
        self, found: Verification | None, sides: Sequence[np.ndarray]
    ) -> tuple[HardPair, ...]:
        if found is None:
            return ()
        key, first, second = self.faces.key, sides[0], sides[-1]
        near, far = found.hardest_impostors, found.hardest_mates
        return (
            *hard_pairs("false accept", key, first[near.first], second[near.second], near.scores),
            *hard_pairs("false reject", key, first[far.first], second[far.second], far.scores),
        )


class Identities(AllToAll):
    """Any labelled images: TAR at many FARs, and rank 1 of each image among all others.

    Each group is measured within itself.
    """

    name = "identities"
    ranked = True

    def __init__(
        self, target: str, faces: Faces, labels: np.ndarray, *, groups: Groups | None = None
    ) -> None:
        super().__init__(target, faces, labels, track="multiracial", groups=groups, fars=FARS)
        self._variant = "exact"


def _rank_one(nearest: NearestImages, verified: Verification) -> dict[str, Figure]:
    found = nearest.found() if verified.impostors else (np.empty(0), np.empty(0))
    return {RANK_ONE: share_figure(*found)}


def _curves(found: Verification | None) -> dict[str, Curve]:
    if found is None or found.curve is None or not found.mates or not found.impostors:
        return {}
    return roc_and_det(*(np.append(0.0, shares[::-1]) for shares in found.curve.roc()))
