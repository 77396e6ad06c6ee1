"""Time spent training and waiting for data, apart from all else that a run does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Totals, or with :meth:`since` the difference of two."""

    seconds: float = 0.0
    """Time of training: steps and waiting for data."""
    waiting: float = 0.0
    """The part of it spent waiting for the loader."""
    images: int = 0
    paused: float = 0.0
    """Time besides: verification and checkpoints."""
    verifying: float = 0.0
    """The part of it spent on verification."""

    def since(self, earlier: Reading) -> Reading:
        """What came after ``earlier``."""
        names = [field.name for field in fields(self)]
        return Reading(**{name: getattr(self, name) - getattr(earlier, name) for name in names})

    @property
    def images_per_second(self) -> float:
        """Images over time; 0 where no time has passed."""
        return self.images / self.seconds if self.seconds > 0 else 0.0

    @property
    def data_wait(self) -> float:
        """Share of the time spent waiting for data, from 0 to 1."""
        return self.waiting / self.seconds if self.seconds > 0 else 0.0

    @property
    def verification_share(self) -> float:
        """Share of all time, training or not, spent on verification, from 0 to 1."""
        whole = self.seconds + self.paused
        return self.verifying / whole if whole > 0 else 0.0


class Stopwatch:
    """Runs from its creation; verification and checkpoints are taken out with :meth:`paused`."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._start = clock()
        self._spent = {"waiting": 0.0, "paused": 0.0, "verifying": 0.0}
        self._images = 0

    def count(self, images: int) -> None:
        """Count images that have been trained on."""
        self._images += images

    @contextmanager
    def _spending(self, kind: str) -> Iterator[None]:
        start = self._clock()
        yield
        self._spent[kind] += self._clock() - start

    def waiting(self) -> AbstractContextManager[None]:
        """The block waits for data."""
        return self._spending("waiting")

    def paused(self) -> AbstractContextManager[None]:
        """The block is no training."""
        return self._spending("paused")

    def verifying(self) -> AbstractContextManager[None]:
        """The block, inside one that is :meth:`paused`, is verification."""
        return self._spending("verifying")

    def read(self) -> Reading:
        """The totals so far."""
        seconds = self._clock() - self._start - self._spent["paused"]
        return Reading(seconds=seconds, images=self._images, **self._spent)
