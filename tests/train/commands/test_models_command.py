"""``facepack models``: counts against the published figures and against a slow twin."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from facepack.train import backbones
from facepack.train.backbones import registry
from facepack.train.backbones.iresnet import IResNet
from facepack.train.commands.models import models
from facepack.train.models.cost import count_cost, count_macs, model_cost

# arcface_torch's README and the names it gives its logs: 10^9 multiply-accumulates, rounded, with
# those of normalisation and activation counted in.
PUBLISHED_GMACS = {
    "r18": 2.6,
    "r50": 6.3,
    "r100": 12.1,
    "r200": 23.5,
    "mbf": 0.45,
    "vit_t": 1.5,
    "vit_s": 5.7,
    "vit_b": 11.4,
    "vit_l": 25.3,
}


@pytest.mark.parametrize(("name", "published"), PUBLISHED_GMACS.items())
def test_multiply_accumulates_are_the_published(name: str, published: float) -> None:
    assert model_cost(name).macs / 1e9 == pytest.approx(published, rel=0.03, abs=0.05)


@pytest.mark.parametrize("name", [name for name in backbones.names() if name != "r2060"])
def test_what_is_remembered_is_what_is_counted(name: str) -> None:
    assert model_cost(name) == count_cost(name)


def test_the_thousand_blocks_of_r2060_cost_alike() -> None:
    """Their sum from a few: each further block of a stage adds the same."""

    def cost(*depths: int) -> tuple[int, int]:
        with torch.device("meta"):
            net = IResNet(depths, 512, 0.0, None)
        parameters = sum(p.numel() for p in net.parameters())
        return parameters, count_macs(net)

    base, second, third = cost(3, 2, 2, 3), cost(3, 3, 2, 3), cost(3, 2, 3, 3)
    expected = [
        b + (128 - 2) * (s - b) + (896 - 2) * (t - b)
        for b, s, t in zip(base, second, third, strict=True)
    ]
    whole = model_cost("r2060")
    assert [whole.parameters, whole.macs] == expected


@pytest.mark.parametrize("name", ["tiny", "mbf"])
def test_counts_are_the_slow_twins(name: str) -> None:
    """Each output of a real pass costs the weights that it was summed over."""
    net = backbones.build(name, features=64).eval()
    macs = 0

    def count(layer: nn.Conv2d | nn.Linear, _: object, output: torch.Tensor) -> None:
        nonlocal macs
        macs += output.numel() * layer.weight[0].numel()

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    net(torch.zeros(1, 3, 112, 112))
    cost = model_cost(name, features=64)
    assert cost.macs == macs
    assert cost.parameters == sum(p.numel() for p in net.parameters())
    assert (cost.features, cost.image_size) == (64, (112, 112))


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {name: registry._BUILDERS[name] for name in ("tiny", "r50_224")}
    monkeypatch.setattr(registry, "_BUILDERS", kept)
    lines = CliRunner().invoke(models, []).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["backbone", "tiny", "r50_224"]
    assert lines[2].split()[1:4] == ["74.89", "4.14", "512"]
    assert lines[2].endswith(("224×224", "224x224"))
    listed = json.loads(CliRunner().invoke(models, ["--json"]).stdout)
    assert [entry["name"] for entry in listed] == ["tiny", "r50_224"]
    assert listed[1]["parameters"] == 74_889_792 and listed[1]["image_size"] == [224, 224]
