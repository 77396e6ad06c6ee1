"""The schedules by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from facepack.errors import ConfigError, did_you_mean
from facepack.train.schedules.base import Schedule
from facepack.train.schedules.plan import RunPlan

ScheduleType = TypeVar("ScheduleType", bound=type[Schedule])

_SCHEDULES: dict[str, tuple[type[Schedule], type[Any]]] = {}


def register(name: str, options: type[Any]) -> Callable[[ScheduleType], ScheduleType]:
    """Class decorator: file a schedule under ``name``.

    ``options`` is the frozen dataclass of its settings, which validates itself; the schedule is
    made from a :class:`RunPlan` and an instance of it.
    """

    def add(schedule: ScheduleType) -> ScheduleType:
        if name in _SCHEDULES:
            raise ValueError(f"a schedule is already registered as {name!r}")
        schedule.name = name
        _SCHEDULES[name] = (schedule, options)
        return schedule

    return add


def names() -> list[str]:
    """The names of all schedules, sorted."""
    return sorted(_SCHEDULES)


def _find(name: str) -> tuple[type[Schedule], type[Any]]:
    if name not in _SCHEDULES:
        raise ConfigError(
            f"schedule {name!r} is unknown{did_you_mean(name, names())}; allowed: "
            f"{', '.join(names())}"
        )
    return _SCHEDULES[name]


def option_names(name: str) -> list[str]:
    """The settings of the schedule ``name``; raises :class:`ConfigError` if there is none."""
    return [field.name for field in fields(_find(name)[1])]


def build_schedule(
    name: str,
    *,
    base_lr: float,
    total_steps: int,
    steps_per_epoch: int,
    batch_size: int = 128,
    warmup_steps: int = 0,
    **options: Any,
) -> Schedule:
    """Make the schedule ``name`` for a run; see :class:`RunPlan` for the run's numbers.

    ``options`` are the schedule's own settings. Raises :class:`ConfigError` naming the setting
    that is unknown or out of range.
    """
    schedule, options_type = _find(name)
    run = RunPlan(
        base_lr=base_lr,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        batch_size=batch_size,
        warmup_steps=warmup_steps,
    )
    allowed = option_names(name)
    for option in options:
        if option not in allowed:
            raise ConfigError(
                f"schedule {name}: {option} is not one of its settings"
                f"{did_you_mean(option, allowed)}; allowed: {', '.join(allowed) or 'none'}"
            )
    try:
        return schedule(run, options_type(**options))
    except ConfigError as error:
        raise ConfigError(f"schedule {name}: {error}") from None
