"""From unit embeddings and class centres to logits, and to the loss where all classes are here.

Three ways to the same numbers. :func:`margin_logits` and :func:`whole_loss` are the plain one,
whose gradient is autograd's. ``sharded.py`` follows the same logits where the classes are spread
over ranks. ``chunked.py`` never holds the logits whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch.nn import functional as F

from facepack.settings import Range, Settings
from facepack.train.heads.margins import Margin, Own
from facepack.train.heads.margins.losses import ClassLoss


@dataclass(frozen=True, kw_only=True)
class LogitRule(Settings):
    """What happens to cosines on their way to the loss."""

    margin: Margin
    """Lowers the cosine to the own class."""

    scale: Annotated[float, Range(above=0)] = 64.0
    """s, the factor on all cosines, above 0."""

    interclass_filter: Annotated[float, Range(low=0, below=1)] = 0.0
    """A cosine above it to another class becomes 0 and stays in the softmax (An et al., 2022, for
    noisy labels: such a class is likely the same person). In [0, 1); 0 filters nothing."""

    @property
    def loss(self) -> ClassLoss:
        """What the logits go to."""
        return self.margin.class_loss(self.scale)


def nothing_known(embeddings: torch.Tensor) -> Own:
    """What a margin is told that needs nothing but cosines, which have yet to come."""
    zeros = torch.zeros_like(embeddings[:, 0])
    return Own(cosines=zeros, norms=zeros + 1.0, normals=zeros, step=0, state={})


def class_cosines(embeddings: torch.Tensor, centres: torch.Tensor, per_class: int) -> torch.Tensor:
    """Cosines B×n of unit embeddings (B×F) to classes of K centres (n×K·F) of any norm.

    That of a class is the largest of its centres' (Deng et al., "Sub-center ArcFace", ECCV
    2020).
    """
    rows = centres.reshape(len(centres) * per_class, embeddings.shape[1])
    cosines = F.linear(embeddings, F.normalize(rows)).clamp(-1.0, 1.0)
    if per_class == 1:
        return cosines
    return cosines.view(len(embeddings), len(centres), per_class).amax(2)


def margin_logits(
    embeddings: torch.Tensor,
    centres: torch.Tensor,
    own: torch.Tensor,
    rule: LogitRule,
    *,
    present: torch.Tensor | None = None,
    known: Own | None = None,
) -> torch.Tensor:
    """Logits B×n of unit embeddings (B×F) against classes (n×K·F) of centres of any norm.

    Args:
        own: (B,) int64, the row of each embedding's own class; 0 where it is not present.
        present: (B,) bool, whose own class is among the rows; None: everyone's.
        known: what else the margin is told; its cosines are taken where the class is not present.
    """
    cosines = class_cosines(embeddings, centres, rule.margin.centres_per_class)
    return cosine_logits(
        cosines, own, rule, present=present, known=known or nothing_known(embeddings)
    )


def cosine_logits(
    cosines: torch.Tensor,
    own: torch.Tensor,
    rule: LogitRule,
    *,
    present: torch.Tensor | None = None,
    known: Own,
) -> torch.Tensor:
    """Logits B×n of cosines B×n to classes; arguments as in :func:`margin_logits`."""
    margin = rule.margin
    offset = margin.offset(known.state)
    if not cosines.shape[1]:
        return cosines if offset is None else cosines - offset
    column = own.unsqueeze(1)
    current = cosines.gather(1, column).squeeze(1)
    if present is not None:
        current = torch.where(present, current, known.cosines)
    known = replace(known, cosines=current)
    target = margin.lower(known)
    if rule.interclass_filter:
        cosines = torch.where(cosines > rule.interclass_filter, 0.0, cosines)
    cosines = margin.change_others(cosines, target.detach().unsqueeze(1), known.state)
    if present is not None:
        target = torch.where(present, target, cosines.gather(1, column).squeeze(1))
    scale = margin.scale(known, rule.scale)
    if isinstance(scale, torch.Tensor):
        scale = scale.unsqueeze(1)
    logits = scale * cosines.scatter(1, column, target.unsqueeze(1))
    return logits if offset is None else logits - offset


def whole_loss(
    embeddings: torch.Tensor,
    centres: torch.Tensor,
    own: torch.Tensor,
    rule: LogitRule,
    known: Own | None = None,
) -> torch.Tensor:
    """Mean loss over all rows: one graph, which ``torch.compile`` takes whole."""
    logits = margin_logits(embeddings, centres, own, rule, known=known)
    return rule.loss.mean(logits, own)
