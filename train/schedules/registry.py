"""The schedules by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from facepack.errors import ConfigError
from facepack.settings import check_choice, kinds, make_settings
from facepack.train.schedules.base import Schedule
from facepack.train.schedules.plan import RunPlan

ScheduleType = TypeVar("ScheduleType", bound=type[Schedule])

_SCHEDULES: dict[str, tuple[type[Schedule], type[Any]]] = {}


def register(name: str, options: type[Any]) -> Callable[[ScheduleType], ScheduleType]:
    """Class decorator: file a schedule under ``name``.

    ``options`` is the frozen dataclass of its settings, of :class:`~facepack.settings.Settings`;
    the schedule is made from a :class:`RunPlan` and an instance of it.
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
    check_choice("schedule", name, names())
    return _SCHEDULES[name]


def option_names(name: str) -> list[str]:
    """The settings of the schedule ``name``; raises :class:`ConfigError` if there is none."""
    return list(kinds(_find(name)[1]))


def make_for_run(name: str, run: RunPlan, options: Mapping[str, Any]) -> Schedule:
    """Make the schedule ``name`` for a run, with settings of its own.

    Raises:
        ConfigError: there is no such schedule, or a setting is unknown or out of range: names it.
    """
    schedule, options_type = _find(name)
    made = make_settings(options_type, options, f"schedule {name}")
    try:
        return schedule(run, made)
    except ConfigError as error:  # options that do not suit the run
        raise ConfigError(f"schedule {name}: {error}") from None


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
    """:func:`make_for_run`, with the numbers of :class:`RunPlan` and the settings side by side."""
    run = RunPlan(
        base_lr=base_lr,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        batch_size=batch_size,
        warmup_steps=warmup_steps,
    )
    return make_for_run(name, run, options)
