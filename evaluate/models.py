"""Load the models that are evaluated: a training run's folder, or a backbone's bare state_dict."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from facepack.errors import ConfigError, EvaluationError
from facepack.train.backbones import Backbone, build, names
from facepack.train.config import read_settings

_SHOWN = 3  # names of tensors that an error quotes
_COUNTER = "num_batches_tracked"  # BatchNorm's, which old checkpoints lack and evaluation ignores


def load_model(path: str | Path, *, backbone: str | None = None) -> Backbone:
    """Load a backbone: float32, channels_last, on the CPU, in eval mode.

    Args:
        path: a folder that ``facepack train`` wrote (``config.toml``, ``model.pt``), or a file that
            holds a backbone's bare ``state_dict``, such as arcface_torch's ``model.pt``.
        backbone: which one a file is of; guessed from the names and shapes of its tensors when
            None. A run's folder says so itself.

    Raises:
        EvaluationError: there is no model at ``path``, or it fits no backbone or not this one.
        ConfigError: ``backbone`` is unknown, or not the one that the run trained.
    """
    path = Path(path)
    if backbone is not None and backbone not in names():
        raise ConfigError(f"unknown backbone {backbone!r}; there are {', '.join(names())}")
    if path.is_dir():
        return _load_run(path, backbone)
    state = _read_state(path)
    features = _embedding_length(state)
    name = _guess(path, state, features) if backbone is None else backbone
    return _fill(path, name, features, state)


def _load_run(folder: Path, backbone: str | None) -> Backbone:
    for file in ("config.toml", "model.pt"):
        if not (folder / file).is_file():
            raise EvaluationError(
                f"{folder} holds no {file}: it is not a finished run of `facepack train`. Give the "
                "run's folder, or a file with a backbone's state_dict"
            )
    settings = read_settings(str(folder / "config.toml"))
    missing = [name for name in ("backbone", "features") if name not in settings]
    if missing:
        raise EvaluationError(f"{folder / 'config.toml'} does not set {' and '.join(missing)}")
    name = settings["backbone"]
    if name not in names():
        raise EvaluationError(
            f"{folder / 'config.toml'} names the backbone {name!r}; there are {', '.join(names())}"
        )
    if backbone not in (None, name):
        raise ConfigError(f"backbone {backbone!r} was asked for, but {folder} trained {name!r}")
    return _fill(folder / "model.pt", name, settings["features"], _read_state(folder / "model.pt"))


def _read_state(path: Path) -> dict[str, Tensor]:
    """The bare state_dict in a file; only tensors and plain containers are ever unpickled."""
    if not path.is_file():
        raise EvaluationError(f"there is no model at {path}: neither a file nor a run's folder")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make torch.load raise nearly anything
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = (
            f"holds a {named[1]}, and only tensors are read, as anything else could run code"
            if named
            else "is damaged, cut short, or no state_dict that torch.save wrote"
        )
        raise EvaluationError(
            f"{path} {what}: give a file that holds the backbone's state_dict"
        ) from error
    if (
        isinstance(state, dict)
        and all(isinstance(value, Tensor) for value in state.values())
        and any(value.ndim for value in state.values())
    ):
        return state
    if isinstance(state, dict):
        what = f"a dict of {', '.join(list(map(str, state))[: 2 * _SHOWN]) or 'nothing'}"
    elif isinstance(state, Tensor):
        what = f"one tensor {tuple(state.shape)}, as a head's class centres are"
    else:
        what = f"a {type(state).__name__}"
    raise EvaluationError(
        f"{path} holds {what}; a backbone's bare state_dict is needed, "
        "which trainers write beside it as model.pt or backbone.pth"
    )


def _embedding_length(state: dict[str, Tensor]) -> int:
    """The length of the last tensor: every backbone ends in a BatchNorm over the embedding."""
    return [tensor.shape[0] for tensor in state.values() if tensor.ndim][-1]


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(v.shape) for key, v in state.items() if not key.endswith(_COUNTER)}


def _guess(path: Path, state: dict[str, Tensor], features: int) -> str:
    shapes = _shapes(state)
    for name in reversed(names()):
        # On the meta device a network has shapes but no memory.
        with torch.device("meta"):
            candidate = build(name, features=features)
        if _shapes(candidate.state_dict()) == shapes:
            return name
    raise EvaluationError(
        f"{path}: its {len(state)} tensors ({', '.join(list(state)[:_SHOWN])}, …) are those of no "
        f"known backbone; there are {', '.join(names())}. Name one to see what differs"
    )


def _fill(path: Path, name: str, features: int, state: dict[str, Tensor]) -> Backbone:
    model = build(name, features=features)
    wanted, found = _shapes(model.state_dict()), _shapes(state)
    differences = [
        (f"{len(keys)} tensors {verb}", keys)
        for verb, keys in (
            ("are missing", [key for key in wanted if key not in found]),
            ("are unknown to it", [key for key in found if key not in wanted]),
            ("have another shape", [k for k in found if wanted.get(k, found[k]) != found[k]]),
        )
        if keys
    ]
    if differences:
        described = "; ".join(
            f"{text} ({', '.join(keys[:_SHOWN])}{', …' if len(keys) > _SHOWN else ''})"
            for text, keys in differences
        )
        raise EvaluationError(f"{path} is no {name} with {features} features: {described}")
    model.load_state_dict(state, strict=False)
    # As the pixels come; otherwise each forward pass would reorder the weights.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.eval()
