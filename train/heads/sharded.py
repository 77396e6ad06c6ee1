"""The loss where the classes are spread over ranks."""

from __future__ import annotations

from typing import Any

import torch

from facepack.train.heads.margins.losses import ClassLoss
from facepack.train.ranks.group import Ranks


class ShardedLoss(torch.autograd.Function):
    """Weighted sum of the faces' losses over the classes of all ranks.

    ``apply(logits, own, present, weights, loss, ranks)``: this rank's logits (B×n) of the faces of
    all ranks; ``own`` and ``present`` as in :func:`~facepack.train.heads.logits.margin_logits`;
    weights (B,), the same on all ranks. The value is the same on all ranks. Its gradient is that
    with respect to this rank's logits.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        own: torch.Tensor,
        present: torch.Tensor,
        weights: torch.Tensor,
        loss: ClassLoss,
        ranks: Ranks,
    ) -> torch.Tensor:
        """The loss's own collectives."""
        column = own.unsqueeze(1)
        target, total = torch.zeros_like(weights), loss.start(weights)
        if logits.shape[1]:
            here = logits.gather(1, column).squeeze(1)
            target = torch.where(present, here, target)
            entry = loss.own_entry(target)
            entries = logits
            if entry is not target:  # a softmax takes the logits as they are, without a copy
                entry = torch.where(present, entry, here)
                entries = logits.scatter(1, column, entry.unsqueeze(1))
            total = loss.add(total, entries)
        total, target = loss.reduce(total, target, ranks)
        ctx.save_for_backward(logits, total, target, column, present, weights)
        ctx.loss = loss
        return (weights * loss.values(total, target)).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """w times the loss's gradient."""
        logits, total, target, column, present, weights = ctx.saved_tensors
        gradient = ctx.loss.gradient(logits, total, torch.empty_like(logits))
        if logits.shape[1]:
            here = gradient.gather(1, column)
            own = ctx.loss.own_gradient(target, total)
            gradient.scatter_(1, column, torch.where(present.unsqueeze(1), own.unsqueeze(1), here))
        gradient.mul_((grad * weights).unsqueeze(1))
        return gradient, None, None, None, None, None
