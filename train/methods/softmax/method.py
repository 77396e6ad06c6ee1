"""Training by a margin softmax over class centres: all of them, or a sample (Partial FC)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from facepack.loading.loader import Batch
from facepack.train.build import make_head
from facepack.train.heads import PartialFC
from facepack.train.methods.method import Method, MethodRun, Setup, make_loader
from facepack.train.methods.registry import register
from facepack.train.methods.softmax.step import TrainStep


@register("softmax")
@dataclass(frozen=True, kw_only=True)
class Softmax(Method):
    """The head is what the settings of the run say, from ``margin`` to ``head_update``."""

    unused = frozenset({"nesterov"})

    def build(self, setup: Setup) -> MethodRun:
        """Make head, step and loader."""
        return SoftmaxRun(setup)


def make_step(setup: Setup, head: PartialFC) -> TrainStep:
    """The step of a run that has class centres."""
    config = setup.config
    return TrainStep(
        setup.backbone,
        head,
        setup.optimizer,
        setup.scaler,
        accumulate=config.accumulate,
        clip_norm=config.clip_norm,
        compile=config.compile,
        ranks=setup.ranks,
    )


class SoftmaxRun(MethodRun):
    """Batches of labelled images through :class:`TrainStep`."""

    def __init__(self, setup: Setup) -> None:
        self.head = make_head(setup.config, setup.data.classes, setup.device, setup.ranks)
        self._step = make_step(setup, self.head)
        self.loader = make_loader(setup)

    def take_step(self, batch: Batch, lr: float) -> Tensor:
        """One step on the images of the batch."""
        return self._step(batch.images, batch.labels, lr, batch.positions)
