"""Mates among distractors: MegaFace's identification and verification.

Every ordered pair of a person's images is a search: the first is the probe, the second its mate,
and the gallery is that mate among all distractors; it is found where no distractor scores as much.
For verification the same pairs are the mates, and every probe with every distractor an impostor
(Kemelmacher-Shlizerman, Seitz, Miller and Brossard, "The MegaFace Benchmark", 2016, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from facepack.errors import EvaluationError
from facepack.evaluate.embedding.embed import normalize
from facepack.evaluate.faces.faces import SourceFaces
from facepack.evaluate.protocol import Protocol, unusable_notice
from facepack.evaluate.protocols.findings import (
    HARDEST,
    hard_pairs,
    share_figure,
    unmeasured_notice,
)
from facepack.evaluate.results.curves import thinned
from facepack.evaluate.results.result import Curve, Figure, HardPair, Result
from facepack.evaluate.scores.collectors import HardestPairs, LargestScores
from facepack.evaluate.scores.identification import Identification, Searches
from facepack.evaluate.scores.intervals import NOTICE
from facepack.evaluate.scores.matching import Collector, Matching
from facepack.evaluate.scores.operating_point import far_text, most_false_accepts
from facepack.evaluate.scores.verification import ScoredPairs
from facepack.evaluate.sets.megaface_set import (
    MegaFaceSet,
    draw_subsets,
    read_subsets,
    split_marks,
    write_kit,
)
from facepack.hashing import derive_seed, hash64

FARS = (1e-6, 1e-5, 1e-4)
RANKS = (1, 10)
NOISE = 1e-3
"""What is added to each feature that replaces a noisy one lies within ± this."""

_BLOCK = 65_536  # distractors whose unit rows are in memory at a time: 128 MB of 512 features


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What came of the searches among some distractors."""

    distractors: int  # how many there were
    searches: Searches  # what each search found; probes and mates are rows of the probes
    highest: np.ndarray  # (k,) float32, the highest scores of probes with distractors, descending
    hardest: ScoredPairs  # the very highest, with (j,) rows of probes and of distractors

    @property
    def impostors(self) -> int:
        """How many scores of probes with distractors there were."""
        return self.distractors * len(self.searches.best_wrong)

    def accepted_at(self, far: float) -> np.ndarray:
        """Which searches' mates the lowest threshold accepts whose FAR is at most one of FARS."""
        limit = self.highest[most_false_accepts(far, self.impostors)]
        accepted: np.ndarray = self.searches.scores > limit
        return accepted

    def roc(self) -> Curve:
        """FAR and TAR, from none accepted on as far as the highest scores were kept."""
        scores = np.unique(self.highest)[::-1]
        accepted = np.searchsorted(-self.highest, -scores, side="right")
        mates = np.sort(self.searches.scores)
        tar = 1 - np.searchsorted(mates, scores) / max(len(mates), 1)
        return thinned(accepted / self.impostors, tar)


def search_among(
    probes: np.ndarray,
    persons: np.ndarray,
    embeddings: np.ndarray,
    distractors: np.ndarray,
    *,
    hardest: int = 0,
    block: int = _BLOCK,
    device: str | torch.device = "cpu",
) -> Outcome:
    """Search for every mate of every probe among distractors.

    Args:
        probes: (p, F), of ``persons`` (p,) int64.
        embeddings: (n, F) of any float type and length; perhaps mapped from a file.
        distractors: (d,) their positions in the embeddings, at least one.
        hardest: how many of the best impostors to tell.
        block: distractors whose unit rows are in memory at a time: those of a million take as much
            as their embeddings.
    """
    count = len(distractors)
    largest = LargestScores(most_false_accepts(max(FARS), len(probes) * count) + 1)
    best = HardestPairs(hardest)
    for start in range(0, count, block):
        matching = Matching.with_distractors(
            probes, persons, embeddings[distractors[start : start + block]], device=device
        )
        if not start:
            identification = Identification(matching, each_mate=True)
        collectors: list[Collector] = [largest, *identification.collectors]
        if hardest:
            best.begin = start
            collectors.append(best)
        matching.scan(collectors)
    return Outcome(
        distractors=count,
        searches=identification.searches(),
        highest=largest.descending(),
        hardest=ScoredPairs(
            first=matching.first.order[best.rows], second=best.columns, scores=best.scores
        ),
    )


