"""The faces of a micro-batch as one rank's head sees them: those of all ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from facepack.train.ranks.group import Ranks

_NOBODY = -1


@dataclass(frozen=True)
class Faces:
    """Unit embeddings and labels of all ranks, in the order of the ranks."""

    embeddings: torch.Tensor
    """B×F; a rank's shorter part is filled up with zeros."""
    labels: torch.Tensor
    """(B,) int64; −1 where filled up."""

    @property
    def weights(self) -> torch.Tensor:
        """(B,): 1 over the number of faces, and 0 where filled up."""
        real = (self.labels != _NOBODY).to(self.embeddings.dtype)
        return real / real.sum()


def gather_faces(embeddings: torch.Tensor, labels: torch.Tensor, ranks: Ranks) -> Faces:
    """Gather all ranks' embeddings (B×F) and labels (B,); B may differ between ranks.

    The gradient of the embeddings given is the sum over all ranks' losses' parts, each of the
    classes that a rank has. The ranks agree on a size by way of the host: no device is waited for.
    """
    if ranks.world == 1:
        return Faces(embeddings, labels)
    size = int(ranks.all_reduce(torch.tensor(len(labels)), "max"))
    missing = size - len(labels)
    if missing:
        embeddings = F.pad(embeddings, (0, 0, 0, missing))
        labels = F.pad(labels, (0, missing), value=_NOBODY)
    return Faces(_Gather.apply(embeddings, ranks), ranks.all_gather(labels))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: torch.Tensor, ranks: Ranks) -> torch.Tensor:
        ctx.ranks, ctx.size = ranks, len(part)
        return ranks.all_gather(part)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        whole = ctx.ranks.all_reduce(grad.contiguous().clone(), "sum")
        start = ctx.ranks.rank * ctx.size
        return whole[start : start + ctx.size], None
