"""What a schedule must know of the run that it steers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from facepack.errors import ConfigError
from facepack.settings import Count, Range, Settings


@dataclass(frozen=True, kw_only=True)
class RunPlan(Settings):
    """The lengths of a run and its base learning rate; steps are optimizer steps throughout."""

    base_lr: Annotated[float, Range(above=0)]
    """Learning rate after warm-up, before any decay."""
    total_steps: Count
    """Steps of the whole run (T)."""
    steps_per_epoch: Count
    """Steps of one epoch."""
    batch_size: Count = 128
    """Images of one step over all micro-batches and ranks (B)."""
    warmup_steps: Annotated[int, Range(low=0)] = 0
    """Steps of linear warm-up (w): the learning rate after k steps is base_lr·k/w."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_steps >= self.total_steps:
            raise ConfigError(
                f"warmup_steps must be below the run's {self.total_steps} steps, got "
                f"{self.warmup_steps}; shorten the warm-up or lengthen the run"
            )
