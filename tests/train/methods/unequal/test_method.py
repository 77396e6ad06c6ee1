"""The stages of unequal training as runs: what they minimise, keep, and refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import facepack
from facepack.care.select import exclude, split
from facepack.errors import ConfigError, DecodeError, FacepackError, TrainingError
from facepack.train.collect import collect_settings, make_config
from facepack.train.config import TrainConfig
from facepack.train.loop.checkpoint import load_checkpoint
from facepack.train.loop.run import Trainer
from facepack.train.methods import build_method
from facepack.train.methods.unequal.method import Unequal
from facepack.train.methods.unequal.mining import Bags, hardest_identities
from facepack.train.ranks.group import ALONE
from tests.train.conftest import make_jpeg

COUNTS = (10, 9, 4, 12, 3, 5, 3, 2, 3, 4, 9)  # four are head

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Head and tail of a pack with a long tail."""
    folder = tmp_path_factory.mktemp("unequal")
    with facepack.PackWriter(folder / "all", classes=len(COUNTS)) as writer:
        for identity, count in enumerate(COUNTS):
            for shot in range(count):
                writer.add(make_jpeg(identity, shot), identity)
    split(folder / "all", folder / "head", folder / "tail")
    return folder / "head", folder / "tail"


@pytest.fixture
def config(packs: tuple[Path, Path], small_backbone: str) -> MakeConfig:
    """``config(stage, pretrained=…, …)``: a run of five steps an epoch."""

    def make(stage: str, options: dict[str, Any] | None = None, **changes: Any) -> TrainConfig:
        of_tail = {
            "tail": str(packs[1]),
            "hard_identities": 4,
            "bag_identities": 5,
            "bags": 3,
            "passes": 2,
            "block": 2,
        }
        settings: dict[str, Any] = {
            "shards": str(packs[0]),
            "method": "unequal",
            "method_options": {
                "stage": stage,
                **(of_tail if stage == "tail" else {}),
                **(options or {}),
            },
            "margin": "arcface",
            "backbone": small_backbone,
            "features": 16,
            "dropout": 0.3,
            "lr": 0.05,
            "schedule": "constant",
            "steps": 10,
            "batch_size": 8,
            "precision": "fp32",
            "log_every": 4,
            "threads": 1,
            "loader_threads": 1,
            **changes,
        }
        return TrainConfig(**settings)

    return make


def train(config: TrainConfig, out: Path, **options: Any) -> Trainer:
    last = options.pop("max_steps", None)
    trainer = Trainer(config, out=out, device="cpu", notify=lambda _: None, **options)
    trainer.run(max_steps=last)
    return trainer


@pytest.fixture
def runs(config: MakeConfig, tmp_path: Path) -> dict[str, Path]:
    """A run of each of the first two stages."""
    train(config("head"), tmp_path / "head")
    train(config("denoise", pretrained=str(tmp_path / "head")), tmp_path / "denoise")
    return {name: tmp_path / name for name in ("head", "denoise")}


