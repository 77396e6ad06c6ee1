"""UniFace: one threshold for all faces tells own from other classes (Zhou et al., ICCV 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from facepack.settings import Range
from facepack.train.heads.margins.cosface import CosFace
from facepack.train.heads.margins.losses import ClassLoss, Unified
from facepack.train.heads.margins.registry import State, register


@register("uniface", m3="margin")
@dataclass(frozen=True, kw_only=True)
class UniFace(CosFace):
    """ln(1 + exp(b − s·(cos θ − margin))) + w·Σ ln(1 + exp(s·cos θⱼ − b)); no softmax.

    The unified cross-entropy. b is learned with the centres, momentum and decay
    included, from ln(10·C·r) for C classes of which a share r is sampled, as published. Exponents
    are held within ±s.
    """

    negatives: Annotated[float, Range(above=0)] = 1.0
    """w, the weight of the other classes."""

    learned: ClassVar = ("bias",)

    def class_loss(self, scale: float) -> ClassLoss:
        """The unified cross-entropy."""
        return Unified(self.negatives, scale)

    def initial_state(self, classes: int, sample_rate: float) -> dict[str, float]:
        """b; with no class sampled but the positive ones, as if one were."""
        return {"bias": math.log(10.0 * max(1.0, classes * sample_rate))}

    def offset(self, state: State) -> torch.Tensor:
        """b."""
        return state["bias"]
