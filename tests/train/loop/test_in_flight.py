"""The host runs at most two steps ahead of an asynchronous device."""

from __future__ import annotations

import torch

from facepack.train.loop.in_flight import StepsInFlight


class Event:
    def __init__(self, log: list[str], number: int) -> None:
        self.log, self.number = log, number

    def record(self) -> None:
        self.log.append(f"record {self.number}")

    def synchronize(self) -> None:
        self.log.append(f"wait {self.number}")


def test_the_step_of_two_steps_ago_is_waited_for() -> None:
    log: list[str] = []
    numbers = iter(range(1, 9))
    steps = StepsInFlight(torch.device("cuda"), new_event=lambda: Event(log, next(numbers)))
    for _ in range(5):
        steps.wait()
        steps.add()
    assert log == ["record 1", "record 2", "record 3", "wait 1", "record 4", "wait 2", "record 5"]


def test_the_cpu_is_never_ahead() -> None:
    log: list[str] = []
    steps = StepsInFlight(torch.device("cpu"), new_event=lambda: Event(log, 0))
    steps.add()
    steps.wait()
    assert log == []
