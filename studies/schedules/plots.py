"""The pictures of the study of schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from facepack.train.replay import Replay, TrainingLog
from facepack.train.replay_plot import smooth
from facepack.train.schedules import build_schedule
from studies.schedules.runs import Outcome

_DPI = 100
_STEPS = 2000  # of a shape that is drawn
_SMOOTHING_SHARE = 0.005  # of a log


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=_DPI)


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def draw_shapes(arms: Mapping[str, tuple[str, dict[str, Any]]], path: Path) -> None:
    """The rate of each arm over the run, as a share of its base rate."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    share = np.arange(_STEPS) / _STEPS
    for arm, (name, options) in arms.items():
        schedule = build_schedule(
            name, base_lr=1.0, total_steps=_STEPS, steps_per_epoch=_STEPS, **options
        )
        rates = [schedule.lr_after(step) for step in range(_STEPS)]
        axes.plot(share, rates, label=f"{arm} (mean {np.mean(rates):.2f})", linewidth=1.5)
    axes.set_xlabel("share of the run")
    axes.set_ylabel("rate / base rate")
    axes.legend(frameon=False)
    _tidy(axes)
    _save(figure, path)


def draw_tuning(outcomes: Sequence[Outcome], path: Path) -> None:
    """Held-out score against the base rate, an arm a line, a setting a panel."""
    settings = list(dict.fromkeys(o.setting for o in outcomes))
    figure = Figure(figsize=(1 + 4 * len(settings), 3.4), layout="constrained")
    panels = figure.subplots(1, len(settings), squeeze=False)[0]
    for axes, setting in zip(panels, settings, strict=True):
        own = [o for o in outcomes if o.setting == setting]
        for arm in dict.fromkeys(o.arm for o in own):
            points = sorted(
                (o.rate, 100 * o.score) for o in own if o.arm == arm and o.score is not None
            )
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=arm)
        rates = sorted({o.rate for o in own})
        axes.set_xscale("log")
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axes.minorticks_off()
        axes.set_title(setting, fontsize=10)
        axes.set_xlabel("base rate")
        _tidy(axes)
    panels[0].set_ylabel("held-out identities, %")
    panels[0].legend(frameon=False, fontsize=8)
    _save(figure, path)


def draw_differences(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Each arm minus the cosine: mean, both intervals, and a dot for each seed."""
    rows = [
        (f"{setting}  {arm}", row["difference"])
        for setting, arms in results.items()
        for arm, row in arms.items()
        if "difference" in row
    ]
    if not rows:
        return
    figure = Figure(figsize=(7, 1.1 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(-1, 1, color="0.93", zorder=0, label="under 1 point: not claimed")
    axes.axvline(0, color="0.4", linewidth=0.8)
    for place, (_, difference) in enumerate(rows):
        both, people = (
            [100 * bound for bound in difference[kind]] for kind in ("both", "identities")
        )
        last = place == len(rows) - 1
        axes.plot(
            both, [place] * 2, color="C0", linewidth=1.2, label="other people and seeds" * last
        )
        axes.plot(
            people, [place] * 2, color="C0", linewidth=4, alpha=0.5, label="other people" * last
        )
        axes.plot(100 * difference["mean"], place, "o", color="C0", markersize=6)
        seeds = [100 * value for value in difference["by_seed"]]
        axes.plot(
            seeds,
            [place + 0.22] * len(seeds),
            ".",
            color="0.35",
            markersize=4,
            label="each seed" * last,
        )
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("minus cosine, points (95 % intervals)")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    _tidy(axes)
    _save(figure, path)


def draw_detectors(log: TrainingLog, replays: Mapping[str, Replay], path: Path) -> None:
    """The losses of a log above, and what its run and each detector made of the rate below."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    losses = log.loss_of_every_step()
    steps = np.arange(1, len(losses) + 1)
    window = max(3, round(_SMOOTHING_SHARE * len(losses)))
    above.plot(log.steps, log.losses, color="0.8", linewidth=0.6, label="loss")
    above.plot(steps, smooth(losses, window), color="0.25", label=f"mean of {window:,} steps")
    above.set_ylabel("loss")
    below.plot(
        log.steps, log.lrs / log.base_lr, color="0.7", linewidth=4, label="rate of the logged run"
    )
    for number, (name, replay) in enumerate(replays.items()):
        below.plot(steps, replay.lrs / log.base_lr, color=f"C{number}", linewidth=1.3, label=name)
    for boundary in range(log.steps_per_epoch, log.total_steps, log.steps_per_epoch):
        above.axvline(boundary, color="0.6", linewidth=0.6, linestyle=":")
    below.set_yscale("log", base=2)
    below.set_ylim(2.0**-9, 1.5)
    below.set_ylabel("rate / base rate")
    below.set_xlabel("optimizer step (dotted: epochs)")
    for axes, corner in ((above, "upper right"), (below, "lower left")):
        axes.legend(frameon=False, fontsize=8, loc=corner)
        axes.margins(x=0.01)
        _tidy(axes)
    _save(figure, path)
