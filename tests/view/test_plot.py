from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from facepack.errors import ConfigError, MissingExtraError
from facepack.view.plot import Axis, Line, Plot, line_chart, write_plots

NUMBER = re.compile(r"[-\d.]+")


def plot(x: list[float], y: list[float], *, log: bool = False, name: str = "a") -> Plot:
    line = Line(name=name, x=np.array(x, float), y=np.array(y, float))
    return Plot(title="t", x=Axis(label="x", log=log), y=Axis(label="y"), lines=[line])


def points(path: str) -> list[tuple[float, float]]:
    numbers = [float(number) for number in NUMBER.findall(path)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


@pytest.mark.parametrize(
    ("values", "limits", "texts"),
    [
        ([0.0, 1.0], (0, 1), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ([3.0, 9.7, np.nan, np.inf], (2, 10), ["2", "4", "6", "8", "10"]),
        ([0.9612, 0.9987], (0.96, 1), ["0.96", "0.97", "0.98", "0.99", "1.00"]),
        ([5.0, 5.0], (2, 8), ["2", "4", "6", "8"]),
        ([], (0, 1), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ([1.0, 202_320.0], (0, 250_000), [f"{k * 50_000:,}" for k in range(6)]),
    ],
)
def test_a_linear_axis_has_round_ends(
    values: list[float], limits: tuple[float, float], texts: list[str]
) -> None:
    axis = Axis(label="x")
    ends = axis.limits(np.array(values))
    assert ends == pytest.approx(limits)
    assert [text for _, text in axis.ticks(*ends)] == texts


@pytest.mark.parametrize(
    ("values", "limits", "texts"),
    [
        ([0.0, 3e-4, 1.0], (1e-4, 1), ["1", "0.1", "0.01", "1e-3", "1e-4"]),
        ([1.0, 100.0], (1, 100), ["100", "10", "1"]),
        ([0.5], (0.1, 1), ["1", "0.1"]),
        ([1e-12, 1.0], (1e-8, 1), ["1", "0.01", "1e-4", "1e-6", "1e-8"]),
        ([0.0, -1.0], (0.1, 1), ["1", "0.1"]),
    ],
)
def test_a_logarithmic_axis_ends_in_powers_of_ten(
    values: list[float], limits: tuple[float, float], texts: list[str]
) -> None:
    axis = Axis(label="FAR", log=True)
    ends = axis.limits(np.array(values))
    assert ends == pytest.approx(limits)
    assert [text for _, text in axis.ticks(*ends)] == texts


def test_points_lie_where_the_ticks_say() -> None:
    chart = line_chart(plot([1e-4, 1e-2, 1], [0.0, 0.5, 1.0], log=True))
    (curve,) = chart.curves
    at = {tick.text: tick.at for tick in chart.x_ticks}
    up = {tick.text: tick.at for tick in chart.y_ticks}
    middle = (up["0.4"] + up["0.6"]) / 2
    wanted = [(at["1e-4"], up["0.0"]), (at["0.01"], middle), (at["1"], up["1.0"])]
    assert points(curve.path) == [pytest.approx(point, abs=0.06) for point in wanted]
    assert (chart.left, chart.bottom) == points(curve.path)[0]


def test_what_no_logarithm_shows_lies_at_the_low_end_and_does_not_stretch_the_other_axis() -> None:
    chart = line_chart(plot([0, 0, 1e-2, 1], [0.0, 0.9, 0.95, 1.0], log=True))
    (curve,) = chart.curves
    assert points(curve.path) == [(chart.left, chart.bottom), (chart.right, chart.top)]
    assert chart.y_ticks[0].text == "0.95"


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[-1.7e308, 1.7e308], [0, 5e-324], [1, 1 + 2**-52]])
def test_axes_of_any_values_have_ends_and_ticks(values: list[float], log: bool) -> None:
    axis = Axis(label="x", log=log)
    low, high = axis.limits(np.array(values))
    assert -1e300 < low < high < 1e300
    ticks = axis.ticks(low, high)
    assert 1 <= len(ticks) <= 12 and all(len(text) < 60 for _, text in ticks)
    shares = axis.shares(np.array(values), low, high)
    assert ((shares >= 0) & (shares <= 1)).all()


def test_a_gap_where_a_value_is_not_finite() -> None:
    (curve,) = line_chart(plot([0, 1, 2, 3, 4], [1, 2, np.nan, 2, 1])).curves
    assert re.sub(r"[^ML]", "", curve.path) == "MLML"


def test_points_that_cannot_be_told_apart_are_one() -> None:
    x = np.linspace(0, 1, 100_000)
    (curve,) = line_chart(plot(x.tolist(), x.tolist())).curves
    assert len(points(curve.path)) < 8000


def test_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra 'plot'")
    plots = [plot([0, 1], [0, 1], name="_$x^{\x00\u4eba"), plot([1e-4, 1], [0, 1], log=True)]
    for suffix, begins in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        write_plots(plots, tmp_path / f"out{suffix}")
        assert (tmp_path / f"out{suffix}").read_bytes().startswith(begins)
    with pytest.raises(ConfigError, match=r"\.doc.*\.png"):
        write_plots(plots, tmp_path / "out.doc")
    with pytest.raises(ConfigError, match="no curve"):
        write_plots([], tmp_path / "out.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match="plot"):
        write_plots(plots, tmp_path / "out.png")
