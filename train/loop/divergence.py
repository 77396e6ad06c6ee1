"""Runs that have diverged end, in words: before a loss or weights that are no numbers are kept."""

from __future__ import annotations

from pathlib import Path

import torch

from facepack.train.backbones.registry import Backbone
from facepack.train.heads import PartialFC
from facepack.train.loop.metrics import LossMeter
from facepack.train.precision import LossScaler
from facepack.train.ranks.agreement import fail_together
from facepack.train.ranks.group import Ranks

# From 2^16 the scale is halved 26 times to get there: gradients that overflow still are not finite
# numbers too large for fp16, but NaN or infinite.
_LOWEST_SCALE = 2.0**-10


class DivergenceGuard:
    """Looks whether losses and weights are still finite.

    Args:
        checkpoint: where the run's last good state is, once it was written.
        backbone: looked at.
        head: looked at.
        scaler: the loss scale of fp16.
        meter: has the losses.
        device: where losses and backbone are.
        ranks: those of the run; each looks at its own rows of the head.

    Attributes:
        good_step: the step of the last checkpoint; None if there is none.
    """

    def __init__(
        self,
        *,
        checkpoint: Path,
        backbone: Backbone,
        head: PartialFC,
        scaler: LossScaler,
        meter: LossMeter,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.good_step: int | None = None
        self._checkpoint = checkpoint
        self._backbone = backbone
        self._head = head
        self._scaler = scaler
        self._meter = meter
        self._device = device
        self._ranks = ranks

    def check_loss(self, step: int) -> None:
        """Wait for the device and end the run if a loss was not finite.

        Args:
            step: how many are done.

        Raises:
            TrainingError: the run has diverged.
        """
        diverged = self._meter.first_non_finite()
        if diverged is not None:
            fail_together(
                self._ranks,
                f"the loss of step {diverged:,} is not finite: the run has diverged. "
                f"{self._last_good()}. Begin again with a lower lr, a warmup_epochs or another "
                "precision",
            )
        if self._scaler.enabled and self._scaler.value() < _LOWEST_SCALE:
            fail_together(
                self._ranks,
                f"the fp16 gradients overflow even at a loss scale of {self._scaler.value():.1e} "
                f"(step {step:,}): the run has diverged. {self._last_good()}. Begin again "
                "with precision = bf16, or with a lower lr",
            )

    def check_weights(self, step: int) -> None:
        """As :meth:`check_loss`, and for the weights, which no loss has seen yet; collective."""
        self.check_loss(step)
        values = [*self._backbone.parameters(), *self._backbone.buffers(), self._head.weight]
        # The largest magnitude is NaN where any value is, and takes no memory of the head's size.
        largest = [
            torch.linalg.vector_norm(value, torch.inf).to(self._device)
            for value in values
            if value.is_floating_point()
        ]
        bad = ~torch.stack(largest).isfinite().all()
        if self._ranks.all_reduce(bad.to(torch.int32), "max"):
            fail_together(
                self._ranks,
                f"the weights are not finite after step {step:,}: the run has diverged. "
                f"{self._last_good()}. Begin again with a lower lr, a warmup_epochs or another "
                "precision",
            )

    def _last_good(self) -> str:
        if self.good_step is None:
            return "No checkpoint was written before"
        return f"The last good checkpoint is {self._checkpoint}, of step {self.good_step:,}"
