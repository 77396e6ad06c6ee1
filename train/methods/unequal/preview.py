"""What the stages of unequal training would do: ``--dry-run``, before there are packs of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from facepack.errors import TrainingError
from facepack.train.build import (
    check_ranks,
    make_backbone,
    make_head,
    make_optimizer,
    make_schedule,
    resolve_config,
)
from facepack.train.config import TrainConfig
from facepack.train.data import TrainingData, check_image_size
from facepack.train.loop.announcement import held_bytes
from facepack.train.loop.checkpoint import CHECKPOINT_FILE
from facepack.train.loop.verification import MakeValidator
from facepack.train.methods.registry import build_method
from facepack.train.methods.unequal.method import Unequal
from facepack.train.ranks.group import ALONE

_NOWHERE = torch.device("meta")  # where tensors have a size and take no memory


@dataclass(frozen=True, kw_only=True)
class StagePreview:
    """What a stage would do at most: it ends where validation no longer rises."""

    out: str
    target: str  # new, resumed, or finished as a later one has begun
    images: int  # of the head
    classes: int
    steps_per_epoch: int
    total_steps: int
    tail_identities: int  # that can be drawn from
    needed_bytes: int  # about, of the run and its best

    def line(self) -> str:
        """The same for people to read."""
        if self.target == "finished":
            return f"{self.out}: {self.target}"
        tail = f" and {self.tail_identities:,} identities of the tail" * bool(self.tail_identities)
        return (
            f"{self.out}: {self.target}; {self.images:,} images of {self.classes:,} classes{tail}; "
            f"at most {self.total_steps:,} steps, {self.steps_per_epoch:,} an epoch; about "
            f"{self.needed_bytes / 1e6:,.1f} MB"
        )


def preview_stages(
    stages: Mapping[str, TrainConfig],
    out: Path,
    pack: TrainingData,
    *,
    labels: np.ndarray,
    classes: int,
    tail_labels: np.ndarray,
    device: torch.device,
    validator: MakeValidator,
) -> list[StagePreview]:
    """What each of ``stages``, by its folder in ``out``, would do.

    ``pack`` is the one whose identities are parted; ``labels`` int64 (n,), below ``classes``, are
    the head's, ``tail_labels`` int64 (m,) the tail's. Verification sets are the same of all stages.

    Raises:
        ConfigError, TrainingError: a stage could not be trained.
        PackError, SourceError, EvaluationError: a verification set cannot be read.
    """
    previews = []
    begun = [(out / name / CHECKPOINT_FILE).exists() for name in stages]
    for number, (name, settings) in enumerate(stages.items()):
        config = resolve_config(settings, device)
        check_ranks(config, ALONE)
        if len(labels) < config.batch_size:
            raise TrainingError(
                f"batch_size = {config.batch_size} is larger than the head, which has "
                f"{len(labels):,} images: set it to at most as many, or lower --min-images"
            )
        steps_per_epoch = len(labels) // config.batch_size
        total_steps = config.steps or config.epochs * steps_per_epoch
        make_schedule(config, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        with torch.device(_NOWHERE):
            backbone = make_backbone(config, _NOWHERE)
            optimizer = make_optimizer(config, backbone, _NOWHERE)
            head = make_head(replace(config, head_storage="device"), classes, _NOWHERE)
        check_image_size(pack, backbone.image_size, skip_others=config.on_bad_image == "skip")
        memory = held_bytes(backbone, optimizer, head, config.method)
        method = build_method(config.method, config.method_options)
        assert isinstance(method, Unequal)
        usable = method.make_bags(config, tail_labels).usable if method.stage == "tail" else 0
        is_finished = any(begun[number + 1 :])
        # Of two checkpoints and the model, and of the best epoch's.
        size = 3 * sum(memory.values()) + 2 * memory["network"]
        previews.append(
            StagePreview(
                out=str(out / name),
                target="finished" if is_finished else "resumed" if begun[number] else "new",
                images=len(labels),
                classes=classes,
                tail_identities=usable,
                steps_per_epoch=steps_per_epoch,
                total_steps=total_steps,
                needed_bytes=0 if is_finished else size,
            )
        )
        if not number:
            validator(
                config.val,
                home=None,
                image_size=backbone.image_size,
                batch_size=config.batch_size,
            )
    return previews
