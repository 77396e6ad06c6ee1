"""The margin softmax: from unit embeddings and class centres to the mean loss.

Three ways to the same numbers. :func:`margin_logits` and a cross-entropy is the plain one, whose
gradient is autograd's. :class:`ShardedCrossEntropy` follows the same logits where the classes are
spread over ranks. ``chunked.py`` never holds the logits whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch.nn import functional as F

from facepack.settings import Range, Settings
from facepack.train.heads.margins import Margin
from facepack.train.ranks.group import Ranks


@dataclass(frozen=True, kw_only=True)
class MarginSoftmax(Settings):
    """What happens to cosines before the softmax.

    Raises:
        ConfigError: a setting is out of range.
    """

    margin: Margin
    """Lowers the cosine to the own class."""

    scale: Annotated[float, Range(above=0)] = 64.0
    """s, the factor on all cosines, above 0."""

    interclass_filter: Annotated[float, Range(low=0, below=1)] = 0.0
    """A cosine above it to another class becomes 0 and stays in the softmax (An et al., 2022, for
    noisy labels: such a class is likely the same person). In [0, 1); 0 filters nothing."""


def margin_logits(
    embeddings: torch.Tensor,
    centres: torch.Tensor,
    own: torch.Tensor,
    rule: MarginSoftmax,
    *,
    present: torch.Tensor | None = None,
) -> torch.Tensor:
    """Logits B×n of unit embeddings (B×F) against centres (n×F) of any norm.

    Args:
        embeddings: of norm 1.
        centres: made unit length here.
        own: (B,) int64, the row of each embedding's own class; 0 where it is not present.
        rule: margin, scale and filter.
        present: (B,) bool, whose own class is among the rows; None: everyone's.
    """
    cosines = F.linear(embeddings, F.normalize(centres)).clamp(-1.0, 1.0)
    if not len(centres):
        return cosines
    column = own.unsqueeze(1)
    current = cosines.gather(1, column).squeeze(1)
    target = rule.margin.apply(current)
    if rule.interclass_filter:
        cosines = torch.where(cosines > rule.interclass_filter, 0.0, cosines)
    if present is not None:
        target = torch.where(present, target, cosines.gather(1, column).squeeze(1))
    return rule.scale * cosines.scatter(1, column, target.unsqueeze(1))


def whole_loss(
    embeddings: torch.Tensor, centres: torch.Tensor, own: torch.Tensor, rule: MarginSoftmax
) -> torch.Tensor:
    """Mean of −ln p(own class) over all rows: one graph, which ``torch.compile`` takes whole."""
    return F.cross_entropy(margin_logits(embeddings, centres, own, rule), own)


def reduce_softmax(
    log_total: torch.Tensor, target: torch.Tensor, ranks: Ranks
) -> tuple[torch.Tensor, torch.Tensor]:
    """Join the ranks' softmaxes over their own classes into the one over all.

    Args:
        log_total: (B,) ln Σ exp(logit) over this rank's classes; −∞ where it has none.
        target: (B,) logit of the own class; 0 on all ranks but the one that has the class.
        ranks: the processes.

    Returns:
        The same two over all ranks' classes.
    """
    if ranks.world == 1:
        return log_total, target
    largest = ranks.all_reduce(log_total.clone(), "max")
    sums = ranks.all_reduce(torch.stack([(log_total - largest).exp(), target]), "sum")
    return largest + sums[0].log(), sums[1]


class ShardedCrossEntropy(torch.autograd.Function):
    """Weighted sum of −ln p(own class), the softmax taken over the classes of all ranks.

    ``apply(logits, own, present, weights, ranks)``: this rank's logits (B×n) of the faces of all
    ranks; ``own`` and ``present`` as in :func:`margin_logits`; weights (B,), the same on all ranks.
    The loss is the same on all ranks. Its gradient is that with respect to this rank's logits.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        own: torch.Tensor,
        present: torch.Tensor,
        weights: torch.Tensor,
        ranks: Ranks,
    ) -> torch.Tensor:
        """Two collectives: the maximum, then sum and target together."""
        column = own.unsqueeze(1)
        target = torch.zeros_like(weights)
        if logits.shape[1]:
            target = torch.where(present, logits.gather(1, column).squeeze(1), target)
        log_total, target = reduce_softmax(torch.logsumexp(logits, 1), target, ranks)
        ctx.save_for_backward(logits, log_total, column, present, weights)
        return (weights * (log_total - target)).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """w·(p − onehot)."""
        logits, log_total, column, present, weights = ctx.saved_tensors
        share = (grad * weights).unsqueeze(1)
        gradient = (logits - log_total.unsqueeze(1)).exp_().mul_(share)
        if logits.shape[1]:
            gradient.scatter_add_(1, column, -share * present.unsqueeze(1))
        return gradient, None, None, None, None
