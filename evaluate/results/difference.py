"""Whether two figures differ by more than chance explains.

Of two estimates with their confidence intervals, that of the difference is put together by the
method of variance estimates recovery (Zou and Donner, "Construction of confidence intervals about
effect measures", Statistics in Medicine 27, 2008, equation 3): for â₁ > â₂ with intervals (l, u)
its lower end is â₁ − â₂ − √((â₁ − l₁)² + (u₂ − â₂)²). It takes the two for independent; models
that are measured on the same images are not, so that it is rather too wide than too narrow.
"""

from __future__ import annotations

import math

from facepack.evaluate.results.result import Figure

FOLDS = 10
STUDENT_95 = 2.262
"""The 97.5 % quantile of Student's t with nine degrees of freedom."""


def interval_of(figure: Figure) -> tuple[float, float] | None:
    """The 95 % confidence interval of a figure; None where it is unknown.

    A figure that was not given one, but a deviation over ten folds, has that of their mean:
    ± t·σ/√(folds − 1), σ the population standard deviation. Folds that share training data of a
    threshold are taken for independent, as is usual.
    """
    if figure.interval is not None or figure.value is None or figure.std is None:
        return figure.interval
    half = STUDENT_95 * figure.std / math.sqrt(FOLDS - 1)
    return figure.value - half, figure.value + half


def is_within_chance(first: Figure, second: Figure) -> bool | None:
    """Whether 0 lies in the 95 % interval of the difference; None where an interval is unknown."""
    if first.value is None or second.value is None:
        return None
    lower, higher = sorted((first, second), key=lambda figure: figure.value or 0)
    below, above = interval_of(higher), interval_of(lower)
    if below is None or above is None:
        return None
    assert lower.value is not None and higher.value is not None
    reach = math.hypot(higher.value - below[0], above[1] - lower.value)
    return higher.value - lower.value <= reach
