"""What a way of training supplies: settings of its own, and from them the parts of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from facepack.errors import ConfigError, TrainingError
from facepack.loading.loader import Batch, Loader
from facepack.processors import usable_processors
from facepack.settings import Settings
from facepack.train.backbones.registry import Backbone
from facepack.train.config import TrainConfig
from facepack.train.data import TrainingData, absolute_shards
from facepack.train.precision import LossScaler
from facepack.train.ranks.group import Ranks, local_world


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a method builds on, on one rank."""

    config: TrainConfig
    """The settings, with those decided that depend on the device or on others."""
    device: torch.device
    ranks: Ranks
    data: TrainingData
    backbone: Backbone
    """The network that is trained, with fresh weights."""
    optimizer: torch.optim.Optimizer
    """The backbone's."""
    scaler: LossScaler


class Head(Protocol):
    """What a method holds beside the backbone, in checkpoints under ``head``."""

    @property
    def weights(self) -> list[Tensor]:
        """Those that no checkpoint may keep once they are not finite: this rank's part."""

    def whole_state(self) -> dict[str, Any] | None:
        """All that the steps to come depend on, on the CPU; collective, None but on rank 0."""

    def load_whole_state(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`whole_state`, of a run on any number of ranks."""


class MethodRun(ABC):
    """A run by a method, on one rank: what holds its state, feeds it and takes its steps."""

    head: Head  #: its state beside the backbone's, the optimizer's and the loader's
    loader: Loader  #: gives the batches, and has their place in checkpoints

    @abstractmethod
    def take_step(self, batch: Batch, lr: float) -> Tensor:
        """Take one optimizer step at the rate ``lr``; returns the loss, detached, on the device."""

    def images_in_step(self, batch: Batch) -> int:
        """How many images the last step had, which was taken on ``batch``: those of this rank."""
        return len(batch.labels)

    def begin(self) -> None:  # noqa: B027
        """Take up the backbone's weights of before the first step: not of a run that is resumed.

        They are those of rank 0 by then, or the ones that the settings begin with.
        """

    def take_metrics(self) -> dict[str, float]:
        """What was counted since the last reading, by its name in ``metrics.jsonl``.

        Collective in nothing: rank 0's numbers are written. What is not yet read belongs to the
        head's state, so that a resumed run writes the same lines.
        """
        return {}


class Method(Settings, ABC):
    """Base of the methods: a frozen dataclass whose fields are the ``method_options``."""

    unused: ClassVar[frozenset[str]] = frozenset()
    """Settings of a run that mean nothing under the method, and must be left unset."""

    data_options: ClassVar[tuple[str, ...]] = ()
    """Those of the method's own settings that name data, as ``shards`` does. They may change when a
    run is resumed: that the data are the same is for the method to see to."""

    def find_data(self, home: Path | None) -> dict[str, str]:
        """The data that the method names, by setting, as absolute paths.

        Raises:
            TrainingError: some are not there: says which setting names them.
        """
        found: dict[str, str] = {}
        for name in self.data_options:
            if (named := getattr(self, name)) is not None:
                try:
                    found[name] = absolute_shards(named, home)
                except TrainingError as error:
                    raise TrainingError(
                        f"{error}. It is named by method_options.{name}, also to resume a run "
                        "whose data moved"
                    ) from error
        return found

    def check(self, config: TrainConfig, ranks: Ranks) -> None:
        """Make sure that the settings of the run suit the method and each other.

        Raises:
            ConfigError: they do not.
        """
        for name in sorted(self.unused):
            if getattr(config, name) != getattr(TrainConfig, name):
                raise ConfigError(
                    f"{name} = {getattr(config, name)} means nothing under method = "
                    f"{config.method}: leave it unset"
                )

    def images_per_step(self, config: TrainConfig) -> int:
        """Images in an optimizer step, of all ranks."""
        return config.batch_size

    def fewest_images(self, config: TrainConfig) -> int:
        """How many images a rank's batch must have left where some do not decode."""
        return 2 * config.accumulate  # of which batch normalisation needs two in a pass

    def steps_per_epoch(self, config: TrainConfig, data: TrainingData) -> int:
        """Steps in an epoch, which learning rate and checkpoints follow."""
        return len(data) // config.batch_size

    def notes(self, config: TrainConfig, data: TrainingData, ranks: Ranks) -> Iterator[str]:
        """What about these settings on these data may surprise, said before a head is made.

        Raises:
            TrainingError: the data cannot be trained on by the method.
        """
        yield from ()

    @abstractmethod
    def build(self, setup: Setup) -> MethodRun:
        """Make head, loader and step; collective in nothing."""


def make_loader(setup: Setup, **options: Any) -> Loader:
    """The loader of this rank's part of each batch; ``options`` go before the settings."""
    config, ranks = setup.config, setup.ranks
    settings: dict[str, Any] = {
        "batch_size": config.batch_size // ranks.world,
        "rank": ranks.rank,
        "world": ranks.world,
        "seed": config.seed,
        "order": config.order,
        "mirror": config.mirror,
        "augment": None if config.augment == "none" else config.augment,
        "cache": config.cache,
        "backend": config.loader,
        "device": setup.device,
        "dtype": "float32",
        "on_error": config.on_bad_image,
        "threads": config.loader_threads or _loader_threads(),
        "image_size": setup.backbone.image_size,
    }
    return Loader(setup.data, **{**settings, **options})


def _loader_threads() -> int | None:
    """A share of the processors for each rank of this machine; None leaves it to the loader."""
    ranks = local_world()
    if ranks == 1:
        return None
    return max(1, usable_processors() // ranks)
