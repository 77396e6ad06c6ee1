"""Runs of arcface_torch, written as its trainers write them, are gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torch.nn import functional as F

from facepack.cli import root
from facepack.errors import ConfigError, EvaluationError
from facepack.train.backbones import Backbone, build, registry
from facepack.train.config import TrainConfig
from facepack.train.heads import CosFace, PartialFC
from facepack.train.loop.run import Trainer
from facepack.train.models.arcface_torch import continue_run
from facepack.train.ranks.group import Ranks

CLASSES, FEATURES, BATCH, LR, DECAY = 11, 16, 6, 0.05, 5e-3
RULES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=LR, momentum=0.9, weight_decay=DECAY),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=LR, weight_decay=DECAY),
}


class TheirRun:
    """Their trainer in small: one optimizer for the backbone and, last, the centres of a GPU.

    As all GPUs see the same gradients of the backbone, one process that cuts its matrix of centres
    into W parameters is W GPUs.
    """

    def __init__(self, gpus: int, optimizer: str = "sgd", classes: int = CLASSES) -> None:
        torch.manual_seed(5)
        self.backbone = build("small", features=FEATURES, dropout=0.0)
        self.backbone.norm.weight.requires_grad_(False)  # as in their networks, where one is frozen
        sizes = [classes // gpus + (rank < classes % gpus) for rank in range(gpus)]
        self.centres = [nn.Parameter(torch.normal(0, 0.01, (n, FEATURES))) for n in sizes]
        self.rule = RULES[optimizer]
        self.optimizers = [
            self.rule([{"params": self.backbone.parameters()}, {"params": [self.centres[0]]}]),
            *(self.rule([{"params": [part]}]) for part in self.centres[1:]),
        ]
        self.step = 0

    @property
    def weight(self) -> Tensor:
        return torch.cat([part.detach() for part in self.centres])

    def train(self, batches: Iterator[tuple[Tensor, Tensor]]) -> list[float]:
        losses = []
        for images, labels in batches:
            units = F.normalize(self.backbone(images))
            cosines = units @ F.normalize(torch.cat(self.centres)).T
            own = F.one_hot(labels, cosines.shape[1])
            loss = F.cross_entropy(16.0 * (cosines - 0.2 * own), labels)
            loss.backward()
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad()
            losses.append(float(loss.detach()))
            self.step += 1
        return losses

    def state_of_gpu(self, rank: int) -> dict[str, Any]:
        """``opt.state_dict()`` of a GPU: the backbone's parameters, and its part of the centres."""
        whole = self.rule(
            [{"params": self.backbone.parameters()}, {"params": [self.centres[rank]]}]
        )
        state = dict(self.optimizers[0].state)
        state |= self.optimizers[rank].state
        for parameter in (*self.backbone.parameters(), self.centres[rank]):
            if parameter in state:
                whole.state[parameter] = state[parameter]
        return whole.state_dict()

    def save_checkpoints(self, folder: Path) -> Path:
        """train_v2.py under ``save_all_states``, since May 2022."""
        folder.mkdir(exist_ok=True)
        for rank, part in enumerate(self.centres):
            checkpoint = {
                "epoch": 2,
                "global_step": self.step,
                "state_dict_backbone": self.backbone.state_dict(),
                "state_dict_softmax_fc": {"weight": part.detach()},
                "state_optimizer": self.state_of_gpu(rank),
                "state_lr_scheduler": {"last_epoch": self.step, "_last_lr": [LR, LR]},
            }
            torch.save(checkpoint, folder / f"checkpoint_gpu_{rank}.pt")
        torch.save(self.backbone.state_dict(), folder / "model.pt")
        return folder

    def save_states(self, folder: Path) -> Path:
        """train.py in the first months of 2022."""
        folder.mkdir(exist_ok=True)
        for rank, part in enumerate(self.centres):
            torch.save({"weight": part.detach()}, folder / f"softmax_fc_gpu_{rank}.pt")
        torch.save(self.backbone.state_dict(), folder / "model.pt")
        return folder

    def save_matrices(self, folder: Path) -> Path:
        """train.py of 2021: ``PartialFC.save_params`` and the backbone's checkpoint."""
        folder.mkdir(exist_ok=True)
        for rank, part in enumerate(self.centres):
            momentum = self.optimizers[rank].state[part].get("momentum_buffer")
            torch.save(part.detach(), folder / f"rank_{rank}_softmax_weight.pt")
            if momentum is not None:
                torch.save(momentum, folder / f"rank_{rank}_softmax_weight_mom.pt")
        torch.save(self.backbone.state_dict(), folder / "backbone.pth")
        return folder


