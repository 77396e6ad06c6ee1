"""The loss over one chunk of classes after the other: its logits never exist whole.

The forward pass keeps one number a face and nothing else, of a softmax ln Σ exp; the backward pass
computes each chunk's logits again and turns them into gradients at once. Memory is that of B×chunk,
for a third more of matrix products (the idea of Milakov and Gimelshein's online softmax, 2018, over
classes).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F

from facepack.train.heads.logits import LogitRule
from facepack.train.heads.margins import Own
from facepack.train.ranks.group import Ranks

_SMALLEST_NORM = 1e-12
"""That of ``torch.nn.functional.normalize``."""


class ChunkedLoss(torch.autograd.Function):
    """Weighted sum of the faces' losses, over classes in chunks and over ranks.

    ``apply(embeddings, centres, norms, offset, own, present, weights, known, rule, chunk, ranks)``,
    with unit embeddings (B×F) of all ranks, this rank's classes (n×K·F) of centres of any norm,
    ``own``, ``present`` and ``known`` as in :func:`~facepack.train.heads.logits.margin_logits`, the
    norms and the offset (or None) being those that ``known`` tells of, and weights (B,). Gradients
    go to the first four, of this rank's classes' part.

    The cosine to the own class is computed apart, in full float32, and clamped to ±1; other cosines
    are not clamped, which changes a logit by no more than rounding does.
    """

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: torch.Tensor,
        centres: torch.Tensor,
        norms: torch.Tensor,
        offset: torch.Tensor | None,
        own: torch.Tensor,
        present: torch.Tensor,
        weights: torch.Tensor,
        known: Own,
        rule: LogitRule,
        chunk: int,
        ranks: Ranks,
    ) -> torch.Tensor:
        """What the loss adds up, over the chunks and then over the ranks."""
        target = _Target.of(embeddings, centres, own, present, known, rule)
        total = rule.loss.start(weights)
        own_logit = torch.where(present, target.scale * target.lowered, 0.0)
        if offset is not None:
            own_logit = torch.where(present, own_logit - offset, 0.0)
        entry = rule.loss.own_entry(own_logit)
        for start in range(0, len(centres), chunk):
            part = _Chunk(embeddings, centres, own, present, start, chunk, rule)
            logits = part.cosines()
            if rule.margin.changes_others:
                logits = rule.margin.change_others(logits, target.column, known.state)
            logits.mul_(target.factor)
            if offset is not None:
                logits.sub_(offset)
            part.set_own(logits, entry)
            total = rule.loss.add(total, logits)
        total, own_logit = rule.loss.reduce(total, own_logit, ranks)
        ctx.save_for_backward(
            embeddings, centres, offset, own, present, weights, total, own_logit, *target.tensors()
        )
        ctx.known, ctx.rule, ctx.chunk = known, rule, chunk
        return (weights * rule.loss.values(total, own_logit)).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Each chunk's gradient by its logits, at once multiplied out into the others."""
        embeddings, centres, offset, own, present, weights, total, own_logit, *parts = (
            ctx.saved_tensors
        )
        rule: LogitRule = ctx.rule
        target = _Target(*parts)
        by_face = rule.margin.scales_by_face
        share = (grad * weights).unsqueeze(1)
        by_own_logit = rule.loss.own_gradient(own_logit, total)
        by_lowered = share.squeeze(1) * by_own_logit * target.scale
        by_own_cosine = by_lowered * target.by_cosine
        factor = share * target.factor
        to_embeddings = torch.zeros_like(embeddings)
        to_centres = torch.empty_like(centres)
        to_norms = torch.where(present, by_lowered * target.by_norm, 0.0)
        to_offset = None if offset is None else torch.zeros_like(offset)
        for start in range(0, len(centres), ctx.chunk):
            part = _Chunk(embeddings, centres, own, present, start, ctx.chunk, rule)
            cosines, slope = part.cosines(), None
            if rule.margin.changes_others:
                cosines, slope = _changed(cosines, target.column, ctx.known, rule)
            logits = cosines * target.factor if by_face else cosines.mul_(target.factor)
            if offset is not None:
                logits.sub_(offset)
            gradient = rule.loss.gradient(logits, total, logits)
            if by_face or to_offset is not None:
                part.set_own(gradient, by_own_logit)
                by_logits = gradient * share
                if to_offset is not None:
                    to_offset -= by_logits.sum()
                if by_face:
                    part.set_own(cosines, target.lowered)
                    to_norms += (by_logits * cosines).sum(1) * target.scale_by_norm
            gradient.mul_(factor)
            if slope is not None:
                gradient.mul_(slope)
            if part.filtered is not None:
                gradient.masked_fill_(part.filtered, 0.0)
            part.set_own(gradient, by_own_cosine)
            part.add_gradients(gradient, to_embeddings, to_centres)
        return to_embeddings, to_centres, to_norms, to_offset, *[None] * 7


