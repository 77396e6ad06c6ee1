"""Labels that are floats: pandas, NumPy and JavaScript make them of whole numbers."""

from __future__ import annotations


def as_whole(value: object) -> object:
    """A float that is a whole number as that number; all else, NaN and 3.5 among it, as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
