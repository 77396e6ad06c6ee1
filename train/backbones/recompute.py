"""Activation checkpointing (Chen et al., arXiv 1604.06174) that leaves a network's state alone.

Blocks are run twice in a step of training, the second time in the backward pass. torch's own
``checkpoint`` makes the same random draws then, but batch normalisation would average the batch
into its running statistics a second time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


@contextmanager
def _statistics_kept(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Within it, BNs in training normalise by the batch as ever, but remember nothing of it."""
    norms = [
        module
        for block in blocks
        for module in block.modules()
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
    ]
    kept = [(norm.running_mean, norm.running_var, norm.num_batches_tracked) for norm in norms]
    for norm, (mean, variance, _) in zip(norms, kept, strict=True):
        assert mean is not None and variance is not None  # they are tracked
        # Not None, as what autograd keeps must be the same in kind. Nothing reads them.
        norm.running_mean, norm.running_var = torch.empty_like(mean), torch.empty_like(variance)
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm.running_mean, norm.running_var, norm.num_batches_tracked = buffers


def recompute(blocks: Sequence[nn.Module], x: torch.Tensor, *, draws: bool) -> torch.Tensor:
    """Run ``blocks`` in a row; in the backward pass they run again from ``x``, all that is kept.

    Outputs, gradients and the blocks' state after a step are bit for bit those of the plain run.
    Where a block ``draws`` random numbers (dropout), torch's generators are kept and put back, so
    that the same are drawn again.
    """

    def run(x: torch.Tensor) -> torch.Tensor:
        for block in blocks:
            x = block(x)
        return x

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(blocks)

    if torch.compiler.is_compiling():
        # A compiled graph updates statistics once, behind its forward pass, whatever it recomputes.
        return checkpoint(run, x, use_reentrant=False, preserve_rng_state=draws)
    return checkpoint(run, x, use_reentrant=False, preserve_rng_state=draws, context_fn=contexts)
