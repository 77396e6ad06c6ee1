"""Weights from files of facepack and of other trainers, told apart by names and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from facepack import lfs
from facepack.errors import EvaluationError, needs_extra
from facepack.images import CHANNEL_ORDERS
from facepack.train.backbones import Backbone, names, skeleton
from facepack.train.models.checksums import tensors_digest
from facepack.train.models.torch_files import load_tensors

MODEL_FILE = "model.pt"
"""Of a run's folder: the backbone's ``state_dict``."""

SAFETENSORS = ".safetensors"
DIGEST = "xxh3_128"
"""Under which a file of facepack's names the digest of its tensors: the format has none."""

_SHOWN = 3  # names of tensors that an error quotes
_COUNTER = "num_batches_tracked"  # BatchNorm's, which old checkpoints lack and nothing needs
# Under which a training checkpoint holds the backbone: arcface_torch's, facepack's, F2C's, others'.
_CONTAINERS = ("state_dict_backbone", "backbone", "state_dict", "model_state_dict", "model", "net")
_ADAFACE, _MAGFACE = "head", "fc"  # the names of their heads, and here the backbones' beside them
_HEADS = {"model": _ADAFACE, "features": _MAGFACE}
_NEAR = 0.5  # share of tensors in common from which a backbone is worth naming

Shapes = dict[str, tuple[int, ...]]


class Weights(NamedTuple):
    """What a file holds."""

    state: dict[str, Tensor]
    """The backbone's bare ``state_dict``, on the CPU."""
    backbone: str | None = None
    """Its name, where the file says so."""
    channels: str | None = None
    """The order of the colours that it takes, where the file says so."""


def load_pretrained(backbone: Backbone, path: str | Path) -> None:
    """Copy weights into ``backbone``, whatever its device and precision, and the order of colours.

    They are of a folder that ``facepack train`` wrote, or of a file as :func:`read_weights` takes
    it, whose tensors must be the backbone's in names and shapes.

    Raises:
        EvaluationError: the file cannot be read or holds something else; says what differs, and
            which backbone the weights are of.
        MissingExtraError: a ``.safetensors`` file without the package.
    """
    path = Path(path)
    if path.is_dir():
        path = path / MODEL_FILE
    fill_from(backbone, read_weights(path), path)


def read_weights(path: Path) -> Weights:
    """Read a backbone's ``state_dict``; only tensors and plain containers are ever unpickled.

    What the file holds is compared with its checksums first. Safetensors files of other programs
    have none, nor have those of torch before 1.6: of these, the lengths alone are checked.

    Args:
        path: a ``.safetensors`` file, or one that ``torch.save`` wrote: the bare ``state_dict``, or
            a training checkpoint that holds it (arcface_torch's ``checkpoint_gpu_0.pt``, facepack's
            ``checkpoint.pt``, F2C's). A prefix that all names share, as wrappers put it
            there (``module.``, ``backbone.``), is taken off.

    Raises:
        EvaluationError: there is no such file, it is damaged, or holds something else.
        MissingExtraError: a ``.safetensors`` file without the package.
    """
    if not path.is_file():
        raise EvaluationError(f"there is no model at {path}: neither a file nor a run's folder")
    lfs.require_content(path, EvaluationError)
    if path.suffix == SAFETENSORS:
        return _read_safetensors(path)
    if path.suffix == ".onnx":
        raise EvaluationError(
            f"{path} is ONNX, whose weights are merged with normalisation: give the run or the "
            "model that it was exported from"
        )
    return weights_in(path, load_tensors(path, "the backbone's state_dict"))


def weights_in(path: Path, content: Any) -> Weights:
    """The backbone's bare ``state_dict`` in what was read from ``path``.

    Raises:
        EvaluationError: it holds something else; says what.
    """
    state, head = _without_others(_unwrap(path, content))
    if head == _ADAFACE:
        return Weights(state, channels="bgr")
    if head == _MAGFACE and (guess := guess_backbone(state)) is not None:
        name = f"{guess[0]}_magface"
        return Weights(state, name if name in names() else None)
    return Weights(state)


def _read_safetensors(path: Path) -> Weights:
    with needs_extra("safetensors", "export"):
        from safetensors import SafetensorError, safe_open
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise EvaluationError(
            f"{path} is damaged, cut short, or no safetensors file ({error}): give a good copy"
        ) from error
    if metadata.get(DIGEST, digest := tensors_digest(state)) != digest:
        raise EvaluationError(
            f"{path} is damaged: its tensors are not those that were written: give a good copy"
        )
    color = str(metadata.get("color", "")).lower()
    return Weights(
        weights_in(path, state).state,
        metadata.get("backbone"),
        color if color in CHANNEL_ORDERS else None,
    )


def _unwrap(path: Path, content: Any) -> dict[str, Tensor]:
    if isinstance(content, dict):
        for candidate in (content, *(content.get(key) for key in _CONTAINERS)):
            if state := _state_in(candidate):
                return state
        what = f"a dict of {', '.join(list(map(str, content))[: 2 * _SHOWN]) or 'nothing'}"
    elif isinstance(content, Tensor):
        what = f"one tensor {tuple(content.shape)}, as a head's class centres are"
    else:
        what = f"a {type(content).__name__}"
    raise EvaluationError(
        f"{path} holds {what}; a backbone's state_dict is needed, bare or in a training "
        f"checkpoint under {', '.join(_CONTAINERS)}. Trainers write it as model.pt or backbone.pth"
    )


