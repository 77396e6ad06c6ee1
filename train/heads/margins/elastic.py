"""ElasticFace: each image's margin is drawn anew in each step (Boutros et al., CVPRW 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch

from facepack.settings import Range
from facepack.train.heads.margins.combined import LARGEST_COSINE
from facepack.train.heads.margins.registry import Margin, Own, register


@register("elastic", m2="margin")
@dataclass(frozen=True, kw_only=True)
class Elastic(Margin):
    """cos(θ + m), or cos θ − m, with m from N(margin, deviation²), by record and step.

    The angle is not bounded, as in the published code: past π − m the value
    rises again.
    """

    kind: Literal["arcface", "cosface"] = "arcface"
    """To what the margin is added: the angle, or, negative, the cosine."""

    margin: Annotated[float, Range(low=0, below=1.5)] = 0.5
    """Mean of the margins; published are 0.5 for arcface and 0.35 for cosface."""

    deviation: Annotated[float, Range(low=0, below=0.5)] = 0.05
    """Their standard deviation; published are 0.05 for both."""

    needs: ClassVar = frozenset({"normals"})

    def lower(self, own: Own) -> torch.Tensor:
        """Lower each cosine by its own margin."""
        margin = self.margin + self.deviation * own.normals
        if self.kind == "cosface":
            return own.cosines - margin
        angle = torch.acos(own.cosines.clamp(-LARGEST_COSINE, LARGEST_COSINE))
        return torch.cos(angle + margin)


@register("elastic_plus", m2="margin")
@dataclass(frozen=True, kw_only=True)
class ElasticPlus(Elastic):
    """:class:`Elastic` with the drawn margins sorted: the nearer a face, the smaller its margin.

    That is ElasticFace+ as its paper has it, among the faces of a micro-batch of all ranks. The
    published code sorts both, but gives face i the margin of place p(i), where p(i) is the face at
    place i and not the place of face i: margins then have no relation to the cosines.
    """

    deviation: Annotated[float, Range(low=0, below=0.5)] = 0.0175
    """Their standard deviation; published are 0.0175 for arcface and 0.02 for cosface."""

    needs: ClassVar = frozenset({"normals", "cosines"})

    def arrange(self, own: Own, weights: torch.Tensor) -> torch.Tensor:
        """Give the face with the highest cosine the lowest number, and so on."""
        real = weights > 0  # what fills up a rank's part comes last among both
        cosines = own.cosines.masked_fill(~real, -torch.inf)
        nearest_first = cosines.sort(descending=True, stable=True).indices
        lowest_first = own.normals.masked_fill(~real, torch.inf).sort().values
        arranged = torch.zeros_like(own.normals).scatter(0, nearest_first, lowest_first)
        return arranged.masked_fill(~real, 0.0)
