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
    """What is known of the faces of all ranks, in the order of the ranks."""

    embeddings: torch.Tensor
    """B×F; a rank's shorter part is filled up with zeros."""
    labels: torch.Tensor
    """(B,) int64; −1 where filled up."""
    norms: torch.Tensor
    """(B,), of the embeddings; 1 where filled up, or where nobody asks for them."""
    normals: torch.Tensor
    """(B,), what each rank drew for its faces; 0 where filled up."""

    @property
    def weights(self) -> torch.Tensor:
        """(B,): 1 over the number of faces, and 0 where filled up."""
        real = (self.labels != _NOBODY).to(self.embeddings.dtype)
        return real / real.sum()


def gather_faces(
    units: torch.Tensor,
    labels: torch.Tensor,
    ranks: Ranks,
    *,
    norms: torch.Tensor | None = None,
    normals: torch.Tensor | None = None,
) -> Faces:
    """Gather all ranks' unit embeddings (B×F), labels, norms and normals (B,); B may differ.

    The gradients of embeddings and norms are the sums over all ranks' losses' parts, each of the
    classes that a rank has. The ranks agree on a size by way of the host: no device is waited for.
    """
    if ranks.world > 1:
        missing = int(ranks.all_reduce(torch.tensor(len(labels)), "max")) - len(labels)
        labels = ranks.all_gather(F.pad(labels, (0, missing), value=_NOBODY))
        units = F.pad(units, (0, 0, 0, missing))
        if norms is not None:  # beside the embeddings, in one collective
            norms = F.pad(norms, (0, missing), value=1.0)
            units = torch.cat([units, norms.unsqueeze(1)], 1)
        units = _Gather.apply(units, ranks)
        if norms is not None:
            units, norms = units[:, :-1], units[:, -1]
        if normals is not None:
            normals = ranks.all_gather(F.pad(normals, (0, missing)))
    zeros = torch.zeros_like(units[:, 0])
    return Faces(
        units,
        labels,
        zeros + 1.0 if norms is None else norms,
        zeros if normals is None else normals,
    )


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


def sum_gradient(shared: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """A tensor that all ranks have alike; its gradient is the sum over the ranks' losses' parts."""
    return shared if ranks.world == 1 else _SumGradient.apply(shared, ranks)


class _SumGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shared: torch.Tensor, ranks: Ranks) -> torch.Tensor:
        ctx.ranks = ranks
        return shared.view_as(shared)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.ranks.all_reduce(grad.contiguous().clone(), "sum"), None
