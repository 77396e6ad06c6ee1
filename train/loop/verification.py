"""Verification during training, as the trainer sees it; how sets are read and measured is not here.

``facepack.evaluate.validation`` has the validator that the command gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from facepack.train.backbones.registry import Backbone


class SetResult(Protocol):
    """A backbone's figures on a set; None is undefined."""

    @property
    def target(self) -> str:
        """The set's name."""

    @property
    def accuracy(self) -> float | None:
        """A share of one."""

    @property
    def std(self) -> float | None:
        """Of the accuracy, over folds."""

    @property
    def auc(self) -> float | None:
        """Area under the ROC curve."""

    @property
    def norm(self) -> float:
        """Mean L2 norm of the embeddings."""


class Validator(Protocol):
    """Evaluates a backbone on verification sets, and leaves everything as it was."""

    @property
    def lasting(self) -> dict[str, str]:
        """The sets, name → path, in a form that finds them from any current folder."""

    def __call__(self, backbone: Backbone) -> Iterator[SetResult]:
        """Yield each set's figures."""


class MakeValidator(Protocol):
    """Reads verification sets; raises what says that one cannot be read."""

    def __call__(
        self,
        sets: Mapping[str, str],
        *,
        home: Path | None,
        image_size: tuple[int, int],
        batch_size: int,
    ) -> Validator:
        """Make the validator.

        Args:
            sets: name → path, or name in the data home.
            home: the data home.
            image_size: (height, width) that the backbone takes.
            batch_size: images a forward pass.
        """
