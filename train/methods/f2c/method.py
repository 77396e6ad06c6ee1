"""Training by F2C: its settings, what about them may surprise, and the parts of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from facepack.errors import ConfigError
from facepack.loading.loader import Batch
from facepack.memory import memory_limit
from facepack.settings import Count, Range
from facepack.train.config import TrainConfig
from facepack.train.data import TrainingData
from facepack.train.methods.f2c.gallery import GalleryNetwork
from facepack.train.methods.f2c.losses import MarginName
from facepack.train.methods.f2c.pool import Pool
from facepack.train.methods.f2c.step import F2CState, F2CStep
from facepack.train.methods.method import Method, MethodRun, Setup, make_loader
from facepack.train.methods.registry import register
from facepack.train.ranks.group import Ranks


@register("f2c")
@dataclass(frozen=True, kw_only=True)
class F2C(Method):
    """A dynamic class pool in the place of class centres.

    Of the settings of a run, ``batch_size`` is B: a step takes B images of the instance loader and
    two images of each of B identities, 3·B in all. An epoch is one of the instance loader.
    """

    unused = frozenset(
        {
            *("margin", "margin_options", "margin_gradient", "m1", "m2", "m3", "scale"),
            *("sample_rate", "interclass_filter", "chunk", "head_storage", "head_update"),
            *("momentum_dtype", "accumulate", "compile", "continues"),
        }
    )

    pool: Count = 7409
    """K, the number of slots."""

    share: Annotated[float, Range(above=0, high=1)] | None = None
    """K as a share of the identities; set, it takes the place of pool."""

    loss: MarginName = "am"
    """The margin: am, arc or sv."""

    margin: Annotated[float, Range(low=0, below=2)] = 0.5
    """m: taken from the cosine (am, sv), or added to the angle, in radians (arc)."""

    scale: Annotated[float, Range(above=0)] = 32.0
    """The factor s on the cosines before the softmax."""

    gallery_momentum: Annotated[float, Range(low=0, high=1)] = 0.99
    """Share of the gallery network that stays in each step; the rest is the trained network's."""

    def slots(self, identities: int) -> int:
        """K, of a pack of so many identities."""
        return self.pool if self.share is None else max(1, int(self.share * identities))

    def check(self, config: TrainConfig, ranks: Ranks) -> None:
        """Both halves of a rank's batch must be of one size."""
        super().check(config, ranks)
        if config.batch_size % (2 * ranks.world):
            raise ConfigError(
                f"batch_size = {config.batch_size} does not divide by 2 × {ranks.world} ranks: "
                "method = f2c halves each rank's images. Set it to a multiple of "
                f"{2 * ranks.world}"
            )

    def images_per_step(self, config: TrainConfig) -> int:
        """3·B."""
        return 3 * config.batch_size

    def fewest_images(self, config: TrainConfig) -> int:
        """Two in each pass."""
        return 4

    def notes(self, config: TrainConfig, data: TrainingData, ranks: Ranks) -> Iterator[str]:
        """Say where the pool is smaller than what goes into it, or larger than ever needed."""
        slots, gathered = self.slots(data.identities), 3 * config.batch_size // 2
        if slots < gathered:
            share = expected_outliers(slots, config.batch_size, data.identities, ranks.world)
            yield (
                f"a pool of {slots:,} slots for the {gathered:,} labels that a pass gathers "
                f"(1.5 × batch_size): identities give way before their probes come, and about "
                f"{share:.0%} of the probes are outliers. A pool of {gathered:,} or more "
                "(method_options.pool), or a smaller batch_size, keeps each pair together"
            )
        if slots > data.identities:
            yield (
                f"a pool of {slots:,} slots for {data.identities:,} identities: "
                f"{slots - data.identities:,} of them stay as they were drawn; "
                f"method_options.pool = {data.identities} holds all, "
                "method_options.share = 0.1 a tenth"
            )

    def build(self, setup: Setup) -> MethodRun:
        """Make pool, gallery network, loader and step.

        Raises:
            ConfigError: the pool does not fit in memory.
        """
        return F2CRun(self, setup)


class F2CRun(MethodRun):
    """Batches of pairs and instances through :class:`F2CStep`."""

    head: F2CState

    def __init__(self, method: F2C, setup: Setup) -> None:
        config, ranks = setup.config, setup.ranks
        slots = method.slots(setup.data.identities)
        check_memory(slots, config.features, setup.device)
        pool = Pool(slots, config.features, device=setup.device, seed=config.seed)
        gallery = GalleryNetwork(setup.backbone, method.gallery_momentum)
        self.head = F2CState(pool, gallery, ranks)
        self._step = F2CStep(
            setup.backbone,
            self.head,
            setup.optimizer,
            setup.scaler,
            kind=method.loss,
            margin=method.margin,
            scale=method.scale,
            clip_norm=config.clip_norm,
            ranks=ranks,
        )
        self.loader = make_loader(setup, pairs=config.batch_size // ranks.world)

    def begin(self) -> None:
        """The gallery network begins as the trained one."""
        self.head.gallery.begin()

    def take_step(self, batch: Batch, lr: float) -> Tensor:
        """One step on both halves of the batch."""
        x, y = batch.halves()
        return self._step(x.images, x.labels, y.images, y.labels, lr)

    def take_metrics(self) -> dict[str, float]:
        """The four terms, their mean, and how the pool fares."""
        return self.head.take_metrics()


def expected_outliers(slots: int, batch_size: int, identities: int, world: int = 1) -> float:
    """About which share of the probes finds no slot once the pool is full.

    Two probes of three are of pairs, whose other images the pass puts into the pool; the third has
    its identity there only by chance. Of the labels that a pass gathers, of each rank those of its
    pairs and then half as many others, the last K stay.
    """
    pairs = batch_size // world
    whole, rest = divmod(slots, pairs + pairs // 2)
    staying = whole * pairs + max(0, rest - pairs // 2)
    of_pairs = 1 - min(1.0, staying / batch_size)
    by_chance = 1 - min(1.0, slots / identities)
    return (2 * of_pairs + by_chance) / 3


def pool_bytes(slots: int, features: int) -> int:
    """What a pool of float32 takes."""
    return 2 * slots * features * 4


def check_memory(slots: int, features: int, device: torch.device) -> None:
    """Make sure that a pool fits.

    Raises:
        ConfigError: it is larger than the device's memory.
    """
    if device.type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
    else:
        there = memory_limit().size
    needed = pool_bytes(slots, features)
    if needed > there:
        raise ConfigError(
            f"a pool of {slots:,} slots × 2 rows × {features} features takes "
            f"{needed / 2**30:,.1f} GiB, and {device} has {there / 2**30:,.1f}: set "
            "method_options.pool or share lower"
        )
