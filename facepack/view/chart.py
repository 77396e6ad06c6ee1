"""Charts, laid out in pixels for the templates to draw as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from facepack.view.histogram import Histogram

_LABEL_WIDTH = 62  # pixels that a label on the x axis takes


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark of an axis: where, in pixels, and what stands there."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar, in pixels, and what it says when pointed at."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A curve: its name in the legend, and its path in SVG's commands, of pixels."""

    name: str
    path: Markup


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What a template draws; lengths are in pixels, y grows downwards."""

    title: str  # what is shown, for those who do not see it
    x_label: str  # what the values are, with their unit
    y_label: str  # what is counted or measured
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    bars: Sequence[Bar] = ()
    curves: Sequence[Curve] = ()
    width: int = 720
    height: int = 240
    left: int = 64
    right: int = 712
    top: int = 14
    bottom: int = 194


def bar_chart(found: Histogram, *, title: str, x_label: str, y_label: str) -> Chart:
    """A histogram; its bins are drawn equally wide, whatever they span."""
    bins = list(found.bins())
    ticks = _count_ticks(max((count for _, _, count in bins), default=0))
    scale = (Chart.bottom - Chart.top) / ticks[-1]
    slot = (Chart.right - Chart.left) / max(1, len(bins))
    every = -(-len(bins) * _LABEL_WIDTH // (Chart.right - Chart.left))
    bars, x_ticks = [], []
    for k, (low, high, count) in enumerate(bins):
        left = Chart.left + k * slot
        tall = max(count * scale, 1.5) if count else 0  # what is not 0 is seen
        span = f"{low:,}" if low == high else f"{low:,}–{high:,}"
        bars.append(
            Bar(
                x=round(left + slot * 0.06, 1),
                y=round(Chart.bottom - tall, 1),
                width=round(slot * 0.88, 1),
                height=round(tall, 1),
                text=f"{span}: {count:,}",
            )
        )
        # Few bins are labelled with their range, many with the edges between them.
        if every <= 1:
            text = span if len(span) <= 9 else f"{low:,}"
            x_ticks.append(Tick(at=round(left + slot / 2, 1), text=text))
        elif k % every == 0:
            x_ticks.append(Tick(at=round(left, 1), text=f"{low:,}"))
    return Chart(
        title=title,
        x_label=x_label,
        y_label=y_label,
        x_ticks=x_ticks,
        y_ticks=[
            Tick(at=round(Chart.bottom - tick * scale, 1), text=_short(tick, ticks[-1]))
            for tick in ticks
        ],
        bars=bars,
    )


def _count_ticks(top: int) -> list[int]:
    """0 and a few round numbers, the last not below ``top``."""
    scale = 1
    while True:
        for step in (scale, 2 * scale, 5 * scale):
            if step * 5 >= top:
                count = max(1, -(-top // step))
                return [k * step for k in range(count + 1)]
        scale *= 10


def _short(number: int, top: int) -> str:
    for unit, letter in ((1_000_000, "M"), (1_000, "k")):
        if top >= 10 * unit:
            return f"{number / unit:g}{letter}" if number else "0"
    return f"{number:,}"
