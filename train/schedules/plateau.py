"""The detector of MHLR's first version: when the loss has stopped falling, by how much to act."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from facepack.settings import Range, Settings
from facepack.train.schedules.base import MAX_READ_EVERY, ReadEvery
from facepack.train.schedules.haar import HaarContrast
from facepack.train.schedules.noise import NoiseMeter
from facepack.train.schedules.plan import RunPlan

PUBLISHED_THRESHOLD = 0.06
_NOISE_MARGIN = 4.0  # of σ_H that "auto" keeps between the noise and the threshold
_WINDOW_SHARE = 0.0175  # of the run; the authors' windows are 0.015 to 0.02 of it
_RESTART_AT = 4  # every fourth consecutive change is a warm restart


@dataclass(frozen=True, kw_only=True)
class PlateauOptions(Settings):
    """Settings of ``mhlr``."""

    window: Annotated[int, Range(low=2)] | None = None
    """Losses averaged (m); by default 0.0175 of the run's steps, but at least 2."""
    threshold: Annotated[float, Range(low=0)] | Literal["auto"] = PUBLISHED_THRESHOLD
    """H below which the loss counts as not falling; "auto" is max(0.06, 4·σ_H), with σ_H measured
    in the run."""
    factor: Annotated[float, Range(above=0, below=1)] = 0.5
    """Multiplies the learning rate at a drop."""
    restart: Annotated[float, Range(above=1)] = 4.0
    """Multiplies it instead at every fourth consecutive change, a warm restart."""
    read_every: ReadEvery = MAX_READ_EVERY
    """Steps between two readings of the losses from the device, 1 to 10."""


def default_window(run: RunPlan) -> int:
    """The window (m) of a run that sets none."""
    return max(2, round(_WINDOW_SHARE * run.total_steps))


class PlateauDetector:
    """Counts the steps at which H, the Haar contrast of the loss, is below the threshold.

    When the count exceeds 2m it asks for a change and counts anew. An H at or above the threshold
    sets back the count, and with it the number of consecutive changes.
    """

    def __init__(self, options: PlateauOptions) -> None:
        assert options.window is not None
        self._options = options
        self._patience = 2 * options.window
        self._contrast = HaarContrast(options.window)
        self._noise = NoiseMeter(options.window)
        self._count = 0
        self._consecutive = 0

    @property
    def sigma_h(self) -> float | None:
        """σ_H as measured over the last 2m losses; None at the run's start."""
        return self._noise.sigma

    @property
    def threshold(self) -> float:
        """The threshold in force."""
        if not isinstance(self._options.threshold, str):
            return self._options.threshold
        return max(PUBLISHED_THRESHOLD, _NOISE_MARGIN * (self._noise.sigma or 0.0))

    def observe(self, loss: float, *, hold: bool = False) -> float | None:
        """Take in a finite ``loss``; returns the factor to apply to the learning rate, or None.

        With ``hold``, the loss enters H but the counters stay as they are.
        """
        self._noise.push(loss)
        contrast = self._contrast.push(loss)
        if contrast is None or hold:
            return None
        if contrast >= self.threshold:
            self._count = self._consecutive = 0
            return None
        self._count += 1
        if self._count <= self._patience:
            return None
        self._count = 0
        self._consecutive += 1
        restart = self._consecutive % _RESTART_AT == 0
        return self._options.restart if restart else self._options.factor

    def state_dict(self) -> dict[str, Any]:
        """The state in numbers and lists."""
        return {
            "count": self._count,
            "consecutive": self._consecutive,
            "losses": self._contrast.losses(),
            "noise": self._noise.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        self._count, self._consecutive = int(state["count"]), int(state["consecutive"])
        self._contrast.restore(state["losses"])
        self._noise.load_state_dict(state["noise"])
