"""The gallery network: follows the trained one slowly, and makes the features of the pool."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GalleryNetwork:
    """A copy of a network whose parameters are a moving average of the network's.

    It runs in training mode, and keeps its own statistics of batch normalisation. ``momentum`` is α
    of θ_G ← α·θ_G + (1 − α)·θ_P, ``probe`` the network that is trained.
    """

    def __init__(self, probe: nn.Module, momentum: float) -> None:
        self.network = copy.deepcopy(probe).requires_grad_(False).train()
        self._probe = probe
        self._momentum = momentum

    def begin(self) -> None:
        """Become the trained network as it is now."""
        self.network.load_state_dict(self._probe.state_dict())

    @torch.no_grad()
    def follow(self) -> None:
        """Move towards the trained network."""
        mine: list[Tensor] = list(self.network.parameters())
        theirs: list[Tensor] = list(self._probe.parameters())
        torch._foreach_mul_(mine, self._momentum)
        torch._foreach_add_(mine, theirs, alpha=1 - self._momentum)

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Features (n×F) of norm 1."""
        return F.normalize(self.network(images))
