"""Activation checkpointing against the plain run: outputs, gradients and state bit for bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from facepack.train.backbones import Backbone
from facepack.train.backbones import iresnet as iresnet_module
from facepack.train.backbones.iresnet import IResNet
from facepack.train.backbones.recompute import recompute
from facepack.train.backbones.registry import skeleton
from facepack.train.backbones.vit import VisionTransformer


def iresnet(**options: Any) -> Backbone:
    # The third stage is longer than a segment of two and no multiple of one.
    return IResNet((1, 1, 3, 1), 16, 0.2, options.pop("autocast", None), **options)


def vit(**options: Any) -> Backbone:
    shape = {"width": 32, "depth": 3, "drop_path": 0.5, "masked": 0.1}
    options = {"autocast": None} | options
    return VisionTransformer(**shape, features=16, dropout=0.2, **options)


def step(net: Backbone) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Two steps of training on noise: the last embeddings and gradients, and all that remains."""
    torch.manual_seed(1)
    for _ in range(2):
        net.zero_grad()
        embeddings = net(torch.randn(2, 3, 112, 112))
        (embeddings * torch.randn_like(embeddings)).sum().backward()
    gradients = {k: p.grad for k, p in net.named_parameters() if p.grad is not None}
    return embeddings.detach(), gradients, {"random": torch.get_rng_state(), **net.state_dict()}


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("make", [iresnet, vit])
def test_a_checkpointed_step_is_the_plain_one(
    make: Any, autocast: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iresnet_module, "_SEGMENT", 2)
    torch.manual_seed(0)
    plain = make(checkpointing=False, autocast=autocast)
    checkpointed = make(checkpointing=True, autocast=autocast)
    checkpointed.load_state_dict(plain.state_dict())
    (embeddings, gradients, state), (again, gradients2, state2) = step(plain), step(checkpointed)
    assert torch.equal(embeddings, again)
    assert gradients.keys() == gradients2.keys() and gradients
    for key, gradient in gradients.items():
        assert torch.equal(gradient, gradients2[key]), key
    assert state.keys() == state2.keys()
    for key, value in state.items():
        assert torch.equal(value, state2[key]), key


class Counting(nn.Module):
    """Normalises, and counts how often."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.runs = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return self.norm(x).tanh()


def test_blocks_run_again_and_remember_once() -> None:
    blocks = [Counting(), Counting()]
    blocks[1].norm.eval()  # frozen: it normalises by its statistics, and goes on to
    before = copy.deepcopy(blocks[1].norm.state_dict())
    recompute(blocks, torch.randn(5, 3, requires_grad=True), draws=False).sum().backward()
    assert [block.runs for block in blocks] == [2, 2]
    assert [int(block.norm.num_batches_tracked) for block in blocks] == [1, 0]
    assert all(torch.equal(v, before[k]) for k, v in blocks[1].norm.state_dict().items())


def test_statistics_are_kept_where_the_backward_pass_fails() -> None:
    block = Counting()
    mean = block.norm.running_mean
    out = recompute([block], torch.randn(5, 3, requires_grad=True), draws=False)
    block.forward = None  # type: ignore[assignment]
    with pytest.raises(TypeError):
        out.sum().backward()
    assert block.norm.running_mean is mean and block.norm.num_batches_tracked == 1


def test_evaluation_runs_blocks_once() -> None:
    net = vit(checkpointing=True).eval()
    runs = []
    net.blocks[0].register_forward_hook(lambda *_: runs.append(1))
    (net(torch.randn(2, 3, 112, 112)) ** 2).sum().backward()
    assert len(runs) == 1


def test_which_backbones_are_checkpointed() -> None:
    published = {"r18": False, "vit_t": False, "vit_s": False, "vit_b": True, "vit_h": True}
    for name, checkpointing in published.items():
        assert skeleton(name).checkpointing is checkpointing, name
