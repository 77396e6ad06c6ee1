"""MHLR, moving Haar learning rate, in its first version, which the authors' logs follow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from facepack.train.schedules.base import AdaptiveSchedule, Kept
from facepack.train.schedules.plan import RunPlan
from facepack.train.schedules.plateau import PlateauDetector, PlateauOptions, default_window
from facepack.train.schedules.registry import register


@register("mhlr", PlateauOptions)
class MHLR(AdaptiveSchedule):
    """Halves the learning rate when the loss has stopped falling, with warm restarts.

    See :class:`PlateauDetector` for the rule. Published for five epochs at batch 128 and base
    learning rate 0.02 without warm-up; on MS1MV3 (T = 202,320) with a window of 4,000.
    """

    kept: ClassVar[Kept] = (("level", float),)

    def __init__(self, run: RunPlan, options: PlateauOptions) -> None:
        options = replace(options, window=options.window or default_window(run))
        super().__init__(run, options, read_every=options.read_every)
        self._detector = PlateauDetector(options)
        self._level = run.base_lr

    @property
    def sigma_h(self) -> float | None:
        """The noise of H as measured in the run; None at its start."""
        return self._detector.sigma_h

    def _decayed(self, steps: int) -> float:
        return self._level

    def _observe(self, step: int, loss: float) -> bool:
        factor = self._detector.observe(loss)
        if factor is None:
            return False
        self._level *= factor
        return True

    def state_dict(self) -> dict[str, Any]:
        """The state, with the learning rate and the detector's."""
        return {**super().state_dict(), "detector": self._detector.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        super().load_state_dict(state)
        self._detector.load_state_dict(state["detector"])
