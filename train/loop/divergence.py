"""Runs that have diverged end, in words: before a loss or weights that are no numbers are kept."""

from __future__ import annotations

from pathlib import Path

import torch

from facepack.train.loop.parts import RunParts
from facepack.train.ranks.agreement import fail_together

# From 2^16 the scale is halved 26 times to get there: gradients that overflow still are not finite
# numbers too large for fp16, but NaN or infinite.
_LOWEST_SCALE = 2.0**-10

_REMEDY = "a lower lr, a warmup_epochs or another precision"


class DivergenceGuard:
    """Looks whether losses and weights are still finite.

    Each rank looks at its own rows of the head. ``checkpoint`` is where the run's last good state
    is, once it was written.

    Attributes:
        good_step: the step of the last checkpoint; None if there is none.
    """

    def __init__(self, parts: RunParts, checkpoint: Path) -> None:
        self.good_step: int | None = None
        self._parts = parts
        self._checkpoint = checkpoint

    def check_loss(self, step: int) -> None:
        """Wait for the device and end the run, of which ``step`` are done, if a loss is not finite.

        Raises:
            TrainingError: the run has diverged.
        """
        diverged = self._parts.meter.first_non_finite()
        if diverged is not None:
            self._end(f"the loss of step {diverged:,} is not finite", _REMEDY)
        scaler = self._parts.scaler
        if scaler.enabled and scaler.value() < _LOWEST_SCALE:
            self._end(
                f"the fp16 gradients overflow even at a loss scale of {scaler.value():.1e} "
                f"(step {step:,})",
                "precision = bf16, or with a lower lr",
            )

    def check_weights(self, step: int) -> None:
        """As :meth:`check_loss`, and for the weights, which no loss has seen yet; collective."""
        self.check_loss(step)
        backbone, head = self._parts.backbone, self._parts.method_run.head
        values = [*backbone.parameters(), *backbone.buffers(), *head.weights]
        # The largest magnitude is NaN where any value is, and takes no memory of the head's size.
        largest = [
            torch.linalg.vector_norm(value, torch.inf).to(self._parts.device)
            for value in values
            if value.is_floating_point()
        ]
        bad = ~torch.stack(largest).isfinite().all()
        if self._parts.ranks.all_reduce(bad.to(torch.int32), "max"):
            self._end(f"the weights are not finite after step {step:,}", _REMEDY)

    def _end(self, reason: str, remedy: str) -> None:
        good = "No checkpoint was written before"
        if self.good_step is not None:
            good = f"The last good checkpoint is {self._checkpoint}, of step {self.good_step:,}"
        text = f"{reason}: the run has diverged. {good}. Begin again with {remedy}"
        fail_together(self._parts.ranks, text)
