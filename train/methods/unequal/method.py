"""Unequal training: a head of identities with many images, and a tail of those with few.

After Zhong et al., "Unequal-training for Deep Face Recognition with Long-tailed Noisy Data", CVPR
2019: a margin softmax over the head; the same from its backbone, with a loss that resists noise;
then head and tail together, the tail by the dispersion of its centres.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast, get_args

import numpy as np
import torch

from facepack.errors import ConfigError, TrainingError
from facepack.loading.loader import Batch
from facepack.settings import Count, Fraction, Range
from facepack.train.build import make_head, make_margin
from facepack.train.config import TrainConfig
from facepack.train.data import (
    TrainingData,
    check_image_size,
    label_map_digest,
    open_training_data,
)
from facepack.train.heads.margins.losses import Softmax
from facepack.train.heads.partial_fc import PartialFC
from facepack.train.loop.checkpoint import CHECKPOINT_FILE, load_checkpoint
from facepack.train.methods.method import Method, MethodRun, Setup, make_loader
from facepack.train.methods.registry import register
from facepack.train.methods.softmax.method import make_step
from facepack.train.methods.unequal.dispersion import centre_dispersion
from facepack.train.methods.unequal.mining import Bags
from facepack.train.methods.unequal.rule import NoiseResistantRule
from facepack.train.methods.unequal.tail import HardTail
from facepack.train.ranks.group import Ranks

_Stage = Literal["head", "denoise", "tail"]
_STAGES = get_args(_Stage)
_NotNegative = Annotated[float, Range(low=0, high=1e6)]


@register("unequal")
@dataclass(frozen=True, kw_only=True)
class Unequal(Method):
    """The settings of one of the three stages; the softmax's are those of the run."""

    unused = frozenset({"nesterov", "continues"})
    first_stage: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("beta", "softmax_weight"), "denoise"),
        **dict.fromkeys(("interweight", "block", "images_per_identity", "repeat_images"), "tail"),
        **dict.fromkeys(("hard_identities", "bag_identities", "bags", "passes"), "tail"),
    }
    """Options → the stage from which on they mean something."""
    data_options = ("tail",)

    stage: _Stage = "head"
    """head: a margin softmax; denoise: the same with a loss that resists noise; tail: that, and the
    dispersion of the tail's centres."""

    tail: str | None = None
    """The pack of the tail (stage tail)."""

    beta: Fraction = 0.9
    """Weight of the label beside the class that the model finds (stages denoise and tail)."""

    softmax_weight: _NotNegative = 0.25
    """Factor on the mean loss of the head's images (stages denoise and tail), as released."""

    interweight: _NotNegative = 1.0
    """Factor on the dispersion: published 1, then 5, then 10 (stage tail)."""

    block: Annotated[int, Range(low=2)] = 15
    """Tail identities whose centres are compared with each other."""

    images_per_identity: Annotated[int, Range(low=1, high=64)] = 3
    """Of the tail's identities in a batch."""

    repeat_images: bool = False
    """Take tail identities with fewer images too, and repeat these; else they are left out."""

    hard_identities: Annotated[int, Range(low=2, high=65_536)] = 120
    """Tail identities in a batch, of all ranks."""

    bag_identities: Annotated[int, Range(low=2, high=65_536)] = 1_200
    """Tail identities among which the hard ones of a batch are found."""

    bags: Count = 100
    """Bags that are mined at once, each for a batch."""

    passes: Count = 1
    """How often mined batches are trained on before others are mined."""

    def check(self, config: TrainConfig, ranks: Ranks) -> None:
        """Make sure that stage, tail and the run's settings fit each other."""
        super().check(config, ranks)
        if not isinstance(make_margin(config).class_loss(config.scale), Softmax):
            raise ConfigError(
                f"margin = {config.margin} has a loss of its own, which method = unequal replaces: "
                "set a margin that goes to a softmax, such as arcface"
            )
        if (self.tail is None) == (self.stage == "tail"):
            why = (
                "needs tail, the pack of identities with few images that facepack split makes"
                if self.tail is None
                else f"trains on the head alone, and tail = {self.tail} is given: leave one out"
            )
            raise ConfigError(f"method_options: stage = {self.stage} {why}")
        if self.stage == "head":
            return
        if config.pretrained is None:
            before = "head" if self.stage == "denoise" else "denoise"
            raise ConfigError(
                f"method_options: stage = {self.stage} starts from the run of stage = {before}: "
                "name its folder by pretrained"
            )
        if self.stage == "denoise":
            return
        if config.accumulate > 1:
            raise ConfigError(
                f"accumulate = {config.accumulate} would cut a batch between head and tail: with "
                "stage = tail leave it at 1, and lower hard_identities or batch_size"
            )
        if self.hard_identities % ranks.world or self.hard_identities // ranks.world < 2:
            raise ConfigError(
                f"hard_identities = {self.hard_identities} cannot be shared by {ranks.world} "
                "ranks, each with at least 2 of them: set a multiple of their number"
            )
        if self.hard_identities > self.bag_identities:
            raise ConfigError(
                f"hard_identities = {self.hard_identities} are found among bag_identities = "
                f"{self.bag_identities}: set at most as many"
            )

    def images_per_step(self, config: TrainConfig) -> int:
        """Those of the head, and of the tail."""
        if self.stage != "tail":
            return config.batch_size
        return config.batch_size + self.hard_identities * self.images_per_identity

    def notes(self, config: TrainConfig, data: TrainingData, ranks: Ranks) -> Iterator[str]:
        """What is set for later stages, and how much of the tail is used."""
        early = [
            f"{name} = {getattr(self, name)}"
            for name, first in self.first_stage.items()
            if _STAGES.index(self.stage) < _STAGES.index(first)
            and getattr(self, name) != getattr(type(self), name)
        ]
        if early:
            means = "mean" if len(early) > 1 else "means"
            yield f"method_options: {', '.join(early)} {means} nothing in stage = {self.stage}"
        if self.stage != "tail":
            return
        tail = self._open_tail()
        bags = self.make_bags(config, tail.labels)
        if left_out := tail.identities - bags.usable:
            yield (
                f"{left_out:,} of the tail's {tail.identities:,} identities have fewer than "
                f"{self.images_per_identity} images and are left out; repeat_images = true takes "
                "them"
            )
        if bags.size < self.bag_identities:
            yield (
                f"the tail has {bags.usable:,} identities for bags of {self.bag_identities:,}: "
                "each bag is all of it"
            )

    def build(self, setup: Setup) -> MethodRun:
        """Make head, tail, step and loader."""
        head = make_head(setup.config, setup.data.classes, setup.device, setup.ranks)
        if self.stage != "head":
            head.logits = NoiseResistantRule(**vars(head.logits), beta=self.beta)
        tail = None
        if self.stage == "tail":
            pack = self._open_tail()
            check_image_size(
                pack,
                setup.backbone.image_size,
                skip_others=setup.config.on_bad_image == "skip",
            )
            tail = HardTail(
                setup,
                pack,
                self.make_bags(setup.config, pack.labels),
                hard=self.hard_identities,
                bags_per_round=self.bags,
                passes=self.passes,
            )
            if tail.hard % setup.ranks.world or tail.hard // setup.ranks.world < 2:
                raise TrainingError(
                    f"the tail {self.tail} has {tail.hard} identities for a batch, which "
                    f"{setup.ranks.world} ranks cannot share: set hard_identities to a multiple of "
                    "their number below that"
                )
        return UnequalRun(setup, self, UnequalHead(head, self, tail, setup.ranks))

    def _open_tail(self) -> TrainingData:
        assert self.tail is not None
        return open_training_data(self.tail)

    def make_bags(self, config: TrainConfig, labels: np.ndarray) -> Bags:
        """The bags of a tail of these labels: int64 (n,).

        Raises:
            TrainingError: it has too few identities that can be in one.
        """
        return Bags(
            np.asarray(labels),
            identities=self.bag_identities,
            images=self.images_per_identity,
            repeat=self.repeat_images,
            seed=config.seed,
        )


