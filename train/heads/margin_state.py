"""The numbers that a margin keeps from step to step: alike on all ranks, and in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from facepack.train.heads.faces import sum_gradient
from facepack.train.heads.margins import Margin
from facepack.train.heads.row_optimizers import RowOptimizer
from facepack.train.ranks.group import Ranks


class MarginState(nn.Module):
    """A margin's state: a scalar buffer for each number, and the optimizer's of learned ones.

    ``rule`` moves the learned numbers, each a matrix of one row and column to it.
    """

    def __init__(
        self,
        margin: Margin,
        rule: RowOptimizer,
        *,
        classes: int,
        sample_rate: float,
        device: torch.device | str,
        ranks: Ranks,
    ) -> None:
        super().__init__()
        self._rule, self._ranks = rule, ranks
        self._names = margin.initial_state(classes, sample_rate)
        for name, value in self._names.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32, device=device))
        self._learned: dict[str, list[str]] = {}
        for name in margin.learned:
            row = self.get_buffer(name).view(1, 1)
            self._learned[name] = []
            for part, first in rule.state(row).items():
                self.register_buffer(f"{name}_{part}", first)
                self._learned[name].append(part)
        self._leaves: dict[str, torch.Tensor] = {}

    def read(self) -> dict[str, torch.Tensor]:
        """The numbers, for one micro-batch; learned ones gather a gradient where it is enabled."""
        state = {name: self.get_buffer(name).clone() for name in self._names}
        for name in self._learned:
            leaf = self._leaves.get(name, state[name])
            if torch.is_grad_enabled():
                self._leaves[name] = leaf.requires_grad_()
                leaf = sum_gradient(leaf, self._ranks)
            state[name] = leaf
        return state

    @torch.no_grad()
    def change(self, changes: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Keep what a micro-batch made of some numbers, but for what is not finite.

        An overflow of fp16, whose step is left out, would otherwise stay in a moving average.
        """
        for name, value in changes.items():
            held = self.get_buffer(name)
            held.copy_(torch.where(torch.isfinite(value), value, held))
        return {name: self.get_buffer(name).clone() for name in changes}

    @torch.no_grad()
    def step(
        self,
        lr: float | torch.Tensor,
        *,
        grad_scale: torch.Tensor | None,
        found_inf: torch.Tensor | None,
    ) -> None:
        """Move the learned numbers by their gradient; as the head's step, of which it is a part."""
        for name, parts in self._learned.items():
            leaf = self._leaves.get(name)
            if leaf is None or leaf.grad is None:
                continue
            gradient = leaf.grad.view(1, 1)
            if grad_scale is not None:
                gradient.div_(grad_scale)
            buffers = {part: self.get_buffer(f"{name}_{part}") for part in parts}
            buffers["weight"] = self.get_buffer(name).view(1, 1)
            for part, value in self._rule.update(buffers, gradient, lr).items():
                if found_inf is not None:
                    value = torch.where(found_inf != 0, buffers[part], value)
                buffers[part].copy_(value)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients gathered since the last step."""
        self._leaves = {}