def _state_in(content: Any) -> dict[str, Tensor]:
    """The tensors of a ``state_dict``, beside which numbers and texts may stand; else none."""
    if not isinstance(content, dict):
        return {}
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    others = [value for value in content.values() if not isinstance(value, Tensor)]
    if not all(isinstance(value, int | float | str | None) for value in others):
        return {}
    return state if any(value.ndim for value in state.values()) else {}


def _without_others(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], str | None]:
    """The same under names without what all begin with, up to a dot: no backbone's own do.

    Where a trainer's head stands beside the backbone it is left out, and its name returned.
    """
    beside = None
    while True:
        first = {key.partition(".")[0] for key in state}
        network = next((name for name, head in _HEADS.items() if first == {name, head}), None)
        if network is not None:
            beside = _HEADS[network]
            state = {key: value for key, value in state.items() if key.startswith(f"{network}.")}
        elif len(first) > 1 or not all("." in key for key in state):
            return state, beside
        else:
            state = {key.partition(".")[2]: value for key, value in state.items()}


# Which backbone it is -----------------------------------------------------------------------


def embedding_length(name: str, state: Mapping[str, Tensor]) -> int | None:
    """The length of the embedding, if ``state`` is that of the backbone ``name``; None if not.

    It is the length of a backbone's last tensor.
    """
    last = list(_layout(name, 512))[-1]
    return state[last].shape[0] if last in state and state[last].ndim else None


def guess_backbone(state: Mapping[str, Tensor]) -> tuple[str, int] | None:
    """The name and the embedding's length of the first backbone that has exactly these tensors."""
    found = _shapes(state)
    # A thousand blocks take a second to lay out, so theirs come last.
    for name in sorted(names(), key=lambda name: name == "r2060"):
        if _layout(name, 512).keys() == found.keys():
            features = embedding_length(name, state)
            if features is not None and _layout(name, features) == found:
                return name, features
    return None


def describe_origin(state: Mapping[str, Tensor]) -> str:
    """Words on which backbone ``state`` is of, or comes nearest to."""
    guess = guess_backbone(state)
    if guess is not None:
        return f"they are those of {guess[0]} with {guess[1]} features"
    found = _shapes(state).items()
    nearest, share = "", 0.0
    for name in names():
        wanted = _layout(name, embedding_length(name, state) or 512).items()
        common = len(found & wanted) / max(len(found), len(wanted))
        if common > share:
            nearest, share = name, common
    known = f"no known backbone ({', '.join(names())})"
    return f"they are those of {known}" + (
        f"; {nearest} comes nearest, with {share:.0%} of them in common" if share > _NEAR else ""
    )


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    return {key: tuple(v.shape) for key, v in state.items() if not key.endswith(_COUNTER)}


@cache
def _layout(name: str, features: int) -> Shapes:
    return _shapes(skeleton(name, features=features).state_dict())


def fill_from(backbone: Backbone, weights: Weights, path: Path) -> None:
    """Copy ``weights``, read from ``path``, into ``backbone``, which takes their order of colours.

    Raises:
        EvaluationError: the tensors are not the backbone's, or those of a network that computes
            something else with them.
    """
    if weights.backbone == f"{backbone.name}_magface":
        raise EvaluationError(
            f"{path} is of MagFace, whose network takes other pixels than {backbone.name} and has "
            f"the same tensors: set the backbone to {weights.backbone}"
        )
    fill(backbone, weights.state, path)
    backbone.channels = weights.channels or backbone.channels


def fill(backbone: Backbone, state: Mapping[str, Tensor], path: Path) -> None:
    """Copy ``state``, read from ``path``, into ``backbone``.

    Raises:
        EvaluationError: the tensors are not the backbone's; says what differs and whose they are.
    """
    wanted, found = _shapes(backbone.state_dict()), _shapes(state)
    misshapen = [key for key in found if wanted.get(key, found[key]) != found[key]]
    differences = [
        (f"{len(keys)} tensors {verb}", keys)
        for verb, keys in (
            ("are missing", [key for key in wanted if key not in found]),
            ("are unknown to it", [key for key in found if key not in wanted]),
            (
                "have another shape",
                [f"{k}: {_by(found[k])}, not {_by(wanted[k])}" for k in misshapen],
            ),
        )
        if keys
    ]
    if differences:
        described = "; ".join(
            f"{text} ({', '.join(keys[:_SHOWN])}{', …' if len(keys) > _SHOWN else ''})"
            for text, keys in differences
        )
        raise EvaluationError(
            f"{path} is no {backbone.name} with {backbone.embedding_size} features: {described}. "
            f"Of its {len(state)} tensors: {describe_origin(state)}"
        )
    backbone.load_state_dict(state, strict=False)


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a number"
