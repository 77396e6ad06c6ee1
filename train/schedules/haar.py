"""The moving Haar contrast of the loss, on which MHLR's first version decides."""

from __future__ import annotations

_UNIT = 1 << 40


class HaarContrast:
    """H over a window of m losses, in constant time a loss.

    A is the mean of the last m losses. H is (the sum of the older half − the sum of the newer
    half) / m over the last m values of A; the middle one of an odd m belongs to neither. It is
    given from the 2m-th loss on. A steady fall by g a step gives H = g·m/4.

    Losses are counted in units of 2⁻⁴⁰ (exact for any float32 above 2⁻¹⁶), so the running sums
    are integers: they never drift, and rebuilding them from the last 2m losses gives the same H.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._scale = window * window * _UNIT
        self.clear()

    def clear(self) -> None:
        """Forget all losses."""
        self._seen = 0
        self._losses = [0] * (2 * self._window)
        self._sums = [0] * self._window  # of the last m losses; 0 where there were fewer
        self._sum = 0
        self._contrast = 0

    def push(self, loss: float) -> float | None:
        """Take in a finite ``loss``; returns H, or None before the 2m-th loss."""
        m, half, seen = self._window, self._window // 2, self._seen
        losses, sums = self._losses, self._sums
        amount = round(loss * _UNIT)
        self._sum += amount - losses[(seen - m) % (2 * m)]
        losses[seen % (2 * m)] = amount
        self._seen = seen = seen + 1
        if seen < m:
            return None
        # One sum enters the newer half, one leaves it, one enters the older half, one leaves it.
        at = seen % m
        self._contrast += sums[at - half] + sums[(at + half) % m] - sums[at] - self._sum
        sums[at] = self._sum
        return self._contrast / self._scale if seen >= 2 * m else None

    def losses(self) -> list[float]:
        """The last 2m losses or fewer, oldest first: all that H depends on."""
        count = min(self._seen, 2 * self._window)
        size = 2 * self._window
        return [self._losses[i % size] / _UNIT for i in range(self._seen - count, self._seen)]

    def restore(self, losses: list[float]) -> None:
        """Rebuild the state that gave :meth:`losses`."""
        self.clear()
        for loss in losses:
            self.push(loss)
