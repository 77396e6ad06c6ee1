"""Going on from a run of arcface_torch: the files of all its GPUs, put together.

Three trainers left three layouts in their output folder, each a file a GPU with its rows of the
class centres: rank r of W holds ``C // W`` rows, and one of the first ``C % W`` ranks one more. The
last one, train_v2.py under ``save_all_states``, keeps the optimizer's state beside them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facepack.errors import EvaluationError
from facepack.train.backbones import Backbone
from facepack.train.heads import PartialFC
from facepack.train.models.pretrained import fill, read_weights, weights_in
from facepack.train.models.torch_files import load_tensors
from facepack.train.ranks.group import Ranks

# torch's names of an optimizer's state → those of the head's buffers.
_SGD = {"momentum_buffer": "momentum"}
_ADAMW = {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "step": "steps"}
_WANTED = "a GPU's part of the run, as arcface_torch wrote it"
_MOST_RANKS = 4096  # among which a missing file is looked for


@dataclass(frozen=True)
class _Layout:
    """Files of one trainer, ``{}`` standing for the rank."""

    centres: str
    backbone: str
    momentum: str | None = None


_CHECKPOINTS = _Layout("checkpoint_gpu_{}.pt", "checkpoint_gpu_0.pt")  # since May 2022
_STATES = _Layout("softmax_fc_gpu_{}.pt", "model.pt")  # since January 2022
_MATRICES = _Layout("rank_{}_softmax_weight.pt", "backbone.pth", "rank_{}_softmax_weight_mom.pt")
_LAYOUTS = (_CHECKPOINTS, _STATES, _MATRICES)


def continue_run(
    folder: Path, backbone: Backbone, optimizer: torch.optim.Optimizer, head: PartialFC
) -> str:
    """Take backbone, centres and, where they are there, the momenta of both from ``folder``.

    Collective in nothing: each rank reads all files of the run, which may have had any number of
    GPUs, one at a time, and keeps its own rows. The backbone is of the same architecture; its
    optimizer, SGD or AdamW, keeps its own options; the head is of as many classes as theirs, with
    the same labels, under the same optimizer.

    Returns:
        Words on what was taken.

    Raises:
        EvaluationError: files are missing, damaged, or not of one run with these sizes.
    """
    layout, ranks = _find(folder)
    names = _ADAMW if isinstance(optimizer, torch.optim.AdamW) else _SGD
    sizes: list[int] = []
    steps: set[Any] = set()
    has_momentum = True
    checkpoint: dict[str, Any] = {}
    for rank in range(ranks):
        path = folder / layout.centres.format(rank)
        content = load_tensors(path, _WANTED)
        weight = _centres(path, content, head)
        state: Any = None
        if layout is _CHECKPOINTS:
            checkpoint = checkpoint or content
            steps.add(content.get("global_step"))
            state, last = _optimizer_state(content)
            state = state.get(last)
        elif layout.momentum and (folder / layout.momentum.format(rank)).is_file():
            momentum = load_tensors(folder / layout.momentum.format(rank), _WANTED)
            state = {"momentum_buffer": momentum}
        rows = _fitting(state, names, weight)
        has_momentum &= bool(rows)
        head.load_rows(sum(sizes), {"weight": weight, **rows})
        sizes.append(len(weight))
    files = folder / layout.centres.format("*")
    _check_parts(files, sizes, head.classes)
    if len(steps) > 1:
        raise EvaluationError(
            f"{files} are of different steps ({', '.join(sorted(map(str, steps)))}): give those "
            "that were written together"
        )
    if not has_momentum:
        head.clear_state()
    is_moving = _fill_backbone(folder / layout.backbone, checkpoint, backbone, optimizer, names)
    taken = [
        name for name, is_there in (("backbone", is_moving), ("centres", has_momentum)) if is_there
    ]
    momenta = f"momentum of {' and '.join(taken)}" if taken else "no momentum, which begins at 0"
    return (
        f"going on from {folder} (GPUs: {ranks}{_step_of(checkpoint)}): backbone, {head.classes:,} "
        f"centres, {momenta}. Steps, schedule and order of images begin anew"
    )


def _find(folder: Path) -> tuple[_Layout, int]:
    """The layout that ``folder`` holds, and the number of its ranks."""
    held = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    for layout in _LAYOUTS:
        pattern = re.compile(re.escape(layout.centres).replace(r"\{\}", r"(\d{1,5})"))
        found = {int(match[1]) for match in map(pattern.fullmatch, held) if match}
        if not found:
            continue
        missing = sorted(set(range(max(found) + 1)) - found)
        if missing:
            names = ", ".join(layout.centres.format(rank) for rank in missing[:3])
            raise EvaluationError(
                f"{folder} lacks {names}{', …' if len(missing) > 3 else ''}: each GPU of the run "
                "left a file with its part of the centres, and all are needed"
            )
        return layout, len(found)
    names = ", ".join(layout.centres.format("R") for layout in _LAYOUTS)
    raise EvaluationError(
        f"{folder} holds no centres of arcface_torch ({names}): continues names the output folder "
        "of its run, which train_v2.py fills under save_all_states. A model alone is pretrained's"
    )


def _centres(path: Path, content: Any, head: PartialFC) -> Tensor:
    """A GPU's rows of the centres."""
    match content:
        case {"state_dict_softmax_fc": {"weight": Tensor() as weight}}:
            pass
        case {"weight": Tensor() as weight} if path.match(_STATES.centres.format("*")):
            pass
        case Tensor() as weight if path.match(_MATRICES.centres.format("*")):
            pass
        case _:
            raise EvaluationError(
                f"{path} holds no class centres: give the file that arcface_torch wrote"
            )
    if weight.ndim != 2 or weight.shape[1] != head.weight.shape[1]:
        raise EvaluationError(
            f"{path} holds centres of {'×'.join(map(str, weight.shape))}, and those of the run to "
            f"begin are of {head.weight.shape[1]} features: set features to theirs"
        )
    return weight


