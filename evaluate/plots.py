"""The curves of results, those of several models over the same axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from facepack.evaluate.results.result import Curve, Histogram, Result
from facepack.view.plot import Axis, Line, Plot

_BINS = 50  # of a histogram, drawn
_FAR = Axis(label="false accept rate (FAR)", log=True)


@dataclass(frozen=True, kw_only=True)
class CurveKind:
    """How a curve of that name is drawn."""

    title: str
    x: Axis
    y: Axis


KINDS = {
    "roc": CurveKind(title="ROC", x=_FAR, y=Axis(label="true accept rate (TAR)")),
    # Both axes are logarithmic, as NIST's evaluations draw it, not of normal deviates.
    "det": CurveKind(title="DET", x=_FAR, y=Axis(label="false reject rate (FRR)", log=True)),
    "cmc": CurveKind(
        title="CMC", x=Axis(label="rank", log=True), y=Axis(label="share of probes identified")
    ),
    "dir": CurveKind(
        title="Open-set identification",
        x=Axis(label="false positive identification rate (FPIR)", log=True),
        y=Axis(label="true positive identification rate (TPIR)"),
    ),
    "rank-1 by distractors": CurveKind(
        title="Rank 1 by distractors",
        x=Axis(label="distractors", log=True),
        y=Axis(label="share of probes identified"),
    ),
}
"""How curves of known names are drawn; those of others, over axes without a meaning."""


def draw_curves(results: Sequence[Result]) -> list[Plot]:
    """A plot of each curve that any of ``results``, of one target and protocol, has."""
    curves = [_with_det(result.curves) for result in results]
    plots = []
    for name in dict.fromkeys(name for own in curves for name in own):
        kind = KINDS.get(name, CurveKind(title=name, x=Axis(label="x"), y=Axis(label="y")))
        lines = [
            Line(name=result.model, x=own[name].x, y=own[name].y)
            for result, own in zip(results, curves, strict=True)
            if name in own
        ]
        plots.append(Plot(title=kind.title, x=kind.x, y=kind.y, lines=lines))
    return plots


def _with_det(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """The curves, and the DET that a ROC is seen from below."""
    if "roc" not in curves or "det" in curves:
        return dict(curves)
    roc = curves["roc"]
    return {"roc": roc, "det": Curve(x=roc.x, y=1 - roc.y), **curves}


def draw_histograms(results: Sequence[Result]) -> list[Plot]:
    """A plot of each model's histograms: the shares of same and of different pairs by score."""
    return [
        Plot(
            title=f"{name[:1].upper()}{name[1:]}"
            + (f": {result.model}" if len(results) > 1 else ""),
            x=Axis(label="cosine similarity"),
            y=Axis(label="share of pairs, of each kind"),
            lines=list(_outlines(histogram)),
        )
        for result in results
        for name, histogram in result.histograms.items()
    ]


def _outlines(histogram: Histogram) -> Iterator[Line]:
    counted = np.flatnonzero(histogram.same + histogram.different)
    if not len(counted):
        return
    # From the first bin that counts any to the last, and as many at a time as leave few to draw.
    stop = counted[-1] + 1
    starts = np.arange(counted[0], stop, -(-(stop - counted[0]) // _BINS))
    edges = np.repeat(np.append(histogram.edges[starts], histogram.edges[stop]), 2)
    for name, counts in (("same", histogram.same), ("different", histogram.different)):
        if total := counts.sum():
            # Up at each bin's left edge, level to its right one, and down to 0 at both ends.
            heights = np.repeat(np.add.reduceat(counts[:stop], starts) / total, 2)
            yield Line(name=name, x=edges, y=np.concatenate([[0], heights, [0]]))