def lines(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("timing",)
    return [{k: v for k, v in line.items() if k not in timed} for line in found]


def test_the_first_stage_is_the_softmax(
    config: MakeConfig, tmp_path: Path, assert_same: Any
) -> None:
    train(config("head"), tmp_path / "one")
    train(config("head", method="softmax", method_options=None), tmp_path / "other")
    one, other = (torch.load(tmp_path / name / "model.pt") for name in ("one", "other"))
    assert_same(one, other)


def test_denoising_begins_with_other_centres(runs: dict[str, Path], config: MakeConfig) -> None:
    trainer = Trainer(
        config("denoise", pretrained=str(runs["head"])),
        out=runs["head"].parent / "again",
        device="cpu",
        notify=lambda _: None,
    )
    saved = torch.load(runs["head"] / "model.pt")
    for name, tensor in trainer.backbone.state_dict().items():
        assert torch.equal(tensor, saved[name]), name
    rows = load_checkpoint(runs["head"] / "checkpoint.pt")["head"]["weight"]
    assert not torch.equal(trainer.head.weights[0], rows)
    (line, *_) = [line for line in lines(runs["denoise"]) if "softmax_loss" in line]
    assert line["loss"] == pytest.approx(0.25 * line["softmax_loss"], rel=1e-5)


def test_the_last_stage_adds_up_both_losses(
    runs: dict[str, Path], config: MakeConfig, packs: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = config("tail", {"interweight": 5.0}, pretrained=str(runs["denoise"]), dropout=0.0)
    trainer = Trainer(settings, out=tmp_path / "tail", device="cpu", notify=lambda _: None)
    # The twin: hard identities by loops over the whole bag, and both losses by hand.
    kept = load_checkpoint(runs["denoise"] / "checkpoint.pt")["head"]["weight"]
    assert torch.equal(trainer.head.weights[0], kept)
    tail = facepack.open(packs[1])
    bags = Bags(tail.labels, identities=5, images=3, repeat=False, seed=0)
    backbone = trainer.backbone.eval()
    expected = []
    for number in range(3):
        bag = bags.positions(number)
        with torch.no_grad():
            pixels = np.stack([tail.decode(i) for i in bag.ravel().tolist()])
            images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127.5) / 127.5
            units = F.normalize(backbone(images)).numpy().reshape(*bag.shape, -1)
        expected.append(bag[hardest_identities(units, 4)].ravel().tolist())
    trainer.run(max_steps=1)
    state = trainer.head.tail.state()
    assert state["picked"].tolist() == expected
    assert (state["round"], state["step"]) == (0, 1)
    trainer = Trainer(settings, out=tmp_path / "tail", device="cpu", resume=True, notify=print)
    trainer.run(max_steps=4)
    (line, *_) = [line for line in lines(tmp_path / "tail") if "dispersion" in line]
    assert line["loss"] == pytest.approx(
        0.25 * line["softmax_loss"] + 5 * line["dispersion"], rel=1e-5
    )
    assert trainer.run(max_steps=10).images  # whose hard identities are others by now
    assert trainer.head.tail.state()["round"] == 1


@pytest.mark.parametrize("stop", [1, 3, 6, 7, 9])
def test_a_killed_run_goes_on_bit_for_bit(
    runs: dict[str, Path], config: MakeConfig, tmp_path: Path, assert_same: Any, stop: int
) -> None:
    settings = config("tail", pretrained=str(runs["denoise"]))
    train(settings, tmp_path / "whole")
    train(settings, tmp_path / "parts", max_steps=stop)
    train(settings, tmp_path / "parts", resume=True)
    one, other = (load_checkpoint(tmp_path / n / "checkpoint.pt") for n in ("whole", "parts"))
    assert_same(one, other)
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")


def test_a_cleaned_head_keeps_the_classifier(
    runs: dict[str, Path], config: MakeConfig, packs: tuple[Path, Path], tmp_path: Path
) -> None:
    exclude(packs[0], tmp_path / "clean", np.array([0, 3]))
    settings = config("tail", pretrained=str(runs["denoise"]), shards=str(tmp_path / "clean"))
    train(settings, tmp_path / "run", max_steps=2)


def test_models_of_other_classes_are_refused(
    runs: dict[str, Path], config: MakeConfig, packs: tuple[Path, Path], tmp_path: Path
) -> None:
    whole = packs[0].parent / "all"
    settings = config("tail", pretrained=str(runs["denoise"]), shards=str(whole))
    with pytest.raises(TrainingError, match="other classes"):
        train(settings, tmp_path / "run")
    file = str(runs["denoise"] / "model.pt")
    with pytest.raises(TrainingError, match="folder"):
        train(config("tail", pretrained=file), tmp_path / "run")


def test_another_tail_is_refused_on_resuming(
    runs: dict[str, Path], config: MakeConfig, packs: tuple[Path, Path], tmp_path: Path
) -> None:
    split(packs[0].parent / "all", tmp_path / "h", tmp_path / "tail")
    settings = config("tail", {"tail": str(tmp_path / "tail")}, pretrained=str(runs["denoise"]))
    train(settings, tmp_path / "run", max_steps=2)
    (tmp_path / "tail").rename(tmp_path / "gone")
    exclude(tmp_path / "gone", tmp_path / "tail", np.array([0]))
    with pytest.raises(FacepackError, match="another pack"):
        train(settings, tmp_path / "run", resume=True)


def test_a_relative_tail_is_found_from_another_folder_and_where_it_was_moved(
    runs: dict[str, Path],
    config: MakeConfig,
    packs: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "here").mkdir()
    shutil.copytree(packs[1], tmp_path / "here" / "tail")
    settings = config("tail", {"tail": "here/tail"}, pretrained=str(runs["denoise"]))
    monkeypatch.chdir(tmp_path)
    train(settings, tmp_path / "run", max_steps=1)
    monkeypatch.chdir(tmp_path / "here")
    saved = make_config(collect_settings(run=tmp_path / "run"))
    assert saved.method_options == {
        **(settings.method_options or {}),
        "tail": str(tmp_path / "here" / "tail"),
    }
    train(saved, tmp_path / "run", resume=True, max_steps=2)
    (tmp_path / "here" / "tail").rename(tmp_path / "moved")
    with pytest.raises(TrainingError, match=r"method_options\.tail, also to resume"):
        train(saved, tmp_path / "run", resume=True, max_steps=3)
    named = collect_settings(run=tmp_path / "run", overrides=["method_options.tail=../moved"])
    train(make_config(named), tmp_path / "run", resume=True, max_steps=3)
    other = collect_settings(run=tmp_path / "run", overrides=["method_options.bags=4"])
    with pytest.raises(ConfigError, match="method_options"):
        train(make_config(other), tmp_path / "run", resume=True)


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Path, set[int]]:
    """A tail of seven identities, of two of which an image is no JPEG; the labels of those."""
    with facepack.PackWriter(tmp_path / "damaged", classes=7) as writer:
        for identity in range(7):
            for shot in range(3):
                data = make_jpeg(identity, shot)
                if (identity, shot) in ((1, 2), (4, 0)):
                    data = data[:900] + b"\xff\xd9"
                writer.add(data, identity)
    return tmp_path / "damaged", {1, 4}


