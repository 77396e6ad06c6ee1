"""F2C in the most direct way, of several ranks in one process: whole views, autograd, lists."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pass = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of a rank: x, its labels, y, its labels."""


class F2CTwin:
    """Holds one probe and one gallery network; each rank's slice goes through them by itself."""

    def __init__(
        self, probe: nn.Module, queue: Tensor, kind: str, margin: float, scale: float, alpha: float
    ) -> None:
        self.probe, self.gallery = probe, copy.deepcopy(probe)
        self.queue = queue.clone()
        self.slots = queue.shape[1]
        self.kind, self.margin, self.scale, self.alpha = kind, margin, scale, alpha
        self.held: list[list[int]] = []  # [identity, slot], the most recently used first
        self.pos = [0] * self.slots
        self.optimizer = torch.optim.SGD(
            probe.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3, nesterov=True
        )

    def slot_of(self, identity: int) -> int | None:
        return next((slot for key, slot in self.held if key == identity), None)

    def use(self, identity: int) -> int:
        slot = self.slot_of(identity)
        if slot is None:
            full = len(self.held) == self.slots
            slot = self.held.pop()[1] if full else len(self.held)
        else:
            self.held.remove([identity, slot])
        self.held.insert(0, [identity, slot])
        return slot

    def insert(self, features: Tensor, labels: list[int]) -> set[int]:
        again = set()
        for feature, identity in zip(features, labels, strict=True):
            known = self.slot_of(identity) is not None
            slot = self.use(identity)
            row = self.pos[slot] if known else 0
            self.queue[row, slot] = feature
            self.pos[slot] = 1 - row
            if known:
                again.add(slot)
        return again

    def term(self, cosines: Tensor, slots: list[int | None]) -> Tensor:
        inside, outside = [], []
        for row, slot in zip(cosines, slots, strict=True):
            if slot is None:
                h = min(10, max(3, int(self.slots * 0.0002)), self.slots)
                outside.append(row.sort(descending=True).values[:h].clamp(min=0).mean())
                continue
            cosine, logits = row[slot], []
            for other in range(self.slots):
                value = row[other]
                if other != slot and self.kind == "sv" and value > cosine - self.margin:
                    value = 1.2 * value + 0.2
                logits.append(value)
            if self.kind == "am":
                logits[slot] = cosine - self.margin
            elif self.kind == "arc":
                logits[slot] = torch.cos(torch.acos(cosine) + self.margin)
            elif cosine > self.margin:
                logits[slot] = cosine - self.margin
            inside.append(-F.log_softmax(self.scale * torch.stack(logits), dim=0)[slot])
        total = cosines.new_zeros(())
        for group in (inside, outside):
            if group:
                total = total + torch.stack(group).mean()
        return total

    def terms(self, passes: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> list[Tensor]:
        """Both terms of a pass, means over the ranks, by their probes and gallery images."""
        with torch.no_grad():
            features = torch.cat([F.normalize(self.gallery(g)) for _, _, g, _ in passes])
        again = self.insert(features, [i for *_, labels in passes for i in labels.tolist()])
        view = self.queue[0].clone()
        for slot in again:
            view[slot] = self.queue[1, slot]
        views = [self.queue[0].clone(), view]
        found = []
        for probes, labels, _, _ in passes:
            embedded = F.normalize(self.probe(probes))
            slots = [self.slot_of(i) for i in labels.tolist()]
            found.append([self.term(embedded @ v.T, slots) for v in views])
        return [sum(each) / len(passes) for each in zip(*found, strict=True)]

    def step(self, ranks: list[Pass], lr: float) -> list[float]:
        with torch.no_grad():
            for mine, theirs in zip(
                self.gallery.parameters(), self.probe.parameters(), strict=True
            ):
                mine.copy_(self.alpha * mine + (1 - self.alpha) * theirs)
        before: Any = (self.queue.clone(), copy.deepcopy(self.held), list(self.pos))
        first = self.terms([(x, xl, y, yl) for x, xl, y, yl in ranks])
        self.queue, self.held, self.pos = before
        second = self.terms([(y, yl, x, xl) for x, xl, y, yl in ranks])
        terms = [*first, *second]
        torch.stack(terms).sum().backward()
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        return [float(term.detach()) for term in terms]
