"""The tail's part of each batch: hard identities, mined anew as the network learns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from facepack.errors import TrainingError
from facepack.hashing import derive_seed
from facepack.loading.loader import Batch, Loader
from facepack.loading.source import ChosenImages, ImageSource
from facepack.train.data import TrainingData
from facepack.train.methods.method import Setup, make_loader
from facepack.train.methods.unequal.mining import Bags, choose_identities
from facepack.train.precision import float32_products
from facepack.train.ranks.agreement import together

_FOR_BAGS, _FOR_FLIPS = 0, 1


class HardTail:
    """Batches of hard tail identities, each the hardest of a bag, for one rank.

    A round is mined at once: each rank embeds its share of the round's bags, one bag in memory at a
    time, with the network as it is, in evaluation mode and without mirroring. Then its batches are
    given ``passes`` times over, and the next round is mined.

    Where ``on_bad_image`` is ``skip``, identities with an image that does not decode are not mined;
    those that fill up a bag with too few others are left out of their batch, which then is shorter.

    ``hard`` is the number of identities in a batch, of all ranks; ``bags_per_round`` that of bags
    which are mined at once.

    Attributes:
        given: images in the batch of this rank that was given last.
        skipped: images that did not decode when bags were mined, of all ranks.
    """

    def __init__(
        self,
        setup: Setup,
        tail: ImageSource,
        bags: Bags,
        *,
        hard: int,
        bags_per_round: int,
        passes: int,
    ) -> None:
        self.bags = bags
        self.hard = min(hard, bags.size)
        self._setup = setup
        self._tail = tail
        self._bags_per_round = bags_per_round
        self._passes = passes
        self.given = self.skipped = 0
        self._round, self._step = -1, 0
        self._picked = np.zeros((0, 0), np.int64)  # positions in the tail, a row for each batch
        self._loader: Loader | None = None
        self._batches: Iterator[Batch] | None = None

    @property
    def images(self) -> int:
        """In a whole batch of this rank."""
        return self.hard * self.bags.images // self._setup.ranks.world

    def next(self) -> Batch:
        """The next batch of this rank: the images of an identity behind each other; collective."""
        if self._step >= len(self._picked) * self._passes:
            self._mine()
        with together(self._setup.ranks):
            batch = _whole_identities(self._read(), self.bags.images)
        self._step += 1
        self.given = len(batch.positions)
        return batch

    def _read(self) -> Batch:
        if self._batches is None:
            self._open()
        assert self._batches is not None and self._loader is not None
        batch = next(self._batches, None)
        if batch is None:  # a pass ended
            self._batches = iter(self._loader)
            batch = next(self._batches)
        return batch

    def close(self) -> None:
        """End the threads that decode; the place among the batches stays."""
        if self._loader is not None:
            self._loader.close()
        self._loader = self._batches = None

    def state(self) -> dict[str, Any]:
        """All that the batches to come depend on beside the network."""
        return {
            "content_id": self._tail.content_id,
            "round": self._round,
            "step": self._step,
            "skipped": self.skipped,
            "picked": torch.from_numpy(self._picked.copy()),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`.

        Raises:
            TrainingError: it is of another tail.
        """
        if state["content_id"] != self._tail.content_id:
            raise TrainingError(
                f"the run's tail was another pack (content id {state['content_id'][:12]}); "
                f"{self._tail.path} has {self._tail.content_id[:12]}: put that back, or say where "
                "it is by method_options.tail"
            )
        self.close()
        self._round, self._step = int(state["round"]), int(state["step"])
        self.skipped = int(state["skipped"])
        self._picked = state["picked"].numpy().copy()

    def _open(self) -> None:
        """A loader over the round's batches, at the place that is reached."""
        source = ChosenImages(self._tail, self._picked.ravel())
        self._loader = make_loader(
            replace(self._setup, data=cast(TrainingData, source)),
            batch_size=self.images,
            seed=derive_seed(self._setup.config.seed, _FOR_FLIPS, self._round),
            shuffle=False,
            order="auto",
            cache="none",
        )
        self._loader.seek(*divmod(self._step, len(self._picked)))
        self._batches = iter(self._loader)

    def _mine(self) -> None:
        """Choose the next round's batches; collective."""
        self.close()
        ranks = self._setup.ranks
        first = (self._round + 1) * self._bags_per_round
        mine = range(first + ranks.rank, first + self._bags_per_round, ranks.world)
        bags = [self.bags.positions(number) for number in mine]
        chosen: list[np.ndarray] = []
        skipped = 0
        with together(ranks), _evaluating(self._setup.backbone), torch.no_grad():
            for bag, embeddings in zip(bags, self._embed(bags), strict=True):
                chosen.append(bag[choose_identities(embeddings, self.hard)].ravel())
                skipped += int(np.isnan(embeddings[..., 0]).sum())
        every = ranks.gather_objects(chosen)
        self.skipped += sum(ranks.gather_objects(skipped))
        self._picked = np.stack(
            [every[k % ranks.world][k // ranks.world] for k in range(self._bags_per_round)]
        )
        self._round, self._step = self._round + 1, 0

    def _embed(self, bags: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Unit embeddings (I, K, F) of one bag after the other; NaN of what does not decode."""
        if not bags:
            return
        config, ranks = self._setup.config, self._setup.ranks
        source = ChosenImages(self._tail, np.concatenate([bag.ravel() for bag in bags]))
        size = bags[0].size
        # No more images in a pass than in one of training, for which memory is known to do.
        batch_size = min(size, config.batch_size // ranks.world)
        parts: list[torch.Tensor] = []
        start = gathered = 0
        with make_loader(
            replace(self._setup, data=cast(TrainingData, source)),
            batch_size=batch_size,
            rank=0,
            world=1,
            shuffle=False,
            mirror=False,
            augment=None,
            drop_last=False,
            order="auto",
            cache="none",
        ) as loader:
            for batch in loader:
                units = torch.full((min(batch_size, len(source) - start), config.features), np.nan)
                if len(batch.positions):
                    with float32_products(tf32=False):
                        embeddings = self._setup.backbone(batch.images).float()
                    places = torch.from_numpy(batch.positions - start)
                    units[places] = F.normalize(embeddings).cpu()
                parts.append(units)
                start += len(units)
                gathered += len(units)
                while gathered >= size:
                    whole = torch.cat(parts)
                    parts, gathered = [whole[size:]], len(whole) - size
                    yield whole[:size].numpy().reshape(*bags[0].shape, -1)


def _whole_identities(batch: Batch, images: int) -> Batch:
    """The batch without the identities of whose ``images``, behind each other, one is left out."""
    identities = batch.positions // images
    _, places, counts = np.unique(identities, return_inverse=True, return_counts=True)
    kept = np.flatnonzero(counts[places] == images)
    if len(kept) == len(identities):
        return batch
    rows = torch.from_numpy(kept).to(batch.labels.device)
    return Batch(batch.images[rows], batch.labels[rows], batch.positions[kept])


@contextmanager
def _evaluating(backbone: nn.Module) -> Iterator[None]:
    """The network in evaluation mode; afterwards it trains again."""
    backbone.eval()
    try:
        yield
    finally:
        backbone.train()
