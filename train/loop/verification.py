"""Verification during training: what is kept of its figures; how sets are measured is not here.

``facepack.evaluate.validation`` has the validator that the command gives.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from facepack.train.backbones.registry import Backbone
from facepack.train.loop.interrupt import StopRequest
from facepack.train.loop.metrics import MetricsLog
from facepack.train.loop.progress import TrainProgress


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


class Verification:
    """Verifies a run's backbone; logs the figures, and keeps the best accuracy of each set.

    Args:
        validator: what evaluates; None on ranks that leave it to another.

    Attributes:
        best: set → its best accuracy, and the step.
    """

    def __init__(self, validator: Validator | None) -> None:
        self.best: dict[str, dict[str, float]] = {}
        self._validator = validator

    def lasting_sets(self, sets: Mapping[str, str]) -> dict[str, str]:
        """``sets`` in a form that finds them from any folder; as they are on ranks without them."""
        return dict(sets) if self._validator is None else self._validator.lasting

    def run(
        self,
        backbone: Backbone,
        *,
        step: int,
        log: MetricsLog,
        progress: TrainProgress,
        stop: StopRequest,
    ) -> None:
        """Verify after ``step`` steps; sets that follow are left out once a stop is requested."""
        if self._validator is None:
            return
        left = list(self._validator.lasting)
        start = time.perf_counter()
        for result in self._validator(backbone):
            left.remove(result.target)
            now = time.perf_counter()
            log.write("val", step, _values(result), {"seconds": now - start})
            start = now
            if result.accuracy is not None:
                progress.notice(self._note_best(result, step))
            if left and stop.requested:
                progress.notice(f"step {step:,}: not verified on {', '.join(left)}")
                break

    def _note_best(self, result: SetResult, step: int) -> str:
        """Remember the accuracy if it is a set's best so far; return a line about it."""
        accuracy = result.accuracy
        assert accuracy is not None
        best = self.best.setdefault(result.target, {"accuracy": -1.0, "step": 0})
        if accuracy > best["accuracy"]:
            best.update(accuracy=accuracy, step=step)
        return (
            f"step {step:,}: {result.target} {accuracy:.4f} ± {result.std:.4f} "
            f"(best {best['accuracy']:.4f}, step {best['step']:,})"
        )


def _values(result: SetResult) -> dict[str, Any]:
    return {
        "set": result.target,
        "accuracy": result.accuracy,
        "std": result.std,
        "auc": result.auc,
        "norm": result.norm,
    }
