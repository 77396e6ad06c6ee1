"""``facepack schedule``: what a schedule would have done in a run that was logged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facepack.train.commands.completion import complete_registered

if TYPE_CHECKING:
    import numpy as np


@click.command()
@click.argument("log", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--schedule",
    "name",
    required=True,
    metavar="NAME",
    shell_complete=complete_registered,
    help="cosine, poly, multistep, constant, fastface, mhlr or mhlr_guarded.",
)
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="A setting of the schedule, such as window=4000 or milestones=[8,14]; repeatable.",
)
@click.option(
    "--base-lr",
    type=float,
    help="Base learning rate; needed if the log has none.  [default: the highest in the log, or in "
    "the run's config.toml beside it]",
)
@click.option("--total-steps", type=int, help="Steps of the run.  [default: the log's last]")
@click.option(
    "--steps-per-epoch", type=int, help="Steps of an epoch.  [default: from the log's epochs]"
)
@click.option("--batch-size", type=int, default=128, show_default=True, help="Images of one step.")
@click.option(
    "--warmup-steps", type=int, default=0, show_default=True, help="Steps of linear warm-up."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also draw loss and learning rates into this file (.png, .svg, .pdf).",
)
def schedule(
    log: Path,
    name: str,
    settings: tuple[str, ...],
    base_lr: float | None,
    total_steps: int | None,
    steps_per_epoch: int | None,
    batch_size: int,
    warmup_steps: int,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Replay a training log through a schedule.

    LOG is CSV (step, loss, lr, epoch), a run's metrics.jsonl, or the training.log of
    arcface_torch and its descendants; if it has no learning rate, give --base-lr. Prints each
    sudden change of the schedule: the step after which it came, and the learning rate from then on.
    """
    from dataclasses import asdict

    from facepack.train.collect import parse_assignments
    from facepack.train.replay import read_log, replay_log

    training_log = read_log(log)
    for notice in training_log.notices:
        click.echo(notice, err=True)
    replay = replay_log(
        training_log,
        name,
        base_lr=base_lr,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        batch_size=batch_size,
        warmup_steps=warmup_steps,
        **parse_assignments(settings),
    )
    if plot is not None:
        from facepack.train.replay_plot import draw_replay

        draw_replay(training_log, replay, plot)
        click.echo(f"plot written to {plot}", err=True)
    if as_json:
        result = {
            "schedule": name,
            "options": asdict(replay.schedule.options),
            "changes": [{"step": step, "lr": lr} for step, lr in replay.changes],
            "lr": _course(replay.lrs),
        }
        click.echo(json.dumps(result))
        return
    for step, lr in replay.changes:
        click.echo(f"{step:>9}  {lr:.6g}")
    if not replay.changes:
        click.echo(_without_changes(name, replay.lrs), err=True)


def _course(lrs: np.ndarray) -> dict[str, float]:
    """The learning rate of a few steps."""
    steps = {"first": 0, "middle": len(lrs) // 2, "last": -1}
    return {name: float(lrs[step]) for name, step in steps.items()}


def _without_changes(name: str, lrs: np.ndarray) -> str:
    steps = f"{len(lrs):,} steps"
    if (lrs == lrs[0]).all():
        return f"{name} changes nothing: the rate stays at {lrs[0]:.6g} for {steps}"
    first, middle, last = _course(lrs).values()
    return (
        f"{name} moves the rate without sudden changes: {first:.6g} in the first of {steps}, "
        f"{middle:.6g} in the middle one, {last:.6g} in the last"
    )
