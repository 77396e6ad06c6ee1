"""Histograms of counts and sizes, with edges that people can read, and as bars in a terminal.

Bars are drawn with the eighth blocks of Unicode, or with ``#`` where the output cannot show them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Mantissas of logarithmic edges, finest first: about equal ratios between neighbours.
_SERIES: tuple[tuple[float, ...], ...] = (
    (1, 1.1, 1.25, 1.4, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3.2, 3.6, 4, 4.5, 5, 5.6, 6.3, 7, 8, 9),
    (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8),
    (1, 1.5, 2, 3, 5, 7),
    (1, 2, 5),
    (1, 3),
    (1,),
)
_LINEAR_BELOW = 8  # ratio of the largest to the smallest value
_CHUNK = 1 << 20  # values binned at a time: memory stays flat
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LEAST_BAR = 8  # characters


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts of integers: bin k counts values from ``edges[k]`` to ``edges[k + 1] - 1``."""

    edges: tuple[int, ...]  # ascending integers, one more than bins
    counts: tuple[int, ...]  # how many values lie in each bin

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1 or any(
            a >= b for a, b in zip(self.edges[:-1], self.edges[1:], strict=True)
        ):
            raise ValueError(f"{len(self.counts)} bins between the edges {self.edges}")

    def bins(self) -> Iterator[tuple[int, int, int]]:
        """Yield the first value, the last value and the count of each bin."""
        for low, high, count in zip(self.edges[:-1], self.edges[1:], self.counts, strict=True):
            yield low, high - 1, count

    def as_json(self) -> list[dict[str, int]]:
        """``[{"from", "to", "count"}]``, both ends included."""
        return [{"from": low, "to": high, "count": count} for low, high, count in self.bins()]


def histogram(values: np.ndarray, *, most: int, times: np.ndarray | None = None) -> Histogram:
    """Count non-negative integers in at most ``most`` bins that cover them all.

    Narrow ranges get bins of equal width, wide ones bins of about equal ratio, each with edges such
    as 1, 2, 5, 10 or 1, 1.5, 2, 3, 5, 7, 10: the finest series that needs no more than ``most``.
    Each value, integers (n,), counts as many ``times``, integers (n,); once each when None.

    Raises:
        ValueError: ``most`` is below 1.
    """
    if most < 1:
        raise ValueError(f"{most} bins; at least 1 is needed")
    if not len(values):
        return Histogram(edges=(0,), counts=())
    edges = nice_edges(int(values.min()), int(values.max()), most=most)
    counts = np.zeros(len(edges) - 1, np.int64)
    for start in range(0, len(values), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        bins = np.searchsorted(edges, values[chunk], side="right") - 1
        if times is None:
            counts += np.bincount(bins, minlength=len(counts))
        else:
            np.add.at(counts, bins, times[chunk])
    return Histogram(edges=tuple(edges), counts=tuple(counts.tolist()))


def nice_edges(low: int, high: int, *, most: int) -> list[int]:
    """Edges of at most ``most`` bins from ``low`` to ``high``, as :func:`histogram` draws them."""
    if high - low < most or high < _LINEAR_BELOW * max(low, 1):
        return _linear_edges(low, high, most)
    for series in _SERIES:
        edges = _log_edges(low, high, series)
        if len(edges) <= most + 1:
            return edges
    return [low, high + 1]


def _linear_edges(low: int, high: int, most: int) -> list[int]:
    scale = 1
    while True:
        for step in (scale, 2 * scale, 5 * scale):
            first, last = low // step, high // step
            if last - first + 1 <= most:
                return [k * step for k in range(first, last + 2)]
        scale *= 10


def _log_edges(low: int, high: int, series: Sequence[float]) -> list[int]:
    """From the greatest edge not above ``low`` to the least one above ``high``."""
    edges = [0]
    scale = 1
    while edges[-1] <= high:
        for mantissa in series:
            edge = round(scale * mantissa)
            if edge == scale * mantissa and edge > edges[-1]:
                edges.append(edge)
                if edge > high:
                    break
        scale *= 10
    first = max(k for k, edge in enumerate(edges) if edge <= low)
    return edges[first:]


def bar_lines(found: Histogram, *, width: int, unicode: bool = True) -> list[str]:
    """The histogram as lines of text of ``width`` characters, one a bin: range, bar, count.

    A bar keeps 8 at least; where the output cannot show block characters, bars are of ``#``.
    """
    dash = "–" if unicode else "-"
    rows = [
        (f"{low:,}" if low == high else f"{low:,}{dash}{high:,}", count)
        for low, high, count in found.bins()
    ]
    head = max((len(name) for name, _ in rows), default=0)
    tail = max((len(f"{count:,}") for _, count in rows), default=0)
    room = max(_LEAST_BAR, width - head - tail - 4)
    top = max((count for _, count in rows), default=0)
    return [
        f"{name:>{head}}  {_bar(count, top, room, unicode)}{' ' if count else ''}{count:,}"
        for name, count in rows
    ]


def _bar(count: int, top: int, room: int, unicode: bool) -> str:
    """A bar as long as ``count`` of ``top``; what is not 0 is seen."""
    if not count:
        return ""
    if not unicode:
        return "#" * max(1, round(count / top * room))
    eighths = max(1, round(count / top * room * 8))
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[rest] if rest else "")


def spread(values: np.ndarray) -> dict[str, Any] | None:
    """``{"min", "median", "mean", "max"}`` of integers; None where there are none."""
    if not len(values):
        return None
    return {
        "min": int(values.min()),
        "median": float(np.median(values)),
        "mean": float(values.mean(dtype=np.float64)),
        "max": int(values.max()),
    }
