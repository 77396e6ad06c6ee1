"""The noise-resistant loss: by hand, against a twin in float64, whole, in chunks and by finite
differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from facepack.train.heads import ArcFace, PartialFC
from facepack.train.heads.logits import margin_logits
from facepack.train.heads.margins.losses import NoiseResistant, Softmax
from facepack.train.methods.unequal.rule import NoiseResistantRule
from facepack.train.ranks.group import ALONE


def slow_loss(logits: torch.Tensor, labels: torch.Tensor, beta: float) -> torch.Tensor:
    """The published formula, face by face, in float64."""
    found = []
    for row, label in zip(logits.double(), labels.tolist(), strict=True):
        log_p = torch.log(row.exp() / row.exp().sum())
        believed = int(row.argmax())
        found.append(-beta * log_p[label] - (1 - beta) * log_p[believed])
    return torch.stack(found).mean()


def test_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)
    own = torch.tensor([0])
    expected = -0.9 * math.log(0.25) - 0.1 * math.log(0.75)
    assert NoiseResistant(0.9).mean(logits, own).item() == pytest.approx(expected)
    assert NoiseResistant(1.0).mean(logits, own).item() == pytest.approx(-math.log(0.25))


@pytest.mark.parametrize("chunk", [None, 1, 4, 23])
@pytest.mark.parametrize("beta", [0.9, 0.5, 1.0, 0.0])
def test_head_equals_the_twin(chunk: int | None, beta: float) -> None:
    torch.manual_seed(0)
    head = PartialFC(
        23, 6, margin=ArcFace(margin=0.3), scale=16.0, chunk=chunk, weight_decay=0.0
    ).double()
    head.weight.normal_()
    rule = head.logits
    head.logits = NoiseResistantRule(margin=rule.margin, scale=rule.scale, beta=beta)
    embeddings = torch.randn(9, 6, dtype=torch.float64)
    labels = torch.randint(23, (9,))
    embeddings[0] = head.weight[labels[0]]  # its own class is the one that is believed
    ours = embeddings.clone().requires_grad_()
    theirs = embeddings.clone().requires_grad_()
    centres = head.weight.clone().requires_grad_()
    loss = head(ours, labels)
    loss.backward()
    logits = margin_logits(F.normalize(theirs), centres, labels, rule)
    assert logits[0].argmax() == labels[0]
    expected = slow_loss(logits, labels, beta)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)
    before = head.weight.clone()
    head.step(1.0)
    torch.testing.assert_close(before - head.weight, centres.grad, rtol=1e-9, atol=1e-12)


def test_parts_of_any_cut_give_the_same() -> None:
    torch.manual_seed(1)
    logits = torch.randn(5, 12, dtype=torch.float64) * 4
    logits[0, [2, 9]] = logits[0].max() + 1  # two are the largest, in parts of their own
    own = torch.tensor([2, 4, 0, 11, 7])
    loss = NoiseResistant(0.9)
    leaf = logits.clone().requires_grad_()
    loss.mean(leaf, own).backward()
    own_logit = logits.gather(1, own[:, None]).squeeze(1)
    for cut in (1, 5, 12):
        total = loss.start(own_logit)
        for part in logits.split(cut, dim=1):
            total = loss.add(total, part)
        total, kept = loss.reduce(total, own_logit, ALONE)
        torch.testing.assert_close(loss.values(total, kept).mean(), loss.mean(logits, own))
        gradient = loss.gradient(logits.clone(), total, torch.empty_like(logits))
        gradient.scatter_(1, own[:, None], loss.own_gradient(kept, total)[:, None])
        torch.testing.assert_close(gradient / 5, leaf.grad)


def test_without_belief_it_is_the_softmax() -> None:
    torch.manual_seed(2)
    logits, own = torch.randn(7, 11), torch.randint(11, (7,))
    torch.testing.assert_close(NoiseResistant(1.0).mean(logits, own), Softmax().mean(logits, own))
