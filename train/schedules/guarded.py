"""MHLR within bounds: it cannot spend the learning rate early, nor fail to reach zero."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from facepack.settings import Range
from facepack.train.schedules.fixed import cosine
from facepack.train.schedules.mhlr import MHLR
from facepack.train.schedules.plan import RunPlan
from facepack.train.schedules.plateau import PlateauOptions, default_window
from facepack.train.schedules.registry import register


@dataclass(frozen=True, kw_only=True)
class GuardedOptions(PlateauOptions):
    """Settings of ``mhlr_guarded``."""

    threshold: Annotated[float, Range(low=0)] | Literal["auto"] = "auto"
    """As for ``mhlr``, but measured against the noise by default."""
    refractory: Annotated[int, Range(low=0)] | None = None
    """Steps after each change and each epoch boundary in which the counters stand still; by
    default 2·window, which is how long H sees a sudden fall, but at most half an epoch."""
    band: Annotated[float, Range(low=1)] = 4.0
    """The rate stays between cosine/band and cosine·band, and never above base_lr; 1 is the
    cosine itself."""
    tail: Annotated[float, Range(low=0, below=1)] = 0.15
    """Share of the run at its end in which the rate falls linearly to 0."""


@register("mhlr_guarded", GuardedOptions)
class MHLRGuarded(MHLR):
    """MHLR's first version with three guards.

    A new epoch makes the training loss fall suddenly, and so does a lower rate: either would set
    back the detector's counters, so they stand still in a refractory period after both. The rate
    is clipped to a band around a cosine. In the last part of the run it falls linearly to 0,
    whatever the loss does.
    """

    options: GuardedOptions
    depends_on_length = True
    kept = (("level", float), ("last_change", int))  # level: as the detector asks, before the band

    def __init__(self, run: RunPlan, options: GuardedOptions) -> None:
        refractory = options.refractory
        if refractory is None:
            window = options.window or default_window(run)
            refractory = min(2 * window, run.steps_per_epoch // 2)
        super().__init__(run, replace(options, refractory=refractory))
        self._refractory = refractory
        self._tail_start = max(
            run.warmup_steps, run.total_steps - round(options.tail * run.total_steps)
        )
        self._last_change: int | None = None

    def _banded(self, steps: int) -> float:
        centre = cosine(self.run, steps)
        ceiling = min(centre * self.options.band, self.run.base_lr)
        return min(max(self._level, centre / self.options.band), ceiling)

    def _decayed(self, steps: int) -> float:
        start, end = self._tail_start, self.run.total_steps
        if steps <= start:
            return self._banded(steps)
        return self._banded(start) * (end - steps) / (end - start)

    def _is_refractory(self, step: int) -> bool:
        """Whether ``step`` (from 1) is among the first after a change or an epoch boundary."""
        since_change = None if self._last_change is None else step - self._last_change
        if since_change is not None and since_change <= self._refractory:
            return True
        epoch, since_boundary = divmod(step - 1, self.run.steps_per_epoch)
        return epoch > 0 and since_boundary < self._refractory

    def _observe(self, step: int, loss: float) -> bool:
        if step > self._tail_start:
            return False
        factor = self._detector.observe(loss, hold=self._is_refractory(step))
        if factor is None:
            return False
        # From the rate in force, not from what the band cut off: else a spent level would make
        # the restarts vain.
        self._level = self._banded(step) * factor
        self._last_change = step
        return True
