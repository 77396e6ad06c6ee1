"""Bar charts as inline SVG: no script, no style of their own but the page's classes."""

from __future__ import annotations

from html import escape

from facepack.view.histogram import Histogram

_WIDTH, _HEIGHT = 720, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 8, 14, 46
_LABEL_WIDTH = 62  # pixels that a label on the x axis takes


def histogram_chart(found: Histogram, *, title: str, x_label: str, y_label: str) -> str:
    """A histogram as an ``<svg>`` element, each bar with its range and count as a tooltip.

    Args:
        found: the histogram; its bins are drawn equally wide, whatever they span.
        title: what is shown, for those who do not see it.
        x_label: what the values are, with their unit.
        y_label: what is counted.
    """
    bins = list(found.bins())
    top = max((count for _, _, count in bins), default=0)
    ticks = _ticks(top)
    scale = (_HEIGHT - _TOP - _BOTTOM) / ticks[-1]
    ground = _HEIGHT - _BOTTOM
    slot = (_WIDTH - _LEFT - _RIGHT) / max(1, len(bins))
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title>",
    ]
    for tick in ticks:
        y = ground - tick * scale
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" {_at("y", y)}/>')
        parts.append(
            f'<text class="end" x="{_LEFT - 8}" y="{y + 4:.1f}">{_short(tick, ticks[-1])}</text>'
        )
    # Few bins are labelled with their range, many with the edges between them.
    every = -(-len(bins) * _LABEL_WIDTH // (_WIDTH - _LEFT - _RIGHT))
    for k, (low, high, count) in enumerate(bins):
        left = _LEFT + k * slot
        tall = max(count * scale, 1.5) if count else 0
        span = f"{low:,}" if low == high else f"{low:,}–{high:,}"
        parts.append(
            f'<rect class="bar" x="{left + slot * 0.06:.1f}" y="{ground - tall:.1f}" '
            f'width="{slot * 0.88:.1f}" height="{tall:.1f}">'
            f"<title>{span}: {count:,}</title></rect>"
        )
        if every <= 1:
            parts.append(f'<text class="mid" x="{left + slot / 2:.1f}" y="{ground + 17}">')
            parts.append(f"{span if len(span) <= 9 else f'{low:,}'}</text>")
        elif k % every == 0:
            parts.append(f'<text class="mid" x="{left:.1f}" y="{ground + 17}">{low:,}</text>')
    parts.append(
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" {_at("y", ground)}/>'
        f'<text class="mid name" x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 6}">'
        f"{escape(x_label)}</text>"
        f'<text class="mid name" transform="translate(12 {(_TOP + ground) / 2:.0f}) rotate(-90)">'
        f"{escape(y_label)}</text></svg>"
    )
    return "".join(parts)


def _at(axis: str, value: float) -> str:
    return f'{axis}1="{value:.1f}" {axis}2="{value:.1f}"'


def _ticks(top: int) -> list[int]:
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
