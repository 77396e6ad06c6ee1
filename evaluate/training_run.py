"""The course of a training run, out of its folder or its log: loss, learning rate, accuracies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from facepack.errors import SourceError
from facepack.reading import parse_json, read_bytes
from facepack.train.collect import read_settings
from facepack.train.loop.checkpoint import METRICS_FILE
from facepack.train.replay import TrainingLog, read_log
from facepack.view.plot import Axis, Line, Plot

_SMOOTHED = 0.01  # of the run's rows, over which the printed loss is the mean
_STRETCHES = 500  # of a run, over each of which the drawn loss is the mean
_STEPS = 1 << 53  # that a run may have
_NO_FIGURE = ("kind", "step", "set", "timing", "std")


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingRun:
    """What is known of a run's training."""

    name: str  # what pages call it
    log: TrainingLog  # losses and learning rates by step
    # (set, figure) → steps, int64 (n,), and the figure after each, float64 (n,)
    scores: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]]
    # from its config.toml; nothing where there is none
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_run(path: Path, name: str) -> TrainingRun:
    """Read a run's folder, or a log that ``facepack schedule`` takes.

    Raises:
        SourceError: the log cannot be read, or holds no training step.
        ConfigError: ``config.toml`` cannot be read.
    """
    settings: Mapping[str, Any] = {}
    if path.is_dir():
        if (path / "config.toml").is_file():
            settings = read_settings(str(path / "config.toml"))
        path = path / METRICS_FILE
    log = read_log(path)
    scores = _read_scores(path) if path.suffix == ".jsonl" else {}
    return TrainingRun(name=name, log=log, scores=scores, settings=settings)


def _read_scores(path: Path) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """The first figure of each verification; where the step goes back, what it repeats counts."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for line in read_bytes(path).decode("utf-8-sig", errors="replace").splitlines():
        try:
            entry = parse_json(line)
        except ValueError:
            continue  # read_log reports it
        if not isinstance(entry, dict) or entry.get("kind") != "val":
            continue
        step, name = entry.get("step"), entry.get("set")
        figures = [(k, v) for k, v in entry.items() if k not in _NO_FIGURE and _is_number(v)]
        if (
            not (isinstance(step, int) and 0 <= step < _STEPS)
            or not isinstance(name, str)
            or not figures
        ):
            raise SourceError(f"{path}: {line[:200]!r} is no verification: step, set and a figure")
        (figure, value), *_ = figures
        found.setdefault((name, figure), {})[step] = float(value)
    return {
        key: (np.array(sorted(values), np.int64), np.array([values[k] for k in sorted(values)]))
        for key, values in found.items()
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def training_plots(runs: Sequence[TrainingRun]) -> list[Plot]:
    """Loss, learning rate and each verification's figure by step, all runs over the same axes."""
    steps = Axis(label="optimizer step")
    losses = [_smooth(run.log) for run in runs]
    smoothed = any(len(x) < len(run.log.steps) for run, (x, _) in zip(runs, losses, strict=True))
    plots = [
        Plot(
            title="Loss",
            x=steps,
            y=Axis(label="loss, means over a run's 500th" if smoothed else "loss"),
            lines=[Line(name=run.name, x=x, y=y) for run, (x, y) in zip(runs, losses, strict=True)],
        ),
        Plot(
            title="Learning rate",
            x=steps,
            # A decay to 0 would stretch a logarithmic axis without end.
            y=Axis(label="learning rate", log=True, decades=4),
            lines=[Line(name=run.name, x=run.log.steps, y=run.log.lrs) for run in runs],
        ),
    ]
    for key in dict.fromkeys(key for run in runs for key in run.scores):
        lines = [
            Line(name=run.name, x=run.scores[key][0], y=run.scores[key][1])
            for run in runs
            if key in run.scores
        ]
        plots.append(Plot(title=f"{key[0]}: {key[1]}", x=steps, y=Axis(label=key[1]), lines=lines))
    return plots


def _smooth(log: TrainingLog) -> tuple[np.ndarray, np.ndarray]:
    """Steps and losses, of a long log the means of at most 500 stretches: single ones scatter."""
    every = -(-len(log.steps) // _STRETCHES)
    starts = np.arange(0, len(log.steps), every)
    counts = np.diff(starts, append=len(log.steps))
    return np.add.reduceat(log.steps, starts) / counts, np.add.reduceat(log.losses, starts) / counts


def training_table(runs: Sequence[TrainingRun]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: how far each run came, and where it ended."""
    rows = [
        ["steps", *(f"{run.log.total_steps:,}" for run in runs)],
        ["loss at the end", *(_last_loss(run.log) for run in runs)],
        ["learning rate at the end", *(_last_rate(run.log) for run in runs)],
    ]
    for key in dict.fromkeys(key for run in runs for key in run.scores):
        for which in ("last", "best"):
            rows.append([f"{key[0]} {key[1]}, {which}", *(_score(run, key, which) for run in runs)])
    return ["training", *(f"#{run.name}" for run in runs)], rows


def _last_loss(log: TrainingLog) -> str:
    """The mean of the last hundredth of the rows: single ones scatter."""
    last = log.losses[-max(1, round(_SMOOTHED * len(log.losses))) :]
    return f"{last.mean():.4f}"


def _last_rate(log: TrainingLog) -> str:
    known = log.lrs[~np.isnan(log.lrs)]
    return f"{known[-1]:.3g}" if len(known) else "–"


def _score(run: TrainingRun, key: tuple[str, str], which: str) -> str:
    if key not in run.scores:
        return "–"
    steps, values = run.scores[key]
    chosen = -1 if which == "last" else int(values.argmax())
    return f"{values[chosen]:.4f} (step {steps[chosen]:,})"


def settings_table(runs: Sequence[TrainingRun]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the settings in which runs differ, of those whose settings are known."""
    known = [run for run in runs if run.settings]
    names = dict.fromkeys(name for run in known for name in run.settings)
    return ["setting", *(run.name for run in known)], [
        [name, *(str(run.settings.get(name, "–")) for run in known)]
        for name in names
        if any(run.settings.get(name) != known[0].settings.get(name) for run in known)
    ]
