"""What a schedule must know of the run that it steers."""

from __future__ import annotations

from dataclasses import dataclass

from facepack.errors import ConfigError
from facepack.train.schedules.checks import require_integer, require_number


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """The lengths of a run and its base learning rate; steps are optimizer steps throughout."""

    base_lr: float
    """Learning rate after warm-up, before any decay."""
    total_steps: int
    """Steps of the whole run (T)."""
    steps_per_epoch: int
    """Steps of one epoch."""
    batch_size: int = 128
    """Images of one step over all micro-batches and ranks (B)."""
    warmup_steps: int = 0
    """Steps of linear warm-up (w): the learning rate after k steps is base_lr·k/w."""

    def __post_init__(self) -> None:
        require_number("base_lr", self.base_lr, above=0)
        require_integer("total_steps", self.total_steps, low=1)
        require_integer("steps_per_epoch", self.steps_per_epoch, low=1)
        require_integer("batch_size", self.batch_size, low=1)
        require_integer("warmup_steps", self.warmup_steps, low=0)
        if self.warmup_steps >= self.total_steps:
            raise ConfigError(
                f"warmup_steps must be below the run's {self.total_steps} steps, got "
                f"{self.warmup_steps}; shorten the warm-up or lengthen the run"
            )
