"""Margins: how far a face's cosine to its own class is lowered before the softmax.

With θ the angle between an embedding and the centre of its class,

* ArcFace (Deng et al., CVPR 2019): cos(θ + m2),
* CosFace (Wang et al., CVPR 2018): cos θ − m3,
* combined (the ArcFace paper, equation 4): cos(m1·θ + m2) − m3, of which both are cases.

cos(m1·θ + m2) falls with θ only as long as m1·θ + m2 ≤ π. Past that angle, cos θ − m2·sin m2 goes
on falling, which is the published remedy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, get_args

import torch

from facepack.errors import ConfigError

MarginGradient = Literal["exact", "straight_through"]

# d/dcos of cos(θ + m) is sin(θ + m)/sin θ, which diverges at θ = 0 and θ = π. This bounds it by
# about 700·sin m.
_LARGEST_COSINE = 1.0 - 1e-6


class Margin(Protocol):
    """What Partial FC asks of a margin."""

    def apply(self, cos_target: torch.Tensor) -> torch.Tensor:
        """Lower the cosines (n,) to the own classes; same shape and dtype, differentiable."""
        ...


@dataclass(frozen=True, kw_only=True)
class Combined:
    """cos(m1·θ + m2) − m3.

    Raises:
        ConfigError: a setting is out of range.
    """

    m1: float = 1.0
    """Factor on the angle, above 0."""

    m2: float = 0.3
    """Margin added to the angle, in radians, in [0, π/2)."""

    m3: float = 0.2
    """Margin taken from the cosine, in [0, 2)."""

    gradient: MarginGradient = "exact"
    """``exact`` is the derivative of the formula. ``straight_through`` takes the margin for a
    constant: the gradient passes to the cosine as it is, as in arcface_torch's published runs."""

    def __post_init__(self) -> None:
        _check("m1", self.m1, 0.0 < self.m1 < math.inf, "above 0")
        _check("m2", self.m2, 0.0 <= self.m2 < math.pi / 2, "in [0, π/2), in radians")
        _check("m3", self.m3, 0.0 <= self.m3 < 2.0, "in [0, 2)")
        _check_gradient(self.gradient)

    def apply(self, cos_target: torch.Tensor) -> torch.Tensor:
        """Lower the cosines (n,), each in [−1, 1], to the own classes.

        The exact gradient is bounded: within 1e-6 of ±1 the angle is held constant.
        """
        if self.gradient == "straight_through":
            lowered = self._formula(cos_target.detach())
            return cos_target + (lowered - cos_target.detach())
        return self._formula(cos_target)

    def _formula(self, cos: torch.Tensor) -> torch.Tensor:
        if self.m1 == 1.0 and self.m2 == 0.0:
            return cos - self.m3
        angle = torch.acos(cos.clamp(-_LARGEST_COSINE, _LARGEST_COSINE))
        # At m1 = 1 the limit is π − m2, and this the published cos θ − m2·sin m2; another m1 moves
        # the limit, and the same construction from there keeps the value falling.
        limit = min(math.pi, (math.pi - self.m2) / self.m1)
        remedy = cos - (math.pi - limit) * math.sin(limit)
        lowered = torch.where(angle <= limit, torch.cos(self.m1 * angle + self.m2), remedy)
        return lowered - self.m3


@dataclass(frozen=True, kw_only=True)
class ArcFace:
    """cos(θ + margin).

    Raises:
        ConfigError: a setting is out of range.
    """

    margin: float = 0.5
    """Margin added to the angle, in radians, in [0, π/2)."""

    gradient: MarginGradient = "exact"
    """As in :class:`Combined`."""

    def __post_init__(self) -> None:
        _check("margin", self.margin, 0.0 <= self.margin < math.pi / 2, "in [0, π/2), in radians")
        _check_gradient(self.gradient)

    def apply(self, cos_target: torch.Tensor) -> torch.Tensor:
        """Lower the cosines (n,), each in [−1, 1], to the own classes."""
        return Combined(m1=1.0, m2=self.margin, m3=0.0, gradient=self.gradient).apply(cos_target)


@dataclass(frozen=True, kw_only=True)
class CosFace:
    """cos θ − margin; its gradient passes to the cosine as it is.

    Raises:
        ConfigError: the margin is out of range.
    """

    margin: float = 0.4
    """Margin taken from the cosine, in [0, 2)."""

    def __post_init__(self) -> None:
        _check("margin", self.margin, 0.0 <= self.margin < 2.0, "in [0, 2)")

    def apply(self, cos_target: torch.Tensor) -> torch.Tensor:
        """Lower the cosines (n,) to the own classes."""
        return cos_target - self.margin


MARGINS: dict[str, type[ArcFace] | type[CosFace] | type[Combined]] = {
    "arcface": ArcFace,
    "cosface": CosFace,
    "combined": Combined,
}


def build_margin(name: str, **options: Any) -> Margin:
    """Build a margin by name; the options are the fields of its class.

    Raises:
        ConfigError: the name or an option is unknown, or an option is out of range.
    """
    if name not in MARGINS:
        raise ConfigError(f"margin: got {name!r}; it must be one of {', '.join(MARGINS)}")
    allowed = [field.name for field in fields(MARGINS[name])]
    for option in options:
        if option not in allowed:
            raise ConfigError(
                f"margin option {option!r}: {name} has no such setting, only {', '.join(allowed)}"
            )
    return MARGINS[name](**options)


def _check(name: str, value: float | str, holds: bool, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{name}: got {value}; it must be {allowed}")


def _check_gradient(gradient: str) -> None:
    allowed = get_args(MarginGradient)
    _check("gradient", gradient, gradient in allowed, " or ".join(allowed))
