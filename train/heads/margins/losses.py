"""What a loss makes of each face's logits, class by class, so that classes can come in parts.

A loss sums up something over the classes, in any order and over ranks, and then knows each face's
value and the gradient of each logit. The column of the own class has a gradient of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional as F

from facepack.train.ranks.group import Ranks


class ClassLoss(Protocol):
    """A loss over classes that may come in parts; B faces, n classes of a part."""

    def start(self, like: torch.Tensor) -> torch.Tensor:
        """The sum (B,) over no classes."""

    def own_entry(self, own_logit: torch.Tensor) -> torch.Tensor:
        """What must stand in the own classes' columns where logits are added: (B,)."""

    def add(self, total: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The sum (B,) with a part's logits (B×n) in it."""

    def reduce(
        self, total: torch.Tensor, own_logit: torch.Tensor, ranks: Ranks
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both over all ranks; ``own_logit`` (B,) is 0 but on the rank that has the class."""

    def values(self, total: torch.Tensor, own_logit: torch.Tensor) -> torch.Tensor:
        """The loss of each face, (B,)."""

    def gradient(
        self, logits: torch.Tensor, total: torch.Tensor, out: torch.Tensor
    ) -> torch.Tensor:
        """Of the faces' losses by the logits (B×n) of other classes; written to ``out``."""

    def own_gradient(self, own_logit: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """Of the faces' losses by the logits of the own classes, (B,)."""

    def mean(self, logits: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """The mean over faces where all classes (B×n) are here; ``own`` (B,) are the columns."""


@dataclass(frozen=True)
class Softmax:
    """−ln p(own class)."""

    def start(self, like: torch.Tensor) -> torch.Tensor:
        """ln 0."""
        return torch.full_like(like, -torch.inf)

    def own_entry(self, own_logit: torch.Tensor) -> torch.Tensor:
        """The own class is one of those that share the probability."""
        return own_logit

    def add(self, total: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """ln Σ exp(logit)."""
        return torch.logaddexp(total, torch.logsumexp(logits, 1))

    def reduce(
        self, total: torch.Tensor, own_logit: torch.Tensor, ranks: Ranks
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Two collectives: the maximum, then both sums together."""
        if ranks.world == 1:
            return total, own_logit
        largest = ranks.all_reduce(total.clone(), "max")
        sums = ranks.all_reduce(torch.stack([(total - largest).exp(), own_logit]), "sum")
        return largest + sums[0].log(), sums[1]

    def values(self, total: torch.Tensor, own_logit: torch.Tensor) -> torch.Tensor:
        """−ln p."""
        return total - own_logit

    def gradient(
        self, logits: torch.Tensor, total: torch.Tensor, out: torch.Tensor
    ) -> torch.Tensor:
        """p."""
        return torch.sub(logits, total.unsqueeze(1), out=out).exp_()

    def own_gradient(self, own_logit: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """p − 1."""
        return torch.expm1(own_logit - total)

    def mean(self, logits: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """By torch's own function."""
        return F.cross_entropy(logits, own)


@dataclass(frozen=True)
class NoiseResistant:
    """β·(−ln p(own class)) + (1 − β)·(−ln p(ŷ)), where ŷ is the class of the largest logit.

    A model that has learnt something is believed a little against labels that may be wrong (Zhong
    et al., "Unequal-training for Deep Face Recognition with Long-tailed Noisy Data", CVPR 2019,
    equation 5, with constant weights, as the released code has it; after Reed et al., 2014). ŷ is
    that of the logits with their margin, and among the classes of the sample where a head samples.
    Where several logits are the largest, each has an equal part in the gradient, as in
    ``torch.amax``.

    What it sums up is three numbers a face, (3, B): ln Σ exp(logit), the largest logit, and how
    many have its value.
    """

    beta: float
    """β, the weight of the label."""

    def start(self, like: torch.Tensor) -> torch.Tensor:
        """Of no classes."""
        none = torch.full_like(like, -torch.inf)
        return torch.stack([none, none, torch.zeros_like(like)])

    def own_entry(self, own_logit: torch.Tensor) -> torch.Tensor:
        """The own class may be the one of the largest logit."""
        return own_logit

    def add(self, total: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """All three, of more classes."""
        sums, largest, count = total
        here = logits.amax(1)
        counted = (logits == here.unsqueeze(1)).sum(1).to(count.dtype)
        both = torch.maximum(largest, here)
        count = torch.where(largest == both, count, 0.0) + torch.where(here == both, counted, 0.0)
        return torch.stack([torch.logaddexp(sums, torch.logsumexp(logits, 1)), both, count])

    def reduce(
        self, total: torch.Tensor, own_logit: torch.Tensor, ranks: Ranks
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Two collectives: the maxima, then the sums."""
        if ranks.world == 1:
            return total, own_logit
        sums, largest, count = total
        highest = ranks.all_reduce(torch.stack([sums, largest]), "max")
        count = torch.where(largest == highest[1], count, 0.0)
        parts = torch.stack([(sums - highest[0]).exp(), count, own_logit])
        parts = ranks.all_reduce(parts, "sum")
        return torch.stack([highest[0] + parts[0].log(), highest[1], parts[1]]), parts[2]

    def values(self, total: torch.Tensor, own_logit: torch.Tensor) -> torch.Tensor:
        """Both parts."""
        sums, largest, _ = total
        return sums - self.beta * own_logit - (1.0 - self.beta) * largest

    def gradient(
        self, logits: torch.Tensor, total: torch.Tensor, out: torch.Tensor
    ) -> torch.Tensor:
        """p, less 1 − β at ŷ."""
        sums, largest, count = total.unsqueeze(2)
        believed = (logits == largest) * ((1.0 - self.beta) / count)
        return torch.sub(logits, sums, out=out).exp_().sub_(believed)

    def own_gradient(self, own_logit: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """p − β, less 1 − β where the own class is ŷ."""
        sums, largest, count = total
        believed = torch.where(own_logit == largest, (1.0 - self.beta) / count, 0.0)
        return (own_logit - sums).exp() - self.beta - believed

    def mean(self, logits: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """As it is written."""
        own_logits = logits.gather(1, own.unsqueeze(1)).squeeze(1)
        largest = logits.amax(1)
        believed = self.beta * own_logits + (1.0 - self.beta) * largest
        return (torch.logsumexp(logits, 1) - believed).mean()


@dataclass(frozen=True)
class Unified:
    """ln(1 + exp(−own)) + w·Σ ln(1 + exp(other)), every class being a question of its own.

    The unified cross-entropy of Zhou et al., "UniFace", ICCV 2023: a threshold that all faces
    share, taken from the logits before they come here, tells own from other classes. Logits are
    held within ± ``limit``, beyond which nothing has a gradient, as in the published code.
    """

    negatives: float
    """w, the weight of the other classes."""

    limit: float
    """Bound of a logit."""

    def start(self, like: torch.Tensor) -> torch.Tensor:
        """0."""
        return torch.zeros_like(like)

    def own_entry(self, own_logit: torch.Tensor) -> torch.Tensor:
        """The own class is not among the others."""
        return torch.full_like(own_logit, -torch.inf)

    def add(self, total: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Σ w·ln(1 + exp(logit)); −∞ counts as nothing."""
        terms = F.softplus(self._held(logits)).masked_fill(logits == -torch.inf, 0.0)
        return total + self.negatives * terms.sum(1)

    def reduce(
        self, total: torch.Tensor, own_logit: torch.Tensor, ranks: Ranks
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One collective."""
        if ranks.world == 1:
            return total, own_logit
        sums = ranks.all_reduce(torch.stack([total, own_logit]), "sum")
        return sums[0], sums[1]

    def values(self, total: torch.Tensor, own_logit: torch.Tensor) -> torch.Tensor:
        """Both parts."""
        return total + F.softplus(-self._held(own_logit))

    def gradient(
        self, logits: torch.Tensor, total: torch.Tensor, out: torch.Tensor
    ) -> torch.Tensor:
        """w·σ(logit)."""
        beyond = logits.abs() > self.limit
        return torch.sigmoid(logits, out=out).mul_(self.negatives).masked_fill_(beyond, 0.0)

    def own_gradient(self, own_logit: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """−σ(−logit)."""
        return -torch.sigmoid(-own_logit).masked_fill(own_logit.abs() > self.limit, 0.0)

    def mean(self, logits: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """As it is written."""
        column = own.unsqueeze(1)
        own_logit = logits.gather(1, column)
        others = logits.scatter(1, column, self.own_entry(own_logit))
        total = self.add(self.start(own_logit.squeeze(1)), others)
        return self.values(total, own_logit.squeeze(1)).mean()

    def _held(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.clamp(-self.limit, self.limit)
