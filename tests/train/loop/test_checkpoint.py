"""Checkpoints: whole or not at all, damage in words, what must agree to go on."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from torch import nn

import facepack
from facepack.errors import ConfigError, TrainingError
from facepack.train.config import TrainConfig
from facepack.train.loop.checkpoint import (
    FORMAT,
    PARTS,
    PREVIOUS_FILE,
    check_resumable,
    describe_data,
    load_checkpoint,
    part_of,
    save_atomic,
    save_checkpoint,
    save_model,
)


def test_state_comes_back(tmp_path: Path) -> None:
    state = {"step": 3, "weights": {"w": torch.arange(4.0)}, "losses": [1.5], "note": "ü"}
    save_checkpoint(tmp_path / "checkpoint.pt", state)
    loaded = load_checkpoint(tmp_path / "checkpoint.pt")
    assert torch.equal(loaded.pop("weights")["w"], torch.arange(4.0))
    assert loaded == {"format": FORMAT, "step": 3, "losses": [1.5], "note": "ü"}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), RuntimeError("zip")])
@pytest.mark.parametrize("existed", [True, False])
def test_failed_write_leaves_the_old_file(tmp_path: Path, error: Exception, existed: bool) -> None:
    path = tmp_path / "checkpoint.pt"
    if existed:
        path.write_bytes(b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"half of the new")
        raise error

    with pytest.raises(TrainingError, match=r"cannot write .*checkpoint") as caught:
        save_atomic(path, write)
    assert ("the previous one is untouched" in str(caught.value)) == existed
    assert [file.name for file in tmp_path.iterdir()] == (["checkpoint.pt"] if existed else [])
    if existed:
        assert path.read_bytes() == b"old"


def test_interrupted_write_leaves_nothing_behind(tmp_path: Path) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_atomic(tmp_path / "checkpoint.pt", write)
    assert not list(tmp_path.iterdir())


def test_kill_in_mid_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1})
    child = os.fork()
    if child == 0:
        save_atomic(path, lambda file: (file.write(b"half"), file.flush(), os._exit(9)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert load_checkpoint(path)["step"] == 1
    assert {file.name for file in tmp_path.iterdir()} == {path.name, part_of(path).name}
    save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path)["step"] == 2
    assert {file.name for file in tmp_path.iterdir()} == {path.name, PREVIOUS_FILE}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_full_disk_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint.pt.part").symlink_to("/dev/full")
    with pytest.raises(
        TrainingError, match=r"pt: No space left on device; none was written before"
    ):
        save_checkpoint(tmp_path / "checkpoint.pt", {"w": torch.zeros(10_000)})


@pytest.mark.parametrize("keep", [0, 10, 200, -20])
def test_truncated_file_is_told_in_words(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"w": torch.zeros(100)})
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    with pytest.raises(TrainingError, match=r"checkpoint\.pt is damaged.*--overwrite"):
        load_checkpoint(path)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "was-run",))

    torch.save({"format": FORMAT, "step": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(TrainingError, match=r"holds a .*only tensors are read") as caught:
        load_checkpoint(tmp_path / "checkpoint.pt")
    assert "weights_only" not in str(caught.value), "torch's advice to run the code"
    assert not (tmp_path / "was-run").exists()


def test_other_files_and_formats_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(TrainingError, match="is not a checkpoint of facepack train"):
        load_checkpoint(path)
    torch.save({"format": FORMAT + 1}, path)
    with pytest.raises(TrainingError, match=rf"has format {FORMAT + 1}; .* reads format {FORMAT}"):
        load_checkpoint(path)


def test_resuming_needs_the_same_settings_and_data(pack_path: Path, pairs_path: Path) -> None:
    config = TrainConfig(shards="faces", lr=0.1)
    with facepack.open(pack_path) as faces, facepack.open(pairs_path) as others:
        parts: dict[str, Any] = {name: kind() for name, kind in PARTS.items()}
        state = {**parts, "config": config.as_dict(), "data": describe_data(faces), "ranks": 1}
        check_resumable(state, TrainConfig(shards="elsewhere", lr=0.1, log_every=1), faces)
        with pytest.raises(ConfigError, match=r"began with \(momentum: 0\.9 → 0\.8; seed: 0 → 5\)"):
            check_resumable(state, TrainConfig(shards="faces", momentum=0.8, seed=5), faces)
        with pytest.raises(
            TrainingError, match=r"began on faces \(45 images, 5 classes, id .*40 im"
        ):
            check_resumable(state, config, others)
        for name in PARTS:
            with pytest.raises(TrainingError, match=rf"it lacks {name}\. Put a good copy"):
                check_resumable({**state, name: "text"}, config, faces)


def test_model_file_is_a_bare_state_dict(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(
        memory_format=torch.channels_last
    )
    save_model(tmp_path / "model.pt", model)
    loaded = torch.load(tmp_path / "model.pt", weights_only=True)
    assert loaded.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert loaded[name].is_contiguous()
        assert torch.equal(loaded[name], tensor)
