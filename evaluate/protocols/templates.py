"""Templates against templates: IJB-B's and IJB-C's verification and identification.

Whitelam et al., "IARPA Janus Benchmark-B Face Dataset" (CVPR Workshops 2017), and Maze et al.,
"IARPA Janus Benchmark - C" (ICB 2018), as InsightFace's scripts run them. Each gallery of 1:N is
searched alone: a probe without a mate in it is what makes false positives, which it can be no more
where galleries are merged.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from facepack.errors import EvaluationError
from facepack.evaluate.protocol import Protocol, unusable_notice
from facepack.evaluate.protocols.template_identification import search_galleries
from facepack.evaluate.protocols.template_verification import verify_templates
from facepack.evaluate.results.result import Result
from facepack.evaluate.scores.intervals import NOTICE
from facepack.evaluate.scores.pooling import Templates, pool_templates
from facepack.evaluate.sets.ijb_set import IjbSet


class IjbProtocol(Protocol):
    """TAR at FAR of the listed pairs of templates, TPIR at FPIR and ranks in the galleries.

    Args:
        roc: how TAR is read, see :mod:`facepack.evaluate.scores.listed`.
        flip: whether an image's embedding has its mirror image's added (TestMode F).
        detector: whether it is weighted by its detector score (TestMode D).
        norm: whether it keeps its length, which then weights it (TestMode N).
    """

    name = "ijb"

    def __init__(
        self,
        ijb: IjbSet,
        *,
        roc: Literal["exact", "published"] = "exact",
        flip: bool = True,
        detector: bool = True,
        norm: bool = True,
    ) -> None:
        self.target = ijb.faces.name
        self.faces = ijb.faces
        self.flip = flip
        self._set = ijb
        self._roc = roc
        self._detector = detector
        self._norm = norm
        modes = {"F": flip, "D": detector, "N": norm}
        off = [f"{mode}0" for mode, on in modes.items() if not on]
        # Without D nobody asks what the detector said.
        self._scored = np.isfinite(ijb.scores) | (not detector)
        self._variant = " ".join([roc, *off])

    def measure(self, embeddings: np.ndarray, norms: np.ndarray) -> Result:
        """As :meth:`Protocol.measure`: templates without an embedding are left out."""
        ijb = self._set
        usable = np.isfinite(norms) & ijb.faces.aligned & self._scored
        templates = pool_templates(
            embeddings,
            template_ids=ijb.template_ids,
            media_ids=ijb.media_ids,
            weights=self._weights(norms),
            usable=usable,
        )
        if ijb.pairs is None and not (ijb.galleries and len(ijb.probes)):
            raise EvaluationError(
                f"{self.target}: there is neither a list of pairs nor are there ones of a gallery "
                "and of probes: fetch the folder meta again"
            )
        notices = [
            *ijb.notices,
            *unusable_notice(self.faces, norms),
            *self._template_notices(templates),
        ]
        surest = np.where(usable, ijb.scores, -np.inf)

        def key(row: int) -> str:
            """That of the image that the detector was surest of stands for a template."""
            images = np.flatnonzero(ijb.template_ids == templates.ids[row])
            return ijb.faces.key(int(images[np.argmax(surest[images])]))

        verified = verify_templates(templates, ijb.pairs, roc=self._roc, key=key)
        searched = search_galleries(templates, ijb.galleries, ijb.probes, device=self.device)
        figures = {**verified.figures, **searched.figures}
        notices += [*verified.notices, *searched.notices]
        if any(figure.interval for figure in figures.values()):
            notices.append(NOTICE)
        return Result(
            target=self.target,
            protocol=self.name,
            variant=self._variant,
            counts={
                "images": len(norms),
                "templates": len(templates.ids),
                **verified.counts,
                **searched.counts,
            },
            figures=figures,
            curves={**verified.curves, **searched.curves},
            histograms=verified.histograms,
            groups=searched.groups,
            hardest=verified.hardest,
            notices=tuple(notices),
        )

    def _weights(self, norms: np.ndarray) -> np.ndarray:
        weights = np.ones(len(norms))
        if not self._norm:  # an embedding of zeros has no direction, however it is weighted
            np.divide(1, norms, out=weights, where=norms > 0)
        if self._detector:
            weights *= self._set.scores
        return weights

    def _template_notices(self, templates: Templates) -> list[str]:
        notices = []
        if unseen := np.count_nonzero(~self._set.faces.aligned):
            first = self.faces.key(int(np.argmin(self._set.faces.aligned)))
            notices.append(
                f"the landmarks of {unseen:,} images span no face, first of {first}: these images "
                "are left out"
            )
        if wrong := np.count_nonzero(~self._scored):
            first = self.faces.key(int(np.argmin(self._scored)))
            notices.append(
                f"the detector scores of {wrong:,} images are no numbers, first of {first}: these "
                "images are left out; --no-detector does without the scores"
            )
        below = self._set.scores < 0
        if self._detector and below.any():
            notices.append(
                f"the detector scores of {np.count_nonzero(below):,} images are negative, first of "
                f"{self.faces.key(int(np.argmax(below)))}: as published they are taken as they "
                "are, and turn an embedding to its opposite; --no-detector does without them"
            )
        if lost := len(np.setdiff1d(self._set.template_ids, templates.ids)):
            notices.append(f"{lost:,} templates have no usable image left")
        if empty := np.count_nonzero(templates.empty):
            first_id = templates.ids[templates.empty][0]
            notices.append(
                f"{empty:,} templates have images of weight 0 only, first template {first_id}, as "
                "with a detector score of 0: their score with any other is 0"
            )
        return notices
