"""What probes are asked for against a pool: a margin softmax where their identity is in it.

As released (``ffc_ddp.py`` of github.com/tiandunx/FFC), but that ArcFace keeps the cosine from ±1,
where the released code's gradient is no number.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

MarginName = Literal["am", "arc", "sv"]

# As the other margins do: the sine's gradient is finite there.
_LARGEST_COSINE = 1 - 1e-6

_SV_FACTOR = 1.2


def apply_margin(kind: MarginName, margin: float, cosines: Tensor, own: Tensor) -> Tensor:
    """Lower each probe's cosine to its own slot; of ``sv``, raise the hard ones to others.

    ``am`` is cos θ − m; ``arc``, cos(θ + m); ``sv``: cos θ − m where that is above 0, and a cosine
    to another slot above cos θ − m becomes 1.2·cos + 0.2. Cosines, and what they become, are n×K,
    differentiable; ``own`` (n, 1) int64, each probe's slot.
    """
    cosine = cosines.gather(1, own)
    if kind == "am":
        lowered = cosine - margin
    elif kind == "arc":
        cosine = cosine.clamp(-_LARGEST_COSINE, _LARGEST_COSINE)
        sine = (1 - cosine * cosine).sqrt()
        lowered = cosine * math.cos(margin) - sine * math.sin(margin)
    else:
        is_hard = cosines > cosine - margin
        cosines = torch.where(is_hard, _SV_FACTOR * cosines + (_SV_FACTOR - 1), cosines)
        lowered = torch.where(cosine > margin, cosine - margin, cosine)
    return cosines.scatter(1, own, lowered)


def count_nearest(slots: int) -> int:
    """h, how many of the nearest slots push an outlier away: 0.02 % of them, from 3 to 10."""
    return min(10, max(3, int(slots * 0.0002)), slots)


def pool_loss(
    cosines: Tensor,
    inside: Tensor,
    own: Tensor,
    outside: Tensor,
    *,
    kind: MarginName,
    margin: float,
    scale: float,
) -> Tensor:
    """One of the four terms: probes against one view of the pool.

    Args:
        cosines: n×K, of each probe to each slot.
        inside: (i,) int64, the probes whose identity is in the pool.
        own: (i,) int64, their slots.
        outside: (o,) int64, all others: outliers.
        kind, margin: of :func:`apply_margin`; ``scale`` is s, the factor on the cosines.

    Returns:
        The mean cross-entropy of the ones, plus, of the others, the mean of max(0, cos) over the
        :func:`count_nearest` nearest slots: a scalar.
    """
    loss = cosines.new_zeros(())
    if len(inside):
        logits = apply_margin(kind, margin, cosines[inside], own[:, None])
        loss = loss + F.cross_entropy(scale * logits, own)
    if len(outside):
        nearest = cosines[outside].topk(count_nearest(cosines.shape[1]), dim=1).values
        loss = loss + nearest.clamp(min=0).mean()
    return loss
