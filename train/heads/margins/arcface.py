"""ArcFace: the margin is added to the angle (Deng et al., CVPR 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from facepack.train.heads.margins.combined import MarginGradient, Radians, lower_cosines
from facepack.train.heads.margins.registry import CosineMargin, register


@register("arcface", m2="margin", margin_gradient="gradient")
@dataclass(frozen=True, kw_only=True)
class ArcFace(CosineMargin):
    """cos(θ + margin)."""

    margin: Radians = 0.5
    """Margin added to the angle, in radians, in [0, π/2)."""

    gradient: MarginGradient = "exact"
    """``exact`` or ``straight_through``, as of the combined margin."""

    def apply(self, cos_target: torch.Tensor) -> torch.Tensor:
        """Lower the cosines (n,), each in [−1, 1], to the own classes."""
        return lower_cosines(cos_target, 1.0, self.margin, 0.0, self.gradient)
