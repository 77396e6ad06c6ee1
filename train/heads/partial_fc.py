"""Partial FC: softmax over class centres of which each step reads, updates and pays for a sample.

After An et al., "Partial FC: Training 10 Million Identities on a Single Machine", 2021, in its
first form: the centres and their optimizer state are not parameters of an optimizer. A step copies
out the rows that it uses, and writes these back, so its cost follows the sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from facepack.errors import ConfigError, TrainingError
from facepack.hashing import derive_seed
from facepack.train.heads.margins import Margin
from facepack.train.heads.row_optimizers import build_row_optimizer
from facepack.train.heads.sampling import sample_rows

_INITIAL_DEVIATION = 0.01
_FOR_WEIGHTS, _FOR_SAMPLES = 0, 1


def check_labels(labels: np.ndarray | torch.Tensor, classes: int) -> None:
    """Make sure that a head of ``classes`` classes can be trained on ``labels``.

    Meant for all labels of a data set, before the first step: on CUDA a wrong label is otherwise
    met by a kernel, whose assertion ends the process.

    Raises:
        TrainingError: a label lies outside [0, classes): says which, where, and how many do.
    """
    values = labels.cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    wrong = np.flatnonzero((values < 0) | (values >= classes))
    if len(wrong):
        raise TrainingError(
            f"label {values[wrong[0]]} (at position {wrong[0]}) is outside the head's "
            f"{classes} classes: labels must lie in [0, {classes}), and {len(wrong)} of "
            f"{len(values)} do not; give the head the class count of the pack that the labels "
            "come from, and train on no record without identity (label -1)"
        )


class PartialFC(nn.Module):
    """A margin softmax head that also is the optimizer of its class centres.

    One optimizer step is one or more micro-batches and then :meth:`step`::

        for images, labels in micro_batches:
            loss = head(backbone(images), labels) / len(micro_batches)
            loss.backward()
        head.step(lr)

    The rows that the micro-batches used, their union, get one update each. All other rows and
    their optimizer state stay as they are, bit for bit.

    ``weight`` (C×F, float32, N(0, 0.01²) at first) is a buffer, as is the optimizer's state:
    ``momentum`` for SGD; ``exp_avg``, ``exp_avg_sq`` and ``steps`` for AdamW. ``state_dict()``
    has them and the place in the sequence of samples; gradients that await a step are not in it.

    Args:
        classes: number of classes C.
        features: length F of an embedding.
        margin: applied to the cosine to a face's own class.
        scale: s, the factor on all cosines.
        sample_rate: share of the classes in a micro-batch's softmax, in [0, 1]. All classes that
            its labels name are always in, and the rest is drawn at random; 0 is these alone, 1 is
            the full softmax and draws nothing. Below 1, on CUDA, drawing waits for the device.
        optimizer: ``sgd`` or ``adamw``, with the formulas of ``torch.optim``.
        momentum: SGD's.
        weight_decay: coupled for SGD, decoupled for AdamW; of used rows only.
        seed: keys the initial centres and every sample.

    Raises:
        ConfigError: an option is out of range.
    """

    weight: torch.Tensor

    def __init__(
        self,
        classes: int,
        features: int = 512,
        *,
        margin: Margin,
        scale: float = 64.0,
        sample_rate: float = 1.0,
        optimizer: str = "sgd",
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if classes < 1:
            raise ConfigError(f"classes: got {classes}; a head has at least one class")
        if features < 1:
            raise ConfigError(f"features: got {features}; an embedding has at least one value")
        if not 0.0 <= sample_rate <= 1.0:
            raise ConfigError(f"sample_rate: got {sample_rate}; it must lie in [0, 1]")
        if not scale > 0.0:
            raise ConfigError(f"scale: got {scale}; it must be above 0")
        self.classes = classes
        self.margin = margin
        self.scale = scale
        self.sample_rate = sample_rate
        self.seed = seed
        self._draws = 0
        self._rule = build_row_optimizer(optimizer, momentum=momentum, weight_decay=weight_decay)
        weight = torch.empty(classes, features, dtype=torch.float32)
        weight.normal_(0.0, _INITIAL_DEVIATION, generator=self._generator(_FOR_WEIGHTS, weight))
        self.register_buffer("weight", weight)
        self._state_names = ["weight"]
        for name, value in self._rule.state(weight).items():
            self.register_buffer(name, value)
            self._state_names.append(name)
        # Row ids (None: all, in order) and the leaf that takes their gradient, a micro-batch each.
        self._pending: list[tuple[torch.Tensor | None, torch.Tensor]] = []

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean loss of a micro-batch, in the precision of the weights whatever the autocast.

        Where gradients are enabled, the rows used are kept for :meth:`step`. Labels on the CPU are
        checked; those on CUDA are not, as that would wait for the device: see :func:`check_labels`.

        Args:
            embeddings: B×F, of any norm.
            labels: (B,) int64 in [0, C), on the same device.

        Returns:
            The mean over the batch of −ln p(own class), a scalar.

        Raises:
            TrainingError: a label on the CPU lies outside [0, C).
        """
        if labels.device.type == "cpu":
            check_labels(labels, self.classes)
        rows, centres = self._use_rows(labels)
        own = labels if rows is None else torch.searchsorted(rows, labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = F.normalize(embeddings.to(centres.dtype))
            cosines = F.linear(embeddings, F.normalize(centres)).clamp(-1.0, 1.0)
            own_column = own.unsqueeze(1)
            target = self.margin.apply(cosines.gather(1, own_column).squeeze(1))
            logits = self.scale * cosines.scatter(1, own_column, target.unsqueeze(1))
            return F.cross_entropy(logits, own)

    @torch.no_grad()
    def step(
        self,
        lr: float | torch.Tensor,
        *,
        grad_scale: torch.Tensor | None = None,
        found_inf: torch.Tensor | None = None,
    ) -> None:
        """Update, once, the rows that gathered a gradient since the last step, and drop it.

        Nothing here waits for the device, unless several micro-batches used different samples.

        Args:
            lr: learning rate.
            grad_scale: factor on the gradients, to be divided out (``torch.amp.GradScaler``).
            found_inf: scalar; where it is not 0, the gradients are dropped and nothing changes.
        """
        pending = [(rows, leaf.grad) for rows, leaf in self._pending if leaf.grad is not None]
        self.zero_grad()
        if not pending:
            return
        chosen, gradient = _union(pending)
        if grad_scale is not None:
            gradient.div_(grad_scale)
        index = slice(None) if chosen is None else chosen
        before = {name: self.get_buffer(name)[index] for name in self._state_names}
        after = self._rule.update(before, gradient, lr)
        for name, value in after.items():
            if found_inf is not None:
                value = torch.where(found_inf != 0, before[name], value)
            self.get_buffer(name)[index] = value

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients gathered since the last step."""
        self._pending = []

    def get_extra_state(self) -> dict[str, int]:
        """The key of the samples and how many were drawn, a part of ``state_dict()``."""
        return {"seed": self.seed, "draws": self._draws}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on drawing from where ``state`` was taken."""
        self.seed, self._draws = int(state["seed"]), int(state["draws"])
        self.zero_grad()

    def extra_repr(self) -> str:
        """The sizes and options, for ``repr``."""
        classes, features = self.weight.shape
        return (
            f"{classes}, {features}, margin={self.margin}, scale={self.scale}, "
            f"sample_rate={self.sample_rate}, optimizer={self._rule}"
        )

    def _use_rows(self, labels: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Choose a micro-batch's rows; return their ids (None: all) and a leaf of their values."""
        rows = None
        if self.sample_rate < 1.0:
            size = int(self.sample_rate * self.classes)
            generator = self._generator(_FOR_SAMPLES, labels, self._draws)
            rows = sample_rows(labels, self.classes, size, generator)
            self._draws += 1
            leaf = self.weight[rows]
        elif self._pending:
            # One leaf gathers the gradients of all micro-batches.
            return self._pending[0]
        else:
            leaf = self.weight.detach()
        if torch.is_grad_enabled():
            self._pending.append((rows, leaf.requires_grad_()))
        return rows, leaf

    def _generator(self, purpose: int, like: torch.Tensor, *parts: int) -> torch.Generator:
        """A fresh generator: each draw is a function of seed, purpose and parts, so no state."""
        generator = torch.Generator(like.device)
        generator.manual_seed(derive_seed(self.seed, purpose, *parts))
        return generator


def _union(
    parts: list[tuple[torch.Tensor | None, torch.Tensor]],
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Join (row ids, gradient) of micro-batches: the union of the rows, the sum of each's."""
    if len(parts) == 1:
        return parts[0]
    used = [rows for rows, _ in parts if rows is not None]
    union = torch.unique(torch.cat(used))
    total = parts[0][1].new_zeros(len(union), parts[0][1].shape[1])
    for rows, (_, gradient) in zip(used, parts, strict=True):
        # A part's rows are distinct, so this adds each once, on any device in the same order.
        total[torch.searchsorted(union, rows)] += gradient
    return union, total
