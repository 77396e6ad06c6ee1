"""From settings to the parts of a run: what each setting means in torch."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from facepack.errors import ConfigError
from facepack.loading.device import check_device
from facepack.train import backbones
from facepack.train.backbones.registry import Backbone
from facepack.train.config import TrainConfig
from facepack.train.heads import Margin, PartialFC, build_margin, options_from_run
from facepack.train.precision import AUTOCAST, MOMENTUM_TYPES
from facepack.train.ranks.group import ALONE, Ranks
from facepack.train.schedules import RunPlan, Schedule, make_for_run


def choose_device(device: str | torch.device | None) -> torch.device:
    """What to train on: ``device``, or CUDA if it is there, else the CPU.

    Raises:
        ConfigError: it is no device that can be trained on here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return check_device(device)


def enter_device(device: str | torch.device | None) -> torch.device:
    """:func:`choose_device`, and make it the one that CUDA calls which name none go to.

    Raises:
        ConfigError: as :func:`choose_device`.
    """
    chosen = choose_device(device)
    if chosen.type == "cuda":
        # Batches have one size, so the convolutions' best algorithms are looked for once.
        torch.backends.cudnn.benchmark = True
        if chosen.index is not None:
            torch.cuda.set_device(chosen)
    return chosen


def resolve_config(config: TrainConfig, device: torch.device) -> TrainConfig:
    """The same settings with those decided that depend on the device or on other settings."""
    precision = config.precision
    if precision == "auto":
        precision = "fp16" if device.type == "cuda" else "fp32"
    return replace(config, precision=precision, lr=config.base_lr)


def check_ranks(config: TrainConfig, ranks: Ranks) -> None:
    """Make sure that ``ranks`` can share each step's batch.

    Raises:
        ConfigError: the batch does not divide among the ranks and their micro-batches, or leaves
            single images.
    """
    parts = ranks.world * config.accumulate
    if config.batch_size % parts:
        raise ConfigError(
            f"batch_size = {config.batch_size} does not divide by {ranks.world} ranks × accumulate "
            f"= {config.accumulate}: it is the images of a whole step, of all ranks together. Set "
            f"it to a multiple of {parts}"
        )
    if config.batch_size == parts:
        raise ConfigError(
            f"batch_size = {config.batch_size} leaves one image in a micro-batch of each of "
            f"{ranks.world} ranks: batch normalisation needs at least 2. Set it to at least "
            f"{2 * parts}, or start fewer ranks"
        )


def micro_batch(config: TrainConfig, ranks: Ranks) -> int:
    """Images in a forward pass of one rank; see :func:`check_ranks`."""
    return config.batch_size // (ranks.world * config.accumulate)


def make_schedule(config: TrainConfig, *, total_steps: int, steps_per_epoch: int) -> Schedule:
    """The learning-rate schedule of a run of that length.

    Raises:
        ConfigError: the schedule or one of its options is unknown or out of range, or the warm-up
            as long as the run.
    """
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if warmup_steps >= total_steps:
        raise ConfigError(
            f"warmup_epochs = {config.warmup_epochs} is {warmup_steps:,} steps; it must be below "
            f"the run's {total_steps:,} steps ({steps_per_epoch:,} an epoch)"
        )
    run = RunPlan(
        base_lr=config.base_lr,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        batch_size=config.batch_size,
        warmup_steps=warmup_steps,
    )
    return make_for_run(config.schedule, run, config.schedule_options)


def make_margin(config: TrainConfig) -> Margin:
    """The margin, with its published value where none is set.

    Raises:
        ConfigError: the margin is unknown, or given a setting that it does not take.
    """
    shared = {name: getattr(config, name) for name in ("m1", "m2", "m3")}
    if config.margin_gradient != TrainConfig.margin_gradient:
        shared["margin_gradient"] = config.margin_gradient
    given = {name: value for name, value in shared.items() if value is not None}
    options = options_from_run(config.margin, given)
    own = config.margin_options or {}
    if twice := sorted(options.keys() & own):
        raise ConfigError(
            f"margin_options.{twice[0]} is set, and {', '.join(given)}, which says the same: set "
            "one of them"
        )
    return build_margin(config.margin, **options, **own)


def make_head(
    config: TrainConfig, classes: int, device: torch.device, ranks: Ranks = ALONE
) -> PartialFC:
    """The head over ``classes`` classes, with fresh centres: of several ranks this one's share.

    Raises:
        ConfigError: an option is unknown or out of range, or there are fewer classes than ranks.
    """
    if classes < ranks.world:
        raise ConfigError(
            f"{ranks.world} ranks for {classes} classes: each holds one at least; start fewer"
        )
    return PartialFC(
        classes,
        config.features,
        margin=make_margin(config),
        scale=config.scale,
        interclass_filter=config.interclass_filter,
        sample_rate=config.sample_rate,
        chunk=config.chunk or None,
        optimizer=config.optimizer,
        momentum=config.momentum,
        momentum_dtype=MOMENTUM_TYPES[config.momentum_dtype],
        weight_decay=config.weight_decay,
        update=config.head_update,
        storage=config.head_storage,
        device=device,
        seed=config.seed,
        ranks=ranks,
    )


def make_backbone(config: TrainConfig, device: torch.device) -> Backbone:
    """The backbone with fresh weights, drawn from torch's global generator.

    Raises:
        ConfigError: the backbone is unknown.
    """
    backbone = backbones.build(
        config.backbone,
        features=config.features,
        dropout=config.dropout,
        autocast=AUTOCAST[config.precision],
    )
    if config.channels is not None:
        backbone.channels = config.channels
    if config.channels_last:
        backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return backbone.to(device)


def make_optimizer(
    config: TrainConfig, backbone: nn.Module, device: torch.device
) -> torch.optim.Optimizer:
    """The backbone's optimizer; weight decay acts on everything, as published."""
    parameters = [p for p in backbone.parameters() if p.requires_grad]
    # Fused kernels take fp16's verdict from the device; with others the scaler waits for it.
    fused = device.type == "cuda"
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, lr=config.base_lr, weight_decay=config.weight_decay, fused=fused
        )
    sgd = torch.optim.SGD(
        parameters,
        lr=config.base_lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
        fused=fused,
    )
    if config.momentum:
        # From zeros the first step is the same. Left to itself, the fused optimizer allocates them
        # without filling them in, and goes on from that if fp16's first step overflows.
        for parameter in parameters:
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd
