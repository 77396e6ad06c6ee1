"""The picture of a replay: what the loss did, what the run and the schedule made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from facepack.errors import FacepackError, needs_extra
from facepack.train.replay import Replay, TrainingLog

_SMOOTHING_SHARE = 0.005  # of the run
_UNSEEN_SHARE = 0.01  # of the learning rates, the lowest, that the scale need not show


def smooth(losses: np.ndarray, window: int) -> np.ndarray:
    """Mean of ``losses`` (T,) over the ``window`` steps around each; fewer at both ends."""
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    steps = np.arange(len(losses))
    starts = np.maximum(0, steps - (window - 1) // 2)
    ends = np.minimum(len(losses), steps + window // 2 + 1)
    mean: np.ndarray = (sums[ends] - sums[starts]) / (ends - starts)
    return mean


def draw_replay(log: TrainingLog, replay: Replay, path: Path) -> None:
    """Draw loss and smoothed loss above, the log's and the replay's learning rates below.

    ``path`` ends in a picture format that matplotlib writes (.png, .svg, .pdf). Raises
    :class:`MissingExtraError` without matplotlib, :class:`FacepackError` where it cannot write.
    """
    with needs_extra("matplotlib", "plot"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    steps = np.arange(1, len(replay.losses) + 1)

    window = max(1, round(_SMOOTHING_SHARE * len(steps)))
    above.plot(log.steps, log.losses, color="0.7", linewidth=0.8, label="loss")
    above.plot(
        steps,
        smooth(replay.losses, window),
        color="C0",
        linewidth=1.2,
        label=f"mean of {window:,} steps",
    )
    above.set_ylabel("loss")
    above.legend()

    if log.base_lr is not None:
        below.plot(
            log.steps, log.lrs, drawstyle="steps-post", color="0.55", linewidth=3, label="log"
        )
    below.plot(steps, replay.lrs, color="C3", linewidth=1.2, label=replay.schedule.name)
    for step, _ in replay.changes:
        for axes in (above, below):
            axes.axvline(step, color="C3", linewidth=0.6, alpha=0.35)
    below.set_yscale("log")
    # A decay to 0 would stretch a logarithmic scale without end: its last steps run off the edge.
    rates = [lrs[lrs > 0] for lrs in (log.lrs, replay.lrs) if (lrs > 0).any()]
    lowest = min(float(np.quantile(each, _UNSEEN_SHARE)) for each in rates)
    highest = max(float(each.max()) for each in rates)
    below.set_ylim(0.7 * lowest, 1.5 * highest)
    below.set_ylabel("learning rate")
    below.set_xlabel("optimizer step")
    below.legend()
    for axes in (above, below):
        axes.grid(alpha=0.25)
        axes.margins(x=0.01)

    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise FacepackError(f"the plot cannot be written to {path}: {error}") from error
