"""SphereFace: the angle to the own class is multiplied (Liu et al., CVPR 2017), and its revision
SphereFace-R (Liu et al., TPAMI 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch

from facepack.settings import Range
from facepack.train.heads.margins.combined import LARGEST_COSINE
from facepack.train.heads.margins.registry import Margin, Own, State, register

_FromZero = Annotated[float, Range(low=0)]


@register("sphereface", m1="factor")
@dataclass(frozen=True, kw_only=True)
class SphereFace(Margin):
    """The angle θ to the own class, ``factor`` times as large; m stands for the factor.

    ``annealed`` is the original: (λ·cos θ + ψ(θ))/(1 + λ) with ψ(θ) = (−1)ᵏ·cos(mθ) − 2k,
    k = ⌊mθ/π⌋, by the norm of the embedding in place of the scale, which is not used.
    λ = max(lambda_min, lambda_base·(1 + gamma·t)^−power) falls with the optimizer step t, so that
    training begins nearly without a margin; the defaults are those of the authors' network.

    ``r_v1`` and ``r_v2`` are SphereFace-R with norms fixed by the scale, whose published value is
    30: cos(min(mθ, π)) for the own class, or cos(θⱼ/m) for every other, either a constant that is
    added to the cosine ("characteristic gradient detachment"). Its published code multiplies the
    loss by 50/scale, which the learning rate can do as well.
    """

    variant: Literal["annealed", "r_v1", "r_v2"] = "annealed"
    """Which of the three."""

    factor: Annotated[float, Range(low=1, high=8)] | None = None
    """m, from 1 to 8; unset, 4 for ``annealed`` and 1.5 for the others."""

    lambda_base: _FromZero = 1000.0
    """λ at first (annealed)."""

    lambda_min: _FromZero = 5.0
    """The least λ (annealed)."""

    gamma: _FromZero = 0.12
    """How soon λ falls, by optimizer step (annealed)."""

    power: _FromZero = 1.0
    """How steeply λ falls (annealed)."""

    needs: ClassVar = frozenset({"norms"})
    norms_have_gradient: ClassVar = True

    @property
    def multiple(self) -> float:
        """m."""
        if self.factor is not None:
            return self.factor
        return 4.0 if self.variant == "annealed" else 1.5

    def lower(self, own: Own) -> torch.Tensor:
        """Lower the cosines."""
        if self.variant == "r_v2":
            return own.cosines
        angle = torch.acos(own.cosines.clamp(-LARGEST_COSINE, LARGEST_COSINE)) * self.multiple
        if self.variant == "r_v1":
            return own.cosines + (torch.cos(angle.clamp(max=math.pi)) - own.cosines).detach()
        turns = (angle.detach() / math.pi).floor()
        psi = (1.0 - 2.0 * turns.remainder(2.0)) * torch.cos(angle) - 2.0 * turns
        weight = self.weight_of_cosine(own.step)
        return (weight * own.cosines + psi) / (1.0 + weight)

    def weight_of_cosine(self, step: int) -> float:
        """λ after so many optimizer steps."""
        return max(self.lambda_min, self.lambda_base * (1.0 + self.gamma * step) ** -self.power)

    def change_others(
        self, cosines: torch.Tensor, lowered: torch.Tensor, state: State
    ) -> torch.Tensor:
        """``r_v2``: the angles to other classes become smaller."""
        if self.variant != "r_v2":
            return cosines
        angle = torch.acos(cosines.detach().clamp(-LARGEST_COSINE, LARGEST_COSINE))
        return cosines + (torch.cos(angle / self.multiple) - cosines.detach())

    @property
    def changes_others(self) -> bool:
        """Of one variant only."""
        return self.variant == "r_v2"

    def scale(self, own: Own, scale: float) -> torch.Tensor | float:
        """The norm of the embedding, in the original."""
        return own.norms if self.variant == "annealed" else scale

    @property
    def scales_by_face(self) -> bool:
        """Of one variant only."""
        return self.variant == "annealed"