def _optimizer_state(checkpoint: Mapping[str, Any]) -> tuple[dict[int, Any], int]:
    """What an optimizer remembers, by the number of the parameter, and the last number.

    The centres are the last parameter there.
    """
    match checkpoint.get("state_optimizer"):
        case {"state": dict() as state, "param_groups": [*_, {"params": [*_, int() as last]}]}:
            return state, last
    return {}, -1


def _fitting(state: Any, names: Mapping[str, str], weight: Tensor) -> dict[str, Tensor]:
    """What an optimizer remembers of ``weight``, by the head's names; none if it does not fit."""
    if not isinstance(state, dict):
        return {}
    fitting = {}
    for theirs, ours in names.items():
        value = state.get(theirs)
        if ours == "steps" and isinstance(value, int | float | Tensor):
            # There all rows are counted together.
            value = torch.full((len(weight),), int(value))
        elif not isinstance(value, Tensor) or value.shape != weight.shape:
            return {}
        fitting[ours] = value
    return fitting


def _check_parts(files: Path, sizes: list[int], classes: int) -> None:
    """Make sure that ``sizes`` are the shares of a head of ``classes``, one a rank."""
    total = sum(sizes)
    if sizes == _shares(total, len(sizes)) and total == classes:
        return
    more = (n for n in range(len(sizes) + 1, _MOST_RANKS) if n <= classes)
    whole = next((n for n in more if _shares(classes, n)[: len(sizes)] == sizes), None)
    if whole is not None:
        raise EvaluationError(
            f"{files} are {len(sizes)}, with {total:,} of {classes:,} classes: the run had {whole} "
            "GPUs, and the files of the last ones are missing"
        )
    if sizes != _shares(total, len(sizes)):
        listed = ", ".join(f"{size:,}" for size in sizes)
        raise EvaluationError(
            f"{files} are not the parts of one head: they hold {listed} classes, and GPUs share "
            "them evenly. Give the files of one run, and no others"
        )
    raise EvaluationError(
        f"{files} hold {total:,} classes, the data to train on {classes:,}: the centres can go on "
        "only with the identities they were trained on, in the same order"
    )


def _shares(classes: int, ranks: int) -> list[int]:
    shares = (Ranks(rank, ranks).share(classes) for rank in range(ranks))
    return [stop - start for start, stop in shares]


def _fill_backbone(
    path: Path,
    checkpoint: Mapping[str, Any],
    backbone: Backbone,
    optimizer: torch.optim.Optimizer,
    names: Mapping[str, str],
) -> bool:
    """Fill the backbone, and its optimizer where ``checkpoint`` has all of its state.

    Returns:
        Whether it has.
    """
    weights = weights_in(path, checkpoint).state if checkpoint else read_weights(path).state
    fill(backbone, weights, path)
    theirs, _ = _optimizer_state(checkpoint)
    parameters = dict(backbone.named_parameters())
    # They number all parameters, in the order of their state_dict; we those that are trained.
    numbers = {name: i for i, name in enumerate(key for key in weights if key in parameters)}
    values = {}
    for index, name in enumerate(name for name, p in parameters.items() if p.requires_grad):
        known: Any = theirs.get(numbers[name])
        if not _fitting(known, names, parameters[name]):
            return False
        values[index] = {key: torch.as_tensor(known[key]) for key in names}
    options = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": values, "param_groups": options})
    return True


def _step_of(checkpoint: Mapping[str, Any]) -> str:
    """Where the run stood, as far as its checkpoint says so."""
    words = ""
    match checkpoint:
        case {"epoch": int() as epoch, "global_step": int() as step}:
            words = f", epochs done: {epoch}, steps: {step:,}"
    match checkpoint.get("state_optimizer"):
        case {"param_groups": [{"lr": int() | float() as lr}, *_]}:
            words += f", learning rate: {lr:.6g}"
    return words
