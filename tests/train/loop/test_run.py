"""A run as a whole: files, resuming to the same bits, verification, errors in words."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import facepack
from facepack.errors import ConfigError, DecodeError, FacepackError, TrainingError
from facepack.evaluate.validation import Validator
from facepack.store.format import LOCK
from facepack.train.backbones import registry
from facepack.train.build import micro_batch
from facepack.train.collect import read_settings
from facepack.train.config import TrainConfig
from facepack.train.loop.folder import hold_folder
from facepack.train.loop.in_flight import StepsInFlight
from facepack.train.loop.metrics import MetricsLog
from facepack.train.loop.run import Trainer
from facepack.train.loop.stopwatch import Stopwatch
from facepack.train.loop.summary import RunSummary
from facepack.train.methods.softmax.step import TrainStep
from facepack.train.ranks.group import Ranks

MakeConfig = Callable[..., TrainConfig]
AssertSame = Callable[[Any, Any], None]
AssertSameRun = Callable[[Path, Path], None]
STEPS = 11


def quiet(_: str) -> None:
    pass


def train(
    config: TrainConfig, out: Path, *, max_steps: int | None = None, **kwargs: Any
) -> RunSummary:
    kwargs = {"device": "cpu", "notify": quiet, "validator": Validator, **kwargs}
    return Trainer(config, out=out, **kwargs).run(max_steps=max_steps)


def metrics(out: Path) -> list[dict[str, Any]]:
    """The lines without what depends on the clock."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("timing", None)
    return lines


def checkpoint(out: Path) -> dict[str, Any]:
    return torch.load(out / "checkpoint.pt", weights_only=True)


@pytest.fixture
def assert_same_run(assert_same: AssertSame) -> AssertSameRun:
    def compare(out: Path, reference: Path) -> None:
        assert_same(checkpoint(out), checkpoint(reference))
        assert_same(*(torch.load(o / "model.pt", weights_only=True) for o in (out, reference)))
        assert metrics(out) == metrics(reference)

    return compare


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package catches it, no file is written after it."""


@pytest.fixture
def kill_in_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Break off in the middle of the n-th step from now."""
    whole_step = TrainStep.__call__

    def arm(step: int) -> None:
        taken = 0

        def call(self: TrainStep, *args: Any) -> torch.Tensor:
            nonlocal taken
            taken += 1
            if taken == step:
                whole_step(self, *args)
                raise Killed
            return whole_step(self, *args)

        monkeypatch.setattr(TrainStep, "__call__", call)

    return arm


# Files and figures ----------------------------------------------------------------------------


def test_run_leaves_its_files_and_a_summary(small_config: MakeConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    summary = train(small_config(), out)
    assert {p.name for p in out.iterdir()} - {"tensorboard"} == {
        "config.toml",
        "metrics.jsonl",
        "checkpoint.previous.pt",
        "checkpoint.pt",
        "model.pt",
    }
    assert (summary.stopped, summary.step, summary.images) == ("finished", STEPS, 8 * STEPS)
    assert summary.images_per_second > 0
    assert 0 <= summary.data_wait <= 1
    assert json.loads(json.dumps(summary.as_dict()))["loss"] == summary.loss
    steps = [line["step"] for line in metrics(out) if line["kind"] == "train"]
    assert steps == [3, 6, 9, 11]
    assert [line["epoch"] for line in metrics(out) if line["kind"] == "train"] == [0, 1, 1, 2]


def test_config_file_holds_what_was_decided(small_config: MakeConfig, tmp_path: Path) -> None:
    config = small_config(lr=None, precision="auto", steps=1)
    train(config, tmp_path)
    saved = read_settings(str(tmp_path / "config.toml"))
    assert saved == {**config.as_dict(), "lr": 0.02 * 8 / 128, "precision": "fp32"}


def test_loss_falls(small_config: MakeConfig, tmp_path: Path) -> None:
    config = small_config(
        steps=60, dropout=0.0, sample_rate=1.0, schedule="constant", schedule_options={}, lr=0.1
    )
    train(config, tmp_path)
    losses = [line["loss"] for line in metrics(tmp_path) if line["kind"] == "train"]
    assert losses[-1] < losses[0] / 4


def test_logged_loss_is_the_mean_of_the_steps_since(
    small_config: MakeConfig, tmp_path: Path
) -> None:
    train(small_config(log_every=1), tmp_path / "each")
    train(small_config(log_every=4), tmp_path / "fourth")
    each = [line["loss"] for line in metrics(tmp_path / "each") if line["kind"] == "train"]
    for line in metrics(tmp_path / "fourth"):
        if line["kind"] == "train":
            step = line["step"]
            since = each[(step - 1) // 4 * 4 : step]
            assert line["loss"] == pytest.approx(sum(since) / len(since), rel=1e-12)


def test_model_loads_into_a_fresh_backbone(
    small_config: MakeConfig, small_backbone: str, tmp_path: Path
) -> None:
    from facepack.train import backbones

    train(small_config(), tmp_path)
    fresh = backbones.build(small_backbone, features=16)
    fresh.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))


