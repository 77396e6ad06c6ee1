"""Checkpoints: files that appear whole or not at all, and what must agree to go on from one."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from facepack import lfs, system
from facepack.atomic import replacing
from facepack.errors import ConfigError, TrainingError
from facepack.train.config import COURSE, TrainConfig, differing_settings
from facepack.train.data import TrainingData, label_map_digest
from facepack.train.models.checksums import load_checked
from facepack.train.models.torch_files import what_else

FORMAT = 2

PARTS = {
    **dict.fromkeys(("config", "data", "backbone", "head", "optimizer", "scaler"), dict),
    **dict.fromkeys(("schedule", "meter", "loader", "last", "best"), dict),
    **dict.fromkeys(("ranks", "step", "skipped_images"), int),
    "random": list,
}
"""What a checkpoint of this format holds beside the format, and of which kind."""

CHECKPOINT_FILE = "checkpoint.pt"
PREVIOUS_FILE = "checkpoint.previous.pt"
METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


def save_atomic(
    path: Path, write: Callable[[BinaryIO], Any], *, previous: Path | None = None
) -> None:
    """Let ``write`` fill a new file and put it in the place of ``path`` once it is on the disk.

    Whatever happens meanwhile, ``path`` holds the old content or the new, whole; the old one is
    kept as ``previous``.

    Raises:
        TrainingError: the file cannot be written; the old one, if any, is untouched.
    """
    try:
        with replacing(path, part_of(path)) as part:
            with part.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            if previous is not None and path.exists():
                _keep(path, previous)
    # torch reports a full disk as a RuntimeError of its zip writer.
    except (OSError, RuntimeError) as error:
        kept = "the previous one is untouched" if path.exists() else "none was written before"
        raise TrainingError(
            f"cannot write {path}: {_reason(error)}; {kept}. Make room or mend the disk, then "
            "--resume"
        ) from error


def _keep(path: Path, previous: Path) -> None:
    """Give the content of ``path`` a second name, in the place of another file."""
    link = part_of(previous)
    link.unlink(missing_ok=True)
    try:
        system.hard_link(path, link)
    except OSError:
        # The file system knows no second names. A kill before the new file takes this place leaves
        # the old one under its other name, and resuming says so.
        path.replace(previous)
        return
    link.replace(previous)
    link.unlink(missing_ok=True)  # which stays where both were names of one file already


def _reason(error: Exception) -> str:
    """The system's words, which torch's zip writer covers by words on its own workings."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause.strerror or str(cause)
        cause = cause.__cause__ or cause.__context__
    return str(error)


