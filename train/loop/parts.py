"""What a run is made of, built from its settings: no step is taken and no file written here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from facepack.errors import ConfigError, TrainingError
from facepack.store.gaps import note_on_gaps
from facepack.store.home import absolute
from facepack.terminal import printable
from facepack.train.backbones.registry import Backbone
from facepack.train.build import (
    check_ranks,
    enter_device,
    make_backbone,
    make_optimizer,
    make_schedule,
    micro_batch,
    resolve_config,
)
from facepack.train.config import TrainConfig
from facepack.train.data import (
    ImageTree,
    TrainingData,
    check_training_data,
    lasting_shards,
    open_training_data,
)
from facepack.train.heads import PartialFC
from facepack.train.loop.checkpoint import describe_data
from facepack.train.loop.metrics import LossMeter
from facepack.train.loop.randomness import seed_dropout, seed_weights
from facepack.train.loop.verification import MakeValidator, Validator, Verification
from facepack.train.methods import Method, MethodRun, Setup, build_method
from facepack.train.models.arcface_torch import continue_run
from facepack.train.models.peers import continue_checkpoint, is_peers
from facepack.train.models.pretrained import load_pretrained
from facepack.train.precision import LossScaler
from facepack.train.ranks.agreement import together
from facepack.train.ranks.group import Ranks
from facepack.train.schedules import Schedule


@dataclass(kw_only=True)
class RunParts:
    """The parts of a run on one rank."""

    config: TrainConfig
    """The settings, with those decided that depend on the device or on others."""
    device: torch.device
    ranks: Ranks
    data: TrainingData
    described_data: dict[str, Any]
    """What a checkpoint remembers of the data."""
    steps_per_epoch: int
    total_steps: int
    backbone: Backbone
    method: Method
    method_run: MethodRun
    """What holds the state of the method, feeds it and takes its steps."""
    optimizer: torch.optim.Optimizer
    scaler: LossScaler
    schedule: Schedule
    meter: LossMeter
    verification: Verification


def build_parts(
    config: TrainConfig,
    *,
    home: Path | None,
    device: str | torch.device | None,
    ranks: Ranks,
    make_validator: MakeValidator | None,
    say: Callable[[str], None],
) -> RunParts:
    """Make every part of a run; collective in nothing. Arguments and errors are the trainer's."""
    if config.val and make_validator is None:
        raise ConfigError(
            f"val names sets to verify on ({', '.join(config.val)}), and the trainer was given "
            "no validator: pass validator=facepack.evaluate.validation.Validator, or no val"
        )
    chosen = enter_device(device)
    config = resolve_config(config, chosen)
    check_ranks(config, ranks)
    method = build_method(config.method, config.method_options)
    method.check(config, ranks)
    if found := method.find_data(home):
        config = replace(config, method_options={**(config.method_options or {}), **found})
        method = build_method(config.method, config.method_options)
    if config.threads is not None:
        torch.set_num_threads(config.threads)

    data = open_training_data(config.shards, home, config.identity_level, config.exclude)
    for notice in data.notices if isinstance(data, ImageTree) else []:
        say(f"note: {printable(notice)}")
    seed_weights(config.seed)
    backbone = make_backbone(config, chosen)
    check_training_data(
        data,
        batch_size=config.batch_size,
        image_size=backbone.image_size,
        skip_others=config.on_bad_image == "skip",
    )
    described_data = describe_data(data)
    steps_per_epoch = method.steps_per_epoch(config, data)
    total_steps = config.steps or config.epochs * steps_per_epoch
    schedule = make_schedule(config, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    if gaps := note_on_gaps(data.identities, data.classes):
        say(f"note: {gaps}")  # before a head is made that memory may not hold
    for note in method.notes(config, data, ranks):
        say(f"note: {note}")
    optimizer = make_optimizer(config, backbone, chosen)
    scaler = LossScaler(chosen, enabled=config.precision == "fp16", ranks=ranks)
    setup = Setup(
        config=config,
        device=chosen,
        ranks=ranks,
        data=data,
        backbone=backbone,
        optimizer=optimizer,
        scaler=scaler,
    )
    method_run = method.build(setup)
    verification = Verification(
        _validator(make_validator, config, home, backbone.image_size, ranks)
        if ranks.is_first
        else None
    )
    meter = LossMeter(chosen)
    # Dropout draws from here on, however many numbers the weights took.
    seed_dropout(config.seed, ranks)
    return RunParts(
        **vars(setup),
        described_data=described_data,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        method=method,
        method_run=method_run,
        schedule=schedule,
        meter=meter,
        verification=verification,
    )


def begin_from_others(parts: RunParts, say: Callable[[str], None]) -> None:
    """Take the weights that the settings name to begin with."""
    config = parts.config
    own_order = parts.backbone.channels
    if config.pretrained is not None:
        load_pretrained(parts.backbone, config.pretrained)
        parts.config = replace(config, pretrained=absolute(config.pretrained))
    if config.continues is not None:
        path, head = Path(config.continues), parts.method_run.head
        if not isinstance(head, PartialFC):
            raise ConfigError(
                f"continues = {config.continues} is a run with class centres, which method = "
                f"{config.method} has none of: set pretrained to its model instead"
            )
        if is_peers(path):
            say(continue_checkpoint(path, parts.backbone, head))
        else:
            say(continue_run(path, parts.backbone, parts.optimizer, head))
        parts.config = replace(config, continues=absolute(config.continues))
    if config.channels is not None:
        parts.backbone.channels = config.channels
    elif (told := parts.backbone.channels) != own_order:
        say(f"channels = {told}: the weights are of a network that takes {told.upper()}")
        parts.config = replace(parts.config, channels="bgr" if told == "bgr" else "rgb")


def make_paths_absolute(parts: RunParts, home: Path | None) -> None:
    """Name the data so that the run goes on from any current folder."""
    config = parts.config
    val = parts.verification.lasting_sets(config.val)
    exclude = None if config.exclude is None else absolute(config.exclude)
    shards = lasting_shards(config.shards, home)
    parts.config = replace(config, shards=shards, exclude=exclude, val=val)


def share_beginning(parts: RunParts) -> None:
    """Take rank 0's weights and order of images: machines of other kinds may choose others."""
    ranks = parts.ranks
    for tensor in parts.backbone.state_dict().values():
        ranks.broadcast(tensor)
    loader = parts.method_run.loader
    state = ranks.gather_objects(loader.state_dict())[0]
    with together(ranks):
        if state["content_id"] != parts.data.content_id:
            raise TrainingError(
                f"{parts.data.path} is not the pack that rank 0 trains on (content id "
                f"{parts.data.content_id[:12]}, its {state['content_id'][:12]}): put the same "
                "on each machine"
            )
        loader.load_state_dict(state)


def _validator(
    make_validator: MakeValidator | None,
    config: TrainConfig,
    home: Path | None,
    image_size: tuple[int, int],
    ranks: Ranks,
) -> Validator | None:
    if make_validator is None or not config.val:
        return None
    # No more images in a pass than in one of training, for which the memory is known to do.
    size = micro_batch(config, ranks)
    return make_validator(config.val, home=home, image_size=image_size, batch_size=size)
