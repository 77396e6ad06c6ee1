"""Verification during training: what is kept of its figures; how sets are measured is not here.

``facepack.evaluate.validation`` has the validator that the command gives.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from facepack.train.backbones.registry import Backbone
from facepack.train.loop.interrupt import StopRequest
from facepack.train.loop.metrics import MetricsLog
from facepack.train.loop.progress import TrainProgress

ACCURACY = "accuracy"
"""The figure of pair sets, which lines about them do not name."""


@dataclass(frozen=True, kw_only=True)
class SetFigures:
    """A backbone's figures on a set; None is undefined."""

    target: str  # what the run calls the set
    figure: str  # the one that the set's best is told by: accuracy of pairs
    value: float | None  # that figure, a share of one
    std: float | None  # its deviation over folds, where it has one
    values: dict[str, float | None]  # all that the log keeps, that figure first
    notices: tuple[str, ...] = ()  # what is to be said of the set, once in a run


class Validator(Protocol):
    """Evaluates a backbone on verification sets, and leaves everything as it was."""

    @property
    def lasting(self) -> dict[str, str]:
        """The sets, name → path, in a form that finds them from any current folder."""

    def __call__(self, backbone: Backbone) -> Iterator[SetFigures]:
        """Yield each set's figures."""


class MakeValidator(Protocol):
    """Reads verification sets, name → path or name in the data home, for images of a size.

    Raises what says that one cannot be read. The size is (height, width).
    """

    def __call__(
        self,
        sets: Mapping[str, str],
        *,
        home: Path | None,
        image_size: tuple[int, int],
        batch_size: int,
    ) -> Validator:
        """Make the validator, which takes ``batch_size`` images in a forward pass."""


class Verification:
    """Verifies a run's backbone; logs the figures, and keeps the best of each set.

    The validator is None on ranks that leave it to another.

    Attributes:
        best: set → the best value of its figure, by the figure's name, and the ``step``.
    """

    def __init__(self, validator: Validator | None) -> None:
        self.best: dict[str, dict[str, float]] = {}
        self._validator = validator
        self._said: set[str] = set()

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
            values = {"set": result.target, **result.values}
            log.write("val", step, values, {"seconds": now - start})
            start = now
            for notice in result.notices:
                if notice not in self._said:
                    self._said.add(notice)
                    progress.notice(f"{result.target}: {notice}")
            if result.value is not None:
                progress.notice(self._note_best(result, result.value, step))
            if left and stop.requested:
                progress.notice(f"step {step:,}: not verified on {', '.join(left)}")
                break

    def _note_best(self, result: SetFigures, value: float, step: int) -> str:
        """Remember the value if it is a set's best so far; return a line about it."""
        best = self.best.setdefault(result.target, {})
        if value > best.get(result.figure, -1.0):  # a set of that name may have been another
            self.best[result.target] = best = {result.figure: value, "step": step}
        called = result.target if result.figure == ACCURACY else f"{result.target} {result.figure}"
        spread = "" if result.std is None else f" ± {result.std:.4f}"
        return (
            f"step {step:,}: {called} {value:.4f}{spread} "
            f"(best {best[result.figure]:.4f}, step {best['step']:,})"
        )


def describe_best(name: str, best: Mapping[str, float]) -> str:
    """A line on the best of the set ``name``, as :attr:`Verification.best` has it."""
    figure = next(key for key in best if key != "step")
    called = name if figure == ACCURACY else f"{name} {figure}"
    return f"best {called}: {best[figure]:.4f} at step {best['step']:,}"
