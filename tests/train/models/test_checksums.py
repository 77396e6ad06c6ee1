"""Damage in files of weights and checkpoints: met before anything is loaded, told in words."""

from __future__ import annotations

import itertools
import os
import random
import re
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from facepack.cli import root
from facepack.errors import EvaluationError, TrainingError
from facepack.train.backbones import build
from facepack.train.config import TrainConfig
from facepack.train.loop.checkpoint import (
    CHECKPOINT_FILE,
    PREVIOUS_FILE,
    load_checkpoint,
    save_checkpoint,
)
from facepack.train.loop.run import Trainer
from facepack.train.models.checksums import SumError, load_checked, tensors_digest
from facepack.train.models.export import export_model
from facepack.train.models.pretrained import read_weights

STATE = {
    "step": 3,
    "words": "a note",
    "weights": {"w": torch.arange(60.0).reshape(4, 15), "half": torch.ones(7).half()},
    "momentum": [torch.full((9,), 0.5), torch.arange(5)],
}


def flip(path: Path, place: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        (value,) = file.read(1)
        file.seek(place)
        file.write(bytes([value ^ 1 << bit]))


def mutate(data: bytes, draw: random.Random) -> bytes:
    """Damage as disks and transfers do it: bits, bytes, stretches, lengths."""
    damaged = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        at = draw.randrange(len(damaged))
        long = min(draw.choice((1, 4, 64, 512)), len(damaged) - at)
        kind = draw.randrange(6)
        if kind <= 1:
            damaged[at] ^= 1 << draw.randrange(8)
        elif kind == 2:
            damaged[at : at + long] = draw.randbytes(long)
        elif kind == 3:
            damaged[at : at + long] = bytes(long)
        elif kind == 4:
            other = draw.randrange(len(damaged))
            damaged[at : at + long] = damaged[other : other + long]
        elif len(damaged) > 600:
            del damaged[at : at + long]
    return bytes(damaged)


@pytest.mark.parametrize("lazily", [False, True])
def test_a_damaged_checkpoint_is_refused_or_the_same(
    assert_same: Callable[[Any, Any], None], tmp_path: Path, lazily: bool
) -> None:
    path = tmp_path / CHECKPOINT_FILE
    save_checkpoint(path, STATE)
    good, data = load_checkpoint(path), path.read_bytes()
    draw = random.Random(5)
    refused = 0
    for _ in range(400):
        path.unlink()  # what is mapped lives on
        path.write_bytes(mutate(data, draw))
        try:
            state = load_checkpoint(path, lazily=lazily)
        except TrainingError:
            refused += 1
        else:
            assert_same(state, good)
    assert refused > 200


def test_a_damaged_model_is_refused_or_the_same(
    assert_same: Callable[[Any, Any], None], tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    weights = {"fc.weight": torch.randn(16, 4), "fc.bias": torch.randn(9)}
    torch.save(weights, path)
    good, data = read_weights(path).state, path.read_bytes()
    draw = random.Random(9)
    refused = 0
    for _ in range(400):
        path.write_bytes(mutate(data, draw))
        try:
            state = read_weights(path).state
        except EvaluationError:
            refused += 1
        else:
            assert_same(state, good)
    assert refused > 200


def test_every_flipped_bit_of_a_tensor_is_met(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    weights = torch.randn(8)
    torch.save({"w": weights}, path)
    start = path.read_bytes().index(weights.numpy().tobytes())
    for place in range(start, start + 32):
        flip(path, place, place % 8)
        with pytest.raises(EvaluationError, match=r"model\.pt is damaged \(Bad CRC-32 for file"):
            read_weights(path)
        flip(path, place, place % 8)
    assert torch.equal(read_weights(path).state["w"], weights)


def test_every_flipped_bit_of_what_a_zip_says_of_a_tensor_is_met(tmp_path: Path) -> None:
    """One of them marks it as a folder: torch then takes whatever the memory held before."""
    path = tmp_path / "model.pt"
    weights = torch.randn(8)
    torch.save({"w": weights}, path)
    data = path.read_bytes()
    name = data.rindex(b"/data/0")  # in the list of contents, at the end
    start = data.rindex(b"PK\1\2", 0, name)
    refused = 0
    for place, bit in itertools.product(range(start, name + len("/data/0")), range(8)):
        flip(path, place, bit)
        try:
            assert torch.equal(load_checked(path)["w"], weights)
        except AssertionError:
            raise
        except Exception:
            refused += 1
        flip(path, place, bit)
    assert refused > 200


@pytest.mark.parametrize("mapped", [False, True])
def test_a_tensor_marked_as_a_folder_is_damage(tmp_path: Path, mapped: bool) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": torch.randn(8)}, path)
    data = path.read_bytes()
    flip(path, data.rindex(b"PK\1\2", 0, data.rindex(b"/data/0")) + 38, 4)  # its attributes
    with pytest.raises(SumError, match="marked as a folder"):
        load_checked(path, mapped=mapped)


def rewrite(path: Path, *, compression: int = zipfile.ZIP_STORED, twice: str = "") -> None:
    """Write a zip of the same members anew."""
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.simplefilter("ignore")
        for name, content in members:
            for _ in range(1 + (bool(twice) and name.endswith(twice))):
                archive.writestr(name, content)


def test_zips_that_claim_more_than_they_hold_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": torch.zeros(1 << 20)}, path)
    rewrite(path, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(SumError, match="compressed members"):
        load_checked(path)
    torch.save({"w": torch.zeros(100)}, path)
    rewrite(path, twice="data/0")
    with pytest.raises(SumError, match="two of its members have one name"):
        load_checked(path)
    torch.save({"w": torch.zeros(100)}, path)
    data = path.read_bytes()
    size = (400).to_bytes(4, "little")
    path.write_bytes(data.replace(2 * size, 2 * (1 << 30).to_bytes(4, "little")))
    with pytest.raises(SumError, match="larger than the file"):
        load_checked(path)


def test_a_missing_stretch_is_told_as_damage(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": torch.zeros(1000)}, path)
    data = path.read_bytes()
    path.write_bytes(data[:1000] + data[1500:])
    with pytest.raises(EvaluationError, match=r"is damaged \(its parts are not where"):
        read_weights(path)


@pytest.mark.parametrize("kind", ["before torch 1.6", "without sums"])
def test_files_without_sums_are_read_with_a_warning(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.pt"
    if kind == "without sums":
        config = pytest.importorskip("torch.utils.serialization.config", reason="torch before 2.6")
        with config.patch("save.compute_crc32", False):
            torch.save({"w": torch.ones(5)}, path)
    else:
        torch.save({"w": torch.ones(5)}, path, _use_new_zipfile_serialization=False)
    with pytest.warns(UserWarning, match=r"model\.pt holds no checksums"):
        assert read_weights(path).state["w"].tolist() == [1.0] * 5


def test_a_sound_file_is_read_without_a_word(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(5)}, tmp_path / "model.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checked(tmp_path / "model.pt")


def test_digest_knows_names_types_shapes_and_values_but_no_order() -> None:
    weights = {"a": torch.arange(6.0), "b": torch.ones(()), "c": torch.ones(2, 3).bfloat16()}
    digest = tensors_digest(weights)
    assert tensors_digest(dict(reversed(weights.items()))) == digest
    assert tensors_digest({**weights, "c": weights["c"].t().contiguous().t()}) == digest
    others = [
        {**weights, "a": weights["a"].view(2, 3)},
        {**weights, "a": weights["a"].view(torch.int32)},
        {**weights, "b": torch.zeros(())},
        {"A": weights["a"], "b": weights["b"], "c": weights["c"]},
    ]
    assert digest not in map(tensors_digest, others)


def test_a_damaged_safetensors_file_of_ours_is_refused_or_the_same(
    assert_same: Callable[[Any, Any], None], tmp_path: Path
) -> None:
    pytest.importorskip("safetensors")
    path = tmp_path / "model.safetensors"
    export_model(build("tiny", features=8), path, images=1)
    good, data = read_weights(path), path.read_bytes()
    draw = random.Random(6)
    refused = 0
    for _ in range(100):
        path.unlink()
        path.write_bytes(mutate(data, draw))
        try:
            state = read_weights(path).state
        except EvaluationError:
            refused += 1
        else:
            assert_same(state, good.state)
    assert refused > 50


# The checkpoint before ---------------------------------------------------------------------------


def test_the_checkpoint_before_is_kept_until_the_next(tmp_path: Path) -> None:
    path, previous = tmp_path / CHECKPOINT_FILE, tmp_path / PREVIOUS_FILE
    save_checkpoint(path, {"step": 1})
    assert not previous.exists()
    for step in (2, 3):
        save_checkpoint(path, {"step": step})
        assert load_checkpoint(path)["step"] == step
        assert load_checkpoint(previous)["step"] == step - 1
        assert path.stat().st_nlink == previous.stat().st_nlink == 1
    assert {file.name for file in tmp_path.iterdir()} == {path.name, previous.name}


def test_a_kill_between_the_two_renames_loses_neither(tmp_path: Path) -> None:
    path, previous = tmp_path / CHECKPOINT_FILE, tmp_path / PREVIOUS_FILE
    save_checkpoint(path, {"step": 1})
    os.link(path, previous)  # as the kill leaves it
    save_checkpoint(path, {"step": 2})
    assert [load_checkpoint(file)["step"] for file in (path, previous)] == [2, 1]
    assert {file.name for file in tmp_path.iterdir()} == {path.name, previous.name}


def test_where_files_have_one_name_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Any) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", link)
    path, previous = tmp_path / CHECKPOINT_FILE, tmp_path / PREVIOUS_FILE
    for step in (1, 2):
        save_checkpoint(path, {"step": step})
    assert [load_checkpoint(file)["step"] for file in (path, previous)] == [2, 1]


def test_words_after_damage_name_the_way_on(tmp_path: Path) -> None:
    path, previous = tmp_path / CHECKPOINT_FILE, tmp_path / PREVIOUS_FILE

    def words() -> str:
        with pytest.raises(TrainingError) as caught:
            load_checkpoint(path)
        return str(caught.value)

    save_checkpoint(path, STATE)
    damage = path.read_bytes().index(STATE["weights"]["w"].numpy().tobytes())
    flip(path, damage)
    assert re.search(r"pt is damaged \(Bad CRC-32 .* Put a good copy there, or start", words())
    flip(path, damage)
    save_checkpoint(path, {**STATE, "step": 4})
    flip(path, damage)
    assert f"is good, of step 3. To go on from there: mv {previous} {path}, then" in words()
    path.unlink()
    assert re.search(rf"no checkpoint {path}\. The one before it is good, of step 3", words())
    flip(previous, damage)
    assert f"The one before it, {previous}, is damaged too. Put a good copy there" in words()


# Whole runs --------------------------------------------------------------------------------------


def train(config: TrainConfig, out: Path, **options: Any) -> Trainer:
    trainer = Trainer(config, out=out, device="cpu", notify=lambda _: None, **options)
    trainer.run()
    return trainer


def test_a_run_goes_on_from_the_checkpoint_before(
    assert_same: Callable[[Any, Any], None],
    small_config: Callable[..., TrainConfig],
    tmp_path: Path,
) -> None:
    config, out = small_config(checkpoint_every=4), tmp_path / "run"
    train(config, out)
    whole = load_checkpoint(out / CHECKPOINT_FILE)
    log = (out / "metrics.jsonl").read_text().count("\n")
    flip(out / CHECKPOINT_FILE, (out / CHECKPOINT_FILE).stat().st_size // 2)
    with pytest.raises(TrainingError, match=r"is damaged .* of step 10\. To go on from there"):
        train(config, out, resume=True)
    (out / PREVIOUS_FILE).replace(out / CHECKPOINT_FILE)
    train(config, out, resume=True)
    assert_same(load_checkpoint(out / CHECKPOINT_FILE), whole)
    assert (out / "metrics.jsonl").read_text().count("\n") == log


def test_a_run_without_its_last_checkpoint_does_not_begin_anew(
    small_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config, out = small_config(checkpoint_every=4), tmp_path / "run"
    train(config, out)
    (out / CHECKPOINT_FILE).unlink()
    with pytest.raises(TrainingError, match=r"there is no checkpoint .* one before it is good"):
        train(config, out, resume=True)
    train(config, out, overwrite=True)


def test_a_flipped_model_is_not_evaluated(pairs_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(build("tiny", features=16).state_dict(), path)
    flip(path, path.stat().st_size // 2)
    done = CliRunner().invoke(root, ["eval", str(pairs_path), "--model", str(path)])
    assert done.exit_code == 1
    assert re.search(r"model\.pt is damaged \(Bad CRC-32 for file", done.output)


def test_ranks_agree_on_a_damaged_checkpoint(pack_path: Path, tmp_path: Path) -> None:
    settings = {"backbone": "tiny", "features": 16, "batch_size": 8, "steps": 4, "threads": 1}
    command = ["--shards", str(pack_path), "--out", str(tmp_path / "run"), "--device=cpu"]
    command += [f"--set={key}={value}" for key, value in settings.items()]
    command += ["--set=checkpoint_every=1"]
    done = CliRunner().invoke(root, ["train", *command, "--max-steps=3"])
    assert done.exit_code == 0, done.output
    path = tmp_path / "run" / CHECKPOINT_FILE
    flip(path, path.stat().st_size // 2)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launched = subprocess.run(
        [*launcher, "--nproc-per-node=2", "-m", "facepack.train", *command, "--resume"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert re.findall(r"exitcode *: (-?\d+) ", launched.stderr) == ["1", "1"], launched.stderr
    assert launched.stderr.count("of step 2. To go on from there: mv ") == 1
