"""Schedules that follow a formula of the step: cosine, polynomial, multi-step, constant.

k is the number of steps done, w the warm-up's length, T the run's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from facepack.errors import ConfigError
from facepack.settings import Count, Range, Settings, check
from facepack.train.schedules.base import FixedSchedule
from facepack.train.schedules.plan import RunPlan
from facepack.train.schedules.registry import register


def cosine(run: RunPlan, steps: int) -> float:
    """Half a cosine wave from base_lr at w to 0 at T (Loshchilov and Hutter, 2017, eq. 5)."""
    done = (steps - run.warmup_steps) / (run.total_steps - run.warmup_steps)
    return run.base_lr * 0.5 * (1.0 + math.cos(math.pi * done))


@dataclass(frozen=True, kw_only=True)
class NoOptions(Settings):
    """A schedule without settings."""


@dataclass(frozen=True, kw_only=True)
class PolyOptions(Settings):
    """Settings of ``poly``."""

    power: Annotated[float, Range(above=0)] = 1.0
    """Exponent p of the decay: 1, a straight line, as in arcface_torch's train_v2.py; 2 is that of
    its PolyScheduler, before April 2023."""


@dataclass(frozen=True, kw_only=True)
class MultiStepOptions(Settings):
    """Settings of ``multistep``."""

    milestones: Sequence[float] = ()
    """Ascending points of the run after which the rate is multiplied by ``factor``."""
    unit: Literal["epochs", "steps"] = "epochs"
    """What the milestones count; a fraction of an epoch goes to the nearest step."""
    factor: Annotated[float, Range(above=0, below=1)] = 0.1
    """Multiplies the learning rate at each milestone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.milestones, list | tuple) or not self.milestones:
            raise ConfigError(
                f"milestones must be a list of {self.unit} such as [8, 14], got {self.milestones!r}"
            )
        kind = Count if self.unit == "steps" else Annotated[float, Range(above=0)]
        for milestone in self.milestones:
            check("each of milestones", milestone, kind)
        if any(a >= b for a, b in zip(self.milestones, self.milestones[1:], strict=False)):
            raise ConfigError(f"milestones must ascend, got {list(self.milestones)}")


@register("cosine", NoOptions)
class Cosine(FixedSchedule):
    """base_lr·½(1 + cos(π(k−w)/(T−w)))."""

    def _decayed(self, steps: int) -> float:
        return cosine(self.run, steps)


@register("poly", PolyOptions)
class Poly(FixedSchedule):
    """base_lr·(1 − (k−w)/(T−w))^power, the polynomial decay of arcface_torch.

    Its PolynomialLRWarmup gives the same rates but for the first step of a warm-up, which runs at
    base_lr there and at 0 here.
    """

    options: PolyOptions

    def _decayed(self, steps: int) -> float:
        done = (steps - self.run.warmup_steps) / (self.run.total_steps - self.run.warmup_steps)
        return self.run.base_lr * (1.0 - done) ** self.options.power


@register("multistep", MultiStepOptions)
class MultiStep(FixedSchedule):
    """base_lr·factor^n once n milestones have been passed."""

    options: MultiStepOptions

    def __init__(self, run: RunPlan, options: MultiStepOptions) -> None:
        super().__init__(run, options)
        scale = run.steps_per_epoch if options.unit == "epochs" else 1
        self._milestones = [round(milestone * scale) for milestone in options.milestones]

    def _decayed(self, steps: int) -> float:
        passed = sum(milestone <= steps for milestone in self._milestones)
        return self.run.base_lr * self.options.factor**passed

    @property
    def changes(self) -> list[tuple[int, float]]:
        """The milestones passed: (steps done, learning rate from then on)."""
        return [(m, self.lr_after(m)) for m in self._milestones if m <= self.steps_done]


@register("constant", NoOptions)
class Constant(FixedSchedule):
    """base_lr to the end."""

    def _decayed(self, steps: int) -> float:
        return self.run.base_lr
