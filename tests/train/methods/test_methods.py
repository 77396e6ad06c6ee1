"""A method of one's own, added from outside, with a whole run; what settings belong to a method."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from torch import Tensor

from facepack.errors import ConfigError, TrainingError
from facepack.loading.loader import Batch
from facepack.settings import Range
from facepack.train.collect import merge_settings
from facepack.train.config import TrainConfig, differing_settings
from facepack.train.data import TrainingData
from facepack.train.loop.run import Trainer
from facepack.train.methods import Method, MethodRun, Setup, build_method, register, registry
from facepack.train.methods.method import make_loader
from facepack.train.ranks.group import ALONE, Ranks

MakeConfig = Callable[..., TrainConfig]


class RunningMean:
    """The mean embedding so far."""

    def __init__(self, features: int) -> None:
        self.mean = torch.zeros(features)
        self.unread = 0

    @property
    def weights(self) -> list[Tensor]:
        return [self.mean]

    def whole_state(self) -> dict[str, Any]:
        return {"mean": self.mean, "unread": self.unread}

    def load_whole_state(self, state: dict[str, Any]) -> None:
        self.mean.copy_(state["mean"])
        self.unread = state["unread"]


class AwayFromMean(MethodRun):
    """Embeddings move away from their mean so far: enough to use every part of the interface."""

    def __init__(self, setup: Setup, pull: float) -> None:
        self._setup, self._pull = setup, pull
        self.head = RunningMean(setup.config.features)
        self.loader = make_loader(setup, batch_size=setup.config.batch_size // 2)

    def begin(self) -> None:
        self.head.mean.fill_(float(next(self._setup.backbone.parameters()).detach().mean()))

    def take_step(self, batch: Batch, lr: float) -> Tensor:
        embeddings = self._setup.backbone(batch.images)
        loss = -self._pull * (embeddings - self.head.mean).abs().clamp(max=1.0).mean()
        loss.backward()
        self.head.mean.lerp_(embeddings.detach().mean(0), 0.1)
        self.head.unread += len(batch.labels)
        for group in self._setup.optimizer.param_groups:
            group["lr"] = lr
        self._setup.optimizer.step()
        self._setup.optimizer.zero_grad()
        return loss.detach()

    def take_metrics(self) -> dict[str, float]:
        unread, self.head.unread = self.head.unread, 0
        return {"faces": unread}


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a method that this test alone knows."""
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))

    @register("toy")
    @dataclass(frozen=True, kw_only=True)
    class Toy(Method):
        unused = frozenset({"m3", "accumulate"})

        pull: Annotated[float, Range(above=0)] = 1.0

        def images_per_step(self, config: TrainConfig) -> int:
            return config.batch_size // 2

        def steps_per_epoch(self, config: TrainConfig, data: TrainingData) -> int:
            return len(data) // (config.batch_size // 2)

        def notes(self, config: TrainConfig, data: TrainingData, ranks: Ranks) -> Iterator[str]:
            if data.identities > 1000:
                raise TrainingError("too many")
            yield f"a pull of {self.pull:g} on {data.identities} identities"

        def build(self, setup: Setup) -> MethodRun:
            return AwayFromMean(setup, self.pull)

    return "toy"


def test_a_method_from_outside_trains_and_resumes_to_the_same_bits(
    toy: str, small_config: MakeConfig, tmp_path: Path, assert_same: Callable[[Any, Any], None]
) -> None:
    config = small_config(
        method=toy, method_options={"pull": 0.5}, schedule="cosine", schedule_options={}
    )
    said: list[str] = []
    trainer = Trainer(config, out=tmp_path / "whole", device="cpu", notify=said.append)
    assert trainer.steps_per_epoch == 45 // 4
    trainer.run()
    assert said[0] == "note: a pull of 0.5 on 5 identities"
    assert "11 steps of 4 images" in said[1]
    for last in (2, 7, None):  # between two lines of metrics
        Trainer(config, out=tmp_path / "cut", device="cpu", notify=said.append, resume=True).run(
            max_steps=last
        )
    whole, cut = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
        for name in ("whole", "cut")
    )
    assert_same(whole, cut)
    lines = [json.loads(line) for line in (tmp_path / "cut/metrics.jsonl").open()]
    assert [line["faces"] for line in lines if line["kind"] == "train"] == [12, 12, 12, 8]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "tory"}, r"method = 'tory' is not one of .*toy"),
        ({"method": "toy", "m3": 0.4}, "m3 = 0.4 means nothing under method = toy"),
        ({"method": "toy", "accumulate": 2}, "accumulate = 2 means nothing under method = toy"),
        ({"method": "toy", "method_options": {"push": 1}}, "method toy: unknown setting 'push'"),
        ({"method": "toy", "method_options": {"pull": 0}}, "method toy: pull = 0 is not allowed"),
        ({"method_options": {"pull": 1}}, "method softmax: unknown setting 'pull'"),
    ],
)
def test_settings_of_a_method_are_checked_before_the_run(
    toy: str, small_config: MakeConfig, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Trainer(small_config(**settings), out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", sorted(registry._METHODS))
def test_naming_a_method_drops_what_it_refuses(name: str) -> None:
    # A run to continue is no recipe's, and not to be dropped in silence.
    refused = dict.fromkeys(registry._METHODS[name].unused - {"continues"}, "x")
    before = "f2c" if name == "softmax" else "softmax"
    assert merge_settings({"method": before, **refused}, {"method": name}) == {"method": name}


def test_a_name_is_given_to_one_method_alone(toy: str) -> None:
    with pytest.raises(ValueError, match="registered as 'toy'"):
        register("toy")(type(build_method("toy", None)))


def test_another_method_drops_what_belongs_to_the_one_below() -> None:
    recipe = {"margin": "cosface", "m3": 0.4, "scale": 32.0, "lr": 0.1}
    merged = merge_settings(recipe, {"method": "toy", "method_options": {"pull": 2}})
    assert merged == {"method": "toy", "method_options": {"pull": 2}, "lr": 0.1}
    assert merge_settings(merged, {"method": "softmax"}) == {"method": "softmax", "lr": 0.1}
    assert merge_settings(recipe, {"method": "softmax"}) == {**recipe, "method": "softmax"}


def test_checkpoints_of_before_there_were_methods_are_those_of_the_softmax() -> None:
    config = TrainConfig(shards="faces")
    older = {name: value for name, value in config.as_dict().items() if name != "method"}
    assert differing_settings(older, config) == {}
    toy = TrainConfig(shards="faces", method="toy")
    assert differing_settings(older, toy) == {"method": ("softmax", "toy")}
    assert build_method("softmax", None).images_per_step(config) == 128
    build_method("softmax", None).check(config, ALONE)


def test_what_another_method_drops_is_told() -> None:
    recipe = {"margin": "cosface", "m3": 0.4, "scale": 32.0, "lr": 0.1}
    said: list[str] = []
    merge_settings(recipe, {"method": "unequal", "scale": 16.0}, notify=said.append)
    (line,) = said
    assert "margin = cosface, m3 = 0.4" in line and "scale" not in line and "lr" not in line
    said.clear()
    merge_settings(recipe, {"lr": 0.2, "method": "softmax"}, notify=said.append)
    merge_settings({"lr": 0.1}, {"method": "unequal"}, notify=said.append)
    assert not said
