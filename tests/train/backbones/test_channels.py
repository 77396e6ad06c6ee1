"""A network that takes BGR is given RGB, and turns it around: trained, evaluated, exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from facepack.cli import root
from facepack.errors import ConfigError
from facepack.evaluate.models import load_model, open_model
from facepack.train.backbones import Backbone, build
from facepack.train.models.export import export_model
from facepack.train.models.pretrained import load_pretrained


@pytest.fixture
def net(small_backbone: str) -> Backbone:
    torch.manual_seed(1)
    return build(small_backbone, features=8).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 112, 112, generator=torch.Generator().manual_seed(2))


def test_it_is_the_network_with_its_first_weights_turned_around(
    net: Backbone, images: torch.Tensor
) -> None:
    turned = build("small", features=8).eval()
    state = net.state_dict()
    turned.load_state_dict(state | {"conv.weight": state["conv.weight"].flip(1)})
    net.channels = "bgr"
    torch.testing.assert_close(net(images), turned(images))


def test_a_run_keeps_its_order(pack_path: Path, small_backbone: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["train", "--shards", str(pack_path), "--out", str(out), "--device", "cpu"]
    for setting in ("backbone=small", "features=8", "steps=2", "batch_size=8", "channels=bgr"):
        arguments += ["--set", setting]
    result = CliRunner().invoke(root, arguments)
    assert result.exit_code == 0, result.stderr
    assert load_model(out).channels == "bgr"
    assert load_model(out, channels="rgb").channels == "rgb"


def test_safetensors_tell_the_order(net: Backbone, images: torch.Tensor, tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="the extra 'export' is not installed")
    net.channels = "bgr"
    export_model(net, tmp_path / "m.safetensors", images=2)
    again = load_model(tmp_path / "m.safetensors")
    assert again.channels == "bgr"
    torch.testing.assert_close(again(images), net(images))
    begun = build("small", features=8)
    load_pretrained(begun, tmp_path / "m.safetensors")
    assert begun.channels == "bgr"


def test_onnx_takes_rgb_of_any(net: Backbone, images: torch.Tensor, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the extra 'export' is not installed")
    net.channels = "bgr"
    export = export_model(net, tmp_path / "m.onnx", images=2)
    assert export.metadata["color"] == "RGB"
    program = open_model(tmp_path / "m.onnx").network
    torch.testing.assert_close(program(images), net(images), rtol=1e-4, atol=1e-4)
    # One that was made elsewhere may want BGR.
    turned = open_model(tmp_path / "m.onnx", channels="bgr").network
    torch.testing.assert_close(turned(images.flip(1)), net(images), rtol=1e-4, atol=1e-4)


def test_a_program_can_be_given_bgr(net: Backbone, images: torch.Tensor, tmp_path: Path) -> None:
    torch.jit.trace(net, images).save(str(tmp_path / "m.pt"))
    turned = open_model(tmp_path / "m.pt", channels="bgr", torchscript=True).network
    torch.testing.assert_close(turned(images), net(images.flip(1)))


def test_an_unknown_order_is_told(net: Backbone, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "m.pt")
    with pytest.raises(ConfigError, match="channels"):
        load_model(tmp_path / "m.pt", channels="gbr")


def test_the_command_says_what_an_export_takes(net: Backbone, tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="the extra 'export' is not installed")
    torch.save(net.state_dict(), tmp_path / "m.pt")
    arguments = ["export", str(tmp_path / "m.pt"), str(tmp_path / "m.safetensors")]
    assert "112x112 RGB;" in CliRunner().invoke(root, arguments).stdout
    assert "112x112 BGR;" in CliRunner().invoke(root, [*arguments, "--channels", "bgr"]).stdout
