"""A threshold, and what it accepts: how TAR at a FAR is defined everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """What a threshold accepts. A pair is accepted where its score is *at least* the threshold.

    Shares are of one. None is undefined: FAR and threshold without impostors, TAR without mates.
    """

    wanted: float
    """The FAR that was asked for."""
    threshold: float | None
    """The smallest float32 above the scores that are too many; -inf where none is."""
    far: float | None
    """The share of impostors that are accepted: at most ``wanted``, if the point is exact."""
    tar: float | None
    """The share of mates that are accepted."""
    false_accepts: int
    true_accepts: int

    @classmethod
    def exact(
        cls,
        wanted: float,
        *,
        threshold: float | None,
        accepts: tuple[int, int],
        of: tuple[int, int],
    ) -> OperatingPoint:
        """The point of ``accepts`` false and true accepts ``of`` that many impostors and mates."""
        (false_accepts, true_accepts), (impostors, mates) = accepts, of
        return cls(
            wanted=wanted,
            threshold=threshold,
            far=false_accepts / impostors if impostors else None,
            tar=true_accepts / mates if mates and impostors else None,
            false_accepts=false_accepts,
            true_accepts=true_accepts,
        )


def most_false_accepts(far: float, impostors: int) -> int:
    """The largest count whose share of ``impostors``, as float64, is at most ``far``."""
    count = min(int(far * impostors), impostors)
    while count and count / impostors > far:
        count -= 1
    while count < impostors and (count + 1) / impostors <= far:
        count += 1
    return count


def threshold_above(score: float | np.float32) -> float:
    """The smallest float32 above ``score``: with it, pairs of that score are no longer accepted."""
    return float(np.nextafter(np.float32(score), np.float32(np.inf)))


def far_text(far: float) -> str:
    """``1e-4`` of 0.0001: how tables and JSON call a FAR."""
    return np.format_float_scientific(far, trim="-", exp_digits=1)


def unmeasurable(fars: Iterable[float], impostors: int) -> list[float]:
    """Those FARs that lie below a single false accept: their TAR is that without any."""
    return [far for far in fars if not most_false_accepts(far, impostors)]
