"""Curves over axes that may be logarithmic, laid out for a page or drawn into a picture."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from facepack.errors import ConfigError, needs_extra
from facepack.store.output import write_output
from facepack.view.chart import Chart, Curve, Tick

PICTURES = (".png", ".svg", ".pdf")  # suffixes that write_plots takes

_WIDTH, _HEIGHT = 440, 300  # pixels: a phone shows all of it
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 420, 10, 252
_TICKS = 5  # wanted on an axis
_DPI = 120
_LARGEST = 1e280  # that an axis shows, and the inverse of the smallest on a logarithmic one


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What an axis measures."""

    label: str  # with the unit
    # whether it is logarithmic; values that are not above 0 then lie at its low end
    log: bool = False
    decades: int = 8  # how many a logarithmic axis shows at most, the highest

    def limits(self, values: np.ndarray) -> tuple[float, float]:
        """The ends of an axis that shows ``values``; those that are not finite do not count."""
        # Within what floats hold of them, differences and powers of ten are finite and not 0.
        values = values[np.isfinite(values)].clip(-_LARGEST, _LARGEST)
        if self.log:
            values = values[values > 0].clip(1 / _LARGEST)
            if not len(values):
                return 0.1, 1.0
            last = math.ceil(math.log10(values.max()) - 1e-9)
            first = math.floor(math.log10(values.min()) + 1e-9)
            return 10.0 ** max(min(first, last - 1), last - self.decades), 10.0**last
        if not len(values):
            return 0.0, 1.0
        low, high = float(values.min()), float(values.max())
        reach = max(abs(low), abs(high))
        if reach < 1 / _LARGEST:
            low, high = -0.5, 0.5
        elif high - low <= reach * 1e-9:
            low, high = low - reach / 2, high + reach / 2
        step = _nice_step(low, high)
        return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step

    def ticks(self, low: float, high: float) -> list[tuple[float, str]]:
        """Round values between the ends, each with its text."""
        if self.log:
            first, last = round(math.log10(low)), round(math.log10(high))
            every = -(-(last - first) // (_TICKS + 1)) or 1
            return [(10.0**power, _power_text(power)) for power in range(last, first - 1, -every)]
        step = _nice_step(low, high)
        numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return [
            (k * step, f"{k * step:,.{digits}f}" if high < 1e9 else f"{k * step:g}")
            for k in numbers
        ]

    def shares(self, values: np.ndarray, low: float, high: float) -> np.ndarray:
        """How far along the axis each of ``values`` lies, from 0 to 1; beyond its ends, at them."""
        if self.log:
            values = np.log10(np.maximum(values, low))
            low, high = math.log10(low), math.log10(high)
        shares: np.ndarray = ((values - low) / (high - low)).clip(0, 1)
        return shares


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """A curve through the points (x, y), both (n,) float64; a gap where one is not finite."""

    name: str
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Plot:
    """Lines over common axes."""

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line]

    def limits(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The ends of both axes: of y, those of what lies on x's axis."""
        x = np.concatenate([np.zeros(0), *(line.x for line in self.lines)])
        y = np.concatenate([np.zeros(0), *(line.y for line in self.lines)])
        low, high = self.x.limits(x)
        return (low, high), self.y.limits(y[(x >= low) & (x <= high)])


def _power_text(power: int) -> str:
    return f"{10**power:,}" if -3 < power < 6 else f"1e{power}"


def _nice_step(low: float, high: float) -> float:
    """The finest of 1, 2 or 5 times a power of ten that cuts the range into few parts."""
    rough = (high - low) / _TICKS
    scale = 10.0 ** math.floor(math.log10(rough))
    return next(step * scale for step in (1, 2, 5, 10) if step * scale >= rough * (1 - 1e-9))


def line_chart(plot: Plot) -> Chart:
    """Lay ``plot`` out for a page."""
    x_limits, y_limits = plot.limits()

    def x_pixels(values: np.ndarray) -> np.ndarray:
        return _LEFT + plot.x.shares(values, *x_limits) * (_RIGHT - _LEFT)

    def y_pixels(values: np.ndarray) -> np.ndarray:
        return _BOTTOM - plot.y.shares(values, *y_limits) * (_BOTTOM - _TOP)

    return Chart(
        title=plot.title,
        x_label=plot.x.label,
        y_label=plot.y.label,
        x_ticks=[
            Tick(at=round(float(x_pixels(np.array(value))), 1), text=text)
            for value, text in plot.x.ticks(*x_limits)
        ],
        y_ticks=[
            Tick(at=round(float(y_pixels(np.array(value))), 1), text=text)
            for value, text in plot.y.ticks(*y_limits)
        ],
        curves=[
            Curve(name=line.name, path=_svg_path(x_pixels(line.x), y_pixels(line.y)))
            for line in plot.lines
        ],
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        right=_RIGHT,
        top=_TOP,
        bottom=_BOTTOM,
    )


def _svg_path(x: np.ndarray, y: np.ndarray) -> Markup:
    """SVG path commands through pixels (n,); points less than a tenth apart are one."""
    parts: list[str] = []
    last, command = "", "M"
    for across, down in zip(x.round(1).tolist(), y.round(1).tolist(), strict=True):
        if not (math.isfinite(across) and math.isfinite(down)):
            last, command = "", "M"
            continue
        point = f"{across:g} {down:g}"
        if point != last:
            parts.append(command + point)
            last, command = point, "L"
    return Markup("".join(parts))  # letters and numbers, of any length


def require_matplotlib() -> None:
    """Raise :class:`MissingExtraError` where pictures cannot be drawn."""
    with needs_extra("matplotlib", "plot"):
        import matplotlib.figure  # noqa: F401


def write_plots(plots: Sequence[Plot], out: Path) -> None:
    """Draw ``plots``, two a row, into one picture, in the format of its suffix.

    Raises:
        ConfigError: an unknown suffix, or there is nothing to draw.
        MissingExtraError: matplotlib is not installed.
        PackError: the file cannot be written.
    """
    if out.suffix.lower() not in PICTURES:
        raise ConfigError(f"{out}: a picture ends in {', '.join(PICTURES)}")
    if not plots:
        raise ConfigError(f"{out}: there is no curve to draw")
    require_matplotlib()
    from matplotlib.figure import Figure

    columns = min(2, len(plots))
    rows = -(-len(plots) // columns)
    figure = Figure(figsize=(6.5 * columns, 4.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(plots) :]:
        axes.remove()
    for axes, plot in zip(grid, plots, strict=False):
        for line in plot.lines:
            # A dollar would begin a formula, and a name from a file may be no formula.
            axes.plot(line.x, line.y, linewidth=1.4, label=_plain(line.name))
        axes.set_xscale("log" if plot.x.log else "linear")
        axes.set_yscale("log" if plot.y.log else "linear")
        x_limits, y_limits = plot.limits()
        axes.set_xlim(*x_limits)
        axes.set_ylim(*y_limits)
        axes.set_title(_plain(plot.title))
        axes.set_xlabel(_plain(plot.x.label))
        axes.set_ylabel(_plain(plot.y.label))
        axes.grid(alpha=0.25)
        if len(plot.lines) > 1:
            axes.legend(fontsize="small")
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of names in letters it has no font for
        figure.savefig(picture, format=out.suffix[1:].lower(), dpi=_DPI)
    write_output(out, picture.getvalue())


def _plain(text: str) -> str:
    # matplotlib does not show lines in a legend whose label begins with an underscore.
    clean = "".join(c if c.isprintable() else "\ufffd" for c in text).replace("$", r"\$")
    return f" {clean}" if clean.startswith("_") else clean
