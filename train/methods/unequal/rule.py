"""Logits that go to a loss which believes the model a little."""

from __future__ import annotations

from dataclasses import dataclass

from facepack.settings import Fraction
from facepack.train.heads.logits import LogitRule
from facepack.train.heads.margins.losses import ClassLoss, NoiseResistant


@dataclass(frozen=True, kw_only=True)
class NoiseResistantRule(LogitRule):
    """A margin softmax whose loss is :class:`NoiseResistant`, for margins that have none of their
    own."""

    beta: Fraction = 0.9
    """Weight of the label beside the class that the model finds."""

    @property
    def loss(self) -> ClassLoss:
        """What the logits go to."""
        return NoiseResistant(self.beta)
