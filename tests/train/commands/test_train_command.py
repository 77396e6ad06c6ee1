"""``facepack train`` as a user runs it: options, output, exit codes, kills."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from facepack.cli import root
from facepack.train.collect import read_settings, recipe_names

SETTINGS = {
    "backbone": "tiny",
    "features": 16,
    "dropout": 0.2,
    "sample_rate": 0.6,
    "batch_size": 8,
    "steps": 14,
    "lr": 0.05,
    "threads": 1,
    "loader_threads": 1,
    "log_every": 1,
    "checkpoint_every": 2,
}


def arguments(shards: Path, out: Path, *more: str, **changes: Any) -> list[str]:
    settings = [f"--set={key}={value}" for key, value in {**SETTINGS, **changes}.items()]
    return ["train", "--shards", str(shards), "--out", str(out), "--device=cpu", *settings, *more]


@pytest.fixture
def invoke() -> Callable[[Sequence[str]], Result]:
    return lambda args: CliRunner().invoke(root, args, catch_exceptions=False)


def metrics(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("timing", None)
    return lines


def test_train_prints_json_and_writes_the_run(
    invoke: Callable[[Sequence[str]], Result], pack_path: Path, pairs_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    result = invoke(arguments(pack_path, out, "--json", f"--val=own={pairs_path}"))
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert summary["stopped"] == "finished"
    assert (summary["step"], summary["images"]) == (14, 112)
    assert {"images_per_second", "data_wait", "seconds", "loss"} <= summary.keys()
    assert 0 < summary["verification_share"] < 1
    assert summary["best"]["own"]["accuracy"] >= 0.5
    assert result.stderr.startswith("training tiny (")
    assert read_settings(str(out / "config.toml"))["val"] == {"own": str(pairs_path)}

    again = invoke(arguments(pack_path, out))
    assert again.exit_code == 1
    assert again.stderr.startswith(f"facepack train: {out} holds a run already (")
    forgotten = invoke(["train", "--out", str(out)])  # --resume
    assert forgotten.stderr == again.stderr


@pytest.mark.parametrize("method", ["softmax", "f2c"])
def test_dry_run_says_what_would_be_done_and_writes_nothing(
    invoke: Callable[[Sequence[str]], Result], pack_path: Path, tmp_path: Path, method: str
) -> None:
    args = ["--config", "cpu_tiny", "--method", method, "--set", "batch_size=8", "--dry-run"]
    result = invoke(["train", "--shards", str(pack_path), "--out", str(tmp_path / "run"), *args])
    assert result.exit_code == 0, result.output
    assert "45 images, 5 classes; 80 steps" in result.stderr
    assert f"its optimizer 7.6 MB, {method} " in result.stderr
    assert "would be written" in result.stderr
    told = json.loads(
        invoke(
            ["train", "--shards", str(pack_path), "--out", str(tmp_path / "run"), *args, "--json"]
        ).stdout
    )
    assert (told["target"], told["images"], told["classes"]) == ("new", 45, 5)
    assert (told["step"], told["total_steps"]) == (0, 80)
    assert told["free_bytes"] > told["needed_bytes"] > 2 * sum(told["memory"].values())
    assert list(tmp_path.iterdir()) == []


def test_dry_run_tells_what_is_in_the_folder(
    invoke: Callable[[Sequence[str]], Result], pack_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert invoke(arguments(pack_path, out, "--max-steps=1", steps=3)).exit_code == 0
    files = sorted(out.iterdir())
    for option, target in (("--resume", "resumed"), ("--overwrite", "replaced")):
        words = arguments(pack_path, out, option, "--dry-run", "--json", steps=3)
        told = json.loads(invoke(words).stdout)
        assert (told["target"], told["step"]) == (target, int(option == "--resume"))
    written = {file.name + "/" * file.is_dir() for file in files}
    assert written <= {*told["files"]} <= {*written, "checkpoint.previous.pt"}
    checkpoint = (told["needed_bytes"] - told["memory"]["network"]) / 2
    assert 0.9 < (out / "checkpoint.pt").stat().st_size / checkpoint < 1.1
    assert sorted(out.iterdir()) == files


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_dry_run_knows_before_the_first_step_how_large_a_checkpoint_is(
    invoke: Callable[[Sequence[str]], Result], pack_path: Path, tmp_path: Path, optimizer: str
) -> None:
    words = arguments(pack_path, tmp_path / "run", optimizer=optimizer, steps=1)
    told = json.loads(invoke([*words, "--dry-run", "--json"]).stdout)
    assert invoke(words).exit_code == 0
    checkpoint = (told["needed_bytes"] - told["memory"]["network"]) / 2
    assert 0.9 < (tmp_path / "run" / "checkpoint.pt").stat().st_size / checkpoint < 1.1


@pytest.mark.parametrize("more", [["--max-steps=1"], []])
def test_dry_run_of_what_is_done_already_would_write_nothing(
    invoke: Callable[[Sequence[str]], Result], pack_path: Path, tmp_path: Path, more: list[str]
) -> None:
    out = tmp_path / "run"
    assert invoke(arguments(pack_path, out, *more, steps=2)).exit_code == 0
    words = arguments(pack_path, out, "--resume", "--dry-run", *more, steps=2)
    result = invoke(words)
    assert "no step would be taken" in result.stderr and "would be written" not in result.stderr
    told = json.loads(invoke([*words, "--json"]).stdout)
    assert (told["target"], told["files"], told["needed_bytes"]) == ("finished", [], 0)
    (out / "model.pt").unlink()  # which the run makes up for
    told = json.loads(invoke([*words, "--json"]).stdout)
    assert (told["files"], told["needed_bytes"]) == (["model.pt"], told["memory"]["network"])


def test_dry_run_refuses_a_folder_that_cannot_be_made(
    invoke: Callable[[Sequence[str]], Result], pack_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "astray").symlink_to(tmp_path / "nowhere")
    for out in (tmp_path / "file" / "run", tmp_path / "astray"):
        results = [invoke(arguments(pack_path, out, *dry, steps=1)) for dry in ([], ["--dry-run"])]
        assert [result.exit_code for result in results] == [1, 1]
        assert all("--out: cannot write" in result.stderr for result in results)
    assert not (tmp_path / "nowhere").exists()


def test_stops_at_max_steps_and_resumes_with_its_own_settings(
    invoke: Callable[[Sequence[str]], Result], pack_path: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "run")
    first = invoke(arguments(pack_path, tmp_path / "run", "--max-steps=3", steps=5))
    assert first.exit_code == 0
    assert "stopped at --max-steps; go on with --resume\nstep 3 of 5; 24 images in" in first.stdout
    second = invoke(["train", "--out", out, "--resume", "--device=cpu", "--set=log_every=2"])
    assert second.exit_code == 0
    assert "finished\nstep 5 of 5; 16 images in" in second.stdout
    refused = invoke(["train", "--out", out, "--resume", "--set=lr=0.3"])
    assert refused.exit_code == 2
    assert "another course (lr: 0.05 → 0.3) for a run of 5 steps: 5 are done" in refused.stderr
    (tmp_path / "own.toml").write_text("seed = 5")
    added = invoke(["train", "--out", out, "--resume", "--config", str(tmp_path / "own.toml")])
    assert "than the run began with (seed: 0 → 5)" in added.stderr


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--set=epoch=3"], 2, "unknown setting 'epoch' (did you mean epochs?)"),
        (["--set=epochs=x"], 2, "epochs = 'x' is not a whole number"),
        (["--config=r50"], 2, "unknown recipe 'r50'"),
        (["--val=lfw="], 2, "write it as NAME=PATH"),
        (["--val=a/lfw.bin", "--val=b/lfw.bin"], 2, "two sets are called 'lfw'"),
        (["--resume", "--overwrite"], 2, "give one"),
        (["--max-steps=0"], 2, "--max-steps"),
        (["--set=batch_size=64"], 1, "batch_size = 64 is larger than"),
    ],
)
def test_wrong_usage_is_one_line_and_an_exit_code(
    invoke: Callable[[Sequence[str]], Result],
    pack_path: Path,
    tmp_path: Path,
    more: list[str],
    code: int,
    message: str,
) -> None:
    result = invoke(arguments(pack_path, tmp_path / "run", *more))
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_shards_are_asked_for(invoke: Callable[[Sequence[str]], Result], tmp_path: Path) -> None:
    result = invoke(["train", "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "shards is not set: name the pack or image tree to train on" in result.stderr
    result = invoke(["train", "--out", str(tmp_path / "run"), "--resume"])
    assert result.exit_code == 2
    assert f"{tmp_path / 'run'} holds no config.toml, which has the settings" in result.stderr


def test_help_lists_recipes_and_settings(invoke: Callable[[Sequence[str]], Result]) -> None:
    text = " ".join(invoke(["train", "--help"]).stdout.split())
    for name in recipe_names():
        assert name in text
    assert "batch_size = 128 Images in an optimizer step, all micro-batches and all ranks" in text


# In processes of their own ---------------------------------------------------------------------

START = [sys.executable, "-m", "facepack"]


def start(args: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*START, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_step(process: subprocess.Popen[str], out: Path, step: int) -> None:
    """Wait until the run has logged ``step`` steps, or ended."""
    while process.poll() is None:
        file = out / "metrics.jsonl"
        if file.exists() and file.read_bytes().count(b"\n") >= step:
            return
        time.sleep(0.002)


def test_run_killed_again_and_again_equals_one_that_was_not(
    invoke: Callable[[Sequence[str]], Result], pack_path: Path, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert invoke(arguments(pack_path, whole)).exit_code == 0
    for step in (2, 9):
        process = start(arguments(pack_path, cut, "--resume"))
        wait_for_step(process, cut, step)
        process.kill()
        process.communicate()
    last = start(arguments(pack_path, cut, "--resume", "--json"))
    output, _ = last.communicate()
    assert last.returncode == 0
    assert json.loads(output)["step"] == 14
    one, other = (torch.load(out / "model.pt", weights_only=True) for out in (whole, cut))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert metrics(cut) == metrics(whole)


def test_interrupted_run_ends_with_130_and_a_checkpoint(pack_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(arguments(pack_path, out, "--json", steps=100_000, checkpoint_every=0))
    wait_for_step(process, out, 1)
    process.send_signal(signal.SIGINT)
    output, notices = process.communicate()
    assert process.returncode == 130
    summary = json.loads(output)
    assert summary["stopped"] == "interrupted"
    assert "stopping after this step, with a checkpoint" in notices
    saved = torch.load(out / "checkpoint.pt", weights_only=True)
    assert saved["step"] == summary["step"] >= 1


def test_a_stage_is_named_by_an_option(
    invoke: Callable[[Sequence[str]], Result], pack_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ["--config", "cpu_tiny_adaface", "--method", "unequal", "--stage", "head", "--dry-run"]
    result = invoke(arguments(pack_path, out, *words, sample_rate=1.0))
    assert result.exit_code == 0, result.stderr
    assert "margin = adaface" in result.stderr and "left out" in result.stderr
    for stage, told in (
        ("denoise", "stage = denoise starts from"),
        ("body", "'body' is not one of"),
    ):
        result = invoke(arguments(pack_path, out, "--method", "unequal", "--stage", stage))
        assert result.exit_code == 2 and told in result.stderr
    result = invoke(arguments(pack_path, out, "--stage", "head"))
    assert result.exit_code == 2 and "method softmax" in result.stderr and "stage" in result.stderr
    assert not out.exists()
