"""The command ``facepack train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from facepack.train.commands.completion import (
    complete_config,
    complete_data,
    complete_registered,
    complete_setting,
)

if TYPE_CHECKING:
    from facepack.train.loop.summary import RunSummary


class _TrainCommand(click.Command):
    """Appends the settings to the help, from the docstrings under the config's fields."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the recipes and the settings."""
        from facepack.settings import describe
        from facepack.train.collect import recipe_names
        from facepack.train.config import TrainConfig

        with formatter.section("Recipes (--config)"):
            formatter.write_text(", ".join(recipe_names()))
        with formatter.section("Settings (--set key=value, or lines of a TOML file)"):
            formatter.write_dl(describe(TrainConfig))


def _named_path(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> Any:
    """Split ``name=path``; a path alone is called by its file's name."""
    named = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not equals or " " in name:  # of an option of a protocol
            name, path = Path(value.partition(" --")[0]).stem, value
        if not (name and path):
            raise click.BadParameter(f"{value!r}: write it as NAME=PATH, or PATH alone")
        if name in named:
            raise click.BadParameter(f"two sets are called {name!r}: write them as NAME=PATH")
        named[name] = path
    return named


@click.command(cls=_TrainCommand)
@click.option(
    "--shards",
    metavar="NAME_OR_PATH",
    shell_complete=complete_data,
    help="Pack, shard set or tree to train on.",
)
@click.option(
    "--identity-level",
    type=int,
    help="Folder of a tree that is the identity: 1 the topmost, 2 the next; -1 the image's own.",
)
@click.option("--exclude", metavar="LIST", help="Records of a pack that are left out.")
@click.option(
    "--config",
    metavar="NAME|FILE.toml",
    shell_complete=complete_config,
    help="Recipe, or a TOML file of settings.",
)
@click.option(
    "--method",
    metavar="NAME",
    shell_complete=complete_registered,
    help="Way of training, as the setting says.",
)
@click.option(
    "--stage",
    type=click.Choice(["head", "denoise", "tail"]),
    help="Of method unequal; as method_options.stage.",
)
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    shell_complete=complete_setting,
    help="Change a setting.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for the run's files."
)
@click.option(
    "--data",
    "home",
    type=click.Path(path_type=Path),
    help="Data home, where names are looked up (default: FACEPACK_HOME).",
)
@click.option("--device", metavar="cpu|cuda|cuda:N", help="Default: cuda if it is there, else cpu.")
@click.option("--resume", is_flag=True, help="Resume from the checkpoint in --out.")
@click.option("--overwrite", is_flag=True, help="Remove the run that --out holds.")
@click.option(
    "--val",
    metavar="[NAME=]TARGET",
    multiple=True,
    callback=_named_path,
    help="Set or benchmark to watch, written as facepack eval takes it; can be given again.",
)
@click.option(
    "--max-steps",
    type=click.IntRange(min=1),
    help="Stop after this step of the run, to be resumed; the schedule stays as long as it is.",
)
@click.option("--dry-run", is_flag=True, help="Build the run, say what it would do, write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_context
def train(
    ctx: click.Context,
    *,
    shards: str | None,
    identity_level: int | None,
    exclude: str | None,
    config: str | None,
    method: str | None,
    stage: str | None,
    overrides: tuple[str, ...],
    out: Path,
    home: Path | None,
    device: str | None,
    resume: bool,
    overwrite: bool,
    val: dict[str, str],
    max_steps: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train a face-recognition model from a pack.

    On several GPUs: torchrun --nproc-per-node N -m facepack.train, with the same options. The
    setting batch_size is the number of images in a step, of all GPUs together.

    --out receives config.toml (all settings), metrics.jsonl, checkpoint.pt, the one before it and
    model.pt (the backbone's state_dict). With --resume, --config and --set add to the run's own
    settings.
    """
    if resume and overwrite:
        raise click.UsageError("--resume goes on with the run that --overwrite removes: give one")
    from facepack.evaluate.validation import Validator
    from facepack.train.build import enter_device
    from facepack.train.collect import collect_settings, make_config
    from facepack.train.loop.folder import refuse_used
    from facepack.train.loop.run import Trainer
    from facepack.train.ranks.agreement import OtherRankError, together
    from facepack.train.ranks.group import Ranks, keep_exit_code, rank_device

    if stage is not None:
        overrides = (f"method_options.stage={stage}", *overrides)
    if method is not None:
        overrides = (f"method={method}", *overrides)
    if identity_level is not None:
        overrides = (*overrides, f"identity_level={identity_level}")
    if exclude is not None:
        overrides = (*overrides, f"exclude={exclude}")

    def say(text: str) -> None:
        click.echo(text, err=True)

    entered = enter_device(rank_device(device))
    try:
        with keep_exit_code(), Ranks.from_environment(entered) as ranks:
            with together(ranks):
                if not resume and not overwrite:
                    refuse_used(out)  # before settings are missed that the run there has
                settings = make_config(
                    collect_settings(
                        source=config,
                        overrides=overrides,
                        shards=shards,
                        val=val,
                        run=out if resume else None,
                        notify=say if ranks.is_first else None,
                    )
                )
            trainer = Trainer(
                settings,
                out=out,
                home=home,
                device=entered,
                resume=resume,
                overwrite=overwrite,
                notify=say,
                ranks=ranks,
                validator=Validator,
            )
            if dry_run:
                preview = trainer.preview(max_steps=max_steps)
                for line in () if as_json or not ranks.is_first else preview.lines():
                    say(line)
                if as_json and ranks.is_first:
                    click.echo(json.dumps(vars(preview)))
                return
            summary = trainer.run(max_steps=max_steps)
    except OtherRankError as error:
        ctx.exit(error.exit_code)  # the rank at fault says why
    if ranks.is_first:
        click.echo(json.dumps(summary.as_dict()) if as_json else _text(summary))
    if summary.stopped == "interrupted":
        ctx.exit(130)


def _text(summary: RunSummary) -> str:
    from facepack.progress import format_duration
    from facepack.train.loop.verification import describe_best

    ends = {
        "finished": "finished",
        "max_steps": "stopped at --max-steps; go on with --resume",
        "interrupted": "interrupted; go on with --resume",
    }
    lines = [
        f"{summary.out}: {ends[summary.stopped]}",
        f"step {summary.step:,} of {summary.total_steps:,}; {summary.images:,} images in "
        f"{format_duration(summary.seconds)} ({summary.images_per_second:,.0f} img/s, data wait "
        f"{summary.data_wait:.1%})",
        f"loss {summary.loss:.4f}, lr {summary.lr:.3g}",
    ]
    if summary.verification_share:
        lines.append(f"verification took {summary.verification_share:.1%} of the whole time")
    lines += [describe_best(name, best) for name, best in summary.best.items()]
    return "\n".join(lines)
