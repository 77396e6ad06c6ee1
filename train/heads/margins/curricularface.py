"""CurricularFace: other classes that are nearer than the own one count for more as training goes on
(Huang et al., CVPR 2020).

The paper's formula moves t by 0.99 of each batch's mean cosine; the published code by 0.01, and so
does this. Past θ = π − m the published code still compares other classes with cos(θ + m), which no
longer is the logit of the own class there; here they are compared with that logit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from facepack.settings import Range
from facepack.train.heads.margins.arcface import ArcFace
from facepack.train.heads.margins.registry import Own, State, register


@register("curricularface", m2="margin", margin_gradient="gradient")
@dataclass(frozen=True, kw_only=True)
class CurricularFace(ArcFace):
    """cos(θ + margin), and cos θⱼ·(t + cos θⱼ) for another class j with cos θⱼ > cos(θ + margin).

    t begins at 0 and follows the mean cosine to the own classes, this batch's included.
    """

    momentum: Annotated[float, Range(low=0, below=1)] = 0.99
    """Share of the old t in the new one, in [0, 1)."""

    needs: ClassVar = frozenset({"cosines"})

    def initial_state(self, classes: int, sample_rate: float) -> dict[str, float]:
        """t."""
        return {"t": 0.0}

    def observe(self, own: Own, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """Move t."""
        mean = (weights * own.cosines).sum()
        return {"t": torch.lerp(mean, own.state["t"].to(mean), self.momentum)}

    def change_others(
        self, cosines: torch.Tensor, lowered: torch.Tensor, state: State
    ) -> torch.Tensor:
        """Weigh the cosines (B×n) to hard classes by t + cos θⱼ."""
        return torch.where(cosines > lowered, cosines * (state["t"] + cosines), cosines)