class UnequalHead:
    """The softmax over the head's identities, and the dispersion of the tail's, if there is one."""

    def __init__(
        self, softmax: PartialFC, method: Unequal, tail: HardTail | None, ranks: Ranks
    ) -> None:
        self.softmax = softmax
        self.tail = tail
        self._method = method
        self._ranks = ranks
        self._sums = torch.zeros(3, dtype=torch.float64, device=softmax.weight.device)

    @property
    def weights(self) -> list[torch.Tensor]:
        """The classifier's centres."""
        return self.softmax.weights

    def __call__(
        self,
        embeddings: torch.Tensor,
        labels: torch.Tensor,
        records: np.ndarray | None = None,
    ) -> torch.Tensor:
        """The loss of a batch: the head's images, and behind them the tail's, whose label is -1."""
        count = len(labels) - (0 if self.tail is None else self.tail.given)
        loss = self.softmax(
            embeddings[:count], labels[:count], None if records is None else records[:count]
        )
        if self._method.stage == "head":
            return loss
        total = self._method.softmax_weight * loss
        dispersion = torch.zeros_like(loss)
        if self.tail is not None:
            own = centre_dispersion(
                embeddings[count:], self._method.images_per_identity, self._method.block
            )
            # Every rank's own blocks, with their gradient, and without one those of the others.
            mine = own / self._ranks.world
            dispersion = self._ranks.all_reduce(mine.detach().clone(), "sum")
            total = total + self._method.interweight * (mine + (dispersion - mine.detach()))
        with torch.no_grad():
            self._sums += torch.stack([loss.detach(), dispersion, torch.ones_like(loss)]).double()
        return total

    def step(self, lr: float, **scaling: Any) -> None:
        """Update the classifier."""
        self.softmax.step(lr, **scaling)

    def take_means(self) -> dict[str, float]:
        """Both parts of the loss, unweighted, since the last reading; what was skipped so far."""
        softmax, dispersion, steps = self._sums.tolist()
        self._sums.zero_()
        if not steps:
            return {}
        means = {"softmax_loss": softmax / steps}
        if self.tail is None:
            return means
        return {**means, "dispersion": dispersion / steps, "tail_skipped": self.tail.skipped}

    def whole_state(self) -> dict[str, Any] | None:
        """The classifier's state, and under ``unequal`` the rest; collective."""
        whole = self.softmax.whole_state()
        if whole is None:
            return None
        tail = None if self.tail is None else self.tail.state()
        return {**whole, "unequal": {"sums": self._sums.cpu().clone(), "tail": tail}}

    def load_whole_state(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`whole_state`.

        Raises:
            TrainingError: the state is of another head, or another tail.
        """
        state = dict(state)
        rest = state.pop("unequal")
        self.softmax.load_whole_state(state)
        self._sums.copy_(rest["sums"])
        if self.tail is not None:
            self.tail.load_state(rest["tail"])


class UnequalRun(MethodRun):
    """Batches of the head, in the last stage with hard identities of the tail behind them."""

    head: UnequalHead

    def __init__(self, setup: Setup, method: Unequal, head: UnequalHead) -> None:
        self.head = head
        self._setup = setup
        self._method = method
        self._step = make_step(setup, cast(PartialFC, head))  # a step calls both alike
        self.loader = make_loader(setup)

    def begin(self) -> None:
        """Take up the classifier of the stage before, where it is kept."""
        if self._method.stage != "tail":
            return
        pretrained = self._setup.config.pretrained
        assert pretrained is not None
        path = Path(pretrained) / CHECKPOINT_FILE
        if not path.is_file():
            raise TrainingError(
                f"pretrained = {pretrained} is no folder with a {CHECKPOINT_FILE}: stage = tail "
                "keeps the classifier of the run before, so name that run's folder"
            )
        state = load_checkpoint(path)
        data, known = self._setup.data, state["data"]
        if known["label_map"] != label_map_digest(data):
            raise TrainingError(
                f"{pretrained} has a classifier of other classes ({known['classes']:,} of "
                f"{known['name']}) than {data.path} ({data.classes:,}): train on the pack that it "
                "was trained on, or on what facepack select made of that"
            )
        rows = state["head"].get("weight")
        wanted = (self.head.softmax.classes, *self.head.softmax.weight.shape[1:])
        if rows is None or tuple(rows.shape) != wanted:
            shape = None if rows is None else tuple(rows.shape)
            raise TrainingError(
                f"{pretrained} has a classifier of shape {shape}, and this run's is {wanted}: set "
                "features and margin as they were there"
            )
        self.head.softmax.load_rows(0, {"weight": rows})

    def take_step(self, batch: Batch, lr: float) -> torch.Tensor:
        """One step on the head's images and, where there is a tail, as many of it as are set."""
        if self.head.tail is None:
            return self._step(batch.images, batch.labels, lr, batch.positions)
        tail = self.head.tail.next()
        images = tail.images.contiguous() if batch.images.is_contiguous() else tail.images
        return self._step(
            torch.cat([batch.images, images]),
            torch.cat([batch.labels, torch.full_like(tail.labels, -1)]),
            lr,
            np.concatenate([batch.positions, np.full_like(tail.positions, -1)]),
        )

    def images_in_step(self, batch: Batch) -> int:
        """Those of the head, and those of the tail."""
        return len(batch.labels) + (0 if self.head.tail is None else self.head.tail.given)

    def take_metrics(self) -> dict[str, float]:
        """Both losses by themselves."""
        return self.head.take_means()
