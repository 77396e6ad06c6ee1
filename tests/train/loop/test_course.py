"""Runs that are resumed with another length or rate, or from another folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from facepack.cli import root
from facepack.errors import ConfigError, TrainingError
from facepack.evaluate.validation import Validator
from facepack.train.collect import read_settings
from facepack.train.config import TrainConfig
from facepack.train.loop.run import Trainer
from facepack.train.schedules.fixed import Cosine

MakeConfig = Callable[..., TrainConfig]
EPOCH = 5  # steps


@pytest.fixture
def make(small_config: MakeConfig) -> MakeConfig:
    """A run of two epochs, 10 steps, under a formula."""

    def with_epochs(**changes: Any) -> TrainConfig:
        settings = {"steps": None, "epochs": 2, "schedule": "constant", "schedule_options": {}}
        return small_config(**{**settings, "log_every": 1, **changes})

    return with_epochs


def train(
    config: TrainConfig, out: Path, *, max_steps: int | None = None, **kwargs: Any
) -> list[str]:
    """Train; returns the notices."""
    said: list[str] = []
    kwargs |= {"out": out, "device": "cpu", "notify": said.append, "validator": Validator}
    Trainer(config, **kwargs).run(max_steps=max_steps)
    return said


def checkpoint(out: Path) -> dict[str, Any]:
    return torch.load(out / "checkpoint.pt", weights_only=True)


def rates(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["lr"] for line in lines if line["kind"] == "train"]


@pytest.fixture
def assert_same_weights(assert_same: Callable[[Any, Any], None]) -> Callable[[Path, Path], None]:
    def compare(out: Path, reference: Path) -> None:
        one, other = checkpoint(out), checkpoint(reference)
        for part in ("step", "backbone", "head", "optimizer", "loader", "random"):
            assert_same(one[part], other[part], part)

    return compare


# Length and rate ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "course",
    [
        {"schedule": "constant"},
        {"schedule": "multistep", "schedule_options": {"milestones": [1, 3]}},
        {"schedule": "mhlr", "schedule_options": {"window": 2, "read_every": 3, "threshold": 50.0}},
    ],
)
def test_a_prolonged_run_is_one_of_that_length(
    make: MakeConfig,
    tmp_path: Path,
    assert_same_weights: Callable[..., None],
    course: dict[str, Any],
) -> None:
    train(make(epochs=4, **course), tmp_path / "whole")
    train(make(epochs=2, **course), tmp_path / "longer")
    said = train(make(epochs=4, **course), tmp_path / "longer", resume=True)
    assert_same_weights(tmp_path / "longer", tmp_path / "whole")
    assert rates(tmp_path / "longer") == rates(tmp_path / "whole")
    assert said[0].endswith("at step 10 of 20")
    assert said[1] == "another course from step 11 on: epochs: 2 → 4"
    assert said[2].startswith("steps of the run: 20 now, 10 before; learning rate of the next one")
    assert read_settings(str(tmp_path / "longer" / "config.toml"))["epochs"] == 4


def test_the_new_formula_holds_from_the_next_step_on(
    make: MakeConfig,
    tmp_path: Path,
    assert_same_weights: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = make(schedule="cosine"), make(schedule="cosine", epochs=3, lr=0.1)
    train(first, tmp_path / "run")
    said = train(second, tmp_path / "run", resume=True)
    assert "epochs: 2 → 3; lr: 0.05 → 0.1" in said[1]
    assert "learning rate of the next one: 0 before, 0.025 now" in said[2]
    short, long = (
        Trainer(config, out=tmp_path / "x", device="cpu", notify=lambda _: None).schedule
        for config in (first, second)
    )
    expected = [short.lr_after(k) for k in range(10)] + [long.lr_after(k) for k in range(10, 15)]
    assert rates(tmp_path / "run") == expected
    # The twin is told each rate.
    monkeypatch.setattr(Cosine, "_decayed", lambda _, steps: [*expected, 0.0][steps])
    train(second, tmp_path / "twin")
    assert_same_weights(tmp_path / "run", tmp_path / "twin")


def test_a_kill_after_the_change_changes_nothing(
    make: MakeConfig, tmp_path: Path, assert_same_weights: Callable[..., None]
) -> None:
    for out in ("whole", "cut"):
        train(make(), tmp_path / out)
    longer = make(epochs=4, schedule="cosine")
    train(longer, tmp_path / "whole", resume=True)
    before = (tmp_path / "cut" / "checkpoint.pt").read_bytes()
    train(longer, tmp_path / "cut", resume=True, max_steps=12)
    (tmp_path / "cut" / "checkpoint.pt").write_bytes(before)  # as if none had been written since
    again = TrainConfig(**read_settings(str(tmp_path / "cut" / "config.toml")))
    said = train(again, tmp_path / "cut", resume=True)
    assert "schedule: constant → cosine" in said[1]
    assert_same_weights(tmp_path / "cut", tmp_path / "whole")
    assert not any("another course" in line for line in train(again, tmp_path / "cut", resume=True))


def test_a_detector_may_hand_over_to_a_formula(make: MakeConfig, tmp_path: Path) -> None:
    options = {"window": 2, "read_every": 1, "threshold": 50.0}
    train(make(schedule="mhlr", schedule_options=options), tmp_path)
    reached = rates(tmp_path)[-1]
    assert reached < 0.05
    train(make(schedule="constant", lr=reached, epochs=3), tmp_path, resume=True)
    assert rates(tmp_path)[10:] == [reached] * EPOCH


def test_options_that_say_the_default_are_no_change(make: MakeConfig, tmp_path: Path) -> None:
    train(make(schedule="poly"), tmp_path, max_steps=3)
    said = train(make(schedule="poly", schedule_options={"power": 1.0}), tmp_path, resume=True)
    assert len(said) == 2  # where it goes on, and the usual announcement


MHLR = {"schedule": "mhlr", "schedule_options": {"window": 2}}


@pytest.mark.parametrize(
    ("began", "changes", "message"),
    [
        (
            MHLR,
            {"lr": 0.1},
            r"\(lr: 0\.05 → 0\.1\): mhlr goes by the losses .*Leave it as it was; ",
        ),
        (
            {"schedule": "mhlr"},
            {"epochs": 60},
            r"window: 2 → 5\): .*follows from the length, --set schedule_options\.window=2 keeps",
        ),
        ({"schedule": "fastface"}, {"epochs": 3}, r"epochs: 2 → 3\): fastface goes by the losses"),
        ({"schedule": "mhlr_guarded"}, {"epochs": 3}, r"schedule=constant --set lr=0\.0"),
        ({}, MHLR, r"schedule: constant → mhlr"),
        ({}, {"epochs": 1}, r"for a run of 5 steps: 7 are done, and none is left"),
        ({"steps": 9}, {"epochs": 3, "steps": 9}, r"epochs = 3 changes nothing: .* is steps = 9"),
        ({}, {"seed": 1, "epochs": 3}, r"than the run began with \(seed: 0 → 1\)"),
    ],
)
def test_what_is_not_defined_is_refused(
    make: MakeConfig, tmp_path: Path, began: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    train(make(**began), tmp_path, max_steps=7)
    before = checkpoint(tmp_path)["config"]
    with pytest.raises(ConfigError, match=message):
        train(make(**{**began, **changes}), tmp_path, resume=True)
    assert checkpoint(tmp_path)["config"] == before


def test_a_former_default_is_not_changed_unasked(make: MakeConfig, tmp_path: Path) -> None:
    """Checkpoints once held no options in force, and poly's power was 2."""
    train(make(schedule="poly", schedule_options={"power": 2.0}), tmp_path, max_steps=4)
    state = checkpoint(tmp_path)
    del state["schedule"]["options"]
    state["config"]["schedule_options"] = {}
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(
        ConfigError, match=r"began when the power of poly was 2 by default; it is 1"
    ):
        train(make(schedule="poly"), tmp_path, resume=True)
    train(make(schedule="poly", schedule_options={"power": 2.0}), tmp_path, resume=True)
    assert rates(tmp_path) == pytest.approx([0.05 * (1 - k / 10) ** 2 for k in range(10)])


