"""Sub-centre ArcFace: a class has several centres, so that its noise need not sit at the first
(Deng et al., ECCV 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from facepack.settings import Count
from facepack.train.heads.margins.arcface import ArcFace
from facepack.train.heads.margins.registry import register


@register("subcenter", m2="margin", margin_gradient="gradient")
@dataclass(frozen=True, kw_only=True)
class SubCenter(ArcFace):
    """cos(θ + margin), θ being the angle to the nearest of a class's ``centres``."""

    centres: Count = 3
    """K, centres a class; the head's memory and products grow by it."""

    @property
    def centres_per_class(self) -> int:
        """K."""
        return self.centres
