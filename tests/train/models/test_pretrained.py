"""Weights from files of several trainers: each arrives bit for bit, or is refused in words."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from facepack.errors import EvaluationError
from facepack.evaluate.models import load_model
from facepack.train import backbones
from facepack.train.backbones import Backbone
from facepack.train.models import torch_files
from facepack.train.models.numpy_scalars import scalars_allowed
from facepack.train.models.pretrained import guess_backbone, load_pretrained, read_weights

State = dict[str, Tensor]


@pytest.fixture
def tiny() -> Backbone:
    torch.manual_seed(3)
    return backbones.build("tiny", features=24)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def arcface_checkpoint(state: State) -> dict[str, Any]:
    """What arcface_torch keeps of a run, with its keys."""
    return {
        "epoch": 3,
        "global_step": 7000,
        "state_dict_backbone": state,
        "state_dict_softmax_fc": {"weight": torch.zeros(10, 24)},
        "state_optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": []},
        "state_lr_scheduler": {"last_epoch": 7000, "_last_lr": [0.1]},
    }


FORMS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "half precision": lambda state: {k: v.half() if v.ndim else v for k, v in state.items()},
    "DistributedDataParallel": lambda state: prefixed(state, "module."),
    "compiled": lambda state: prefixed(state, "module._orig_mod."),
    "of a larger module": lambda state: prefixed(state, "backbone."),
    "under net": lambda state: {"state_dict": prefixed(state, "net."), "epoch": 3},
    "of a trainer's model": lambda state: {"model": prefixed(state, "model.module.backbone.")},
    "scalars beside": lambda state: {
        "state_dict": state,
        "best": np.float64(0.99),
        "n": np.int64(3),
    },
    "scalars among": lambda state: {**state, "accuracy": np.float32(0.5), "epoch": 2, "note": None},
    "arcface_torch's checkpoint": arcface_checkpoint,
    "facepack's checkpoint": lambda state: {"format": 2, "step": 5, "backbone": state, "head": {}},
    "F2C's checkpoint": lambda state: {"state_dict": state, "lru": [1], "fc": torch.zeros(2, 3)},
}


def assert_same(net: Backbone, state: State) -> None:
    for key, value in net.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_files(
    form: str, mapped: bool, tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mapped:
        monkeypatch.setattr(torch_files, "_MAPPED_FROM", 0)
    if form == "half precision":
        tiny.half().float()
    path = tmp_path / "checkpoint_gpu_0.pt"
    torch.save(FORMS[form](tiny.state_dict()), path)
    net = backbones.build("tiny", features=24)
    load_pretrained(net, path)
    assert_same(net, tiny.state_dict())
    assert_same(load_model(path), tiny.state_dict())


def test_the_older_format_of_torch(tiny: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save(tiny.state_dict(), path, _use_new_zipfile_serialization=False)
    assert_same(load_model(path), tiny.state_dict())


def test_a_runs_folder(tiny: Backbone, tmp_path: Path) -> None:
    torch.save(tiny.state_dict(), tmp_path / "model.pt")
    net = backbones.build("tiny", features=24, autocast=torch.bfloat16).double()
    load_pretrained(net, tmp_path)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in tiny.state_dict().items())
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    with pytest.raises(EvaluationError, match=r"there is no model at .*nothing"):
        load_pretrained(net, tmp_path / "nothing")


@pytest.mark.parametrize("metadata", [None, {"backbone": "tiny"}, {"backbone": "unheard_of"}])
def test_safetensors(metadata: dict[str, str] | None, tiny: Backbone, tmp_path: Path) -> None:
    files = pytest.importorskip("safetensors.torch", reason="the extra 'export' is not installed")
    path = tmp_path / "model.safetensors"
    files.save_file(prefixed(tiny.state_dict(), "module."), path, metadata=metadata)
    assert read_weights(path).backbone == (metadata or {}).get("backbone")
    assert_same(load_model(path), tiny.state_dict())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(EvaluationError, match="damaged, cut short, or no safetensors file"):
        load_model(path)


@pytest.mark.parametrize("name", [n for n in backbones.names() if "dp005" not in n])
def test_every_backbone_is_known_by_its_tensors(name: str) -> None:
    """Variants that differ in training alone are taken for the plain one, and so are MagFace's, of
    which the head beside them tells."""
    features = 512 if name == "r2060" else 96  # its layout of 512 is remembered for the next test
    state = backbones.skeleton(name, features=features).state_dict()
    shuffled = dict(sorted(state.items()))  # as safetensors files order them
    assert guess_backbone(shuffled) == (name.removesuffix("_magface"), features)


def test_the_wrong_file_is_answered_with_what_it_is(tiny: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(tiny.state_dict(), path)
    with pytest.raises(
        EvaluationError,
        match=r"model\.pt is no mbf with 512 features: \d+ tensors are missing \(layers.*, …\); "
        r"\d+ tensors are unknown to it \(stem.*\)\. Of its \d+ tensors: they are those of tiny "
        "with 24 features",
    ):
        load_pretrained(backbones.build("mbf"), path)
    with pytest.raises(
        EvaluationError, match=r"shape \(fc\.weight: 24×6272, not 32×6272, .* of tiny with 24 feat"
    ):
        load_pretrained(backbones.build("tiny", features=32), path)


def test_the_nearest_backbone_is_named(tiny: Backbone, tmp_path: Path) -> None:
    state = tiny.state_dict()
    del state["stem.0.weight"]
    path = tmp_path / "model.pt"
    torch.save(state, path)
    with pytest.raises(
        EvaluationError, match=r"those of no known backbone .*; tiny comes nearest, with 98% of"
    ):
        load_pretrained(backbones.build("tiny", features=24), path)


def test_nothing_is_changed_by_the_wrong_file(tiny: Backbone, tmp_path: Path) -> None:
    state = tiny.state_dict()
    wrong = {k: v + 1 for k, v in state.items() if k != "fc.bias"}
    torch.save(wrong, tmp_path / "model.pt")
    before = {key: value.clone() for key, value in state.items()}
    with pytest.raises(EvaluationError, match=r"1 tensors are missing \(fc\.bias\)"):
        load_pretrained(tiny, tmp_path / "model.pt")
    assert_same(tiny, before)


def test_onnx_is_pointed_back_to_its_model(tmp_path: Path) -> None:
    (tmp_path / "r50.onnx").touch()
    with pytest.raises(EvaluationError, match=r"r50\.onnx is ONNX.* it was exported from"):
        read_weights(tmp_path / "r50.onnx")


@pytest.mark.parametrize("name", [n for n in backbones.names() if "dp005" not in n])
def test_no_backbones_names_share_a_first_part(name: str) -> None:
    assert len({key.partition(".")[0] for key in backbones.skeleton(name).state_dict()}) > 1


@pytest.mark.parametrize("byte_order", "<>")
def test_numpy_scalars_come_as_numbers(byte_order: str, tmp_path: Path) -> None:
    codes = ["?", *"bhiqBHIQ", *"efd"]
    values = [np.array(3, byte_order + code)[()] for code in codes]
    torch.save(values, tmp_path / "file.pt")
    with scalars_allowed():
        loaded = torch.load(tmp_path / "file.pt", weights_only=True)
    assert loaded == [value.item() for value in values]
    assert [type(number) for number in loaded] == [bool, *[int] * 8, *[float] * 3]


class _Flagged:
    """A scalar of a dtype of objects whose flags say that its bytes are plain numbers."""

    class Dtype:
        def __reduce__(self) -> tuple[Any, ...]:
            return np.dtype, ("O", False, True), (3, "|", None, None, None, -1, -1, 0)

    def __reduce__(self) -> tuple[Any, ...]:
        scalar = np.float64(1.0).__reduce__()[0]
        return scalar, (self.Dtype(), b"\x41" * 8)


def test_bytes_are_not_passed_off_as_objects(tmp_path: Path) -> None:
    torch.save({"best": _Flagged()}, tmp_path / "model.pt")
    with pytest.raises(EvaluationError, match=r"holds a numpy\.dtype\('O'\), and only tensors"):
        read_weights(tmp_path / "model.pt")


@pytest.mark.parametrize("value", [np.complex64(1), np.str_("x"), np.zeros(2), {"deeper": print}])
def test_other_things_are_named_and_refused(value: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(2)}, "note": value}, tmp_path / "model.pt")
    with pytest.raises(EvaluationError, match=r"holds a \S+, and only tensors are read"):
        read_weights(tmp_path / "model.pt")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda net, path: torch.jit.trace(net, torch.ones(1, 2)).save(path), "TorchScript module"),
        (
            lambda net, path: torch.export.save(
                torch.export.export(net, (torch.ones(1, 2),)), path
            ),
            r"program of torch\.export",
        ),
    ],
)
def test_programs_are_told_as_that(
    write: Callable[[torch.nn.Module, str], None], words: str, tmp_path: Path
) -> None:
    path = str(tmp_path / "model.pt2")
    write(torch.nn.Linear(2, 2), path)
    with pytest.raises(EvaluationError, match=rf"is a {words}.*holds code.*state_dict"):
        read_weights(Path(path))


def test_the_name_of_before_still_leads_here() -> None:
    sys.modules.pop("facepack.train.pretrained", None)
    with pytest.warns(DeprecationWarning, match=r"now facepack\.train\.models\.pretrained"):
        before = importlib.import_module("facepack.train.pretrained")
    assert before.load_pretrained is load_pretrained
