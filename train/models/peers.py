"""Going on from a checkpoint of AdaFace, MagFace or CurricularFace: backbone, centres, state.

AdaFace's is a file of PyTorch Lightning, MagFace's one file, CurricularFace's two in a folder.
All keep the centres as the columns of a matrix (F×C), whole: they trained on one GPU, or with the
matrix on each. Their optimizers number parameters in orders of their own, so momentum begins at 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facepack.errors import EvaluationError
from facepack.train.backbones import Backbone
from facepack.train.heads import PartialFC
from facepack.train.models.pretrained import Weights, fill_from, read_weights, weights_in
from facepack.train.models.torch_files import load_tensors

# Their names in the state of a margin → ours.
_STATES = {
    "AdaFace": {"batch_mean": "mean", "batch_std": "deviation"},
    "MagFace": {},
    "CurricularFace": {"t": "t"},
}
_WANTED = "a checkpoint with its head"
_PAIR = re.compile(r"(Backbone|Head)_.+_Epoch_(\d{1,9})_Time_.+_checkpoint\.pth")


@dataclass(frozen=True, kw_only=True)
class _Checkpoint:
    """What a peer left."""

    peer: str
    epoch: int | str
    file: Path
    """Of the head."""
    head: dict[str, Any]
    centres: str
    """Their name in ``head``."""
    weights: Weights
    backbone_file: Path


def is_peers(path: Path) -> bool:
    """Whether ``path`` can be a checkpoint that this module reads: a file, or pairs of files."""
    return path.is_file() or bool(path.is_dir() and _pairs(path))


def continue_checkpoint(path: Path, backbone: Backbone, head: PartialFC) -> str:
    """Take backbone, centres and, for the same margin, its state from ``path``.

    Collective in nothing: each rank reads all and keeps its own rows. ``path`` is a checkpoint of
    AdaFace or MagFace; or the folder of CurricularFace's, of which the last epoch is taken that has
    both of its files. The backbone is of the same architecture, and takes the order of colours of
    theirs; the head is of as many classes as theirs, with the same labels.

    Returns:
        Words on what was taken.

    Raises:
        EvaluationError: a file is missing, damaged, or of none of them, or of other sizes.
    """
    found = _read_pair(path) if path.is_dir() else _read_file(path)
    centres = _rows(found, head)
    fill_from(backbone, found.weights, found.backbone_file)
    head.load_rows(0, {"weight": centres})
    head.clear_state()
    taken = _take_state(found, head)
    state = f", the margin's {' and '.join(taken)}" if taken else ""
    return (
        f"going on from {path} ({found.peer}, epochs done: {found.epoch}): backbone, "
        f"{head.classes:,} centres{state}; momentum begins at 0, steps, schedule and order of "
        "images anew"
    )


def _read_file(path: Path) -> _Checkpoint:
    content = load_tensors(path, _WANTED)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if isinstance(state, dict):
        plain = {str(name).removeprefix("module."): value for name, value in state.items()}
        for peer, prefix, centres in (("AdaFace", "head.", "kernel"), ("MagFace", "fc.", "weight")):
            if f"{prefix}{centres}" in plain:
                head = {
                    name.removeprefix(prefix): value
                    for name, value in plain.items()
                    if name.startswith(prefix)
                }
                epoch = content.get("epoch")
                return _Checkpoint(
                    peer=peer,
                    epoch=epoch if isinstance(epoch, int) else "unknown",
                    file=path,
                    head=head,
                    centres=centres,
                    weights=weights_in(path, content),
                    backbone_file=path,
                )
    raise EvaluationError(
        f"{path} holds no class centres of AdaFace (in state_dict, head.kernel) or MagFace "
        "(fc.weight): continues names their checkpoint, the folder of CurricularFace's, or that of "
        "a run of arcface_torch. A model alone is pretrained's"
    )


def _read_pair(folder: Path) -> _Checkpoint:
    pairs = _pairs(folder)
    whole = [epoch for epoch, files in pairs.items() if len(files) == 2]
    if not whole:
        raise EvaluationError(
            f"{folder} holds no Backbone_… and Head_…_checkpoint.pth of one epoch: both are needed"
        )
    files = pairs[max(whole)]
    content = load_tensors(files["Head"], _WANTED)
    head = content.get("HEAD") if isinstance(content, dict) else None
    if not isinstance(head, dict):
        raise EvaluationError(
            f"{files['Head']} holds no HEAD with class centres: give the file that "
            "CurricularFace's trainer wrote"
        )
    return _Checkpoint(
        peer="CurricularFace",
        epoch=max(whole),
        file=files["Head"],
        head=head,
        centres="kernel",
        weights=read_weights(files["Backbone"]),
        backbone_file=files["Backbone"],
    )


def _pairs(folder: Path) -> dict[int, dict[str, Path]]:
    """By epoch, the files of backbone and head; of several the last by the time in their names."""
    pairs: dict[int, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        if match := _PAIR.fullmatch(path.name):
            pairs.setdefault(int(match[2]), {})[match[1]] = path
    return pairs


def _rows(found: _Checkpoint, head: PartialFC) -> Tensor:
    """The centres (C×F)."""
    columns = found.head.get(found.centres)
    if not isinstance(columns, Tensor) or columns.ndim != 2 or not columns.is_floating_point():
        raise EvaluationError(f"{found.file} holds no matrix of class centres: give a good copy")
    features, classes = columns.shape
    if features != head.weight.shape[1]:
        raise EvaluationError(
            f"{found.file} holds centres of {features} features, and those of the run to begin are "
            f"of {head.weight.shape[1]}: set features to theirs; a margin with several centres a "
            "class cannot go on from theirs"
        )
    if classes != head.classes:
        raise EvaluationError(
            f"{found.file} holds {classes:,} classes, the data to train on {head.classes:,}: the "
            "centres can go on only with the identities they were trained on, in the same order. "
            "MagFace's run on several GPUs keeps those of one alone"
        )
    return columns.T


def _take_state(found: _Checkpoint, head: PartialFC) -> list[str]:
    """Take the margin's state, if it is the peer's margin; the names of what was taken."""
    if type(head.logits.margin).__name__ != found.peer:
        return []
    state = {}
    for theirs, ours in _STATES[found.peer].items():
        value = found.head.get(theirs)
        if not isinstance(value, Tensor) or value.numel() != 1 or not torch.isfinite(value).all():
            return []
        state[ours] = value.reshape(())
    head.margin_state.change(state)
    return list(state)
