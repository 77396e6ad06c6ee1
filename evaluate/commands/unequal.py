"""``facepack unequal``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from facepack.command_options import DRY_RUN, PATH
from facepack.train.commands.completion import complete_config, complete_setting

F = TypeVar("F", bound=Callable[..., Any])
if TYPE_CHECKING:
    import torch

    from facepack.care.joined import JoinedPack
    from facepack.train.config import TrainConfig


def _setting(*names: str, text: str) -> Callable[[F], F]:
    return click.option(
        *names, metavar="KEY=VALUE", multiple=True, shell_complete=complete_setting, help=text
    )


@click.command()
@click.argument("pack", type=PATH)
@click.option("--out", type=PATH, required=True, help="Folder for packs, lists and runs.")
@click.option(
    "--config",
    metavar="NAME|FILE.toml",
    required=True,
    shell_complete=complete_config,
    help="Recipe of method unequal.",
)
@click.option("--val", metavar="NAME=TARGET", multiple=True, required=True, help="Set to watch.")
@_setting("--set", "overrides", text="Change a setting.")
@_setting("--set-denoise", text="Change one of the second stage.")
@_setting("--set-tail", text="Change one of the third.")
@click.option(
    "--min-images", type=click.IntRange(min=1), default=9, show_default=True, help="Of the head."
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.007,
    show_default=True,
    help="Faces whose largest probability is below it are left out.",
)
@click.option(
    "--interweights", default="1,5,10", show_default=True, help="Of the third stage, one by one."
)
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Epochs without a new best that end a stage.",
)
@click.option("--device", metavar="cpu|cuda|cuda:N", help="Default: cuda if it is there, else cpu.")
@DRY_RUN
@click.pass_context
def unequal(
    ctx: click.Context,
    *,
    pack: Path,
    out: Path,
    config: str,
    val: tuple[str, ...],
    overrides: tuple[str, ...],
    set_denoise: tuple[str, ...],
    set_tail: tuple[str, ...],
    min_images: int,
    threshold: float,
    interweights: str,
    patience: int,
    device: str | None,
    dry_run: bool,
) -> None:
    """Train on long-tailed, noisy data in three stages.

    Splits PACK into head and tail, trains the head, finds its noise, trains it again to resist
    that, and goes on with head and tail together. Each stage ends when the mean over the --val sets
    no longer rises, and the next one starts from its best epoch. Given again, the same command goes
    on where it was.
    """
    from facepack.care.select import plan_split, split
    from facepack.errors import ConfigError
    from facepack.evaluate.noise.classifier import open_classifier
    from facepack.evaluate.noise.find import NoiseOptions, look_for_noise
    from facepack.evaluate.sets.labelled import open_labelled
    from facepack.evaluate.validation import Validator
    from facepack.train.build import enter_device
    from facepack.train.collect import collect_settings, make_config
    from facepack.train.methods import build_method
    from facepack.train.methods.unequal.stages import BEST, train_until_it_stops_rising
    from facepack.train.ranks.group import ALONE

    try:
        weights = [float(text) for text in interweights.split(",")]
        sets = dict(each.split("=", 1) for each in val)
    except ValueError as error:
        raise ConfigError(f"--interweights takes numbers, and --val NAME=TARGET: {error}") from None
    out = out.absolute()  # as runs name each other in their settings
    head, tail = out / "packs" / "head", out / "packs" / "tail"

    def stage(name: str, own: tuple[str, ...], **options: Any) -> TrainConfig:
        told = tuple(f"{key}={value}" for key, value in options.items())
        told += (f"method_options.stage={name}",)
        settings = make_config(
            collect_settings(
                source=config,
                overrides=(*overrides, *own, *told),
                shards=str(head),
                val=sets,
                run=None,
            )
        )
        if settings.method != "unequal":
            raise ConfigError(
                f"--config {config} has method = {settings.method}: name a recipe of method = "
                "unequal, such as unequal_r50_mf2"
            )
        build_method(settings.method, settings.method_options).check(settings, ALONE)
        return settings

    # Made, and found to be in order, before the first of them trains for days.
    stages = {"head": stage("head", ())}
    stages["denoise"] = stage("denoise", set_denoise, pretrained=out / "head" / BEST)
    for weight in weights:
        name = f"tail-{weight:g}"
        if name in stages:
            raise ConfigError(f"--interweights {interweights}: name {weight:g} once")
        options: dict[str, Any] = {
            "method_options.tail": tail,
            "method_options.interweight": weight,
        }
        stages[name] = stage(
            "tail",
            set_tail,
            pretrained=out / list(stages)[-1] / BEST,
            exclude=out / "noise" / "noise.txt",
            **options,
        )
    is_begun = (out / "packs").exists()
    if dry_run:
        halves = plan_split(pack, head, tail, min_images=min_images)
        _preview(pack, out, halves, stages, device=enter_device(device), resume=is_begun)
        return
    split(pack, head, tail, min_images=min_images, resume=is_begun)

    def say(text: str) -> None:
        click.echo(text, err=True)

    best = out
    for name, settings in stages.items():
        if name == "denoise":
            look_for_noise(
                out / "noise",
                open_labelled(str(head), None),
                open_classifier(best),
                device=enter_device(device),
                options=NoiseOptions(threshold=threshold, resume=(out / "noise").exists()),
            )
        kept = train_until_it_stops_rising(
            settings,
            out / name,
            patience=patience,
            device=device,
            notify=say,
            validator=Validator,
        )
        if kept is None:
            ctx.exit(130)
        best = kept
    click.echo(f"{best}: the model after all stages")


def _preview(
    pack: Path,
    out: Path,
    halves: Sequence[JoinedPack],
    stages: dict[str, TrainConfig],
    *,
    device: torch.device,
    resume: bool,
) -> None:
    """Say what packs, lists and runs would be made of ``pack``; write nothing."""
    import shutil

    from facepack.care.joined import preview_packs
    from facepack.evaluate.noise.scores import SCORES
    from facepack.evaluate.validation import Validator
    from facepack.store.pack import open as open_pack
    from facepack.store.places import nearest
    from facepack.terminal import NOTHING_WRITTEN, printable
    from facepack.train.methods.unequal.preview import preview_stages

    packs = preview_packs(halves, copy=False, overwrite=False, resume=resume)
    with open_pack(pack) as data:
        runs = preview_stages(
            stages,
            out,
            data,
            labels=halves[0].labels(),
            classes=packs[0].classes,
            tail_labels=halves[1].labels(),
            device=device,
            validator=Validator,
        )
    per_image = 4 * (stages["head"].features + 1) + SCORES.itemsize
    of_noise = 0 if any(run.target != "new" for run in runs[1:]) else packs[0].found * per_image
    noise = f"{out / 'noise'}: {packs[0].found:,} images to score; about {of_noise / 1e6:,.1f} MB"
    needed = of_noise + sum(each.needed_bytes for each in packs)
    needed += sum(run.needed_bytes for run in runs)
    lines = [line for each in packs for line in each.lines()]
    lines += [runs[0].line(), noise if of_noise else f"{out / 'noise'}: finished"]
    lines += [run.line() for run in runs[1:]]
    free = shutil.disk_usage(nearest(out)).free
    lines.append(f"about {needed / 1e6:,.1f} MB to write in all, {free / 1e6:,.1f} MB free")
    click.echo("\n".join(map(printable, [*lines, NOTHING_WRITTEN])))