def test_seed_and_settings_alone_decide_the_run(
    assert_same_run: AssertSameRun, small_config: MakeConfig, tmp_path: Path
) -> None:
    train(small_config(), tmp_path / "a")
    torch.manual_seed(99)
    train(small_config(), tmp_path / "b")
    assert_same_run(tmp_path / "b", tmp_path / "a")
    train(small_config(seed=1), tmp_path / "c")
    assert metrics(tmp_path / "c") != metrics(tmp_path / "a")


def test_tree_trains_like_a_pack(small_config: MakeConfig, pack_path: Path, tmp_path: Path) -> None:
    with facepack.open(pack_path) as pack:
        for n, record in enumerate(pack):
            file = tmp_path / "tree" / str(record.label) / f"{n}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(record.image)
    summary = train(small_config(shards="tree"), tmp_path / "run", home=tmp_path)
    assert summary.stopped == "finished"


@pytest.mark.parametrize(
    "changes",
    [
        {"accumulate": 4, "channels_last": False, "clip_norm": 0.0},
        {"optimizer": "adamw", "lr": 0.001, "margin": "arcface"},
        {"head_update": "dense", "momentum_dtype": "bf16", "accumulate": 2},
        {"head_update": "dense", "head_storage": "host", "optimizer": "adamw", "lr": 0.001},
        {"precision": "bf16", "margin": "combined", "m1": 1.0, "m2": 0.2, "m3": 0.1},
        {"precision": "fp16", "accumulate": 2, "schedule": "cosine", "schedule_options": {}},
        {"margin": "adaface", "sample_rate": 0.5, "head_storage": "host"},
        {"margin": "curricularface", "precision": "fp16", "chunk": 3},
        {"margin": "elastic", "accumulate": 2},
        {"margin": "magface", "margin_options": {"low_norm": 1.0, "penalty_weight": 1.0}},
        {"margin": "sphereface", "chunk": 3},
        {"margin": "subcenter", "margin_options": {"centres": 2}, "momentum_dtype": "bf16"},
        {"margin": "uniface", "optimizer": "adamw", "lr": 0.001, "sample_rate": 0.5},
        {"margin": "uniface", "precision": "fp16", "accumulate": 2, "head_update": "dense"},
    ],
)
def test_other_settings_train_and_resume_to_the_same_bits(
    assert_same_run: AssertSameRun,
    small_config: MakeConfig,
    tmp_path: Path,
    changes: dict[str, Any],
) -> None:
    config = small_config(**changes)
    summary = train(config, tmp_path / "whole")
    assert math.isfinite(summary.loss)
    train(config, tmp_path / "cut", max_steps=4)
    train(config, tmp_path / "cut", resume=True)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


# Resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed_in", range(1, STEPS + 1))
@pytest.mark.parametrize("checkpoint_every", [0, 2])
def test_killed_run_resumes_to_the_same_bits(
    assert_same_run: AssertSameRun,
    small_config: MakeConfig,
    tmp_path: Path,
    kill_in_step: Callable[[int], None],
    checkpoint_every: int,
    killed_in: int,
) -> None:
    # Other checkpoints, other unread losses: the run is to be the same for all of them.
    train(small_config(), tmp_path / "whole")
    config = small_config(checkpoint_every=checkpoint_every)
    kill_in_step(killed_in)
    with pytest.raises(Killed):
        train(config, tmp_path / "cut")
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tra')
    summary = train(small_config(), tmp_path / "cut", resume=True)
    assert summary.stopped == "finished"
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_run_stopped_and_resumed_at_each_step_is_the_same(
    assert_same_run: AssertSameRun, small_config: MakeConfig, pairs_path: Path, tmp_path: Path
) -> None:
    config = small_config(val={"own": str(pairs_path)}, val_every=4)
    train(config, tmp_path / "whole")
    for step in range(1, STEPS + 1):
        summary = train(config, tmp_path / "cut", max_steps=step, resume=True)
        assert (summary.step, summary.images) == (step, 8)
        assert summary.stopped == ("finished" if step == STEPS else "max_steps")
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_trainer_goes_on_after_max_steps(
    assert_same_run: AssertSameRun, small_config: MakeConfig, tmp_path: Path
) -> None:
    train(small_config(), tmp_path / "whole")
    trainer = Trainer(small_config(), out=tmp_path / "cut", device="cpu", notify=quiet)
    for last in (3, 3, 7, None):
        trainer.run(max_steps=last)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_signal_writes_a_checkpoint_and_the_run_resumes(
    assert_same_run: AssertSameRun,
    assert_same: AssertSame,
    small_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train(small_config(), tmp_path / "whole")
    whole_step = TrainStep.__call__
    before = signal.getsignal(signal.SIGTERM)

    def call(self: TrainStep, *args: Any) -> torch.Tensor:
        if len(metrics(tmp_path / "cut")) == 1:  # in step 4
            os.kill(os.getpid(), signal.SIGTERM)
        return whole_step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", call)
        summary = train(small_config(), tmp_path / "cut")
    assert (summary.stopped, summary.step) == ("interrupted", 4)
    assert signal.getsignal(signal.SIGTERM) is before
    model = torch.load(tmp_path / "cut" / "model.pt", weights_only=True)
    assert_same(dict(model), dict(checkpoint(tmp_path / "cut")["backbone"]))
    train(small_config(), tmp_path / "cut", resume=True)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_finished_run_has_nothing_to_resume(
    assert_same: AssertSame, small_config: MakeConfig, tmp_path: Path
) -> None:
    first = train(small_config(), tmp_path)
    said: list[str] = []
    again = Trainer(small_config(), out=tmp_path, resume=True, notify=said.append).run()
    assert (again.images, again.stopped, again.loss) == (0, "finished", first.loss)
    assert said[-1].endswith("step 11 is done already; nothing to do")
    (tmp_path / "model.pt").unlink()
    train(small_config(), tmp_path, resume=True)
    model = torch.load(tmp_path / "model.pt", weights_only=True)
    assert_same(dict(model), dict(checkpoint(tmp_path)["backbone"]))


def test_waiting_for_the_device_is_not_waiting_for_data(
    small_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Watch(Stopwatch):
        is_waiting = False

        @contextmanager
        def waiting(self) -> Iterator[None]:
            Watch.is_waiting = True
            with super().waiting():
                yield
            Watch.is_waiting = False

    waits = []

    class Event:
        def record(self) -> None:
            pass

        def synchronize(self) -> None:
            waits.append(Watch.is_waiting)

    def in_flight(_: torch.device) -> StepsInFlight:
        return StepsInFlight(torch.device("cuda"), new_event=Event)

    monkeypatch.setattr("facepack.train.loop.run.Stopwatch", Watch)
    monkeypatch.setattr("facepack.train.loop.run.StepsInFlight", in_flight)
    train(small_config(epochs=2, steps=5), tmp_path)
    assert waits == [False] * 2  # before the fourth batch and the fifth


def test_summary_of_a_run_that_logged_nothing_yet(small_config: MakeConfig, tmp_path: Path) -> None:
    train(small_config(log_every=1), tmp_path / "each", max_steps=2)
    summary = train(small_config(log_every=100), tmp_path / "run", max_steps=2)
    first, second = metrics(tmp_path / "each")
    assert summary.loss == (first["loss"] + second["loss"]) / 2
    assert summary.lr == second["lr"]
    assert summary.verification_share == 0


def test_resuming_nothing_begins(small_config: MakeConfig, tmp_path: Path) -> None:
    said: list[str] = []
    out = tmp_path / "new"
    summary = Trainer(small_config(), out=out, resume=True, notify=said.append).run()
    assert summary.step == STEPS
    assert said[0].endswith("holds no checkpoint: the run begins at step 0")


def test_resume_refuses_other_settings_and_data(
    small_config: MakeConfig, pack_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train(small_config(), out, max_steps=2)
    with pytest.raises(ConfigError, match=r"--resume with other settings .*\(seed: 0 → 1\)"):
        train(small_config(seed=1), out, resume=True)

    other = tmp_path / "others"
    with facepack.PackWriter(other) as writer, facepack.open(pack_path) as pack:
        for record in pack[:40]:
            writer.add(record.image, record.label)
    with pytest.raises(TrainingError, match=r"--resume with other data: the run began on faces \("):
        train(small_config(shards=str(other)), out, resume=True)

    shutil.copytree(pack_path, tmp_path / "moved")
    assert train(small_config(shards=str(tmp_path / "moved")), out, resume=True).step == STEPS


def test_used_folder_is_refused_kept_and_overwritten(
    small_config: MakeConfig, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    train(small_config(), tmp_path, max_steps=3)
    with pytest.raises(TrainingError, match=r"holds a run already \(config.toml, .*--resume"):
        train(small_config(), tmp_path)
    with pytest.raises(ConfigError, match="backbone"):
        train(small_config(backbone="nonesuch"), tmp_path, overwrite=True)
    assert checkpoint(tmp_path)["step"] == 3
    assert train(small_config(), tmp_path, overwrite=True).images == 8 * STEPS
    assert len([line for line in metrics(tmp_path) if line["kind"] == "train"]) == 4
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_overwriting_removes_what_a_kill_left_half_written(
    small_config: MakeConfig, tmp_path: Path
) -> None:
    train(small_config(), tmp_path, max_steps=3)
    for name in (".model.pt.part", ".checkpoint.pt.part", ".mine.part"):
        (tmp_path / name).touch()
    train(small_config(), tmp_path, max_steps=3, overwrite=True)
    assert [path.name for path in tmp_path.glob(".*")] == [".mine.part"]


# Verification ---------------------------------------------------------------------------------


def test_verification_changes_no_bit_of_the_run(
    assert_same: AssertSame, small_config: MakeConfig, pairs_path: Path, tmp_path: Path
) -> None:
    without = train(small_config(), tmp_path / "without")
    config = small_config(val={"one": str(pairs_path), "two": str(pairs_path)}, val_every=2)
    with_it = train(config, tmp_path / "with")
    assert with_it.loss == without.loss
    one, other = checkpoint(tmp_path / "with"), checkpoint(tmp_path / "without")
    for state in (one, other):
        del state["config"], state["best"]
    assert_same(one, other)
    lines = [line for line in metrics(tmp_path / "with") if line["kind"] == "val"]
    assert [(line["set"], line["step"]) for line in lines] == [
        (name, step) for step in (2, 4, 6, 8, 10, 11) for name in ("one", "two")
    ]
    assert 0 < with_it.verification_share < 1
    best = max(line["accuracy"] for line in lines)
    assert with_it.best["one"]["accuracy"] == best > 0.5


@pytest.mark.parametrize(("accumulate", "largest"), [(1, 8), (4, 2)])
def test_verification_holds_no_more_images_than_a_micro_batch(
    small_config: MakeConfig,
    small_backbone: str,
    pairs_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    accumulate: int,
    largest: int,
) -> None:
    backbone = registry._BUILDERS[small_backbone]
    trunk = backbone.trunk
    sizes: dict[bool, set[int]] = {True: set(), False: set()}

    def counted(self: registry.Backbone, images: torch.Tensor) -> torch.Tensor:
        sizes[self.training].add(len(images))
        return trunk(self, images)

    monkeypatch.setattr(backbone, "trunk", counted)
    train(small_config(val={"own": str(pairs_path)}, accumulate=accumulate), tmp_path)
    assert sizes[True] == {largest}
    assert max(sizes[False]) == largest


def test_micro_batch_is_one_ranks_part_of_a_step() -> None:
    config = TrainConfig(shards="faces", batch_size=1024, accumulate=4)
    assert micro_batch(config, Ranks(world=8)) == 32


def test_verification_comes_at_each_epochs_end_by_default(
    small_config: MakeConfig, pairs_path: Path, tmp_path: Path
) -> None:
    train(small_config(val={"own": str(pairs_path)}), tmp_path)
    assert [line["step"] for line in metrics(tmp_path) if line["kind"] == "val"] == [5, 10, 11]


def test_signal_is_heeded_between_verification_sets(
    small_config: MakeConfig,
    pairs_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write = MetricsLog.write

    def write_and_signal(self: MetricsLog, kind: str, *args: Any) -> None:
        write(self, kind, *args)
        if kind == "val":
            os.kill(os.getpid(), signal.SIGINT)

    config = small_config(val=dict.fromkeys(("one", "two", "three"), str(pairs_path)))
    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", write_and_signal)
        summary = train(config, tmp_path)
    assert (summary.stopped, summary.step) == ("interrupted", 5)
    assert [line["set"] for line in metrics(tmp_path) if line["kind"] == "val"] == ["one"]
    assert "step 5: not verified on two, three\n" in capsys.readouterr().err
    assert train(config, tmp_path, resume=True).stopped == "finished"


def test_missing_verification_set_is_told_before_the_first_step(
    small_config: MakeConfig, tmp_path: Path
) -> None:
    with pytest.raises(FacepackError, match="no verification set"):
        train(small_config(val={"lfw": str(tmp_path / "nowhere")}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_sets_need_a_validator(small_config: MakeConfig, pairs_path: Path, tmp_path: Path) -> None:
    config = small_config(val={"own": str(pairs_path)})
    with pytest.raises(ConfigError, match=r"verify on \(own\).* pass validator="):
        train(config, tmp_path / "run", validator=None)
    assert not (tmp_path / "run").exists()


# Errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"backbone": "r51"}, ConfigError, "backbone.*r51"),
        ({"schedule": "cosin", "schedule_options": {}}, ConfigError, "schedule.*cosin"),
        ({"schedule_options": {"windows": 3}}, ConfigError, "mhlr: unknown setting 'windows'"),
        ({"schedule_options": {"base_lr": 3}}, ConfigError, "mhlr: unknown setting 'base_lr'"),
        ({"schedule_options": {"window": -1}}, ConfigError, "window"),
        (
            {"warmup_epochs": 3.0},
            ConfigError,
            r"warmup_epochs = 3\.0 is 15 steps; it must be below the run's 11 steps \(5 an epoch",
        ),
        (
            {"margin_gradient": "straight_through"},
            ConfigError,
            "margin_gradient is set, but margin = cosface takes only m3",
        ),
        ({"margin": "archface"}, ConfigError, "margin.*archface"),
        ({"margin": "arcface", "m3": 0.4}, ConfigError, "m3 is set, but margin = arcface takes on"),
        ({"m3": -0.4}, ConfigError, "margin.*-0.4"),
        ({"batch_size": 46}, TrainingError, "batch_size = 46 is larger than .* holds 45 images"),
        ({"shards": "nowhere"}, TrainingError, "no pack or image tree 'nowhere'"),
    ],
)
def test_bad_settings_are_told_before_the_first_step(
    small_config: MakeConfig,
    tmp_path: Path,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        train(small_config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("device", ["gpu", "mps", "cuda:x"])
def test_unknown_device(small_config: MakeConfig, tmp_path: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"device '{device}' is not one of cpu, cuda, cuda:N"):
        Trainer(small_config(), out=tmp_path / "run", device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_absent_gpu(small_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="torch sees no CUDA device here; use cpu"):
        Trainer(small_config(), out=tmp_path / "run", device="cuda")


def test_distractors_are_refused(small_config: MakeConfig, pack_path: Path, tmp_path: Path) -> None:
    with facepack.PackWriter(tmp_path / "p") as writer, facepack.open(pack_path) as pack:
        for n, record in enumerate(pack):
            writer.add(record.image, -1 if n == 7 else record.label)
    with pytest.raises(TrainingError, match=r"label -1 .* outside the head's 5 classes"):
        train(small_config(shards=str(tmp_path / "p")), tmp_path / "run")


def poison(trainer: Trainer) -> None:
    with torch.no_grad():
        next(trainer.backbone.parameters()).fill_(math.nan)


def test_loss_that_is_not_finite_ends_the_run(small_config: MakeConfig, tmp_path: Path) -> None:
    trainer = Trainer(small_config(), out=tmp_path / "a", device="cpu", notify=quiet)
    poison(trainer)
    with pytest.raises(
        TrainingError, match=r"the loss of step 1 is not finite.*No checkpoint was written before"
    ):
        trainer.run()

    trainer = Trainer(small_config(), out=tmp_path / "b", device="cpu", notify=quiet)
    trainer.run(max_steps=6)
    poison(trainer)
    with pytest.raises(
        TrainingError,
        match=r"the loss of step 7 is not finite.*last good checkpoint is .*/b/checkpoint\.pt, of "
        r"step 6\. Begin again with a lower lr",
    ):
        trainer.run()
    assert checkpoint(tmp_path / "b")["step"] == 6


def test_weights_that_are_not_finite_are_never_saved(
    small_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(small_config(), out=tmp_path, device="cpu", notify=quiet)
    trainer.run(max_steps=4)
    whole_step = TrainStep.__call__

    def call(self: TrainStep, *args: Any) -> torch.Tensor:
        loss = whole_step(self, *args)
        poison(trainer)
        return loss

    monkeypatch.setattr(TrainStep, "__call__", call)
    with pytest.raises(TrainingError, match=r"weights are not finite after step 5: .* of step 4"):
        trainer.run()
    assert checkpoint(tmp_path)["step"] == 4


class Sizes(TorchDispatchMode):
    """The largest tensor that is made within it, in values."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.largest = max(self.largest, made.numel())
        return made


def test_looking_for_what_is_not_finite_takes_no_memory(
    small_config: MakeConfig, tmp_path: Path
) -> None:
    trainer = Trainer(small_config(), out=tmp_path, device="cpu", notify=quiet)
    with Sizes() as sizes:
        trainer._guard.check_weights(trainer.step)
    # A mask of a head of millions of classes would not fit beside it.
    assert 0 < sizes.largest < 50 < trainer.head.weight.numel()
    for value in (math.nan, math.inf, -math.inf):
        trainer.head.weight[2, 3] = value
        with pytest.raises(TrainingError, match="weights are not finite"):
            trainer._guard.check_weights(trainer.step)


def test_two_processes_do_not_write_one_run(small_config: MakeConfig, tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="without it no file is locked")
    out = tmp_path / "run"
    with hold_folder(out):
        with pytest.raises(TrainingError, match=r"another process is training in .*run: wait"):
            train(small_config(), out)
        assert [path.name for path in out.iterdir()] == [LOCK]
    train(small_config(), out)
    assert not (out / LOCK).exists()
    with hold_folder(out):
        pass


def test_what_is_no_folder_cannot_be_trained_in(small_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    for out in (tmp_path / "loop", tmp_path / "file" / "run"):
        with pytest.raises(TrainingError, match=f"--out: cannot write {out}: a file, or a link"):
            train(small_config(), out)


def test_blocks_are_announced_with_their_reason(small_config: MakeConfig, tmp_path: Path) -> None:
    for order, count in (("global", 0), ("blocks", 1)):
        said: list[str] = []
        config = small_config(order=order, steps=1)
        Trainer(config, out=tmp_path / order, device="cpu", notify=said.append).run()
        told = [text for text in said if text.startswith("images are shuffled in blocks")]
        assert len(told) == count
    assert told[0].endswith("it was asked for")


def break_images(pack_path: Path, folder: Path, count: int) -> Path:
    """A pack whose first ``count`` images pass for JPEGs and do not decode."""
    with facepack.PackWriter(folder) as writer, facepack.open(pack_path) as pack:
        for n, record in enumerate(pack):
            image = record.image
            if n < count:
                image = image[:900] + b"\xff\xd9"
            writer.add(image, record.label)
    return folder


def test_broken_image_ends_the_run_or_is_counted(
    assert_same_run: AssertSameRun, small_config: MakeConfig, pack_path: Path, tmp_path: Path
) -> None:
    broken = str(break_images(pack_path, tmp_path / "broken", 3))
    with pytest.raises(DecodeError, match="shard-000/"):
        train(small_config(shards=broken), tmp_path / "a")
    config = small_config(shards=broken, on_bad_image="skip", accumulate=2)
    whole = train(config, tmp_path / "b")
    assert whole.skipped_images > 0
    assert whole.images == 8 * STEPS - whole.skipped_images
    train(config, tmp_path / "c", max_steps=4)
    assert train(config, tmp_path / "c", resume=True).skipped_images == whole.skipped_images
    assert_same_run(tmp_path / "c", tmp_path / "b")


def test_batch_of_broken_images_ends_the_run(
    small_config: MakeConfig, pack_path: Path, tmp_path: Path
) -> None:
    broken = str(break_images(pack_path, tmp_path / "broken", 44))
    with pytest.raises(TrainingError, match=r"step 1: only \d of 8 images .*shard-000/.* verify"):
        train(small_config(shards=broken, on_bad_image="skip"), tmp_path / "run")


@pytest.mark.parametrize("lost", ["backbone", "optimizer"])
def test_a_whole_checkpoint_of_other_parts_is_refused_in_words(
    small_config: MakeConfig, tmp_path: Path, lost: str
) -> None:
    train(small_config(), tmp_path, max_steps=2)
    path = tmp_path / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    state[lost].pop(next(iter(state[lost])))
    torch.save(state, path)
    with pytest.raises(TrainingError, match="its parts are not those of this run"):
        train(small_config(), tmp_path, resume=True)
