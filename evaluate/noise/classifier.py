"""A training run's own classifier: its backbone, and the centres and margin of its head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facepack.errors import EvaluationError, TrainingError
from facepack.store.digests import file_digest
from facepack.train.backbones import Backbone
from facepack.train.build import make_backbone, make_margin
from facepack.train.config import TrainConfig
from facepack.train.data import TrainingData, label_map_digest
from facepack.train.heads.logits import LogitRule
from facepack.train.loop.checkpoint import CHECKPOINT_FILE, load_checkpoint
from facepack.train.models.pretrained import MODEL_FILE, fill


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """A backbone and the classes that it was trained to tell, on the CPU."""

    name: str  # what messages call it
    checksum: str  # XXH3-128 of the checkpoint, in hexadecimal
    backbone: Backbone  # in eval mode
    centres: Tensor  # float32 (C, K·F) of any norm, perhaps mapped from the file; K a class
    # margin and scale. Nothing is filtered: a filter of training hides the very classes that a
    # wrongly labelled face looks like
    rule: LogitRule
    margin_state: Mapping[str, Tensor]  # the margin's own numbers
    step: int  # optimizer steps that were taken
    label_map: str  # tells whose the centres are: label_map_digest()

    @property
    def classes(self) -> int:
        """C."""
        return len(self.centres)

    def require_classes_of(self, data: TrainingData) -> None:
        """Make sure that the labels of ``data`` mean these classes.

        Raises:
            EvaluationError: there are other classes, or they have other names.
        """
        if data.classes != self.classes:
            raise EvaluationError(
                f"{self.name} was trained to tell {self.classes:,} classes, and {data.path} has "
                f"{data.classes:,}: give the run of this pack, or one of the same label map"
            )
        if label_map_digest(data) != self.label_map:
            raise EvaluationError(
                f"{self.name} was trained on other identities than those of {data.path}: as many "
                f"classes, but other names (hash {self.label_map[:12]}, now "
                f"{label_map_digest(data)[:12]}). Give the run of this pack, or one of the same "
                "label map"
            )


def open_classifier(path: Path) -> Classifier:
    """Open the classifier in a run's ``checkpoint.pt``: a run's folder, or such a file.

    The backbone is the checkpoint's as well, so that both are of one step.

    Raises:
        EvaluationError: there is none, or only a backbone, or it cannot be read.
    """
    file = path / CHECKPOINT_FILE if path.is_dir() else path
    if not file.is_file():
        alone = path.is_dir() and (path / MODEL_FILE).is_file()
        what = f"only {MODEL_FILE}, a backbone without its classifier" if alone else "no such file"
        raise EvaluationError(
            f"{file}: {what}. Images are scored with the run's own class centres: give the folder "
            f"of a run that has its {CHECKPOINT_FILE}, or that file"
        )
    try:
        state = load_checkpoint(file, lazily=True)
    except TrainingError as error:
        raise EvaluationError(
            f"{path} has no classifier that can be read: give the folder of a run of `facepack "
            f"train`, or its {CHECKPOINT_FILE} ({error})"
        ) from error
    try:
        return _classifier(path.name or str(path), file, state)
    except (KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(
            f"{file} is not of a run of this facepack: it lacks {error}. Train again"
        ) from error


def _classifier(name: str, file: Path, state: Mapping[str, Any]) -> Classifier:
    known = {field.name for field in fields(TrainConfig)}
    given = {key: value for key, value in state["config"].items() if key in known}
    config = replace(TrainConfig(**given), precision="fp32")
    margin, head = make_margin(config), state["head"]
    backbone = make_backbone(config, torch.device("cpu"))
    fill(backbone, state["backbone"], file)
    return Classifier(
        name=name,
        checksum=file_digest(file, cached=True)[0],
        backbone=backbone.eval(),
        centres=head["weight"],
        rule=LogitRule(margin=margin, scale=config.scale),
        margin_state={
            key: head[f"margin_state.{key}"]
            for key in margin.initial_state(len(head["weight"]), config.sample_rate)
        },
        step=int(state["step"]),
        label_map=str(state["data"]["label_map"]),
    )
