"""A run's progress on stderr: one line drawn anew on a terminal, else a line now and then."""

from __future__ import annotations

import sys
from typing import TextIO

from facepack.closing import Closing
from facepack.progress import format_duration
from facepack.train.loop.stopwatch import Reading

_REDRAW = 0.2  # seconds of training between two drawings on a terminal
_PLAIN = 30.0  # seconds between two lines in a file


class TrainProgress(Closing):
    """Shows where a run is, how fast it goes and how long it still takes, by default on stderr."""

    def __init__(
        self,
        *,
        total_steps: int,
        steps_per_epoch: int,
        batch_size: int,
        stream: TextIO | None = None,
    ) -> None:
        self._total = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._batch_size = batch_size
        self._stream = sys.stderr if stream is None else stream
        self._redrawn = self._stream.isatty()
        self._shown = Reading()
        self._loss: float | None = None
        self._is_drawn = False

    def set_loss(self, loss: float) -> None:
        """Remember the last loss that was read from the device."""
        self._loss = loss

    def update(self, step: int, lr: float, reading: Reading) -> None:
        """Show step number ``step``, if it is time."""
        interval = _REDRAW if self._redrawn else _PLAIN
        since = reading.since(self._shown)
        if since.seconds < interval:
            return
        self._shown = reading
        text = self.line(step, lr, reading)
        if self._redrawn:
            self._stream.write(f"\r\x1b[K{text}")
            self._is_drawn = True
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def line(self, step: int, lr: float, reading: Reading) -> str:
        """The text for step number ``step`` with the run's totals ``reading``."""
        epochs = -(-self._total // self._steps_per_epoch)
        epoch = (step - 1) // self._steps_per_epoch + 1
        parts = [
            f"step {step:,}/{self._total:,} ({step / self._total:.0%})",
            f"epoch {epoch}/{epochs}",
            f"{reading.images_per_second:,.0f} img/s",
            f"loss {'–' if self._loss is None else f'{self._loss:.4f}'}",
            f"lr {lr:.3g}",
            f"data wait {reading.data_wait:.1%}",
        ]
        if reading.images_per_second > 0:
            left = (self._total - step) * self._batch_size / reading.images_per_second
            parts.append(f"{format_duration(left)} left")
        return "  ".join(parts)

    def notice(self, text: str) -> None:
        """Write a line of its own, below the drawn one."""
        self.close()
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def close(self) -> None:
        """End the drawn line, so that what follows starts on one of its own."""
        if self._is_drawn:
            self._stream.write("\n")
            self._stream.flush()
            self._is_drawn = False


class SilentProgress(TrainProgress):
    """Takes the same calls and shows nothing: of several ranks one alone does."""

    def update(self, step: int, lr: float, reading: Reading) -> None:
        """Nothing."""

    def notice(self, text: str) -> None:
        """Nothing."""
