"""MHLR in its second version, published as FastFace (arXiv 2404.11118v2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from facepack.errors import ConfigError
from facepack.settings import Range, Settings
from facepack.train.schedules.base import MAX_READ_EVERY, AdaptiveSchedule, ReadEvery
from facepack.train.schedules.plan import RunPlan
from facepack.train.schedules.registry import register

_PUBLISHED_BATCH = 128  # the batch that alpha, beta and threshold are stated for

_Share = Annotated[float, Range(above=0, high=1)]


@dataclass(frozen=True, kw_only=True)
class FastFaceOptions(Settings):
    """Settings of ``fastface``; alpha, beta and threshold are those at batch 128."""

    alpha: _Share = 0.001
    """Weight α of the newest fall of the loss in D."""
    beta: _Share = 0.001
    """Weight β of D in G."""
    threshold: Annotated[float, Range(low=0)] = 5e-5
    """λ: G below it counts as a loss that does not fall, in loss a step."""
    tau: _Share = 0.05
    """τ: share of the run's steps that must count so, in a row, before a drop."""
    delta: Annotated[float, Range(above=1)] = 2.0
    """δ: divides the learning rate at a drop."""
    max_drops: Annotated[int, Range(low=0)] = 8
    """Drops after which the rate stays."""
    read_every: ReadEvery = MAX_READ_EVERY
    """Steps between two readings of the losses from the device, 1 to 10."""


@register("fastface", FastFaceOptions)
class FastFace(AdaptiveSchedule):
    """Divides the learning rate when the smoothed fall of the loss stays under a threshold.

    D_t = (1−α)·D_{t−1} + α·(L_{t−1} − L_t) and G_t = (1−β)·G_{t−1} + β·D_t, both from 0: the
    first loss only gives the next one something to be compared with. While G < λ a count rises
    to ⌊τT⌋; the next such step divides the rate and clears the count, as does any G ≥ λ.

    α, β and λ are per step at batch 128 and are multiplied by batch_size/128 here.
    """

    options: FastFaceOptions
    depends_on_length = True
    kept = (
        *(("level", float), ("last_loss", float), ("fall", float), ("trend", float)),
        *(("count", int), ("drops", int)),
    )

    def __init__(self, run: RunPlan, options: FastFaceOptions) -> None:
        super().__init__(run, options, read_every=options.read_every)
        scale = run.batch_size / _PUBLISHED_BATCH
        self._alpha, self._beta = options.alpha * scale, options.beta * scale
        self._threshold = options.threshold * scale
        if max(self._alpha, self._beta) > 1:
            raise ConfigError(
                f"alpha and beta times batch_size/{_PUBLISHED_BATCH} must be at most 1, got "
                f"{self._alpha:g} and {self._beta:g} at batch_size {run.batch_size}; lower them"
            )
        # Rounded first: 0.29·100 is 28.999… in floating point, and means 29.
        self._patience = math.floor(round(options.tau * run.total_steps, 6))
        self._last_loss: float | None = None
        self._fall = 0.0  # D
        self._trend = 0.0  # G
        self._count = 0
        self._drops = 0
        self._level = run.base_lr

    def _decayed(self, steps: int) -> float:
        return self._level

    def _observe(self, step: int, loss: float) -> bool:
        last, self._last_loss = self._last_loss, loss
        if last is None:
            return False
        self._fall = (1 - self._alpha) * self._fall + self._alpha * (last - loss)
        self._trend = (1 - self._beta) * self._trend + self._beta * self._fall
        if self._trend >= self._threshold:
            self._count = 0
            return False
        if self._count < self._patience:
            self._count += 1
            return False
        self._count = 0
        if self._drops >= self.options.max_drops:
            return False
        self._drops += 1
        self._level /= self.options.delta
        return True
