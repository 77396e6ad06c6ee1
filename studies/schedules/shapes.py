"""Two learning-rate shapes that only the study of schedules needs, filed among facepack's own."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from facepack.errors import ConfigError
from facepack.train.replay import TrainingLog
from facepack.train.schedules import register
from facepack.train.schedules.base import FixedSchedule

_ROUNDING = 1e-9  # a share of the run is a quotient of two step counts


@dataclass(frozen=True, kw_only=True)
class LinearTailOptions:
    """Settings of ``linear_tail``."""

    tail: float = 0.15
    """Share of the run at its end in which the rate falls linearly to 0."""

    def __post_init__(self) -> None:
        if not 0 < self.tail < 1:
            raise ConfigError(f"tail must lie between 0 and 1, got {self.tail}")


@register("linear_tail", LinearTailOptions)
class LinearTail(FixedSchedule):
    """base_lr, then a straight line to 0 over the last part of the run."""

    options: LinearTailOptions

    def _decayed(self, steps: int) -> float:
        left = (self.run.total_steps - steps) / self.run.total_steps
        return self.run.base_lr * min(1.0, left / self.options.tail)


@dataclass(frozen=True, kw_only=True)
class TraceOptions:
    """Settings of ``trace``."""

    starts: Sequence[float]
    """Shares of the run, ascending from 0, at which the rate changes."""
    factors: Sequence[float]
    """What multiplies base_lr from there on."""

    def __post_init__(self) -> None:
        if len(self.starts) != len(self.factors) or not self.starts or self.starts[0] != 0:
            raise ConfigError(
                "starts and factors must be as many, the first start 0; got "
                f"{list(self.starts)} and {list(self.factors)}"
            )
        if any(a >= b for a, b in zip(self.starts, self.starts[1:], strict=False)):
            raise ConfigError(f"starts must ascend, got {list(self.starts)}")


@register("trace", TraceOptions)
class Trace(FixedSchedule):
    """The rates of another run, stretched to this one's length: its shape without its feedback."""

    options: TraceOptions

    def _decayed(self, steps: int) -> float:
        share = steps / self.run.total_steps
        place = bisect_right(self.options.starts, share + _ROUNDING) - 1
        return self.run.base_lr * self.options.factors[place]


def trace_of_changes(
    changes: Sequence[tuple[int, float]], *, base_lr: float, total_steps: int
) -> dict[str, Any]:
    """The options of ``trace`` for a run that began at ``base_lr``.

    ``changes`` are (steps done, learning rate from then on), as a schedule lists them.
    """
    return {
        "starts": [0.0, *(step / total_steps for step, _ in changes)],
        "factors": [1.0, *(lr / base_lr for _, lr in changes)],
    }


def trace_of_log(log: TrainingLog) -> dict[str, Any]:
    """The options of ``trace`` for the rates of a log whose first rate is its base rate.

    A row tells the rate of the step it names, so a change is one step done earlier.
    """
    changes = [(step - 1, lr) for step, lr in log.changes()]
    return trace_of_changes(changes, base_lr=float(log.lrs[0]), total_steps=log.total_steps)
