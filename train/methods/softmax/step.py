"""One optimizer step: k micro-batches forward and backward, clip, update of backbone and head."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from facepack.train.heads.partial_fc import PartialFC
from facepack.train.methods.gradients import GradientSum
from facepack.train.precision import LossScaler, float32_products
from facepack.train.ranks.group import ALONE, Ranks


class TrainStep:
    """Callable ``(images, labels, lr, records) → loss`` that takes one optimizer step.

    The gradient is that of the mean loss over the whole batch, whatever the number of
    micro-batches; only batch normalisation sees the micro-batches apart. The loss returned is that
    mean, detached, on the device. Nothing here waits for the device but the head, where it says so,
    and under fp16 the scaler, with an optimizer that is not fused.

    Args:
        backbone: images (N×3×H×W, fp32) → embeddings (N×F, fp32); applies its own autocast.
        head: embeddings, labels, records → mean loss; keeps its own gradients and optimizer state.
        accumulate: k, the number of micro-batches.
        clip_norm: largest norm of the backbone's gradient, after unscaling; 0 for no limit.
        ranks: those that take the step together, each on its slice of the batch; the head's too.
        compile: mode of ``torch.compile`` for the backbone, or ``off``. The backbone itself stays
            as it is, so that verification and checkpoints see no difference.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: PartialFC,
        optimizer: torch.optim.Optimizer,
        scaler: LossScaler,
        *,
        accumulate: int = 1,
        clip_norm: float = 0.0,
        compile: str = "off",
        ranks: Ranks = ALONE,
    ) -> None:
        self.backbone = backbone
        self._embed: Callable[[Tensor], Tensor] = (
            backbone if compile == "off" else torch.compile(backbone, mode=compile, dynamic=False)
        )
        self._full = 0
        self._uses_graphs = compile in ("reduce-overhead", "max-autotune")
        self._gradients = GradientSum(backbone.parameters(), ranks)
        self.head = head
        self.optimizer = optimizer
        self.scaler = scaler
        self.accumulate = accumulate
        self.clip_norm = clip_norm

    def __call__(
        self, images: Tensor, labels: Tensor, lr: float, records: np.ndarray | None = None
    ) -> Tensor:
        """Step on images (B×3×H×W) and labels (B,) at learning rate ``lr``; ``records`` (B,) say
        which images they are, to a margin that draws."""
        total = torch.zeros((), device=labels.device)
        k = self.accumulate
        records_by_part = [None] * k if records is None else np.array_split(records, k)
        parts = zip(images.tensor_split(k), labels.tensor_split(k), records_by_part, strict=True)
        for number, part in enumerate(parts, start=1):
            # 1/k, but for a batch that lost images which did not decode.
            share = len(part[1]) / len(labels)
            total += self._micro_batch(*part, share=share, is_last=number == self.accumulate)

        head_scaling = self.scaler.unscale(self.optimizer)
        if self.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.backbone.parameters(), self.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.head.step(lr, **head_scaling)
        self.scaler.step(self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def _micro_batch(
        self,
        images: Tensor,
        labels: Tensor,
        records: np.ndarray | None,
        *,
        share: float,
        is_last: bool,
    ) -> Tensor:
        """Add a micro-batch's share to the gradients; return its share of the loss."""
        # Those that lost images which did not decode are no size to compile the network for.
        self._full = max(self._full, len(images))
        embed = self._embed if len(images) == self._full else self.backbone
        with float32_products(tf32=False):
            if self._uses_graphs:  # each run of which writes to the same memory
                torch.compiler.cudagraph_mark_step_begin()
            embeddings = embed(images)
        # The graph is cut at the embeddings, so that the head's products run in TF32, forward and
        # backward, and the backbone's own fp32 layers in IEEE arithmetic, forward and backward.
        leaf = embeddings.detach().requires_grad_()
        with float32_products(tf32=True):
            loss = self.head(leaf, labels, records) * share
            self.scaler.scale(loss).backward()
        sums = self._gradients.over_ranks() if is_last else nullcontext()
        with float32_products(tf32=False), sums:
            embeddings.backward(leaf.grad)
        return loss.detach()
