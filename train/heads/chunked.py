"""The margin softmax over one chunk of classes after the other: its logits never exist whole.

The forward pass keeps ln Σ exp of each face and nothing else; the backward pass computes each
chunk's logits again and turns them into gradients at once. Memory is that of B×chunk, for a third
more of matrix products (the idea of Milakov and Gimelshein's online softmax, 2018, over classes).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from facepack.train.heads.softmax import MarginSoftmax, reduce_softmax
from facepack.train.ranks.group import Ranks

_SMALLEST_NORM = 1e-12
"""That of ``torch.nn.functional.normalize``."""


class ChunkedLoss(torch.autograd.Function):
    """Weighted sum of −ln p(own class), over classes in chunks and over ranks.

    ``apply(embeddings, centres, own, present, weights, rule, chunk, ranks)``, with unit embeddings
    (B×F) of all ranks, this rank's centres (n×F) of any norm, ``own`` and ``present`` as in
    :func:`~facepack.train.heads.softmax.margin_logits`, and weights (B,). Gradients go to the
    embeddings (this rank's classes' part) and to the centres.

    The cosine to the own class is computed apart, in full float32, and clamped to ±1; other cosines
    are not clamped, which changes a logit by no more than rounding does.
    """

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: torch.Tensor,
        centres: torch.Tensor,
        own: torch.Tensor,
        present: torch.Tensor,
        weights: torch.Tensor,
        rule: MarginSoftmax,
        chunk: int,
        ranks: Ranks,
    ) -> torch.Tensor:
        """ln Σ exp over the chunks, then over the ranks."""
        target, slope = _targets(embeddings, centres, own, present, rule)
        log_total = torch.full_like(weights, -torch.inf)
        for start in range(0, len(centres), chunk):
            part = _Chunk(embeddings, centres, own, present, start, chunk)
            logits = part.cosines(rule)
            part.set_own(logits, target)
            log_total = torch.logaddexp(log_total, torch.logsumexp(logits.mul_(rule.scale), 1))
        own_logit = torch.where(present, rule.scale * target, 0.0)
        log_total, own_logit = reduce_softmax(log_total, own_logit, ranks)
        ctx.save_for_backward(embeddings, centres, own, present, weights, target, slope, log_total)
        ctx.rule, ctx.chunk = rule, chunk
        return (weights * (log_total - own_logit)).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Each chunk's w·s·(p − onehot), at once multiplied out into both gradients."""
        embeddings, centres, own, present, weights, target, slope, log_total = ctx.saved_tensors
        rule: MarginSoftmax = ctx.rule
        share = grad * weights * rule.scale
        own_gradient = share * ((rule.scale * target - log_total).exp() - 1.0) * slope
        shift, factor = log_total.unsqueeze(1), share.unsqueeze(1)
        to_embeddings = torch.zeros_like(embeddings)
        to_centres = torch.empty_like(centres)
        for start in range(0, len(centres), ctx.chunk):
            part = _Chunk(embeddings, centres, own, present, start, ctx.chunk)
            gradient = part.cosines(rule)
            gradient.mul_(rule.scale).sub_(shift).exp_().mul_(factor)
            if part.filtered is not None:
                gradient.masked_fill_(part.filtered, 0.0)
            part.set_own(gradient, own_gradient)
            to_embeddings.addmm_(gradient, part.units)
            part.to_rows(gradient.T @ embeddings, out=to_centres[start : start + ctx.chunk])
        return to_embeddings, to_centres, None, None, None, None, None, None


class _Chunk:
    """Some consecutive classes."""

    def __init__(
        self,
        embeddings: torch.Tensor,
        centres: torch.Tensor,
        own: torch.Tensor,
        present: torch.Tensor,
        start: int,
        size: int,
    ) -> None:
        rows = centres[start : start + size]
        self._norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        self.units = rows / self._norms.clamp(min=_SMALLEST_NORM)
        self._embeddings = embeddings
        column = own - start
        # Which faces have their class here is not asked of the device: the others rewrite a value.
        self._inside = (present & (column >= 0) & (column < len(rows))).unsqueeze(1)
        self._column = column.clamp(0, len(rows) - 1).unsqueeze(1)
        self.filtered: torch.Tensor | None = None
        """Mask of the cosines that the filter set to 0."""

    def cosines(self, rule: MarginSoftmax) -> torch.Tensor:
        """B×size, without margin, filtered."""
        cosines = self._embeddings @ self.units.T
        if rule.interclass_filter:
            self.filtered = cosines > rule.interclass_filter
            cosines.masked_fill_(self.filtered, 0.0)
        return cosines

    def set_own(self, matrix: torch.Tensor, values: torch.Tensor) -> None:
        """Put values (B,) in the columns of the own classes that are in this chunk."""
        there = matrix.gather(1, self._column)
        matrix.scatter_(1, self._column, torch.where(self._inside, values.unsqueeze(1), there))

    def to_rows(self, to_units: torch.Tensor, *, out: torch.Tensor) -> None:
        """The gradient of the rows from that of their unit vectors, as ``F.normalize`` has it."""
        along = (to_units * self.units).sum(1, keepdim=True)
        along.masked_fill_(self._norms < _SMALLEST_NORM, 0.0)
        torch.div(
            to_units.addcmul_(self.units, along, value=-1.0),
            self._norms.clamp(min=_SMALLEST_NORM),
            out=out,
        )


def _targets(
    embeddings: torch.Tensor,
    centres: torch.Tensor,
    own: torch.Tensor,
    present: torch.Tensor,
    rule: MarginSoftmax,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The lowered cosine (B,) to the own class, and its derivative by the cosine."""
    cosines = torch.zeros_like(embeddings[:, 0])
    if len(centres):
        units = F.normalize(centres[own])
        cosines = torch.where(present, (embeddings * units).sum(1), cosines)
    with torch.enable_grad():
        leaf = cosines.detach().requires_grad_()
        target = rule.margin.apply(leaf.clamp(-1.0, 1.0))
        (slope,) = torch.autograd.grad(target.sum(), leaf)
    return target.detach(), slope
