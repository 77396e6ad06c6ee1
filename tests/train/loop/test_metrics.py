"""What a run writes and shows: metrics.jsonl, the loss meter, the stopwatch, the progress line."""

from __future__ import annotations

import io
import json
import math
import os
from pathlib import Path

import pytest
import torch

from facepack.errors import TrainingError
from facepack.train.loop.metrics import LossMeter, MetricsLog
from facepack.train.loop.progress import TrainProgress
from facepack.train.loop.stopwatch import Reading, Stopwatch


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_steps(folder: Path, steps: range, *, resume_step: int = 0) -> None:
    path, board = folder / "metrics.jsonl", folder / "tensorboard"
    with MetricsLog(path, resume_step=resume_step, tensorboard=board) as log:
        for step in steps:
            log.write("train", step, {"loss": step / 2}, {"seconds": step * 1.00001})
            log.write("val", step, {"set": "lfw", "accuracy": 0.5})
        log.sync()


def test_a_line_holds_kind_step_values_and_timing(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1, 2))
    assert lines_of(tmp_path / "metrics.jsonl") == [
        {"kind": "train", "step": 1, "loss": 0.5, "timing": {"seconds": 1.0}},
        {"kind": "val", "step": 1, "set": "lfw", "accuracy": 0.5},
    ]


@pytest.mark.parametrize("torn", [b"", b'{"kind": "train", "st', b"\0\0\0\n", b'{"step": 7}'])
def test_resuming_drops_what_the_checkpoint_does_not_know(tmp_path: Path, torn: bytes) -> None:
    (tmp_path / "whole").mkdir()
    write_steps(tmp_path / "whole", range(1, 10))
    write_steps(tmp_path, range(1, 8))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    write_steps(tmp_path, range(5, 10), resume_step=4)
    assert lines_of(tmp_path / "metrics.jsonl") == lines_of(tmp_path / "whole" / "metrics.jsonl")


def test_a_damaged_line_does_not_cost_those_after_it(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1, 8))
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"', b"\xff")
    path.write_bytes(b"".join(lines))
    with MetricsLog(path, resume_step=5, tensorboard=tmp_path / "t") as log:
        assert log.damaged_lines == 1
    assert path.read_bytes() == b"".join(lines[:10])


def test_beginning_anew_empties_the_file(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1, 4))
    write_steps(tmp_path, range(1, 2))
    assert len(lines_of(tmp_path / "metrics.jsonl")) == 2


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "m", resume_step=0, tensorboard=tmp_path / "t") as log:
        log.write("val", 1, {"std": math.nan, "auc": None})
    assert lines_of(tmp_path / "m") == [{"kind": "val", "step": 1, "std": None, "auc": None}]


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    write_steps(tmp_path, range(1, 8))
    write_steps(tmp_path, range(5, 7), resume_step=4)
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert "val/lfw/accuracy" in events.Tags()["scalars"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_full_disk_is_told_in_words_and_never_hides_another_error(tmp_path: Path) -> None:
    def make_log() -> MetricsLog:
        log = MetricsLog(tmp_path / "m", resume_step=0, tensorboard=tmp_path / "t")
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, log._file.fileno())
        os.close(full)
        return log

    with pytest.raises(TrainingError, match=r"cannot write .*No space left.*then --resume"):
        with make_log() as log:
            log.write("lr", 2, {"lr": 1.0})
    with pytest.raises(TrainingError, match="No space left"):
        with make_log() as log:
            log._file.write("buffered until the end")
    with pytest.raises(ZeroDivisionError):
        with make_log() as log:
            log._file.write("buffered until the end")
            raise ZeroDivisionError


def test_lines_that_do_not_reach_the_disk_are_told(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "m", resume_step=0, tensorboard=tmp_path / "t") as log:
        reader, writer = os.pipe()  # which no fsync takes
        os.dup2(writer, log._file.fileno())
        with pytest.raises(TrainingError, match="cannot write"):
            log.sync()
    os.close(reader)
    os.close(writer)


def test_file_that_cannot_be_opened_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"cannot write .*absent/m"):
        MetricsLog(tmp_path / "absent" / "m", resume_step=0, tensorboard=tmp_path / "t")


def test_board_that_cannot_be_written_is_told_in_words(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "t").write_text("a file")
    with pytest.raises(TrainingError, match=r"cannot write"):
        MetricsLog(tmp_path / "m", resume_step=0, tensorboard=tmp_path / "t")


def test_meter_means_and_goes_on_from_its_state() -> None:
    meter = LossMeter(torch.device("cpu"))
    for step, loss in enumerate([1.0, 2.0, 6.0], 1):
        meter.add(torch.tensor(loss), step)
    other = LossMeter(torch.device("cpu"))
    other.load_state_dict(meter.state_dict())
    for m in (meter, other):
        m.add(torch.tensor(3.0), 4)
        assert m.mean() == m.take_mean() == 3.0
        m.add(torch.tensor(8.0), 5)
        assert m.take_mean() == 8.0
        assert m.first_non_finite() is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_meter_remembers_the_first_bad_step(bad: float) -> None:
    meter = LossMeter(torch.device("cpu"))
    for step, loss in enumerate([1.0, bad, 2.0, bad], 1):
        meter.add(torch.tensor(loss), step)
    assert meter.first_non_finite() == 2


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_stopwatch_tells_training_waiting_and_the_rest_apart() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    with watch.waiting():
        clock.now += 1.0
    clock.now += 3.0
    watch.count(8)
    first = watch.read()
    assert first == Reading(seconds=4.0, waiting=1.0, images=8)
    with watch.paused():
        clock.now += 38.0
        with watch.verifying():
            clock.now += 12.0
    clock.now += 2.0
    watch.count(8)
    lap = watch.read().since(first)
    assert lap == Reading(seconds=2.0, waiting=0.0, images=8, paused=50.0, verifying=12.0)
    assert lap.verification_share == 12 / 52
    assert lap.images_per_second == 4.0
    assert first.data_wait == 0.25
    assert Reading().images_per_second == Reading().data_wait == 0.0
    assert Reading().verification_share == 0.0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def make_progress(stream: io.StringIO) -> TrainProgress:
    return TrainProgress(total_steps=40, steps_per_epoch=16, batch_size=8, stream=stream)


def reading(seconds: float) -> Reading:
    return Reading(seconds=seconds, waiting=seconds / 8, images=round(seconds * 16))


def test_terminal_line_is_drawn_over_itself_and_ended() -> None:
    stream = Terminal()
    with make_progress(stream) as progress:
        progress.update(1, 0.02, reading(0.1))
        assert stream.getvalue() == ""
        progress.update(2, 0.02, reading(1.0))
        progress.set_loss(31.25)
        progress.update(20, 0.02, reading(10.0))
        progress.notice("lfw 0.9")
    assert stream.getvalue() == (
        "\r\x1b[Kstep 2/40 (5%)  epoch 1/3  16 img/s  loss –  lr 0.02  data wait 12.5%  0:19 left"
        "\r\x1b[Kstep 20/40 (50%)  epoch 2/3  16 img/s  loss 31.2500  lr 0.02  data wait 12.5%"
        "  0:10 left\n"
        "lfw 0.9\n"
    )


def test_in_a_file_there_is_a_line_now_and_then() -> None:
    stream = io.StringIO()
    with make_progress(stream) as progress:
        for step in range(1, 41):
            progress.update(step, 0.02, reading(step * 2.0))
    lines = stream.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 15/40 (38%)", "step 30/40 (75%)"]
