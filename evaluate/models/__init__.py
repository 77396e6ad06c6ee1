"""Load the models that are evaluated: runs, files of weights, ONNX, TorchScript."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from facepack import lfs
from facepack.errors import ConfigError, EvaluationError
from facepack.evaluate.models.onnx_model import OnnxModel
from facepack.images import CHANNEL_ORDERS
from facepack.settings import check_choice
from facepack.store.digests import file_digest
from facepack.train.backbones import Backbone, build, names
from facepack.train.collect import read_settings
from facepack.train.config import CONFIG_FILE
from facepack.train.models.pretrained import (
    MODEL_FILE,
    Weights,
    describe_origin,
    embedding_length,
    fill_from,
    guess_backbone,
    read_weights,
)


class Model(NamedTuple):
    """A model, and which it is."""

    network: nn.Module
    """float32 (n, 3, H, W) → (n, F), on the CPU, in eval mode."""
    checksum: str
    """XXH3-128 of its file, in hexadecimal."""


def open_model(
    path: str | Path,
    *,
    backbone: str | None = None,
    channels: str | None = None,
    torchscript: bool = False,
) -> Model:
    """Open a model of any kind that can be evaluated.

    Args:
        path: what :func:`load_model` takes; or a ``.onnx`` file, which onnxruntime runs; or, if
            ``torchscript`` says so, what ``torch.jit.save`` wrote.
        backbone, channels: as in :func:`load_model`; programs take RGB unless told otherwise.
        torchscript: run the program that the file is. It is not confined in any way: only for files
            of those whom you trust.

    Raises:
        EvaluationError: there is no model at ``path``, or it cannot be used.
        ConfigError: a backbone is named for a program, which says itself what it is; or as
            :func:`load_model`.
        MissingExtraError: a package of the extra ``export`` is not installed.
    """
    path = Path(path)
    file = path / MODEL_FILE if path.is_dir() else path
    is_onnx = path.suffix == ".onnx"
    if not (is_onnx or torchscript):
        return Model(load_model(path, backbone=backbone, channels=channels), _checksum(file))
    if backbone is not None:
        raise ConfigError(f"backbone {backbone!r} was named, but {path} is a whole network")
    if not path.is_file():
        raise EvaluationError(f"there is no model at {path}: no file")
    lfs.require_content(path, EvaluationError)
    if channels is not None:
        check_choice("channels", channels, CHANNEL_ORDERS)
    network = OnnxModel(path) if is_onnx else _load_script(path)
    return Model(_GivenBGR(network) if channels == "bgr" else network, _checksum(path))


class _GivenBGR(nn.Module):
    """A program that takes BGR, given RGB."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program
        if hasattr(program, "image_size"):
            self.image_size = program.image_size

    def to(self, *args: Any, **kwargs: Any) -> _GivenBGR:
        """Move the program, which may be more than its tensors."""
        self.program.to(*args, **kwargs)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """float32 (n, 3, H, W) → (n, F)."""
        embeddings: Tensor = self.program(images.flip(1))
        return embeddings


def _checksum(path: Path) -> str:
    try:
        return file_digest(path, cached=True)[0]
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror or error}") from error


def _load_script(path: Path) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # to write such files, that is
            script: nn.Module = torch.jit.load(str(path), map_location="cpu")
    except Exception as error:  # damaged bytes make it raise nearly anything
        raise EvaluationError(
            f"{path} cannot be read as TorchScript ({' '.join(str(error).split())[:200]}): give a "
            "file that torch.jit.save wrote, or leave --torchscript out for one of weights"
        ) from error
    return script.eval()


def load_model(
    path: str | Path, *, backbone: str | None = None, channels: str | None = None
) -> Backbone:
    """Load a backbone: float32, channels_last, on the CPU, in eval mode.

    Args:
        path: a folder that ``facepack train`` wrote (``config.toml``, ``model.pt``), or a file that
            holds a backbone's ``state_dict``, such as arcface_torch's ``model.pt`` or what
            ``facepack export`` wrote as ``.safetensors``: all that
            :func:`~facepack.train.models.pretrained.read_weights` takes.
        backbone: which one a file is of; None asks the file, or guesses from the names and shapes
            of its tensors. A run's folder says so itself.
        channels: the order of colours that it takes, ``rgb`` or ``bgr``; None asks the file, and
            else it is the backbone's own. Images are RGB to it in either case.

    Raises:
        EvaluationError: there is no model at ``path``, or it fits no backbone or not this one.
        ConfigError: ``backbone`` is unknown, or not the one that the run trained.
        MissingExtraError: a ``.safetensors`` file without the package.
    """
    path = Path(path)
    if backbone is not None:
        check_choice("backbone", backbone, names())
    if channels is not None:
        check_choice("channels", channels, CHANNEL_ORDERS)
    if path.is_dir():
        return _load_run(path, backbone, channels)
    weights = read_weights(path)
    state, named = weights.state, weights.backbone
    name = backbone or (named if named in names() else None)
    guess = guess_backbone(state) if name is None else None
    if guess is not None:
        return _make(path, *guess, weights, channels)
    if name is None:
        raise EvaluationError(
            f"{path} holds {len(state)} tensors ({', '.join(list(state)[:3])}, …), and "
            f"{describe_origin(state)}. Name a backbone to see what differs"
        )
    last = [tensor.shape[0] for tensor in state.values() if tensor.ndim][-1]
    return _make(path, name, embedding_length(name, state) or last, weights, channels)


def _load_run(folder: Path, backbone: str | None, channels: str | None) -> Backbone:
    for file in (CONFIG_FILE, MODEL_FILE):
        if not (folder / file).is_file():
            raise EvaluationError(
                f"{folder} holds no {file}: it is not a finished run of `facepack train`. Give the "
                "run's folder, or a file with a backbone's state_dict"
            )
    settings = read_settings(str(folder / CONFIG_FILE))
    missing = [name for name in ("backbone", "features") if name not in settings]
    if missing:
        raise EvaluationError(f"{folder / CONFIG_FILE} does not set {' and '.join(missing)}")
    name = settings["backbone"]
    if name not in names():
        raise EvaluationError(
            f"{folder / CONFIG_FILE} names the backbone {name!r}; there are {', '.join(names())}"
        )
    if backbone not in (None, name):
        raise ConfigError(f"backbone {backbone!r} was asked for, but {folder} trained {name!r}")
    weights = read_weights(folder / MODEL_FILE)
    channels = channels or settings.get("channels")
    return _make(folder / MODEL_FILE, name, settings["features"], weights, channels)


def _make(path: Path, name: str, features: int, weights: Weights, channels: str | None) -> Backbone:
    model = build(name, features=features)
    fill_from(model, weights, path)
    model.channels = channels or model.channels
    # As the pixels come; otherwise each forward pass would reorder the weights.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.eval()
