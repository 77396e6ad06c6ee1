"""Exported models: what the files say, what other programs make of them, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from click.testing import CliRunner
from torch import nn

import facepack
from facepack.errors import ConfigError, DecodeError, TrainingError
from facepack.evaluate.models import load_model
from facepack.train.backbones import Backbone, build, registry
from facepack.train.backbones.iresnet import IBlock
from facepack.train.backbones.mobilefacenet import ConvBlock, Residual
from facepack.train.backbones.vit import VisionTransformer
from facepack.train.commands.export import export
from facepack.train.models import export as exporting
from facepack.train.models.export import export_model


def _vit(features: int, dropout: float, autocast: torch.dtype | None) -> Backbone:
    return VisionTransformer(
        width=32,
        depth=2,
        drop_path=0.1,
        masked=0.1,
        features=features,
        dropout=dropout,
        autocast=autocast,
        checkpointing=True,
    )


class _Small(Backbone):
    """Each kind of layer of the convolutional backbones, once: exporting takes time by layers."""

    def __init__(self, features: int, dropout: float, autocast: torch.dtype | None) -> None:
        super().__init__(features, autocast)
        self.body = nn.Sequential(
            ConvBlock(3, 8, 3, stride=2), Residual(8, blocks=1, inner=8), IBlock(8, 8, stride=2)
        )
        self.fc = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(8 * 28 * 28, features),
            nn.BatchNorm1d(features),
        )

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.fc(hidden)


def trained(name: str, features: int) -> Backbone:
    """A network whose statistics are those of some images, as after training; in training mode."""
    torch.manual_seed(0)
    net = build(name, features=features, dropout=0.4, autocast=torch.bfloat16)
    with torch.no_grad():
        net(torch.rand(16, 3, *net.image_size) * 2 - 1)
    return net


@pytest.fixture(scope="module")
def onnx_extra() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the extra 'export' is not installed")


@pytest.fixture(scope="module")
def safetensors_extra() -> None:
    pytest.importorskip("safetensors", reason="the extra 'export' is not installed")


@pytest.mark.usefixtures("onnx_extra")
@pytest.mark.parametrize("name", ["small", "vit"])
def test_onnxruntime_alone_makes_the_same_embeddings(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._BUILDERS, "vit", _vit)
    monkeypatch.setitem(registry._BUILDERS, "small", _Small)
    net = trained(name, 32)
    out = tmp_path / "model.onnx"
    result = export_model(net, out, images=5)
    assert net.training and net.autocast is torch.bfloat16
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert result.bytes == out.stat().st_size
    (parity,) = result.parity
    assert parity.count == 5 and parity.min_cosine > 0.999999
    assert parity.relative_difference < 1e-4

    import onnx
    import onnxruntime

    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    (taken,), (made,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape[1:]) == ("images", "tensor(float)", [3, 112, 112])
    assert isinstance(taken.shape[0], str)  # any number of images
    assert (made.name, made.shape[1]) == ("embeddings", 32)
    said = session.get_modelmeta().custom_metadata_map
    assert (said["backbone"], said["features"]) == (name, "32")
    assert [said[key] for key in ("color", "layout", "mean", "std")] == [
        "RGB",
        "NCHW",
        "127.5",
        "127.5",
    ]
    pixels = np.random.default_rng(7).integers(0, 256, (3, 112, 112, 3), np.uint8)
    faces = ((pixels - 127.5) / 127.5).astype(np.float32).transpose(0, 3, 1, 2)
    net.eval().autocast = None
    with torch.inference_mode():
        expected = net(torch.from_numpy(np.ascontiguousarray(faces))).numpy()
    for count in (1, 2, 3):
        (actual,) = session.run(None, {"images": faces[:count]})
        np.testing.assert_allclose(
            actual, expected[:count], rtol=0, atol=1e-4 * np.abs(expected).max()
        )


@pytest.mark.usefixtures("onnx_extra")
def test_weights_too_large_for_one_file_lie_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_ONNX_LIMIT", 1000)
    out = tmp_path / "model.onnx"
    monkeypatch.setitem(registry._BUILDERS, "small", _Small)
    result = export_model(trained("small", 16), out, images=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert result.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    import onnxruntime

    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    images = np.zeros((1, 3, 112, 112), np.float32)
    assert session.run(None, {"images": images})[0].shape == (1, 16)


@pytest.mark.usefixtures("safetensors_extra")
def test_safetensors_hold_the_state_as_it_is(tmp_path: Path) -> None:
    from safetensors import safe_open

    net = trained("tiny", 16)
    out = tmp_path / "model.safetensors"
    result = export_model(net, out, images=3)
    assert result.parity[0].max_difference == 0.0
    (tmp_path / "other").touch()
    assert out.stat().st_mode == (tmp_path / "other").stat().st_mode
    loaded = load_model(out)
    assert loaded.name == "tiny" and loaded.embedding_size == 16
    for key, value in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    with safe_open(out, framework="pt") as file:
        assert file.metadata()["backbone"] == "tiny"
        assert set(file.keys()) == set(net.state_dict())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    torch.save(trained("tiny", 16).state_dict(), folder / "model.pt")
    (folder / "config.toml").write_text('backbone = "tiny"\nfeatures = 16\nshards = "faces"\n')
    return folder


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """A pack of six faces of noise and one of another size."""
    path = tmp_path / "faces"
    with facepack.PackWriter(path) as writer:
        for label, side in enumerate([112] * 6 + [96]):
            noise = np.random.default_rng(label).integers(0, 256, (side, side, 3), np.uint8)
            writer.add(simplejpeg.encode_jpeg(noise, quality=85), label)
    return path


@pytest.mark.usefixtures("safetensors_extra")
def test_the_command(run: Path, faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.safetensors"
    words = [str(run), str(out), "--pack", str(faces)]
    refused = CliRunner().invoke(export, words)
    assert isinstance(refused.exception, DecodeError) and "96×96 pixels" in str(refused.exception)
    assert not out.exists() and not [p for p in tmp_path.iterdir() if p.name.startswith(".tiny")]
    done = CliRunner().invoke(export, [str(run), str(out), "--images", "4"])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0].endswith(
        f"tiny, 16 features, input 112x112 RGB; {out.stat().st_size:,} bytes"
    )
    assert "4 images of random pixels: largest difference 0 (0 of" in done.stdout
    again = CliRunner().invoke(export, [str(out), str(out), "--json", "--images", "2"])
    assert json.loads(again.stdout)["metadata"]["backbone"] == "tiny"


@pytest.mark.usefixtures("safetensors_extra")
def test_real_images_are_compared(run: Path, tmp_path: Path) -> None:
    pack = tmp_path / "faces"
    with facepack.PackWriter(pack) as writer:
        for label in range(6):
            noise = np.random.default_rng(label).integers(0, 256, (112, 112, 3), np.uint8)
            writer.add(simplejpeg.encode_jpeg(noise, quality=85), label)
    with facepack.open(pack) as opened:
        result = export_model(load_model(run), tmp_path / "m.safetensors", images=20, pack=opened)
    assert [parity.count for parity in result.parity] == [20, 6]
    assert result.parity[1].images == f"6 images of {pack}"
    assert result.parity[1].max_difference == 0.0


@pytest.mark.usefixtures("safetensors_extra")
def test_a_model_that_does_not_agree_is_not_written(tmp_path: Path) -> None:
    """NaN agrees with nothing, so the old file stays."""
    net = trained("tiny", 16)
    with torch.no_grad():
        net.fc.bias[3] = torch.nan
    out = tmp_path / "model.safetensors"
    out.write_bytes(b"before")
    with pytest.raises(
        TrainingError, match=r"is not written: on 2 images of random pixels, embeddings"
    ):
        export_model(net, out, images=2)
    assert out.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.usefixtures("safetensors_extra")
def test_full_disk_is_told_in_words(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="only POSIX limits the size of files")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(TrainingError, match=r"cannot write .*make room or choose another file"):
            export_model(build("tiny", features=16), tmp_path / "m.safetensors", images=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_endings_and_folders_that_will_not_do(tmp_path: Path) -> None:
    net = build("tiny", features=16)
    with pytest.raises(ConfigError, match=r"\.safetensors or \.onnx, not '\.pt'"):
        export_model(net, tmp_path / "model.pt")
    pytest.importorskip("safetensors", reason="the extra 'export' is not installed")
    with pytest.raises(TrainingError, match=r"cannot write .*choose another folder"):
        export_model(net, tmp_path / "nowhere" / "model.safetensors", images=1)
