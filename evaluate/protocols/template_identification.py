"""1:N: searches of galleries of templates, each gallery alone, then averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from facepack.evaluate.results.curves import thinned
from facepack.evaluate.results.result import Curve, Figure
from facepack.evaluate.scores.identification import identify
from facepack.evaluate.scores.intervals import (
    bootstrap_shares,
    count_by_identity,
    percentile_interval,
)
from facepack.evaluate.scores.matching import Matching
from facepack.evaluate.scores.pooling import Templates

FPIRS = (0.01, 0.1)
RANKS = (1, 5, 10)


@dataclass(frozen=True, kw_only=True, eq=False)
class Searched:
    """The part of a result that galleries give; empty without one."""

    counts: Mapping[str, int] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Gallery:
    """What the mated probes of a gallery found."""

    subjects: np.ndarray  # (s,) of each search
    ranks: np.ndarray  # (s,) from 1
    # FPIR → bool (s,): right at rank 1 and above the threshold; nothing where no probe is without a
    # mate
    positive: Mapping[float, np.ndarray]
    notices: tuple[str, ...]  # of what is left out


def search_galleries(
    templates: Templates,
    galleries: Mapping[str, np.ndarray],
    probes: np.ndarray,
    *,
    device: torch.device | str = "cpu",
) -> Searched:
    """Search each gallery with all probes.

    A gallery's TPIR at an FPIR f is the share of its mated probes that rank 1 and whose score lies
    above the threshold: of n probes without a mate, their best scores descending, the one at index
    max(int(n·f) − 1, 0). All galleries' TPIR is the mean of theirs; ranks are over all mated
    probes. Galleries, by name, and probes are (t, 2) template ids and subjects.
    """
    if not galleries or not len(probes):
        lacking = "probes" if galleries else "a gallery"
        return Searched(notices=(f"there is no list of {lacking}: 1:N is left out",))
    searched = {
        name: _search(name, templates, of, probes, device) for name, of in galleries.items()
    }
    each = list(searched.values())
    ranks = np.concatenate([gallery.ranks for gallery in each])
    values, counts = np.unique(ranks, return_counts=True)
    cmc = {"cmc": thinned(values.astype(float), counts.cumsum() / len(ranks))}
    return Searched(
        counts={"probes": len(probes)},
        figures=_figures(each),
        curves=cmc if len(ranks) else {},
        groups={name: _figures([gallery]) for name, gallery in searched.items()},
        notices=tuple(notice for gallery in each for notice in gallery.notices),
    )


def _search(
    name: str,
    templates: Templates,
    gallery: np.ndarray,
    probes: np.ndarray,
    device: torch.device | str,
) -> _Gallery:
    notices = []
    kept = []
    for what, roster in (("probes", probes), (f"templates of gallery {name}", gallery)):
        rows = templates.positions(roster[:, 0])
        if lost := np.count_nonzero(rows < 0):
            notices.append(
                f"{lost:,} of {len(rows):,} {what} have no usable image: they are left out"
            )
        kept.append((rows[rows >= 0], roster[rows >= 0, 1]))
    (probe_rows, subjects), (gallery_rows, gallery_subjects) = kept
    nothing = np.empty(0, np.int64)
    if not len(probe_rows) or not len(gallery_rows):
        notices.append(f"gallery {name} or its probes are empty: its figures are undefined")
        return _Gallery(nothing, nothing, {}, tuple(notices))
    units = templates.units
    found = identify(
        Matching.between(
            units[probe_rows], subjects, units[gallery_rows], gallery_subjects, device=device
        )
    )
    unmated = np.ones(len(probe_rows), bool)
    unmated[found.probes] = False
    false_scores = np.sort(found.best_wrong[unmated])[::-1]
    if not len(found.ranks):
        notices.append(f"no probe has a mate in gallery {name}: its figures are undefined")
    if not len(false_scores):
        notices.append(
            f"every probe has a mate in gallery {name}: without others TPIR is undefined"
        )
    elif rare := [fpir for fpir in FPIRS if int(len(false_scores) * fpir) < 1]:
        notices.append(
            f"{len(false_scores):,} probes without a mate in gallery {name} cannot measure an FPIR "
            f"of {', '.join(f'{fpir:g}' for fpir in rare)}: TPIR is that above them all"
        )
    positive = {}
    for fpir in FPIRS if len(false_scores) else ():
        threshold = false_scores[max(int(len(false_scores) * fpir) - 1, 0)]
        positive[fpir] = (found.ranks == 1) & (found.scores > threshold)
    return _Gallery(subjects[found.probes], found.ranks, positive, tuple(dict.fromkeys(notices)))


def _figures(galleries: Sequence[_Gallery]) -> dict[str, Figure]:
    """TPIR, the mean of the galleries', and ranks over the probes of all."""
    ranks = np.concatenate([gallery.ranks for gallery in galleries])
    subjects = np.concatenate([gallery.subjects for gallery in galleries])
    return {
        **{_tpir(fpir): _mean(fpir, galleries) for fpir in FPIRS},
        **{f"rank-{k}": _share([ranks <= k], [subjects]) for k in RANKS},
    }


def _mean(fpir: float, galleries: Sequence[_Gallery]) -> Figure:
    """The mean of the galleries' shares; undefined where one of them is."""
    hits = [gallery.positive[fpir] for gallery in galleries if fpir in gallery.positive]
    if len(hits) < len(galleries):
        return Figure(value=None)
    return _share(hits, [gallery.subjects for gallery in galleries])


def _share(hits: Sequence[np.ndarray], subjects: Sequence[np.ndarray]) -> Figure:
    """The mean over some galleries of the share of hits, with its interval."""
    if not all(map(len, hits)):
        return Figure(value=None)
    replicates = [
        bootstrap_shares(*count_by_identity(hit, whose), seed=seed)
        for seed, (hit, whose) in enumerate(zip(hits, subjects, strict=True))
    ]
    drawn = [shares for shares in replicates if shares is not None]
    return Figure(
        value=float(np.mean([hit.mean() for hit in hits])),
        interval=percentile_interval(np.mean(drawn, axis=0))
        if len(drawn) == len(replicates)
        else None,
    )


def _tpir(fpir: float) -> str:
    return f"TPIR@{fpir:g}"
