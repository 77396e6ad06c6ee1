"""How far the Haar contrast strays by the noise of the losses alone, measured in the run."""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Any

_MEDIAN_TO_SIGMA = 1.4826022185056018  # σ over the median of |x| for normal x
_BLOCKS_PER_WINDOW = 40


class NoiseMeter:
    """Estimates σ_H, the standard deviation of H under a steady loss, for a window of m.

    With independent losses of standard deviation σ_step = σ_image/√B, the kernel of H gives
    σ_H = σ_step/√(6m) = 0.41·σ_image/√(m·B). σ_step is measured over the last 2m losses, those H
    depends on: from the second differences of the means of blocks of b = m/40 losses, whose
    standard deviation is σ_step·√(6/b). Second differences do not see a steady fall of the loss,
    and their median absolute value shrugs off the sudden falls at epoch boundaries and changes of
    the rate. Blocks also make the estimate hold on a log that has every n-th step, interpolated,
    as long as b is several times n (a window of about 200·n); on a coarser one it is too low.
    """

    def __init__(self, window: int) -> None:
        self._block = max(1, window // _BLOCKS_PER_WINDOW)
        self._scale = _MEDIAN_TO_SIGMA * math.sqrt(self._block / 6) / math.sqrt(6 * window)
        self._total = 0.0
        self._count = 0
        self._means: deque[float] = deque(maxlen=3)
        self._bends: deque[float] = deque(maxlen=2 * window // self._block - 2)
        self._sigma: float | None = None

    @property
    def sigma(self) -> float | None:
        """σ_H, or None while fewer than three blocks of losses have been seen."""
        return self._sigma

    def push(self, loss: float) -> None:
        """Take in a finite ``loss``."""
        self._total += loss
        self._count += 1
        if self._count < self._block:
            return
        self._means.append(self._total / self._block)
        self._total, self._count = 0.0, 0
        if len(self._means) == 3:
            first, second, third = self._means
            self._bends.append(abs(first - 2 * second + third))
            self._sigma = self._scale * median(self._bends)

    def state_dict(self) -> dict[str, Any]:
        """The state in numbers and lists."""
        return {
            "total": self._total,
            "count": self._count,
            "means": list(self._means),
            "bends": list(self._bends),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        self._total, self._count = float(state["total"]), int(state["count"])
        self._means.clear()
        self._means.extend(state["means"])
        self._bends.clear()
        self._bends.extend(state["bends"])
        self._sigma = self._scale * median(self._bends) if self._bends else None
