"""Checks of the numbers that schedules are set with; each error names the setting."""

from __future__ import annotations

import math

from facepack.errors import ConfigError


def require_integer(setting: str, value: object, *, low: int, high: int | None = None) -> None:
    """Refuse ``value`` unless it is an integer with ``low`` ≤ value ≤ ``high``."""
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or value < low
        or (high is not None and value > high)
    ):
        allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ConfigError(f"{setting} must be an integer {allowed}, got {value!r}")


def require_number(
    setting: str,
    value: object,
    *,
    above: float | None = None,
    low: float | None = None,
    below: float | None = None,
    high: float | None = None,
) -> None:
    """Refuse ``value`` unless it is a finite number within the bounds.

    ``above`` and ``below`` are exclusive bounds, ``low`` and ``high`` inclusive ones.
    """
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not math.isfinite(value)
        or (above is not None and value <= above)
        or (low is not None and value < low)
        or (below is not None and value >= below)
        or (high is not None and value > high)
    ):
        bounds = {"above": above, "at least": low, "below": below, "at most": high}
        allowed = " and ".join(f"{word} {x:g}" for word, x in bounds.items() if x is not None)
        raise ConfigError(f"{setting} must be a number {allowed}".rstrip() + f", got {value!r}")
