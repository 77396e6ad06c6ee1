"""A run that is resumed with another length or rate: what that means, or why it means nothing.

Under a schedule that is a formula of the step, the next step takes the rate that the new settings
give it, whatever came before. A detector has brought its rate where it is by the losses it has
seen; it goes on alone as it was, over a longer or shorter run if its rule knows no length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from facepack.errors import ConfigError
from facepack.train.build import make_schedule
from facepack.train.config import COURSE, TrainConfig, differing_settings
from facepack.train.schedules import Schedule
from facepack.train.schedules.base import FixedSchedule
from facepack.train.schedules.fixed import PolyOptions

_FORMER_POWER = 2.0  # poly's default, when checkpoints did not record the options in force


def take_up_course(
    state: Mapping[str, Any], config: TrainConfig, schedule: Schedule
) -> tuple[dict[str, Any], list[str]]:
    """Fit the schedule of a checkpoint to the settings that its run is to go on with.

    They differ from the run's in its course at the most; ``schedule`` is made by them, for the
    whole run.

    Returns:
        The state for ``schedule``, and notices of what changes.

    Raises:
        ConfigError: what the settings ask for is not defined; says why, and what is.
    """
    saved, held, step = state["config"], state["schedule"], state["step"]
    total = schedule.run.total_steps
    before = _schedule_of(saved, schedule)
    changes = _changes(saved, held, config, schedule)
    if not changes:
        return held, []
    listed = "; ".join(f"{name}: {was} → {now}" for name, (was, now) in changes.items())
    if "epochs" in changes and config.steps is not None and "steps" not in changes:
        raise ConfigError(
            f"--resume with epochs = {config.epochs} changes nothing: the run's length is steps = "
            f"{config.steps}. Set steps instead, or steps=none beside it"
        )
    if total <= step:
        raise ConfigError(
            f"--resume with another course ({listed}) for a run of {total:,} steps: {step:,} are "
            "done, and none is left to change. Set more epochs (or steps) as well"
        )
    before.load_state_dict(held)
    was_lr, was_total = before.lr, before.run.total_steps
    if isinstance(schedule, FixedSchedule):
        follows = {**schedule.state_dict(), "step": step}
    elif _is_length_alone(changes) and not schedule.depends_on_length:
        follows = dict(held)
    else:
        derived = [
            name for name in changes if name.partition(".")[2] not in config.schedule_options
        ]
        keep = "".join(
            f"; {name} follows from the length, --set {name}={changes[name][0]} keeps it"
            for name in derived
            if "." in name
        )
        raise ConfigError(
            f"--resume with another course ({listed}): {schedule.name} goes by the losses it has "
            f"seen under its own settings and cannot take it up. Leave it as it was{keep}; or go "
            "on by a formula, as with --set schedule=constant --set "
            f"lr={was_lr or config.base_lr:.6g}"
        )
    schedule.load_state_dict(follows)
    length = f"steps of the run: {total:,}" + (
        " as before" if was_total == total else f" now, {was_total:,} before"
    )
    return follows, [
        f"another course from step {step + 1:,} on: {listed}",
        f"{length}; learning rate of the next one: {was_lr:.6g} before, {schedule.lr:.6g} now",
    ]


def _schedule_of(saved: Mapping[str, Any], schedule: Schedule) -> Schedule:
    """The schedule that the run had, by its settings."""
    known = {field.name for field in fields(TrainConfig)}
    config = TrainConfig(**{name: value for name, value in saved.items() if name in known})
    per_epoch = schedule.run.steps_per_epoch
    total = config.steps or config.epochs * per_epoch
    return make_schedule(config, total_steps=total, steps_per_epoch=per_epoch)


def _changes(
    saved: Mapping[str, Any], held: Mapping[str, Any], config: TrainConfig, schedule: Schedule
) -> dict[str, tuple[Any, Any]]:
    """Name → (before, now) of what differs in the course; of options, those in force."""
    changes = differing_settings(saved, config)
    changes = {name: change for name, change in changes.items() if name in COURSE}
    changes.pop("schedule_options", None)
    if "schedule" in changes:
        return changes
    was, now = held.get("options"), schedule.state_dict()["options"]
    if was is None:
        _check_power(saved, config)
        was = {**now, **saved["schedule_options"]}
    for name in now:
        if was.get(name) != now[name]:
            changes[f"schedule_options.{name}"] = (was.get(name), now[name])
    return changes


def _check_power(saved: Mapping[str, Any], config: TrainConfig) -> None:
    """A run that left ``poly`` its former default must not change it unasked."""
    if config.schedule != "poly" or "power" in (
        saved["schedule_options"] | config.schedule_options
    ):
        return
    raise ConfigError(
        f"--resume: this run began when the power of poly was {_FORMER_POWER:g} by default; it is "
        f"{asdict(PolyOptions())['power']:g} now. Say which, as with --set "
        f"schedule_options.power={_FORMER_POWER:g}"
    )


def _is_length_alone(changes: Mapping[str, Any]) -> bool:
    return changes.keys() <= {"epochs", "steps"}