def batches(count: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        images = torch.randn(BATCH, 3, 112, 112, generator=generator)
        yield images, torch.randint(CLASSES, (BATCH,), generator=generator)


def make_ours(
    optimizer: str = "sgd", *, classes: int = CLASSES, features: int = FEATURES, **options: Any
) -> tuple[Backbone, torch.optim.Optimizer, PartialFC]:
    torch.manual_seed(99)
    backbone = build("small", features=features, dropout=0.0)
    backbone.norm.weight.requires_grad_(False)
    rule = RULES[optimizer]([p for p in backbone.parameters() if p.requires_grad])
    head = PartialFC(
        classes,
        features,
        margin=CosFace(margin=0.2),
        scale=16.0,
        optimizer=optimizer,
        weight_decay=DECAY,
        **options,
    )
    return backbone, rule, head.to(torch.get_default_dtype())


def train_ours(
    backbone: Backbone,
    optimizer: torch.optim.Optimizer,
    head: PartialFC,
    steps: Iterator[tuple[Tensor, Tensor]],
) -> list[float]:
    losses = []
    for images, labels in steps:
        loss = head(backbone(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        head.step(LR)
        losses.append(float(loss.detach()))
    return losses


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def _small(small_backbone: str) -> None:
    assert small_backbone in registry._BUILDERS


@pytest.mark.parametrize("optimizer", RULES)
@pytest.mark.parametrize("gpus", [1, 3])
@pytest.mark.usefixtures("float64")
def test_a_run_goes_on_as_if_it_had_stayed(optimizer: str, gpus: int, tmp_path: Path) -> None:
    theirs = TheirRun(gpus, optimizer)
    theirs.train(batches(4, seed=1))
    folder = theirs.save_checkpoints(tmp_path / "run")
    ours = make_ours(optimizer)
    said = continue_run(folder, *ours)
    assert f"(GPUs: {gpus}, epochs done: 2, steps: 4, learning rate: 0.05)" in said
    assert "backbone, 11 centres, momentum of backbone and centres" in said
    assert torch.equal(ours[2].weight, theirs.weight)
    losses = train_ours(*ours, batches(4, seed=2))
    assert losses == pytest.approx(theirs.train(batches(4, seed=2)), rel=1e-9)
    torch.testing.assert_close(ours[2].weight, theirs.weight, rtol=1e-9, atol=1e-9)
    for name, value in theirs.backbone.state_dict().items():
        torch.testing.assert_close(ours[0].state_dict()[name], value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("gpus", [1, 3, 8])
@pytest.mark.parametrize("layout", ["checkpoints", "states", "matrices"])
def test_rows_of_any_number_of_gpus_come_to_any_number_of_ranks(
    layout: str, gpus: int, world: int, tmp_path: Path
) -> None:
    theirs = TheirRun(gpus)
    theirs.train(batches(2, seed=1))
    folder = getattr(theirs, f"save_{layout}")(tmp_path / "run")
    of_gpus = zip(theirs.optimizers, theirs.centres, strict=True)
    momentum = torch.cat([rule.state[part]["momentum_buffer"] for rule, part in of_gpus])
    parts = []
    for rank in range(world):
        ours = make_ours(ranks=Ranks(rank, world))
        said = continue_run(folder, *ours)
        parts.append(ours[2])
    assert torch.equal(torch.cat([head.weight for head in parts]), theirs.weight)
    held = torch.cat([head.momentum for head in parts])
    assert torch.equal(held, torch.zeros_like(momentum) if layout == "states" else momentum)
    words = {
        "checkpoints": "momentum of backbone and centres",
        "states": "no momentum, which begins at 0",
        "matrices": "momentum of centres",
    }
    assert words[layout] in said
    for name, value in theirs.backbone.state_dict().items():
        assert torch.equal(ours[0].state_dict()[name], value)


def test_the_momentum_of_another_optimizer_is_left(tmp_path: Path) -> None:
    theirs = TheirRun(2, "adamw")
    theirs.train(batches(2, seed=1))
    ours = make_ours("sgd")
    assert "no momentum" in continue_run(theirs.save_checkpoints(tmp_path), *ours)
    assert not ours[2].momentum.any()


def test_momentum_that_one_gpu_lacks_is_left_for_all(tmp_path: Path) -> None:
    theirs = TheirRun(3)
    theirs.train(batches(2, seed=1))
    theirs.save_matrices(tmp_path)
    (tmp_path / "rank_1_softmax_weight_mom.pt").unlink()
    ours = make_ours()
    assert "no momentum" in continue_run(tmp_path, *ours)
    assert torch.equal(ours[2].weight, theirs.weight)
    assert not ours[2].momentum.any()


def lacking(*ranks: int) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for rank in ranks:
            (folder / f"checkpoint_gpu_{rank}.pt").unlink()

    return remove


def another_step(folder: Path) -> None:
    path = folder / "checkpoint_gpu_1.pt"
    torch.save(torch.load(path, weights_only=True) | {"global_step": 7}, path)


def another_runs(folder: Path) -> None:
    TheirRun(2, classes=30).save_checkpoints(folder)


def replaced(content: Any) -> Callable[[Path], None]:
    return lambda folder: torch.save(content, folder / "checkpoint_gpu_2.pt")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lacking(1), r"lacks checkpoint_gpu_1\.pt: each GPU of the run left a file"),
        (lacking(0, 2), r"lacks checkpoint_gpu_0\.pt, checkpoint_gpu_2\.pt: each GPU"),
        (lacking(3), r"are 3, with 9 of 11 classes: the run had 4 GPUs, and the files of the last"),
        (lacking(0, 1, 2, 3), "holds no centres of arcface_torch"),
        (another_step, r"are of different steps \(0, 7\)"),
        (another_runs, r"are not the parts of one head: they hold 15, 15, 3, 2 classes"),
        (replaced(torch.zeros(3, 16)), r"gpu_2\.pt holds no class centres"),
        (replaced({"state_dict_softmax_fc": {"weight": 3}}), r"gpu_2\.pt holds no class centres"),
        (
            replaced({"state_dict_softmax_fc": {"weight": torch.zeros(3, 8)}}),
            r"holds centres of 3×8, .* of 16 features: set features",
        ),
        (replaced({"a": print}), r"gpu_2\.pt holds a print.*a GPU's part of the run"),
        (
            lambda folder: (folder / "checkpoint_gpu_2.pt").write_bytes(b"PK\x03\x04 cut"),
            r"gpu_2\.pt is damaged",
        ),
    ],
)
def test_files_that_do_not_fit_are_told(
    damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    TheirRun(4).save_checkpoints(tmp_path)
    damage(tmp_path)
    with pytest.raises(EvaluationError, match=message):
        continue_run(tmp_path, *make_ours())


@pytest.mark.parametrize(
    "optimizer", [None, 3, {}, {"state": {}}, {"state": {}, "param_groups": [{}]}]
)
def test_odd_optimizer_states_are_passed_over(optimizer: Any, tmp_path: Path) -> None:
    theirs = TheirRun(1)
    path = theirs.save_checkpoints(tmp_path) / "checkpoint_gpu_0.pt"
    torch.save(torch.load(path, weights_only=True) | {"state_optimizer": optimizer}, path)
    ours = make_ours()
    assert "no momentum" in continue_run(tmp_path, *ours)
    assert torch.equal(ours[2].weight, theirs.weight)


def test_other_classes_and_backbones_are_told(tmp_path: Path) -> None:
    folder = TheirRun(2).save_checkpoints(tmp_path)
    with pytest.raises(EvaluationError, match="hold 11 classes, the data to train on 25"):
        continue_run(folder, *make_ours(classes=25))
    backbone = build("tiny", features=FEATURES)
    _, _, head = make_ours()
    with pytest.raises(EvaluationError, match=r"checkpoint_gpu_0\.pt is no tiny"):
        continue_run(folder, backbone, RULES["sgd"](backbone.parameters()), head)


def test_the_setting_begins_a_run_that_resumes_without_the_folder(
    small_config: Callable[..., TrainConfig], tmp_path: Path, assert_same: Callable[..., None]
) -> None:
    theirs = TheirRun(2, classes=5)
    folder = theirs.save_checkpoints(tmp_path / "work_dir")
    config = small_config(continues=str(folder), dropout=0.0)
    said: list[str] = []
    begun = Trainer(config, out=tmp_path / "run", device="cpu", notify=said.append)
    assert torch.equal(begun.head.weight, theirs.weight)
    assert any("going on from" in line for line in said)
    begun.run()
    Trainer(config, out=tmp_path / "cut", device="cpu", notify=said.append).run(max_steps=3)
    folder.rename(tmp_path / "gone")
    Trainer(config, out=tmp_path / "cut", device="cpu", notify=said.append, resume=True).run()
    one, other = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("run", "cut")
    )
    assert_same(one, other)


def test_the_command_goes_on_from_a_folder(
    small_backbone: str, pack_path: Path, tmp_path: Path
) -> None:
    folder = TheirRun(2, classes=5).save_checkpoints(tmp_path / "work_dir")
    arguments = ["train", "--shards", str(pack_path), "--out", str(tmp_path / "run"), "--json"]
    settings = {
        "backbone": small_backbone,
        "features": FEATURES,
        "continues": folder,
        "batch_size": 8,
        "lr": 0.05,
        "steps": 2,
        "precision": "fp32",
    }
    for name, value in settings.items():
        arguments += ["--set", f"{name}={value}"]
    result = CliRunner().invoke(root, [*arguments, "--device", "cpu"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["step"] == 2
    assert "going on from" in result.stderr


def test_two_beginnings_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="continues = a brings a backbone of its own"):
        TrainConfig(shards="faces", continues="a", pretrained="b")