@pytest.mark.parametrize("of_bag", [4, 7])
def test_tail_images_that_do_not_decode_are_left_out_with_their_identities(
    runs: dict[str, Path],
    config: MakeConfig,
    damaged: tuple[Path, set[int]],
    tmp_path: Path,
    assert_same: Any,
    of_bag: int,
) -> None:
    path, broken = damaged
    options = {"tail": str(path), "bag_identities": 7, "hard_identities": of_bag}
    settings = config("tail", options, pretrained=str(runs["denoise"]))
    with pytest.raises(DecodeError):
        train(settings, tmp_path / "raise")
    settings = replace(settings, on_bad_image="skip")
    trainer = Trainer(settings, out=tmp_path / "whole", device="cpu", notify=lambda _: None)
    summary = trainer.run()
    # 10 steps of 8 images, and behind them of 12: whole identities alone, four or all five.
    assert summary.images == 10 * (8 + 3 * min(of_bag, 5))
    labels = facepack.open(path).labels
    state = trainer.head.tail.state()
    for row in state["picked"].numpy().reshape(3, of_bag, 3):
        assert (labels[row] == labels[row[:, :1]]).all()
        if of_bag == 4:
            assert not {*labels[row[:, 0]].tolist()} & broken
    assert lines(tmp_path / "whole")[-1]["tail_skipped"] == 2 * 3 * 2  # bags, rounds
    train(settings, tmp_path / "parts", max_steps=4)
    train(settings, tmp_path / "parts", resume=True)
    one, other = (load_checkpoint(tmp_path / n / "checkpoint.pt") for n in ("whole", "parts"))
    assert_same(one, other)
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")


def test_a_tail_of_another_size_is_refused_before_the_first_step(
    runs: dict[str, Path], config: MakeConfig, tmp_path: Path
) -> None:
    with facepack.PackWriter(tmp_path / "small", classes=6) as writer:
        for identity in range(6):
            for shot in range(3):
                writer.add(make_jpeg(identity, shot, 64), identity)
    settings = config("tail", {"tail": str(tmp_path / "small")}, pretrained=str(runs["denoise"]))
    with pytest.raises(TrainingError, match="64×64"):
        Trainer(settings, out=tmp_path / "run", device="cpu", notify=lambda _: None)


def test_the_tail_is_looked_up_in_the_data_home(
    runs: dict[str, Path], config: MakeConfig, packs: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = config("tail", {"tail": "tail"}, pretrained=str(runs["denoise"]))
    train(settings, tmp_path / "run", home=packs[1].parent, max_steps=1)


@pytest.mark.parametrize(
    ("stage", "options", "changes", "words"),
    [
        ("tail", {"tail": None}, {"pretrained": "x"}, "needs tail"),
        ("head", {"tail": "x"}, {}, "head alone"),
        ("denoise", {}, {}, "pretrained"),
        ("tail", {}, {}, "pretrained"),
        ("tail", {}, {"pretrained": "x", "accumulate": 2}, "accumulate"),
        ("tail", {"hard_identities": 6}, {"pretrained": "x"}, "bag_identities"),
        ("head", {}, {"margin": "uniface"}, "loss of its own"),
        ("head", {}, {"nesterov": True}, "nesterov = True means nothing"),
        ("head", {}, {"continues": "x"}, "continues = x means nothing"),
        ("last", {}, {}, "stage"),
    ],
)
def test_settings_that_do_not_fit(
    config: MakeConfig,
    tmp_path: Path,
    stage: str,
    options: dict[str, Any],
    changes: dict[str, Any],
    words: str,
) -> None:
    with pytest.raises(ConfigError, match=words):
        train(config(stage, options, **changes), tmp_path / "run")


@pytest.mark.parametrize(
    ("stage", "options", "told"),
    [
        ("head", {"beta": 0.5, "bags": 7}, "beta = 0.5, bags = 7 mean nothing in stage = head"),
        ("denoise", {"beta": 0.5, "interweight": 5.0}, "interweight = 5.0 means nothing in stage"),
        ("denoise", {"beta": 0.5}, None),
        ("head", {"beta": 0.9}, None),
    ],
)
def test_options_of_later_stages_are_told(
    config: MakeConfig, stage: str, options: dict[str, Any], told: str | None
) -> None:
    settings = config(stage, options=options)
    method = build_method("unequal", settings.method_options)
    notes = list(method.notes(settings, None, ALONE))  # type: ignore[arg-type]
    assert len(notes) == (told is not None) and (told is None or told in notes[0])


def test_every_option_has_its_first_stage() -> None:
    names = {field.name for field in fields(Unequal)}
    assert {*Unequal.first_stage} | {"stage", "tail"} == names
