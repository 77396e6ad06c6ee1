"""Checkpoints of AdaFace, MagFace and CurricularFace, as their trainers write them, go on here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from facepack.cli import root
from facepack.errors import EvaluationError
from facepack.evaluate.models import load_model
from facepack.train.backbones import Backbone, build
from facepack.train.heads import PartialFC, build_margin
from facepack.train.models.peers import continue_checkpoint, is_peers
from facepack.train.models.pretrained import load_pretrained, read_weights
from facepack.train.ranks.group import Ranks

CLASSES, FEATURES = 5, 16
SCALARS = {"t": 0.25, "batch_mean": 17.5, "batch_std": 3.5}


@pytest.fixture
def theirs(small_backbone: str) -> Backbone:
    torch.manual_seed(3)
    return build(small_backbone, features=FEATURES)


@pytest.fixture
def kernel() -> Tensor:
    return torch.randn(FEATURES, CLASSES, generator=torch.Generator().manual_seed(4))


def save_adaface(folder: Path, net: Backbone, kernel: Tensor) -> Path:
    """``ModelCheckpoint`` of PyTorch Lightning, of the module with ``model`` and ``head``."""
    state = {f"model.{name}": value for name, value in net.state_dict().items()}
    state["head.kernel"] = kernel
    state |= {f"head.{name}": torch.tensor([value]) for name, value in SCALARS.items()}
    content = {
        "epoch": 25,
        "global_step": 284_600,
        "pytorch-lightning_version": "1.8.6",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val_acc'}": {"best_model_path": "/a/b.ckpt"}},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}],
        "lr_schedulers": [{"milestones": {12: 1}, "last_epoch": 25}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"arch": "ir_50", "m": 0.4, "val_data_path": "faces_emore"},
    }
    torch.save(content, folder / "last.ckpt")
    return folder / "last.ckpt"


def save_magface(folder: Path, net: Backbone, kernel: Tensor) -> Path:
    """``save_checkpoint`` of a module under DataParallel, with ``features`` and ``fc``."""
    state = {f"module.features.{name}": value for name, value in net.state_dict().items()}
    state["module.fc.weight"] = kernel
    content = {"epoch": 25, "arch": "iresnet50", "state_dict": state, "optimizer": {"state": {}}}
    torch.save(content, folder / "00025.pth")
    return folder / "00025.pth"


def save_curricularface(folder: Path, net: Backbone, kernel: Tensor) -> Path:
    """Two files an epoch, written one after the other, so that their times may differ."""
    run = folder / "run"
    run.mkdir()
    for epoch, factor in ((2, 0.0), (10, 1.0), (9, 0.0)):
        state = {name: value * factor for name, value in net.state_dict().items()}
        name = f"IR_101_Epoch_{epoch}_Time_2020-05-15-10-59_checkpoint.pth"
        torch.save(state, run / f"Backbone_{name}")
        head = {"kernel": kernel * factor, "t": torch.tensor([SCALARS["t"]])}
        name = f"CurricularFace_Epoch_{epoch}_Time_2020-05-15-11-00_checkpoint.pth"
        torch.save({"EPOCH": epoch, "HEAD": head, "OPTIMIZER": {"state": {}}}, run / f"Head_{name}")
    torch.save(net.state_dict(), run / "Backbone_IR_101_Epoch_11_Time_2020-05-16_checkpoint.pth")
    return run


SAVE: dict[str, Callable[[Path, Backbone, Tensor], Path]] = {
    "adaface": save_adaface,
    "magface": save_magface,
    "curricularface": save_curricularface,
}
STATE = {
    "adaface": {"mean": SCALARS["batch_mean"], "deviation": SCALARS["batch_std"]},
    "magface": {},
    "curricularface": {"t": SCALARS["t"]},
}


def make_head(margin: str, **options: Any) -> PartialFC:
    return PartialFC(CLASSES, FEATURES, margin=build_margin(margin), **options)


@pytest.mark.parametrize("peer", SAVE)
def test_backbone_centres_and_the_margins_numbers_arrive(
    peer: str, theirs: Backbone, kernel: Tensor, tmp_path: Path
) -> None:
    path = SAVE[peer](tmp_path, theirs, kernel)
    assert is_peers(path)
    ours, head = build("small", features=FEATURES), make_head(peer)
    head.get_buffer("momentum").fill_(1.0)
    said = continue_checkpoint(path, ours, head)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name
    assert torch.equal(head.weight, kernel.T)
    assert not head.get_buffer("momentum").any()
    read = head.margin_state.read()
    assert {name: float(read[name].detach()) for name in STATE[peer]} == STATE[peer]
    assert ours.channels == ("bgr" if peer == "adaface" else "rgb")
    epoch = {"curricularface": 10}.get(peer, 25)
    assert f"epochs done: {epoch}" in said and "momentum begins at 0" in said


@pytest.mark.parametrize("world", [2, 3])
def test_each_rank_takes_its_rows(
    world: int, theirs: Backbone, kernel: Tensor, tmp_path: Path
) -> None:
    path = save_adaface(tmp_path, theirs, kernel)
    rows = []
    for rank in range(world):
        head = make_head("adaface", ranks=Ranks(rank, world))
        continue_checkpoint(path, build("small", features=FEATURES), head)
        rows.append(head.weight)
    assert torch.equal(torch.cat(rows), kernel.T)


def test_another_margin_goes_on_from_the_same_centres(
    theirs: Backbone, kernel: Tensor, tmp_path: Path
) -> None:
    path = save_adaface(tmp_path, theirs, kernel)
    head = make_head("curricularface")
    said = continue_checkpoint(path, build("small", features=FEATURES), head)
    assert torch.equal(head.weight, kernel.T) and "the margin's" not in said
    assert float(head.margin_state.read()["t"]) == 0.0


@pytest.mark.parametrize("peer", SAVE)
def test_the_backbone_alone_is_read_as_any_other(
    peer: str, theirs: Backbone, kernel: Tensor, tmp_path: Path
) -> None:
    path = SAVE[peer](tmp_path, theirs, kernel)
    if path.is_dir():
        path = next(path.glob("Backbone_*_Epoch_10_*"))
    net = load_model(path)
    assert (net.name, net.channels) == ("small", "bgr" if peer == "adaface" else "rgb")
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in net.state_dict().items())
    assert load_model(path, channels="rgb").channels == "rgb"


def test_magfaces_network_is_not_taken_for_the_plain_one(tmp_path: Path) -> None:
    """Their tensors are those of r18, their pixels are not."""
    net = build("r18_magface", features=4)
    path = save_magface(tmp_path, net, torch.zeros(4, 3))
    assert read_weights(path).backbone == "r18_magface"
    assert load_model(path).name == "r18_magface"
    with pytest.raises(EvaluationError, match="set the backbone to r18_magface"):
        load_pretrained(build("r18", features=4), path)


@pytest.mark.parametrize("peer", SAVE)
def test_the_command_goes_on_and_resumes_without_the_file(
    peer: str, theirs: Backbone, kernel: Tensor, pack_path: Path, tmp_path: Path
) -> None:
    path = SAVE[peer](tmp_path, theirs, kernel)
    settings = {
        "backbone": "small",
        "features": FEATURES,
        "continues": path,
        "margin": peer,
        "batch_size": 8,
        "lr": 0.05,
        "steps": 4,
        "checkpoint_every": 1,
        "precision": "fp32",
    }
    out = tmp_path / "out"
    arguments = ["train", "--shards", str(pack_path), "--out", str(out), "--device", "cpu"]
    for name, value in settings.items():
        arguments += ["--set", f"{name}={value}"]
    result = CliRunner().invoke(root, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["step"] == 4
    assert "going on from" in result.stderr
    order = 'channels = "bgr"' in (out / "config.toml").read_text()
    assert order == (peer == "adaface") == (load_model(out).channels == "bgr")
    result = CliRunner().invoke(root, ["train", "--out", str(out), "--resume", "--device", "cpu"])
    assert result.exit_code == 0, result.stderr


def broken_kernel(folder: Path, net: Backbone, kernel: Tensor) -> Path:
    return save_adaface(folder, net, kernel[:, :-1])


def other_features(folder: Path, net: Backbone, kernel: Tensor) -> Path:
    return save_magface(folder, net, kernel[:-1])


def whole_numbers(folder: Path, net: Backbone, kernel: Tensor) -> Path:
    return save_magface(folder, net, kernel.long())


def one_half(folder: Path, net: Backbone, kernel: Tensor) -> Path:
    run = save_curricularface(folder, net, kernel)
    for path in run.glob("Head_*"):
        path.unlink()
    return run


def no_head(folder: Path, net: Backbone, kernel: Tensor) -> Path:
    run = save_curricularface(folder, net, kernel)
    torch.save({"HEAD": 3}, next(run.glob("Head_*_Epoch_10_*")))
    return run


def a_model_alone(folder: Path, net: Backbone, kernel: Tensor) -> Path:
    torch.save(net.state_dict(), folder / "model.pt")
    return folder / "model.pt"


class Program:
    """Pickled, it asks for a call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("it ran",)


