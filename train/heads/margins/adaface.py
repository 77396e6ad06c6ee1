"""AdaFace: the norm of an embedding, which is low of bad images, says where the margin acts (Kim et
al., CVPR 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from facepack.settings import Fraction, Range
from facepack.train.heads.margins.registry import Margin, Own, register

# Those of the published code.
_EPS = 1e-3
_NORMS = (1e-3, 100.0)


@register("adaface")
@dataclass(frozen=True, kw_only=True)
class AdaFace(Margin):
    """cos(θ − margin·z) − margin·(1 + z), z saying how long the embedding is among those seen.

    z = h·(norm − mean)/deviation, within ±1; mean and deviation (that of a sample,
    with n − 1) are moving averages over batches, this one's included. z carries no gradient. Of a
    single face there is no deviation: the old one stays.
    """

    margin: Annotated[float, Range(low=0, below=1)] = 0.4
    """m, in [0, 1)."""

    h: Annotated[float, Range(above=0)] = 0.333
    """How far z reaches."""

    t_alpha: Fraction = 0.01
    """Share of a batch in the averages: 0.01 in the published runs, 1 in the class they use."""

    needs: ClassVar = frozenset({"norms"})

    def initial_state(self, classes: int, sample_rate: float) -> dict[str, float]:
        """As published."""
        return {"mean": 20.0, "deviation": 100.0}

    def observe(self, own: Own, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """Move both averages."""
        norms, real = own.norms.clamp(*_NORMS), (weights > 0).to(weights)
        # An overflow is no long embedding.
        norms = torch.where(own.norms.isfinite(), norms, torch.nan)
        mean = (weights * norms).sum()
        squares = (real * (norms - mean).square()).sum()
        # Not finite for one face: such a number is not kept.
        deviation = (squares / (real.sum() - 1.0)).sqrt()
        seen = {"mean": mean, "deviation": deviation}
        return {
            name: torch.lerp(own.state[name].to(value), value, self.t_alpha)
            for name, value in seen.items()
        }

    def lower(self, own: Own) -> torch.Tensor:
        """Lower the cosines, the angles kept within (0, π) by 0.001."""
        norms = own.norms.detach().clamp(*_NORMS)
        z = self.h * (norms - own.state["mean"]) / (own.state["deviation"] + _EPS)
        z = z.clamp(-1.0, 1.0)
        angle = torch.acos(own.cosines.clamp(-1.0 + _EPS, 1.0 - _EPS))
        angle = (angle - self.margin * z).clamp(_EPS, math.pi - _EPS)
        return torch.cos(angle) - self.margin * (1.0 + z)
