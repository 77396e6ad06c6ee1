"""SGD and AdamW on chosen rows of a matrix: the others, and their state, stay as they are.

Each rule keeps its state in buffers of the module that owns the matrix, one row of state a row of
weights, and is given and gives back only the rows of a step. A row's momentum and decay advance
when it is given; there is no catching up for the steps between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Protocol

import torch

from facepack.errors import ConfigError
from facepack.settings import Range, Settings, check_choice

Rows = dict[str, torch.Tensor]
"""The rows of a step, by buffer name: ``weight`` (n×F) and the rule's own state."""

_WeightDecay = Annotated[float, Range(low=0)]


class RowOptimizer(Protocol):
    """An update rule for rows."""

    def state(self, weight: torch.Tensor) -> Rows:
        """Fresh state of a matrix, each with a first dimension of its rows."""

    def update(self, rows: Rows, gradient: torch.Tensor, lr: float | torch.Tensor) -> Rows:
        """New values of all of ``rows`` from the gradient (n×F), which may be overwritten.

        They come in the gradient's type, whatever that of the state.
        """


@dataclass(frozen=True, kw_only=True)
class RowSGD(Settings):
    """``torch.optim.SGD``: v ← μ·v + g + λ·w, w ← w − lr·v, with v the gradient at first."""

    momentum: Annotated[float, Range(low=0, below=1)]
    """μ, in [0, 1)."""

    weight_decay: _WeightDecay
    """λ, at least 0."""

    dtype: torch.dtype | None = None
    """The type that v is kept in; None: that of the weights. A step computes in the gradient's type
    and rounds v to this one when it is put back."""

    def state(self, weight: torch.Tensor) -> Rows:
        """``momentum``, of the matrix's shape. From zero, the first v is the gradient."""
        return {"momentum": torch.zeros_like(weight, dtype=self.dtype)}

    def update(self, rows: Rows, gradient: torch.Tensor, lr: float | torch.Tensor) -> Rows:
        """One step of the rows."""
        gradient.add_(rows["weight"], alpha=self.weight_decay)
        velocity = gradient.add_(rows["momentum"], alpha=self.momentum)
        return {"weight": rows["weight"] - lr * velocity, "momentum": velocity}


@dataclass(frozen=True, kw_only=True)
class RowAdamW(Settings):
    """``torch.optim.AdamW`` at its default betas, each row with a step count of its own."""

    weight_decay: _WeightDecay
    """λ of w ← (1 − lr·λ)·w, at least 0."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def state(self, weight: torch.Tensor) -> Rows:
        """``exp_avg`` and ``exp_avg_sq`` of the matrix's shape, ``steps`` (rows,) int64."""
        return {
            "exp_avg": torch.zeros_like(weight),
            "exp_avg_sq": torch.zeros_like(weight),
            "steps": torch.zeros(len(weight), dtype=torch.int64, device=weight.device),
        }

    def update(self, rows: Rows, gradient: torch.Tensor, lr: float | torch.Tensor) -> Rows:
        """One step of the rows."""
        steps = rows["steps"] + 1
        exp_avg = torch.lerp(rows["exp_avg"], gradient, 1 - self.beta1)
        exp_avg_sq = torch.lerp(rows["exp_avg_sq"], gradient.square_(), 1 - self.beta2)
        exponent = steps.to(gradient.dtype).unsqueeze(1)
        # 1 − βⁿ: in float32 the plain form has lost four digits at n = 1 and β = 0.999.
        correction1 = -torch.expm1(exponent * math.log(self.beta1))
        correction2 = -torch.expm1(exponent * math.log(self.beta2))
        scale = (exp_avg_sq / correction2).sqrt_().add_(self.eps)
        weight = rows["weight"] * (1 - lr * self.weight_decay)
        weight -= lr * (exp_avg / correction1).div_(scale)
        return {"weight": weight, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq, "steps": steps}


def build_row_optimizer(
    name: str,
    *,
    momentum: float,
    weight_decay: float,
    momentum_dtype: torch.dtype | None = None,
) -> RowOptimizer:
    """Build a rule by name, ``sgd`` or ``adamw``; the latter makes no use of ``momentum``.

    Raises:
        ConfigError: the name is unknown or a setting is out of range.
    """
    check_choice("optimizer", name, ("sgd", "adamw"))
    if name == "sgd":
        return RowSGD(momentum=momentum, weight_decay=weight_decay, dtype=momentum_dtype)
    if momentum_dtype not in (None, torch.float32):
        # Its second moment moves by a thousandth a step, which bfloat16 would round away.
        raise ConfigError(
            f"momentum_dtype = {momentum_dtype}: adamw keeps float32 moments; leave it unset, or "
            "use sgd"
        )
    return RowAdamW(weight_decay=weight_decay)
