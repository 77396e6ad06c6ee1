"""Networks that are programs: ONNX by onnxruntime, TorchScript if the user says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from facepack.errors import ConfigError, EvaluationError
from facepack.evaluate.embedding.embed import embed, model_image_size
from facepack.evaluate.models import open_model
from facepack.train.backbones import Backbone, build
from facepack.train.models.export import export_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return build("tiny", features=16).eval()


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (5, 112, 112, 3)).astype(np.uint8)


def averaging(path: Path, *, batch: int | str, normalises: bool, name: str = "data") -> Path:
    """Write a graph that averages each channel over the image."""
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    nodes, source = [], name
    if normalises:
        nodes = [
            helper.make_node("Sub", [name, "half"], ["centred"]),
            helper.make_node("Mul", ["centred", "scale"], ["scaled"]),
        ]
        source = "scaled"
    nodes += [
        helper.make_node("GlobalAveragePool", [source], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["out"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "averages",
        [helper.make_tensor_value_info(name, real, [batch, 3, 112, 112])],
        [helper.make_tensor_value_info("out", real, [batch, 3])],
        [
            helper.make_tensor("half", real, [], [127.5]),
            helper.make_tensor("scale", real, [], [1 / 127.5]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("batch", ["N", 1, 3])
@pytest.mark.parametrize("normalises", [False, True])
def test_graphs_get_the_pixels_and_the_batches_that_they_take(
    tmp_path: Path, faces: np.ndarray, batch: int | str, normalises: bool
) -> None:
    path = averaging(tmp_path / "model.onnx", batch=batch, normalises=normalises)
    model = open_model(path)
    found = embed(model.network, [faces], flip=False)
    wanted = ((faces.astype(np.float64) - 127.5) / 127.5).mean(axis=(1, 2))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert len(model.checksum) == 32 and model_image_size(model.network) == (112, 112)


def test_an_exported_backbone_embeds_as_it_does(
    tmp_path: Path, backbone: Backbone, faces: np.ndarray
) -> None:
    pytest.importorskip("onnxscript")
    export_model(backbone, tmp_path / "model.onnx")
    found = embed(open_model(tmp_path / "model.onnx").network, [faces[:3], faces[3:]])
    wanted = embed(backbone, [faces])
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_files_that_are_no_such_graphs_are_told(tmp_path: Path) -> None:
    (tmp_path / "none.onnx").write_bytes(b"no graph")
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "vector",
        [helper.make_tensor_value_info("x", real, ["N", 7])],
        [helper.make_tensor_value_info("y", real, ["N", 7])],
    )
    onnx.save(helper.make_model(graph, ir_version=8), tmp_path / "vector.onnx")
    for name, told in (
        ("none.onnx", "cannot be read as ONNX"),
        ("vector.onnx", r"takes x tensor\(float\)"),
        ("missing.onnx", "there is no model"),
    ):
        with pytest.raises(EvaluationError, match=told):
            open_model(tmp_path / name)
    with pytest.raises(ConfigError, match="whole network"):
        open_model(tmp_path / "vector.onnx", backbone="r18")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_run_if_the_user_says_so(
    tmp_path: Path, backbone: Backbone, faces: np.ndarray
) -> None:
    traced = torch.jit.trace(backbone, torch.zeros(2, 3, 112, 112))
    traced.save(str(tmp_path / "model.pt"))
    torch.jit.freeze(traced).save(str(tmp_path / "frozen.pt"))
    wanted = embed(backbone, [faces])
    for name in ("model.pt", "frozen.pt"):
        with pytest.raises(EvaluationError, match="--torchscript"):
            open_model(tmp_path / name)
        model = open_model(tmp_path / name, torchscript=True)
        found = embed(model.network, [faces])
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_weights_are_no_program(tmp_path: Path, backbone: nn.Module) -> None:
    torch.save(backbone.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "text.pt").write_text("none")
    for name in ("weights.pt", "text.pt"):
        with pytest.raises(EvaluationError, match="cannot be read as TorchScript"):
            open_model(tmp_path / name, torchscript=True)
    assert isinstance(open_model(tmp_path / "weights.pt").network, Backbone)