def part_of(path: Path) -> Path:
    """Where :func:`save_atomic` writes what is to become ``path``."""
    return path.with_name(f".{path.name}.part")


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a run's state: tensors, numbers, texts, lists and dicts, nothing else.

    The one before it is kept beside it, until the next is written.

    Raises:
        TrainingError: as :func:`save_atomic`.
    """
    save_atomic(
        path,
        lambda file: torch.save({"format": FORMAT, **state}, file),
        previous=path.with_name(PREVIOUS_FILE),
    )


def load_checkpoint(path: Path, *, lazily: bool = False) -> dict[str, Any]:
    """Read a run's state onto the CPU; no code in the file is run.

    All of it is read once and compared with the file's checksums first. ``lazily`` leaves tensors
    on the disk until they are used: ranks of one machine then share them, and each takes its own
    rows of the head.

    Raises:
        TrainingError: the file is not there, damaged, no checkpoint, or of another version of the
            format; says how to go on from the one before it, if that is good.
    """
    if not path.exists():
        raise TrainingError(f"there is no checkpoint {path}. {_way_on(path)}")
    lfs.require_content(path, TrainingError)
    try:
        state = load_checked(path, mapped=lazily)
    # Damage shows up as whatever zipfile, the unpickler or torch meets first.
    except Exception as error:
        raise TrainingError(
            f"checkpoint {path} {what_else(path, error)}. {_way_on(path)}"
        ) from error
    if not isinstance(state, dict) or "format" not in state:
        raise TrainingError(f"{path} is not a checkpoint of facepack train")
    if state["format"] != FORMAT:
        raise TrainingError(
            f"checkpoint {path} has format {state['format']}; this facepack reads format {FORMAT}"
        )
    return state


def _way_on(path: Path) -> str:
    """What to do where the checkpoint ``path`` is of no use."""
    previous = path.with_name(PREVIOUS_FILE)
    again = "Put a good copy there, or start again with --overwrite"
    if previous == path or not previous.exists():
        return again
    try:
        step = load_checked(previous, mapped=True)["step"]
    except Exception:
        return f"The one before it, {previous}, is damaged too. {again}"
    return (
        f"The one before it is good, of step {step:,}. To go on from there: "
        f"mv {shlex.quote(str(previous))} {shlex.quote(str(path))}, then --resume"
    )


def describe_data(data: TrainingData) -> dict[str, Any]:
    """What a checkpoint remembers of the data: enough to tell whether they are the same."""
    return {
        "name": data.name,
        "content_id": data.content_id,
        "records": len(data),
        "classes": data.classes,
        "label_map": label_map_digest(data),
    }


def check_resumable(
    state: Mapping[str, Any],
    config: TrainConfig,
    data: TrainingData,
    *,
    ranks: int = 1,
    data_options: Collection[str] = (),
) -> None:
    """Make sure that going on from ``state`` continues the same run.

    Args:
        state, data: of the run, and what it is to go on with.
        config: the settings it is to go on with; those of its course are looked at elsewhere.
        ranks: their number; with another one than the run had, ``accumulate`` may be another too.
        data_options: those of ``method_options`` that say where data lie, which may be elsewhere.

    Raises:
        ConfigError: a setting that decides the weights differs; all that do are named.
        TrainingError: the data differ, or the identities that the head's rows stand for; or parts
            of the state are missing.
    """
    lacking = [name for name, kind in PARTS.items() if not isinstance(state.get(name), kind)]
    if lacking:
        raise TrainingError(
            f"the checkpoint is not of a run of this facepack: it lacks {', '.join(lacking)}. Put "
            "a good copy there, or start again with --overwrite"
        )
    changed = differing_settings(state["config"], config)
    for name in COURSE:
        changed.pop(name, None)
    if state["ranks"] != ranks:
        changed.pop("accumulate", None)
    if "method_options" in changed:
        saved, given = (
            {**(o or {}), **dict.fromkeys(data_options)} for o in changed["method_options"]
        )
        if saved == given:
            del changed["method_options"]
    if changed:
        listed = "; ".join(f"{name}: {was!r} → {now!r}" for name, (was, now) in changed.items())
        raise ConfigError(
            f"--resume with other settings than the run began with ({listed}). Leave them as they "
            "were, or start a run of its own in another --out, from these weights with pretrained"
        )
    was, now = state["data"], describe_data(data)
    if was["content_id"] != now["content_id"]:
        raise TrainingError(
            f"--resume with other data: the run began on {_in_words(was)}, {data.path} is "
            f"{_in_words(now)}. Name the data of the run with --shards, or start another run in "
            "another --out"
        )
    if was["label_map"] != now["label_map"]:
        raise TrainingError(
            f"--resume with other identities: labels of {data.path} have other names than when the "
            f"run began (hash {was['label_map'][:12]}, now {now['label_map'][:12]}), and the "
            "head's rows stand for the old ones. Restore them, or start another run in another "
            "--out"
        )


def _in_words(data: Mapping[str, Any]) -> str:
    return (
        f"{data['name']} ({data['records']:,} images, {data['classes']:,} classes, id "
        f"{data['content_id'][:12]})"
    )


def save_model(path: Path, backbone: nn.Module) -> None:
    """Write the backbone's bare ``state_dict``, on the CPU and contiguous: the published layout.

    Raises:
        TrainingError: as :func:`save_atomic`.
    """
    weights = {name: t.detach().cpu().contiguous() for name, t in backbone.state_dict().items()}
    save_atomic(path, lambda file: torch.save(weights, file))
