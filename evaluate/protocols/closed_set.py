"""Closed-set identification: every probe searches for its mates in a gallery; TinyFace's protocol.

A probe is found at rank k where fewer than k gallery images of others score at least as much as its
best mate (Cheng, Zhu and Gong, "Low-Resolution Face Recognition", 2018). Distractors are images of
others, each of somebody else.
"""

from __future__ import annotations

import numpy as np

from facepack.errors import EvaluationError
from facepack.evaluate.faces.faces import SourceFaces
from facepack.evaluate.protocol import Protocol, unusable_notice
from facepack.evaluate.protocols.findings import HARDEST, hard_pairs, share_figure
from facepack.evaluate.results.curves import thinned
from facepack.evaluate.results.result import HardPair, Result
from facepack.evaluate.scores.identification import Searches, identify
from facepack.evaluate.scores.intervals import NOTICE
from facepack.evaluate.scores.matching import Matching
from facepack.evaluate.sets.tinyface_set import TinyFaceSet

RANKS = (1, 5, 20)


class TinyFace(Protocol):
    """Rank 1, 5 and 20 among mates and distractors."""

    name = "tinyface"

    def __init__(self, tinyface: TinyFaceSet, *, target: str) -> None:
        self.target = target
        self._set = tinyface
        # Each image once, whatever the lists name twice.
        every = np.concatenate([tinyface.probes, tinyface.gallery])
        chosen, rows = np.unique(every, return_inverse=True)
        self._probes, self._gallery = np.split(rows, [len(tinyface.probes)])
        self.faces = SourceFaces(tinyface.images.choose(chosen), target)

    def measure(self, embeddings: np.ndarray, norms: np.ndarray) -> Result:
        """As :meth:`Protocol.measure`: images without an embedding are left out."""
        notices = [*self._set.notices, *unusable_notice(self.faces, norms)]
        of_probes, of_gallery = (np.isfinite(norms[rows]) for rows in (self._probes, self._gallery))
        probes, gallery = self._probes[of_probes], self._gallery[of_gallery]
        labels = self._set.probe_labels[of_probes]
        gallery_labels = self._set.gallery_labels[of_gallery]
        if not len(probes) or not len(gallery):
            raise EvaluationError(
                f"{self.target}: {len(probes):,} probes and {len(gallery):,} gallery images have "
                "embeddings; some of both are needed"
            )
        found = identify(
            Matching.between(
                embeddings[probes],
                labels,
                embeddings[gallery],
                gallery_labels,
                device=self.device,
            )
        )
        if alone := len(probes) - len(found.ranks):
            notices.append(
                f"{alone:,} of {len(probes):,} probes have no mate in the gallery: they are left "
                "out of the shares"
            )
        whose = labels[found.probes]
        if len(np.unique(whose)) > 1:
            notices.append(NOTICE)
        ranks, shares = found.cmc()
        cmc = {"cmc": thinned(ranks.astype(np.float64), shares)} if len(ranks) else {}
        return Result(
            target=self.target,
            protocol=self.name,
            counts={
                "probes": len(probes),
                "mates": int(np.count_nonzero(gallery_labels >= 0)),
                "distractors": int(np.count_nonzero(gallery_labels < 0)),
                "identities": len(np.unique(labels)),
            },
            figures={f"rank-{k}": share_figure(found.ranks <= k, whose) for k in RANKS},
            curves=cmc,
            hardest=self._hardest(found, probes, gallery),
            notices=tuple(notices),
        )

    def _hardest(
        self, found: Searches, probes: np.ndarray, gallery: np.ndarray
    ) -> tuple[HardPair, ...]:
        """Of the probes that are not found first those of the worst ranks: the best wrong entry."""
        lost = np.flatnonzero(found.ranks > 1)
        lost = lost[np.argsort(-found.ranks[lost], kind="stable")][:HARDEST]
        searching, key = found.probes[lost], self.faces.key
        first, wrong = probes[searching], gallery[found.best_wrong_entry[searching]]
        mates = gallery[found.mates[lost]]
        return (
            *hard_pairs("false accept", key, first, wrong, found.best_wrong[searching]),
            *hard_pairs("false reject", key, first, mates, found.scores[lost]),
        )