def _changed(
    cosines: torch.Tensor, lowered: torch.Tensor, known: Own, rule: LogitRule
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the margin makes of other cosines (B×n), and its derivative."""
    with torch.enable_grad():
        leaf = cosines.detach().requires_grad_()
        changed = rule.margin.change_others(leaf, lowered, known.state)
        (slope,) = torch.autograd.grad(changed.sum(), leaf)
    return changed.detach(), slope


@dataclass(frozen=True)
class _Target:
    """What the margin makes of the cosines to the own classes, (B,), and its derivatives."""

    lowered: torch.Tensor
    by_cosine: torch.Tensor
    by_norm: torch.Tensor
    scale: torch.Tensor
    scale_by_norm: torch.Tensor

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The fields, in order."""
        return self.lowered, self.by_cosine, self.by_norm, self.scale, self.scale_by_norm

    @property
    def column(self) -> torch.Tensor:
        """``lowered`` beside a B×n matrix."""
        return self.lowered.unsqueeze(1)

    @property
    def factor(self) -> torch.Tensor:
        """``scale`` beside a B×n matrix."""
        return self.scale.unsqueeze(1)

    @classmethod
    def of(
        cls,
        embeddings: torch.Tensor,
        centres: torch.Tensor,
        own: torch.Tensor,
        present: torch.Tensor,
        known: Own,
        rule: LogitRule,
    ) -> _Target:
        """Of unit embeddings (B×F); the cosine of a class that is not here is the one known."""
        margin = rule.margin
        cosines = known.cosines
        if len(centres):
            here = own_cosines(embeddings, centres, own, margin.centres_per_class)
            cosines = torch.where(present, here, cosines)
        with torch.enable_grad():
            leaf = cosines.detach().requires_grad_()
            norms = known.norms.detach().requires_grad_()
            told = replace(known, cosines=leaf.clamp(-1.0, 1.0), norms=norms)
            lowered = margin.lower(told)
            by_cosine, by_norm = _derivatives(lowered, leaf, norms)
            scale = margin.scale(told, rule.scale)
            if not isinstance(scale, torch.Tensor):
                scale = torch.full_like(leaf, scale)
            _, scale_by_norm = _derivatives(scale, leaf, norms)
        return cls(lowered.detach(), by_cosine, by_norm, scale.detach(), scale_by_norm)


def _derivatives(
    values: torch.Tensor, cosines: torch.Tensor, norms: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    if not values.requires_grad:
        return torch.zeros_like(cosines), torch.zeros_like(norms)
    found = torch.autograd.grad(
        values.sum(), (cosines, norms), allow_unused=True, materialize_grads=True
    )
    return found[0], found[1]


def own_cosines(
    embeddings: torch.Tensor, centres: torch.Tensor, own: torch.Tensor, per_class: int
) -> torch.Tensor:
    """Cosines (B,) to the classes in the rows ``own`` of ``centres`` (n×K·F), at least one."""
    units = F.normalize(centres[own].view(len(own), per_class, embeddings.shape[1]), dim=2)
    return (
        (units @ embeddings.unsqueeze(2)).squeeze(2).amax(1)
        if per_class > 1
        else ((embeddings * units[:, 0]).sum(1))
    )


class _Chunk:
    """Some consecutive classes."""

    def __init__(
        self,
        embeddings: torch.Tensor,
        centres: torch.Tensor,
        own: torch.Tensor,
        present: torch.Tensor,
        start: int,
        size: int,
        rule: LogitRule,
    ) -> None:
        self._classes = slice(start, min(start + size, len(centres)))
        count = self._classes.stop - start
        self._per_class = rule.margin.centres_per_class
        rows = centres[self._classes].view(count * self._per_class, embeddings.shape[1])
        self._norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        self._units = rows / self._norms.clamp(min=_SMALLEST_NORM)
        self._embeddings, self._threshold = embeddings, rule.interclass_filter
        column = own - start
        # Which faces have their class here is not asked of the device: the others rewrite a value.
        self._inside = (present & (column >= 0) & (column < count)).unsqueeze(1)
        self._column = column.clamp(0, count - 1).unsqueeze(1)
        self._nearest: torch.Tensor | None = None
        self.filtered: torch.Tensor | None = None
        """Mask of the cosines that the filter set to 0."""

    def cosines(self) -> torch.Tensor:
        """B×size, without margin, filtered."""
        cosines = self._embeddings @ self._units.T
        if self._per_class > 1:
            cosines, self._nearest = cosines.view(len(cosines), -1, self._per_class).max(2)
        if self._threshold:
            self.filtered = cosines > self._threshold
            cosines.masked_fill_(self.filtered, 0.0)
        return cosines

    def set_own(self, matrix: torch.Tensor, values: torch.Tensor) -> None:
        """Put values (B,) in the columns of the own classes that are in this chunk."""
        there = matrix.gather(1, self._column)
        matrix.scatter_(1, self._column, torch.where(self._inside, values.unsqueeze(1), there))

    def add_gradients(
        self, gradient: torch.Tensor, to_embeddings: torch.Tensor, to_centres: torch.Tensor
    ) -> None:
        """From that by the cosines (B×size): add the embeddings', write the centres'."""
        if self._nearest is not None:
            # Only the nearest centre of a class has a part in its cosine.
            every = gradient.new_zeros(*gradient.shape, self._per_class)
            gradient = every.scatter_(2, self._nearest.unsqueeze(2), gradient.unsqueeze(2)).flatten(
                1
            )
        to_embeddings.addmm_(gradient, self._units)
        to_units = gradient.T @ self._embeddings
        # The gradient of the rows from that of their unit vectors, as ``F.normalize`` has it.
        along = (to_units * self._units).sum(1, keepdim=True)
        along.masked_fill_(self._norms < _SMALLEST_NORM, 0.0)
        torch.div(
            to_units.addcmul_(self._units, along, value=-1.0),
            self._norms.clamp(min=_SMALLEST_NORM),
            out=to_centres[self._classes].view(to_units.shape),
        )
