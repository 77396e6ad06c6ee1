"""Loading models: runs, bare state_dicts whose backbone is guessed, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from facepack.errors import ConfigError, EvaluationError
from facepack.evaluate.models import load_model
from facepack.train.backbones import build
from facepack.train.config import TrainConfig, dump_config


def same_weights(model: nn.Module, other: nn.Module) -> bool:
    pairs = zip(model.state_dict().items(), other.state_dict().items(), strict=True)
    return all(k == j and torch.equal(v, w) for (k, v), (j, w) in pairs)


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.fixture
def tiny() -> nn.Module:
    torch.manual_seed(5)
    return build("tiny", features=24)


@pytest.fixture
def run(tmp_path: Path, tiny: nn.Module) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    save(tiny.state_dict(), folder / "model.pt")
    config = TrainConfig(shards="faces", backbone="tiny", features=24, precision="bf16")
    (folder / "config.toml").write_text(dump_config(config))
    return folder


def test_a_run_loads_in_float32_and_eval_mode(run: Path, tiny: nn.Module) -> None:
    model = load_model(run)
    assert same_weights(model, tiny)
    assert not model.training and model.autocast is None
    assert same_weights(load_model(run, backbone="tiny"), tiny)


@pytest.mark.parametrize("features", [64, 512])
@pytest.mark.parametrize("name", ["tiny", "mbf", "r18"])
def test_the_backbone_of_a_file_is_guessed(tmp_path: Path, name: str, features: int) -> None:
    model = build(name, features=features)
    assert same_weights(load_model(save(model.state_dict(), tmp_path / "m.pt")), model)


def test_half_precision_and_missing_batch_counters_are_no_obstacle(
    tmp_path: Path, tiny: nn.Module
) -> None:
    state = {
        key: value.half()
        for key, value in tiny.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    model = load_model(save(state, tmp_path / "m.pt"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


# --- refusing ----------------------------------------------------------------------------------


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"there is no model at .*nowhere\.pt"):
        load_model(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("file", ["config.toml", "model.pt"])
def test_an_unfinished_run(run: Path, file: str) -> None:
    (run / file).unlink()
    with pytest.raises(EvaluationError, match=f"holds no {file}: it is not a finished run"):
        load_model(run)


def test_a_run_of_another_backbone_or_without_one(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"'r18' was asked for, but .* trained 'tiny'"):
        load_model(run, backbone="r18")
    (run / "config.toml").write_text('backbone = "unheard_of"\nfeatures = 24\n')
    with pytest.raises(EvaluationError, match=r"names the backbone 'unheard_of'; there are .*tiny"):
        load_model(run)
    (run / "config.toml").write_text('backbone = "tiny"\n')
    with pytest.raises(EvaluationError, match=r"config\.toml does not set features"):
        load_model(run)


def test_an_unknown_backbone_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"backbone = 'r999' is not one of .*tiny"):
        load_model(tmp_path, backbone="r999")


def test_weights_of_another_backbone_are_described(tmp_path: Path, tiny: nn.Module) -> None:
    path = save(tiny.state_dict(), tmp_path / "m.pt")
    with pytest.raises(EvaluationError, match=r"is no r18 with 24 features: \d+ tensors are miss"):
        load_model(path, backbone="r18")
    state = tiny.state_dict()
    first = next(iter(state))
    state[first] = state[first][:1]
    with pytest.raises(EvaluationError, match=rf"1 tensors have another shape \({first}: 1×3×8×8"):
        load_model(save(state, path), backbone="tiny")
    with pytest.raises(EvaluationError, match="are those of no known backbone"):
        load_model(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(10, 512), r"holds one tensor \(10, 512\), as a head's class centres are"),
        ({"epoch": 3, "state_dict_backbone": {}}, "holds a dict of epoch, state_dict_backbone"),
        ({}, "holds a dict of nothing"),
        ([1, 2], "holds a list"),
        (nn.Linear(2, 2), r"holds a torch\.nn\.modules\.linear\.Linear, and only tensors are read"),
    ],
)
def test_files_that_hold_something_else(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        load_model(save(content, tmp_path / "m.pt"))


@pytest.mark.parametrize("keep", [0, 40, 0.5])
def test_damaged_files(tmp_path: Path, tiny: nn.Module, keep: float) -> None:
    path = save(tiny.state_dict(), tmp_path / "m.pt")
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    with pytest.raises(EvaluationError, match=r"m\.pt is damaged.*cut short"):
        load_model(path)


def test_nothing_is_run_from_a_file(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (marker,)

    with pytest.raises(EvaluationError, match="only tensors are read"):
        load_model(save({"weight": Trap()}, tmp_path / "m.pt"))
    assert not marker.exists()