class MegaFace(Protocol):
    """Identification and verification among distractors, all and fewer.

    Args:
        sizes: how many random distractors to search among, beside all.
        seed: of these, and of the noise in what replaces noisy probes.
        lists: a folder of the kit's lists, whose distractors are taken instead.
        kit: where to write feature files, whose names end with ``algorithm``, and lists.

    Raises:
        EvaluationError, SourceError: the lists cannot be used.
    """

    name = "megaface"

    def __init__(
        self,
        megaface: MegaFaceSet,
        *,
        target: str,
        sizes: Sequence[int] = (),
        seed: int = 0,
        lists: Path | None = None,
        keep_noisy: bool = False,
        kit: Path | None = None,
        algorithm: str = "facepack",
    ) -> None:
        self.target = target
        self.faces = _NamedFaces(megaface)
        self._set = megaface
        self._seed = seed
        self._noisy = np.zeros_like(megaface.noisy) if keep_noisy else megaface.noisy
        self._kit = kit
        self._algorithm = algorithm
        self._notices = list(megaface.notices)
        if lists is None:
            self._subsets = draw_subsets(megaface, sizes, seed)
        else:
            self._subsets, notices = read_subsets(megaface, lists)
            self._notices += notices

    def measure(self, embeddings: np.ndarray, norms: np.ndarray) -> Result:
        """As :meth:`Protocol.measure`: images without an embedding are left out."""
        notices = [*self._notices, *unusable_notice(self.faces, norms)]
        embeddings, removed = split_marks(embeddings, self._set.distractor)
        usable = np.isfinite(norms) & ~self._noisy
        if removed is not None:
            usable &= ~removed
            notices.append(
                f"{np.count_nonzero(removed):,} distractors are marked by the published extra "
                "dimension: they are out of play"
            )
        positions, probes, told = self._probes(embeddings, usable)
        notices += told
        persons = self._set.persons[positions]
        in_play = np.flatnonzero(self._set.distractor & usable)
        if not len(in_play) or not len(positions):
            raise EvaluationError(
                f"{self.target}: {len(positions):,} probes and {len(in_play):,} distractors can be "
                "used; some of both are needed: add images, or measure with --keep-noisy"
            )
        if self._kit is not None:
            write_kit(
                self._set,
                self._kit,
                algorithm=self._algorithm,
                probes=(positions, probes),
                embeddings=embeddings,
                removed=self._set.distractor & ~usable,
                subsets=self._subsets,
            )
        search = partial(search_among, probes, persons, embeddings, device=self.device)
        outcome = search(in_play, hardest=HARDEST)
        fewer: dict[int, list[Outcome]] = {}
        for subset in self._subsets:
            chosen = subset.positions[usable[subset.positions]]
            if len(chosen):
                found = fewer.setdefault(subset.size, [])
                same = len(chosen) == len(in_play)
                found.append(outcome if same else search(chosen))
        searches = outcome.searches
        notices += _undefined(persons, outcome)
        if len(np.unique(persons[searches.probes])) > 1:
            notices.append(NOTICE)
        return Result(
            target=self.target,
            protocol=self.name,
            counts={
                "probes": len(probes),
                "persons": len(np.unique(persons)),
                "searches": len(searches.ranks),
                "distractors": len(in_play),
            },
            figures=_figures(outcome, fewer, persons[searches.probes]),
            curves=_curves(outcome, fewer),
            hardest=self._hardest(outcome, positions, in_play),
            notices=tuple(notices),
        )

    def _probes(
        self, embeddings: np.ndarray, usable: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Positions and unit embeddings of the probes, noisy ones replaced; and notices."""
        of_probes = ~self._set.distractor
        clean = np.flatnonzero(of_probes & usable)
        noisy = np.flatnonzero(of_probes & self._noisy)
        units = normalize(np.asarray(embeddings[clean], np.float32))[0]
        persons, which = np.unique(self._set.persons[clean], return_inverse=True)
        sums = np.zeros((len(persons), units.shape[1]))
        np.add.at(sums, which, units)
        known = np.isin(self._set.persons[noisy], persons)
        notices = []
        if not known.all():
            notices.append(
                f"{np.count_nonzero(~known):,} noisy images show persons of whom there is no clean "
                f"one, first {self._set.names[noisy[np.argmin(known)]]}: they are left out"
            )
        noisy = noisy[known]
        rows = sums[np.searchsorted(persons, self._set.persons[noisy])]
        hashes = self._set.hashes(noisy).tolist()
        for row, own in zip(rows, hashes, strict=True):
            row += _noise(derive_seed(self._seed, own), len(row))
        positions = np.concatenate([clean, noisy])
        order = np.argsort(positions)
        probes = np.concatenate([units, normalize(rows)[0].astype(np.float32)])
        return positions[order], probes[order], notices

    def _hardest(
        self, outcome: Outcome, positions: np.ndarray, in_play: np.ndarray
    ) -> tuple[HardPair, ...]:
        """The most similar distractors, and the least similar mates that were not found."""
        wrong, searches, key = outcome.hardest, outcome.searches, self.faces.key
        lost = np.flatnonzero((searches.ranks > 1) & (searches.probes < searches.mates))
        lost = lost[np.argsort(searches.scores[lost], kind="stable")][:HARDEST]
        first, second = positions[wrong.first], in_play[wrong.second]
        probes, mates = positions[searches.probes[lost]], positions[searches.mates[lost]]
        return (
            *hard_pairs("false accept", key, first, second, wrong.scores),
            *hard_pairs("false reject", key, probes, mates, searches.scores[lost]),
        )


class _NamedFaces(SourceFaces):
    """The images by the paths that lists and feature files have, in packs too."""

    def __init__(self, megaface: MegaFaceSet) -> None:
        super().__init__(megaface.source, megaface.name)
        self._names = megaface.names

    def key(self, position: int) -> str:
        """The image's path, which begins with the folder of its set."""
        return self._names[position]


def _noise(key: int, length: int) -> np.ndarray:
    """Numbers that are spread evenly over [-NOISE, NOISE): float64 (length,)."""
    uniform = (hash64(key, np.arange(length)) >> np.uint64(11)) / 2.0**53
    return NOISE * (2 * uniform - 1)


def _undefined(persons: np.ndarray, outcome: Outcome) -> list[str]:
    """What to say of persons that have no mates, and of FARs that cannot be measured."""
    notices = []
    alone = np.count_nonzero(np.unique(persons, return_counts=True)[1] == 1)
    if alone:
        notices.append(
            f"{alone:,} of {len(np.unique(persons)):,} persons have one image: nobody searches for "
            "it, but as a probe it counts for the FAR"
        )
    if not len(outcome.searches.ranks):
        notices.append("no person has two images: identification and TAR are undefined")
    return notices + unmeasured_notice(FARS[:1], outcome.impostors)


def _figures(
    outcome: Outcome, fewer: Mapping[int, Sequence[Outcome]], whose: np.ndarray
) -> dict[str, Figure]:
    """The figures; ``whose`` (s,) is the person of each search."""
    hits = {f"rank-{k}": outcome.searches.ranks <= k for k in RANKS}
    hits |= {f"TAR@{far_text(far)}": outcome.accepted_at(far) for far in FARS}
    figures = {name: share_figure(of, whose) for name, of in hits.items()}
    for size, outcomes in fewer.items():
        shares = [share for each in outcomes if (share := each.searches.share(1)) is not None]
        figures[f"rank-1 of {size:,}"] = Figure(
            value=float(np.mean(shares)) if shares else None,
            std=float(np.std(shares)) if len(shares) > 1 else None,
        )
    return figures


def _curves(outcome: Outcome, fewer: Mapping[int, Sequence[Outcome]]) -> dict[str, Curve]:
    ranks, shares = outcome.searches.cmc()
    if not len(ranks):
        return {}
    by_size = {size: np.mean([each.searches.share(1) for each in of]) for size, of in fewer.items()}
    return {
        "roc": outcome.roc(),
        "cmc": thinned(ranks.astype(np.float64), shares),
        "rank-1 by distractors": Curve(
            x=np.array(list(by_size), np.float64), y=np.array(list(by_size.values()), np.float64)
        ),
    }
