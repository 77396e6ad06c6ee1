"""CosFace: the margin is taken from the cosine (Wang et al., CVPR 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from facepack.settings import Range
from facepack.train.heads.margins.registry import CosineMargin, register


@register("cosface", m3="margin")
@dataclass(frozen=True, kw_only=True)
class CosFace(CosineMargin):
    """cos θ − margin; its gradient passes to the cosine as it is."""

    margin: Annotated[float, Range(low=0, below=2)] = 0.4
    """Margin taken from the cosine, in [0, 2)."""

    def apply(self, cos_target: torch.Tensor) -> torch.Tensor:
        """Lower the cosines (n,) to the own classes."""
        return cos_target - self.margin
