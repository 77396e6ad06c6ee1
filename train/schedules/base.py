"""What all schedules share: the step count, warm-up, state, and how losses are read."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from facepack.errors import ConfigError
from facepack.settings import Range
from facepack.train.schedules.loss_buffer import LossBuffer
from facepack.train.schedules.plan import RunPlan

if TYPE_CHECKING:
    from torch import Tensor

MAX_READ_EVERY = 10
ReadEvery = Annotated[int, Range(low=1, high=MAX_READ_EVERY)]
# Attributes, named without their _, that are such numbers or None.
Kept = tuple[tuple[str, type[int] | type[float]], ...]


class Schedule(ABC):
    """The learning rate of a run, from step to step.

    Read :attr:`lr` before an optimizer step and call :meth:`step` with its loss after it. With
    k steps done, warm-up gives base_lr·k/w for k < w; what follows is the schedule's own.
    ``options`` holds the settings in force, defaults filled in.
    """

    name: ClassVar[str]
    """The name under which :func:`register` filed the schedule."""
    depends_on_length: ClassVar[bool] = False
    """Whether a detector's rule knows the run's length beyond what ``options`` say."""

    def __init__(self, run: RunPlan, options: Any) -> None:
        self.run = run
        self.options = options
        self._step = 0
        self._changes: list[tuple[int, float]] = []

    @property
    def steps_done(self) -> int:
        """Optimizer steps taken so far."""
        return self._step

    @property
    def lr(self) -> float:
        """Learning rate of the next optimizer step; past the run's end, that of its end."""
        return self.lr_after(min(self._step, self.run.total_steps))

    def lr_after(self, steps: int) -> float:
        """Learning rate once ``steps`` steps are done, as far as is known now."""
        if steps < self.run.warmup_steps:
            return self.run.base_lr * steps / self.run.warmup_steps
        return self._decayed(steps)

    @abstractmethod
    def _decayed(self, steps: int) -> float:
        """Learning rate once ``steps`` steps are done, w ≤ steps ≤ T."""

    @abstractmethod
    def step(self, loss: Tensor | float) -> None:
        """Count one optimizer step, whose mean loss was ``loss``."""

    @property
    def changes(self) -> list[tuple[int, float]]:
        """The sudden changes so far: (steps done, learning rate from then on)."""
        return list(self._changes)

    def state_dict(self) -> dict[str, Any]:
        """The schedule's state in numbers, strings and lists."""
        return {
            "schedule": self.name,
            "options": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in asdict(self.options).items()
            },
            "step": self._step,
            "changes": [[step, lr] for step, lr in self._changes],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``; raises :class:`ConfigError` if another schedule made it."""
        if state["schedule"] != self.name:
            raise ConfigError(
                f"schedule is {self.name}, but the checkpoint was made under "
                f"{state['schedule']}; resume with schedule {state['schedule']} or start anew"
            )
        self._step = int(state["step"])
        self._changes = [(int(step), float(lr)) for step, lr in state["changes"]]


class FixedSchedule(Schedule):
    """A learning rate that depends on the step alone: losses are never looked at."""

    def step(self, loss: Tensor | float) -> None:
        """Count one optimizer step."""
        self._step += 1


class AdaptiveSchedule(Schedule):
    """A learning rate that a detector lowers and raises as it watches the loss.

    Losses stay on the device and are read every ``read_every`` steps; each is then replayed to
    the detector, so that a change comes at most ``read_every`` − 1 steps late and a state holds
    those not yet read. Losses of the warm-up and non-finite ones never reach the detector.
    """

    kept: ClassVar[Kept] = ()  # what else the state holds

    def __init__(self, run: RunPlan, options: Any, *, read_every: int) -> None:
        super().__init__(run, options)
        self._buffer = LossBuffer(read_every)

    def step(self, loss: Tensor | float) -> None:
        """Count one optimizer step and keep its loss; every ``read_every`` steps, read."""
        self._buffer.append(loss)
        self._step += 1
        if self._step % self._buffer.capacity == 0:
            self._read()

    def _read(self) -> None:
        losses = self._buffer.take()
        changed = False
        for step, loss in enumerate(losses, self._step - len(losses) + 1):
            if step > self.run.warmup_steps and math.isfinite(loss):
                changed |= self._observe(step, loss)
        if changed:
            self._changes.append((self._step, self.lr))

    @abstractmethod
    def _observe(self, step: int, loss: float) -> bool:
        """Take in the finite ``loss`` of step ``step`` (from 1); True if it changes the rate."""

    def state_dict(self) -> dict[str, Any]:
        """The state, with the losses not yet read and the interval at which they are."""
        return {
            **super().state_dict(),
            "read_every": self._buffer.capacity,
            "unread": self._buffer.peek(),
            **{name: getattr(self, f"_{name}") for name, _ in self.kept},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``, reading at its intervals, so that no change moves."""
        super().load_state_dict(state)
        self._buffer = LossBuffer(int(state["read_every"]))
        for loss in state["unread"]:
            self._buffer.append(float(loss))
        for name, kind in self.kept:
            setattr(self, f"_{name}", None if state[name] is None else kind(state[name]))
