"""MagFace: faces of longer embeddings get larger margins, and are asked to be long (Meng et al.,
CVPR 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from facepack.errors import ConfigError
from facepack.settings import Range
from facepack.train.heads.margins.combined import LARGEST_COSINE, Radians
from facepack.train.heads.margins.registry import Margin, Own, register

_Positive = Annotated[float, Range(above=0)]


@register("magface")
@dataclass(frozen=True, kw_only=True)
class MagFace(Margin):
    """cos(θ + m(a)), a being the embedding's norm, and λ·g(a) more of loss.

    m(a) rises from ``low_margin`` to ``high_margin`` between the norms ``low_norm`` and
    ``high_norm``, and g(a) = a/high_norm² + 1/a falls. Beyond these norms a counts as the nearer of
    the two, and nothing pulls at it.

    Raises:
        ConfigError: a setting is out of range, or the lower is not below the higher.
    """

    low_norm: _Positive = 10.0
    """l_a."""

    high_norm: _Positive = 110.0
    """u_a."""

    low_margin: Radians = 0.45
    """l_m, in radians."""

    high_margin: Radians = 0.8
    """u_m, in radians."""

    penalty_weight: Annotated[float, Range(low=0)] = 35.0
    """λ."""

    easy: bool = True
    """Past 90° the cosine stays as it is, as in the published runs; otherwise, past π − m,
    cos θ − m·sin m."""

    needs: ClassVar = frozenset({"norms"})
    norms_have_gradient: ClassVar = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("norm", "margin"):
            low, high = getattr(self, f"low_{name}"), getattr(self, f"high_{name}")
            if low >= high:
                raise ConfigError(f"low_{name} = {low} must be below high_{name} = {high}")

    def lower(self, own: Own) -> torch.Tensor:
        """Lower the cosines by the norms' margins."""
        slope = (self.high_margin - self.low_margin) / (self.high_norm - self.low_norm)
        margin = self.low_margin + slope * (self._held(own.norms) - self.low_norm)
        angle = torch.acos(own.cosines.clamp(-LARGEST_COSINE, LARGEST_COSINE))
        lowered = torch.cos(angle + margin)
        if self.easy:
            return torch.where(own.cosines > 0, lowered, own.cosines)
        remedy = own.cosines - margin * torch.sin(margin)
        return torch.where(own.cosines > -torch.cos(margin), lowered, remedy)

    def penalty(self, norms: torch.Tensor) -> torch.Tensor:
        """λ·g(a)."""
        held = self._held(norms)
        return self.penalty_weight * (held / self.high_norm**2 + 1.0 / held)

    def _held(self, norms: torch.Tensor) -> torch.Tensor:
        return norms.clamp(self.low_norm, self.high_norm)
