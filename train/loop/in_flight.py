"""How far the host may run ahead of the device that takes its steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import torch

_AHEAD = 2


class Event(Protocol):
    """What is asked of ``torch.cuda.Event``."""

    def record(self) -> None:
        """Mark the end of what the device has been given so far."""

    def synchronize(self) -> None:
        """Wait until the device has come to the mark."""


class StepsInFlight:
    """Keeps the host at most two steps ahead of a CUDA device; on the CPU there is no ahead.

    Without it the host would run on until the loader's memory of earlier batches is still in use,
    and time that the device needs for its steps would pass for waiting for data.
    """

    def __init__(
        self, device: torch.device, *, new_event: Callable[[], Event] = torch.cuda.Event
    ) -> None:
        self._is_async = device.type == "cuda"
        self._new_event = new_event
        self._events: deque[Event] = deque()

    def add(self) -> None:
        """The device has been given a step."""
        if self._is_async:
            event = self._new_event()
            event.record()
            self._events.append(event)

    def wait(self) -> None:
        """Wait until all steps but the last two are done."""
        while len(self._events) > _AHEAD:
            self._events.popleft().synchronize()