def test_the_command_prolongs_a_finished_run(
    pack_path: Path, tmp_path: Path, small_backbone: str
) -> None:
    out = str(tmp_path / "run")
    settings = {
        "backbone": small_backbone, "features": 16, "batch_size": 8, "lr": 0.05, "epochs": 1,
        "schedule": "poly", "precision": "fp32",
    }  # fmt: skip
    begin = [f"--set={name}={value}" for name, value in settings.items()]
    common = ["train", "--out", out, "--device=cpu"]
    assert CliRunner().invoke(root, [*common, "--shards", str(pack_path), *begin]).exit_code == 0
    nothing = CliRunner().invoke(root, [*common, "--resume"])
    assert "step 5 is done already" in nothing.stderr
    more = CliRunner().invoke(root, [*common, "--resume", "--set=epochs=2", "--set=lr=0.02"])
    assert more.exit_code == 0
    assert "another course from step 6 on: epochs: 1 → 2; lr: 0.05 → 0.02\n" in more.stderr
    assert "learning rate of the next one: 0 before, 0.01 now" in more.stderr
    assert "step 10 of 10; 40 images" in more.stdout


# Places ---------------------------------------------------------------------------------------


@pytest.fixture
def here(
    tmp_path: Path, pack_path: Path, pairs_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The current folder, with a pack, a shard set of it and a verification set in ``data``."""
    (tmp_path / "begun" / "data").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "begun")
    monkeypatch.delenv("FACEPACK_HOME", raising=False)
    for name, path in {"faces": pack_path, "pairs": pairs_path}.items():
        (Path("data") / name).mkdir()
        for file in path.iterdir():
            (Path("data") / name / file.name).write_bytes(file.read_bytes())
    (Path("data/faces") / "sets.json").write_text('{"some": ["*"]}')
    return tmp_path / "begun"


@pytest.mark.parametrize(
    ("shards", "home", "kept"),
    [
        ("data/faces", None, "{here}/data/faces"),
        ("data/faces:some", None, "{here}/data/faces:some"),
        ("../begun/data/faces", None, None),
        ("faces", "data", "faces"),
        ("some", "data", "some"),
        ("faces:some", "data", "faces:some"),
    ],
)
def test_a_run_goes_on_from_another_folder(
    make: MakeConfig, here: Path, shards: str, home: str | None, kept: str | None
) -> None:
    val = {"lfw": "pairs" if home else "data/pairs"}
    train(make(shards=shards, val=val), Path("run"), home=home, max_steps=3)
    settings = read_settings("run/config.toml")
    if kept is not None:
        assert settings["shards"] == kept.format(here=here)
    assert settings["val"] == {"lfw": "pairs" if home else f"{here}/data/pairs"}
    os.chdir(here.parent / "other")
    again = TrainConfig(**read_settings(str(here / "run" / "config.toml")))
    train(again, here / "run", home=home and here / home, resume=True)
    assert checkpoint(here / "run")["step"] == 10
    assert read_settings(str(here / "run" / "config.toml"))["shards"] == settings["shards"]


def test_names_in_the_current_folder_become_paths(
    make: MakeConfig, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("data")
    for number, (shards, kept) in enumerate(
        {"faces": "faces", "some": "faces:some", "faces:some": "faces:some"}.items()
    ):
        out = here / f"run{number}"
        train(make(shards=shards, val={"own": "pairs"}), out, max_steps=1)
        settings = read_settings(str(out / "config.toml"))
        assert settings["shards"] == f"{here}/data/{kept}"
        assert settings["val"] == {"own": f"{here}/data/pairs"}


def test_a_model_to_begin_with_is_remembered_from_the_root(make: MakeConfig, here: Path) -> None:
    train(make(shards="data/faces"), Path("first"), max_steps=1)
    config = make(shards="data/faces", pretrained="first/model.pt", log_every=3)
    train(config, Path("run"), max_steps=3)
    assert read_settings("run/config.toml")["pretrained"] == f"{here}/first/model.pt"
    os.chdir(here.parent / "other")
    (here / "first" / "model.pt").unlink()
    again = TrainConfig(**read_settings(str(here / "run" / "config.toml")))
    train(again, here / "run", resume=True)


def test_moved_data_are_named_anew(make: MakeConfig, here: Path) -> None:
    train(make(shards="data/faces", val={"own": "data/pairs"}), Path("run"), max_steps=3)
    moved = here.parent / "moved"
    Path("data").rename(moved)
    again = TrainConfig(**read_settings("run/config.toml"))
    with pytest.raises(TrainingError, match=r"by --shards, also to resume a run whose data moved"):
        train(again, Path("run"), resume=True)
    common = ["train", "--out", "run", "--resume", "--device=cpu"]
    result = CliRunner().invoke(
        root, [*common, "--shards", str(moved / "faces"), "--val", f"own={moved / 'pairs'}"]
    )
    assert result.exit_code == 0, result.stderr
    assert read_settings("run/config.toml")["shards"] == str(moved / "faces")
