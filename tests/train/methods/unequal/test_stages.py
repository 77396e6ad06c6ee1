"""Stages that end when validation no longer rises, and the command that runs all three."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import facepack
from facepack.cli import root
from facepack.evaluate.validation import Validator
from facepack.terminal import NOTHING_WRITTEN
from facepack.train.config import TrainConfig
from facepack.train.loop.checkpoint import load_checkpoint
from facepack.train.loop.run import Trainer
from facepack.train.methods.unequal.stages import mean_figures, train_until_it_stops_rising
from tests.train.conftest import make_jpeg

COUNTS = (10, 9, 4, 12, 3, 5, 3, 2, 3, 4, 9)


def test_the_mean_is_of_each_set_s_first_figure(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    lines = [
        {"kind": "train", "step": 5, "loss": 1.0},
        {"kind": "val", "step": 5, "set": "a", "accuracy": 0.5, "std": 0.1, "timing": {}},
        {"kind": "val", "step": 5, "set": "b", "accuracy": 0.7},
        {"kind": "val", "step": 9, "set": "a", "accuracy": None, "auc": 0.25},
        {"kind": "val", "step": 9, "set": "b", "accuracy": 0.75},
        {"kind": "val", "step": 12, "set": "a", "accuracy": 0.9},  # interrupted before b
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "va')
    assert mean_figures(log, 2) == {5: pytest.approx(0.6), 9: 0.5}
    assert mean_figures(tmp_path / "none", 2) == {}


def test_a_stage_ends_after_its_best_and_again_when_asked_again(
    small_config: Callable[..., TrainConfig], pairs_path: Path, tmp_path: Path
) -> None:
    config = small_config(
        steps=None, epochs=6, schedule="constant", schedule_options={}, val={"v": str(pairs_path)}
    )
    said: list[str] = []
    options: dict[str, Any] = {"patience": 2, "device": "cpu", "validator": Validator}
    best = train_until_it_stops_rising(config, tmp_path / "run", notify=said.append, **options)
    assert best == tmp_path / "run" / "best" and "the stage ends" in said[-1]
    figures = mean_figures(tmp_path / "run" / "metrics.jsonl", 1)
    expected = min(step for step, value in figures.items() if value == max(figures.values()))
    assert load_checkpoint(best / "checkpoint.pt")["step"] == expected
    steps = sorted(figures)
    # Two epochs without a new best, or the last of the six.
    assert steps[-1] == min(expected + 10, 30)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert train_until_it_stops_rising(config, tmp_path / "run", notify=said.append, **options)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(("begun", "val_every"), [(3, 0), (0, 2)])
def test_the_best_is_kept_wherever_a_stage_is_interrupted_or_verified(
    small_config: Callable[..., TrainConfig],
    tmp_path: Path,
    begun: int,
    val_every: int,
) -> None:
    """Figures fall, so that the first verification, amid what is run at once, is the best."""

    class Falling:
        def __init__(self, sets: dict[str, str], **_: Any) -> None:
            self.lasting = sets

        def __call__(self, backbone: Any) -> Iterator[SimpleNamespace]:
            named = {"target": "v", "figure": "accuracy", "std": None, "notices": ()}
            value = next(falling)
            yield SimpleNamespace(**named, value=value, values={"accuracy": value})

    falling = iter([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    config = small_config(
        **{"steps": None, "epochs": 3, "schedule": "constant", "schedule_options": {}},
        **{"val": {"v": "pairs"}, "val_every": val_every},
    )
    options: dict[str, Any] = {"device": "cpu", "validator": Falling, "notify": lambda _: None}
    out = tmp_path / "run"
    if begun:
        Trainer(config, out=out, **options).run(max_steps=begun)
    best = train_until_it_stops_rising(config, out, patience=9, **options)
    assert best is not None
    first = load_checkpoint(best / "checkpoint.pt")["step"]
    figures = mean_figures(out / "metrics.jsonl", 1)
    assert first == min(step for step in figures if figures[step] == max(figures.values()))


def test_the_command_runs_all_stages_and_goes_on(
    small_backbone: str, pairs_path: Path, tmp_path: Path
) -> None:
    with facepack.PackWriter(tmp_path / "all", classes=len(COUNTS)) as writer:
        for identity, count in enumerate(COUNTS):
            for shot in range(count):
                writer.add(make_jpeg(identity, shot), identity)
    settings = {
        **{"backbone": small_backbone, "features": 16, "epochs": 2, "batch_size": 8},
        **{"threads": 1, "loader_threads": 1, "warmup_epochs": 0},
    }
    of_tail = {"hard_identities": 4, "bag_identities": 5, "bags": 3, "block": 2}
    arguments = [
        "unequal",
        str(tmp_path / "all"),
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    arguments += ["--config", "cpu_tiny_unequal", "--val", f"v={pairs_path}", "--patience", "1"]
    arguments += ["--interweights", "1,5"]
    for key, value in settings.items():
        arguments += ["--set", f"{key}={value}"]
    for key, value in of_tail.items():
        arguments += ["--set-tail", f"method_options.{key}={value}"]
    out = tmp_path / "out"
    before = sorted(tmp_path.iterdir())
    told = CliRunner().invoke(root, [*arguments, "--dry-run"])
    assert told.exit_code == 0 and sorted(tmp_path.iterdir()) == before
    assert told.stdout.count(NOTHING_WRITTEN) == 1
    for words, message in (
        (["--val", "v=none"], "no verification set 'none'"),
        (["--set", "batch_size=41"], "the head, which has 40 images"),
        (["--set-tail", "method_options.images_per_identity=9"], "the tail has 0 identities"),
    ):
        refused = CliRunner().invoke(root, [*arguments, *words, "--dry-run"])
        assert refused.exit_code == 1 and message in refused.stderr
    done = CliRunner().invoke(root, arguments)
    assert done.exit_code == 0, done.output
    lines = told.stdout.splitlines()
    written = [entry for entry in out.iterdir() if entry.name != "packs"]
    for folder in written:
        (line,) = (line for line in lines if line.startswith(f"{folder}:"))
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if folder.name == "noise":
            assert line.startswith(f"{folder}: 40 images to score;")
            continue
        assert f"{folder}: new; 40 images of 4 classes" in line and "at most 10 steps, 5 an" in line
        assert ("6 identities of the tail" in line) == folder.name.startswith("tail-")
        stated = float(line.rpartition("about ")[2].removesuffix(" MB"))
        assert stated - 0.1 < size / 1e6 < stated + 0.2
    again = CliRunner().invoke(root, [*arguments, "--dry-run"]).stdout
    assert all(f"{out / name}: finished" in again for name in ("head", "noise", "denoise"))
    assert f"{out / 'tail-5'}: resumed" in again
    for name in ("head", "denoise", "tail-1", "tail-5"):
        assert (out / name / "best" / "model.pt").is_file(), name
    assert (out / "noise" / "noise.txt").is_file()
    last = torch.load(out / "tail-5" / "best" / "model.pt")
    again = CliRunner().invoke(root, arguments)
    assert again.exit_code == 0 and again.stdout == done.stdout
    for name, tensor in torch.load(out / "tail-5" / "best" / "model.pt").items():
        assert torch.equal(tensor, last[name])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "cpu_tiny"], "name a recipe of method = unequal"),
        (["--set-tail", "method_options.hard_identities=9000"], "bag_identities"),
        (["--set-denoise", "method_options.bata=1"], "'bata'"),
        (["--interweights", "1,5,1.0"], "name 1 once"),
        (["--dry-run", "--min-images", "9"], "choose another --min-images"),
    ],
)
def test_settings_of_all_stages_are_checked_before_the_first(
    pack_path: Path, pairs_path: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    arguments = ["unequal", str(pack_path), "--out", str(tmp_path / "out"), "--device", "cpu"]
    arguments += ["--config", "cpu_tiny_unequal", "--val", f"v={pairs_path}", *words]
    done = CliRunner().invoke(root, arguments)
    assert done.exit_code and message in str(done.exception) + done.output
    assert not (tmp_path / "out").exists()
