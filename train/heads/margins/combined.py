"""The combined margin: cos(m1·θ + m2) − m3 (Deng et al., "ArcFace", CVPR 2019, equation 4).

cos(m1·θ + m2) falls with θ only as long as m1·θ + m2 ≤ π. Past that angle, cos θ − m2·sin m2 goes
on falling, which is the published remedy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from facepack.settings import Range
from facepack.train.heads.margins.registry import CosineMargin, register

MarginGradient = Literal["exact", "straight_through"]
Radians = Annotated[
    float, Range(low=0, below=math.pi / 2, text="at least 0 and below π/2, in radians")
]

# d/dcos of cos(θ + m) is sin(θ + m)/sin θ, which diverges at θ = 0 and θ = π. This bounds it by
# about 700·sin m.
LARGEST_COSINE = 1.0 - 1e-6


@register("combined", m1="m1", m2="m2", m3="m3", margin_gradient="gradient")
@dataclass(frozen=True, kw_only=True)
class Combined(CosineMargin):
    """cos(m1·θ + m2) − m3."""

    m1: Annotated[float, Range(above=0)] = 1.0
    """Factor on the angle, above 0."""

    m2: Radians = 0.3
    """Margin added to the angle, in radians, in [0, π/2)."""

    m3: Annotated[float, Range(low=0, below=2)] = 0.2
    """Margin taken from the cosine, in [0, 2)."""

    gradient: MarginGradient = "exact"
    """``exact`` is the derivative of the formula. ``straight_through`` takes the margin for a
    constant: the gradient passes to the cosine as it is, as in arcface_torch's published runs."""

    def apply(self, cos_target: torch.Tensor) -> torch.Tensor:
        """Lower the cosines (n,), each in [−1, 1], to the own classes.

        The exact gradient is bounded: within 1e-6 of ±1 the angle is held constant.
        """
        return lower_cosines(cos_target, self.m1, self.m2, self.m3, self.gradient)


def lower_cosines(
    cosines: torch.Tensor, m1: float, m2: float, m3: float, gradient: MarginGradient
) -> torch.Tensor:
    """cos(m1·θ + m2) − m3 of cosines (n,) in [−1, 1]; see :class:`Combined`."""
    if gradient == "straight_through":
        constant = cosines.detach()
        return cosines + (lower_cosines(constant, m1, m2, m3, "exact") - constant)
    if m1 == 1.0 and m2 == 0.0:
        return cosines - m3
    angle = torch.acos(cosines.clamp(-LARGEST_COSINE, LARGEST_COSINE))
    # At m1 = 1 the limit is π − m2, and this the published cos θ − m2·sin m2; another m1 moves
    # the limit, and the same construction from there keeps the value falling.
    limit = min(math.pi, (math.pi - m2) / m1)
    remedy = cosines - (math.pi - limit) * math.sin(limit)
    return torch.where(angle <= limit, torch.cos(m1 * angle + m2), remedy) - m3
