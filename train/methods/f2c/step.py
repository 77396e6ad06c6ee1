"""One optimizer step of F2C: two passes with their roles swapped, four terms of loss."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facepack.train.methods.f2c.gallery import GalleryNetwork
from facepack.train.methods.f2c.losses import MarginName, pool_loss
from facepack.train.methods.f2c.pool import Pool, Written
from facepack.train.methods.gradients import GradientSum
from facepack.train.precision import LossScaler, float32_products
from facepack.train.ranks.group import ALONE, Ranks

TERMS = ("loss_a0", "loss_a1", "loss_b0", "loss_b1")
"""Pass A and B, each against view 0 and 1 of the pool."""

_COUNTS = ("steps", "features", "hits", "evicted", "probes", "outliers")


class F2CState:
    """What a run of F2C holds beside the backbone: the pool, the gallery network, unread counts."""

    def __init__(self, pool: Pool, gallery: GalleryNetwork, ranks: Ranks = ALONE) -> None:
        self.pool, self.gallery = pool, gallery
        self._ranks = ranks
        self.terms = torch.zeros(len(TERMS), dtype=torch.float64, device=pool.rows.device)
        self.counts = dict.fromkeys(_COUNTS, 0)

    @property
    def weights(self) -> list[Tensor]:
        """The pool, and what the gallery network consists of."""
        return [self.pool.rows, *self.gallery.network.state_dict().values()]

    def whole_state(self) -> dict[str, Any] | None:
        """Rank 0's, which is whole: all ranks hold the same pool."""
        if not self._ranks.is_first:
            return None
        return {
            "pool": self.pool.state_dict(),
            "gallery": self.gallery.network.state_dict(),
            "unread": {"terms": self.terms.tolist(), "counts": dict(self.counts)},
        }

    def load_whole_state(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`whole_state`, of a run on any number of ranks."""
        self.pool.load_state_dict(state["pool"])
        self.gallery.network.load_state_dict(state["gallery"])
        self.terms.copy_(torch.tensor(state["unread"]["terms"], dtype=torch.float64))
        self.counts = dict(state["unread"]["counts"])

    def take_metrics(self) -> dict[str, float]:
        """The means since the last reading; waits for the device."""
        counts = self.counts
        steps = max(counts["steps"], 1)
        terms = (self.terms / steps).tolist()
        found = {
            **dict(zip(TERMS, terms, strict=True)),
            "loss_mean": sum(terms) / len(TERMS),
            "pool_hits": counts["hits"] / max(counts["features"], 1),
            "evictions": counts["evicted"] / steps,
            "outliers": counts["outliers"] / max(counts["probes"], 1),
        }
        self.terms.zero_()
        self.counts = dict.fromkeys(counts, 0)
        return found


class F2CStep:
    """Callable ``(x, x_labels, y, y_labels, lr) → loss`` that takes one optimizer step.

    Pass A: x are the probes; the gallery network moves, and the features of y that it makes go into
    the pool, until the gradient is there. Pass B: y are the probes, and the features of x go into
    the pool for good. Each pass has its backward pass at once: half as much is held as by one for
    both, and the gradients add up to the same.

    With several ranks each has its own x and y; the gallery features of all go into every rank's
    pool. The loss, and the gradient, are the means of the ranks' own, as released.

    ``probe`` is the backbone, of whose gradient ``clip_norm`` is the largest norm; 0 for no limit.
    Kind, margin and scale are as of :func:`pool_loss`.
    """

    def __init__(
        self,
        probe: nn.Module,
        state: F2CState,
        optimizer: torch.optim.Optimizer,
        scaler: LossScaler,
        *,
        kind: MarginName,
        margin: float,
        scale: float,
        clip_norm: float = 0.0,
        ranks: Ranks = ALONE,
    ) -> None:
        self._probe, self._state = probe, state
        self._optimizer, self._scaler = optimizer, scaler
        self._kind, self._margin, self._scale = kind, margin, scale
        self._clip_norm = clip_norm
        self._ranks = ranks
        self._gradients = GradientSum(probe.parameters(), ranks)

    def __call__(
        self, x: Tensor, x_labels: Tensor, y: Tensor, y_labels: Tensor, lr: float
    ) -> Tensor:
        """Step on images (n×3×H×W) and labels (n,); the loss is the sum of the four terms."""
        state = self._state
        state.gallery.follow()
        features, labels = self._gallery(y, y_labels)
        with state.pool.trying(features, labels) as written:
            terms = self._pass(x, x_labels, written, is_last=False)
        features, labels = self._gallery(x, x_labels)
        written = state.pool.write(features, labels)
        terms = torch.cat([terms, self._pass(y, y_labels, written, is_last=True)])
        state.counts["steps"] += 1
        state.counts["features"] += len(labels)
        state.counts["hits"] += written.hits
        state.counts["evicted"] += written.evicted

        self._scaler.unscale(self._optimizer)
        if self._clip_norm:
            nn.utils.clip_grad_norm_(self._probe.parameters(), self._clip_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._scaler.step(self._optimizer)
        self._optimizer.zero_grad(set_to_none=True)
        terms = self._ranks.all_reduce(terms, "sum")
        state.terms += terms
        return terms.sum()

    def _gallery(self, images: Tensor, labels: Tensor) -> tuple[Tensor, list[int]]:
        """The gallery features of all ranks, and whose they are."""
        with float32_products(tf32=False):
            features = self._state.gallery.embed(images)
        return self._ranks.all_gather(features), self._ranks.all_gather(labels.cpu()).tolist()

    def _pass(self, probes: Tensor, labels: Tensor, written: Written, *, is_last: bool) -> Tensor:
        """Add a pass's share to the gradients; return this rank's share of its two terms."""
        inside, own, outside = self._find(labels.tolist())
        with float32_products(tf32=False):
            embeddings = self._probe(probes)
        # The graph is cut here as in the softmax's step: TF32 on this side, IEEE on the other.
        leaf = embeddings.detach().requires_grad_()
        with float32_products(tf32=True):
            views = self._state.pool.cosines(F.normalize(leaf), written.again)
            terms = [
                pool_loss(
                    cosines,
                    inside,
                    own,
                    outside,
                    kind=self._kind,
                    margin=self._margin,
                    scale=self._scale,
                )
                / self._ranks.world
                for cosines in views
            ]
            self._scaler.scale(terms[0] + terms[1]).backward()
        sums = self._gradients.over_ranks() if is_last else nullcontext()
        with float32_products(tf32=False), sums:
            embeddings.backward(leaf.grad)
        return torch.stack(terms).detach()

    def _find(self, labels: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Which probes are in the pool, their slots, and which are not."""
        slots = [self._state.pool.lru.view(label) for label in labels]
        inside = [number for number, slot in enumerate(slots) if slot is not None]
        outside = [number for number, slot in enumerate(slots) if slot is None]
        self._state.counts["probes"] += len(slots)
        self._state.counts["outliers"] += len(outside)
        device = self._state.pool.rows.device
        tensors = (inside, [slot for slot in slots if slot is not None], outside)
        a, b, c = (torch.tensor(numbers, dtype=torch.int64, device=device) for numbers in tensors)
        return a, b, c