def program(folder: Path, net: Backbone, kernel: Tensor) -> Path:
    torch.save({"state_dict": {"head.kernel": kernel}, "callbacks": Program()}, folder / "p.ckpt")
    return folder / "p.ckpt"


def cut_short(folder: Path, net: Backbone, kernel: Tensor) -> Path:
    path = save_adaface(folder, net, kernel)
    path.write_bytes(path.read_bytes()[:-100])
    return path


@pytest.mark.parametrize(
    ("save", "words"),
    [
        (broken_kernel, "holds 4 classes, the data to train on 5"),
        (other_features, "centres of 15 features, and those of the run to begin are of 16"),
        (whole_numbers, "holds no matrix of class centres"),
        (one_half, "of one epoch: both are needed"),
        (no_head, "holds no HEAD with class centres"),
        (a_model_alone, "holds no class centres of AdaFace"),
        (program, "only tensors are read"),
        (cut_short, "is damaged"),
    ],
)
def test_files_that_do_not_fit_are_told(
    save: Callable[[Path, Backbone, Tensor], Path],
    words: str,
    theirs: Backbone,
    kernel: Tensor,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = save(tmp_path, theirs, kernel)
    head = make_head("adaface")
    before = head.weight.clone()
    with pytest.raises(EvaluationError, match=words):
        continue_checkpoint(path, build("small", features=FEATURES), head)
    assert torch.equal(head.weight, before)
    assert capsys.readouterr().out == ""


def test_an_epoch_that_is_no_number_is_not_repeated(
    theirs: Backbone, kernel: Tensor, tmp_path: Path
) -> None:
    path = save_adaface(tmp_path, theirs, kernel)
    content = torch.load(path, weights_only=True)
    torch.save({**content, "epoch": "\x1b[31m"}, path)
    said = continue_checkpoint(path, build("small", features=FEATURES), make_head("adaface"))
    assert "epochs done: unknown" in said and said.isprintable()


def test_numbers_that_are_none_are_left(theirs: Backbone, kernel: Tensor, tmp_path: Path) -> None:
    path = save_adaface(tmp_path, theirs, kernel)
    content = torch.load(path, weights_only=True)
    content["state_dict"]["head.batch_std"] = torch.tensor([torch.nan])
    torch.save(content, path)
    head = make_head("adaface")
    said = continue_checkpoint(path, build("small", features=FEATURES), head)
    assert "the margin's" not in said and float(head.margin_state.read()["mean"]) == 20.0
