"""One progress line on stderr: done, rate and time left; silent when stderr is not a terminal."""

from __future__ import annotations

import sys
import time

_INTERVAL = 0.2  # seconds between redraws


def format_duration(seconds: float) -> str:
    """``75.2`` → ``1:15``, ``3700`` → ``1:01:40``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """Counts towards ``total`` and draws ``label  done/total unit  rate  left``."""

    def __init__(self, total: int, *, unit: str = "records", label: str = "") -> None:
        self.total = total
        self.unit = unit
        self.label = label
        self.done = 0
        self._stream = sys.stderr
        self._visible = self._stream.isatty()
        self._start = self._drawn = time.monotonic()
        self._base = 0

    def skip(self, count: int) -> None:
        """Count ``count`` items that were done in an earlier run: they do not enter the rate."""
        self._base += count
        self.update(count)

    def update(self, count: int = 1) -> None:
        """Count ``count`` more items and redraw when it is time."""
        self.done += count
        now = time.monotonic()
        if self._visible and now - self._drawn >= _INTERVAL:
            self._drawn = now
            self._draw(now)

    def line(self, now: float) -> str:
        """The text shown at the monotonic time ``now``."""
        rate = (self.done - self._base) / max(now - self._start, 1e-9)
        parts = [self.label] if self.label else []
        share = self.done / self.total if self.total else 1.0
        parts.append(f"{self.done:,}/{self.total:,} {self.unit} ({share:.0%})")
        parts.append(f"{rate:,.0f}/s")
        if rate > 0:
            parts.append(f"{format_duration((self.total - self.done) / rate)} left")
        return "  ".join(parts)

    def _draw(self, now: float) -> None:
        self._stream.write(f"\r\x1b[K{self.line(now)}")
        self._stream.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._visible:
            self._draw(time.monotonic())
            self._stream.write("\n")
            self._stream.flush()
