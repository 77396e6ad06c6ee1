"""Logs of all kinds are read, and a replay gives what the run's own schedule gave."""

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from facepack.cli import root
from facepack.errors import MissingExtraError, SourceError
from facepack.train.commands.schedule import schedule as schedule_command
from facepack.train.replay import read_log, replay_log
from facepack.train.replay_plot import draw_replay, smooth
from facepack.train.schedules import build_schedule, names

AUTHORS_LOG = Path(__file__).parents[2] / ".." / "shared/data/mhlr-log/ms1mv3_r100.csv"

needs_authors_log = pytest.mark.skipif(
    not AUTHORS_LOG.exists(), reason="the authors' MS1MV3 log is not there"
)


@pytest.fixture(scope="module")
def run():
    """A made run of 6,000 steps in 4 epochs under mhlr: its losses, rates and schedule."""
    schedule = build_schedule(
        "mhlr", base_lr=0.02, total_steps=6000, steps_per_epoch=1500, window=120, read_every=1
    )
    noise = np.random.default_rng(2).normal(0, 0.5, 6000)
    losses, rates, loss = [], [], 40.0
    for step in range(6000):
        # The lower the rate, the lower the loss it falls to; a new epoch takes it down at once.
        goal = 6 + 400 * schedule.lr - 0.7 * (step // 1500)
        loss += 0.01 * (goal - loss)
        losses.append(float(loss + noise[step]))
        rates.append(schedule.lr)
        schedule.step(losses[-1])
    return losses, rates, schedule


def rows_of(run, every):
    """(step, mean loss since the last row, rate, epoch) of every ``every``-th step."""
    losses, rates, _ = run
    for step in range(every, len(losses) + 1, every):
        mean = float(np.mean(losses[step - every : step]))
        yield step, mean, rates[step - 1], (step - 1) // 1500


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "loss", "lr", "epoch"])
        writer.writerows(rows)
    return path


def write_json_lines(path, rows):
    lines = [json.dumps({"kind": "start", "config": {}})]
    for step, loss, lr, epoch in rows:
        lines.append(json.dumps({"step": step, "loss": loss, "lr": lr, "epoch": epoch, "x": 1}))
        lines.append(json.dumps({"step": step, "lfw": 0.99}))
    path.write_text("\n".join(lines))
    return path


def write_trainer_lines(path, rows):
    lines = ["Training: 2022-02-01 10:00:00,123-rank_id: 0", ": momentum   0.9"]
    for step, loss, lr, epoch in rows:
        scale = "Fp16 Grad Scale: 65536   " if step % 20 else ""
        lines.append(
            f"Training: 2022-02-01 10:00:00,123-Speed 800.12 samples/sec   Loss {loss:.4f}   "
            f"LearningRate {lr:.6f}   Epoch: {epoch}   Global Step: {step}   "
            f"{scale}Required: 9 hours"
        )
        lines.append(f"Training: 2022-02-01 10:00:00,123-[lfw][{step}]XNorm: 22.5")
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("write", [write_csv, write_json_lines, write_trainer_lines])
def test_each_kind_of_log_is_read(tmp_path, run, write):
    rows = list(rows_of(run, 10))
    log = read_log(write(tmp_path / "log", rows))
    steps, losses, lrs, epochs = zip(*rows, strict=True)
    assert log.steps.tolist() == list(steps)
    assert log.losses == pytest.approx(losses, abs=5e-5)
    assert log.lrs == pytest.approx(lrs, abs=6e-7)
    assert log.epochs.tolist() == list(epochs)
    assert (log.base_lr, log.total_steps, log.steps_per_epoch) == (0.02, 6000, 1500)


def test_a_log_of_every_step_replays_exactly(tmp_path, run):
    _, rates, schedule = run
    log = read_log(write_csv(tmp_path / "log.csv", rows_of(run, 1)))
    replay = replay_log(log, "mhlr", window=120)
    assert replay.changes == schedule.changes
    assert len(replay.changes) >= 8
    assert replay.lrs.tolist() == rates
    # A row shows the rate of its step, so it is the first one after the change.
    assert log.changes() == [(step + 1, lr) for step, lr in schedule.changes if step < 6000]
    assert log.steps_per_epoch == 1500


def test_a_log_of_every_tenth_step_replays_closely(tmp_path, run):
    log = read_log(write_csv(tmp_path / "log.csv", rows_of(run, 10)))
    replayed = replay_log(log, "mhlr", window=120).changes
    changes = run[2].changes
    assert [lr for _, lr in replayed] == [lr for _, lr in changes]
    assert max(abs(a - b) for (a, _), (b, _) in zip(replayed, changes, strict=True)) <= 10


@needs_authors_log
def test_the_authors_changes_come_out():
    log = read_log(AUTHORS_LOG)
    assert (log.base_lr, log.total_steps) == (0.02, 202_320)
    assert log.steps_per_epoch == 202_320 // 5
    authors = log.changes()
    assert len(authors) == 12
    changes = replay_log(log, "mhlr", window=4000).changes
    assert len(changes) == 12
    for (at, lr), (their_at, their_lr) in zip(changes, authors, strict=True):
        assert abs(at - their_at) <= 10
        assert lr == pytest.approx(their_lr, abs=6e-7)  # theirs is printed with six places
    # The noise of so long a window lies well under the threshold: measuring it changes nothing.
    auto = replay_log(log, "mhlr", window=4000, threshold="auto")
    assert auto.changes == changes
    sigma_image = auto.schedule.sigma_h / 0.41 * (4000 * 128) ** 0.5
    assert 5 < sigma_image < 13


def test_steps_per_epoch_of_a_log_that_ends_early(tmp_path, run):
    rows = [row for row in rows_of(run, 10) if row[0] <= 3200]
    log = read_log(write_csv(tmp_path / "log.csv", rows))
    assert log.steps_per_epoch == round(3005 / 2)  # the third epoch begins after row 3000


def test_interpolation_passes_over_what_is_not_finite(tmp_path):
    rows = [(2, 8.0, 0.1, 0), (4, "1e308", 0.1, 0), (6, 4.0, 0.1, 0), (8, "inf", 0.1, 0)]
    log = read_log(write_csv(tmp_path / "log.csv", rows))
    assert log.loss_of_every_step().tolist() == [8, 8, 7, 6, 5, 4, 4, 4]


def test_a_resumed_run_replaces_what_it_repeats(tmp_path):
    rows = [(10, 9.0, 0.1, 0), (20, 8.0, 0.1, 0), (30, 7.0, 0.1, 0), (20, 6.0, 0.1, 0)]
    log = read_log(write_csv(tmp_path / "log.csv", rows))
    assert log.steps.tolist() == [10, 20]
    assert log.losses.tolist() == [9.0, 6.0]


def test_the_run_may_be_given(tmp_path):
    log = read_log(write_csv(tmp_path / "log.csv", [(5, 1.0, 0.1, 0), (10, 1.0, 0.1, 0)]))
    assert log.steps_per_epoch == 10
    replay = replay_log(log, "constant", base_lr=0.4, total_steps=20, warmup_steps=4)
    assert replay.lrs.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, *[0.4] * 6])
    multistep = replay_log(log, "multistep", steps_per_epoch=3, milestones=[1])
    assert multistep.changes == [(3, pytest.approx(0.01))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no training step; a log is CSV with the columns step, loss, lr, epoch"),
        ("hello\nworld\n", "holds no training step"),
        ("step,loss,lr,epoch\n", "holds no training step"),
        ("step,loss,lr\n1,2,0\n", "lacks the column epoch; it has step, loss, lr"),
        ("step,loss,lr,epoch\n1,2,0.1,0\n\n2,x,0.1,0\n", "line 4: loss 'x' is not a number"),
        ("step,loss,lr,epoch\n1,2,0.1\n", "line 2 lacks epoch; each row needs step, loss, epoch"),
        ("step,loss,lr,epoch\n1.5,2,0.1,0\n", "line 2: step '1.5' is not a count"),
        ("step,loss,lr,epoch\n1,2,0.1,-1\n", "line 2: epoch '-1' is not a count"),
        (
            "step,loss,lr,epoch\n1e15,2,0.1,0\n",
            "line 2: step '1e15' is not a count from 0 to 1",
        ),
        ("step,loss,lr,epoch\n1,2,0.1,1e300\n", "line 2: epoch '1e300' is not a count"),
        ("step,loss,lr,epoch\n1,1e308,0.1,0\n", "holds no finite loss"),
        ("step,loss,lr,epoch\n1,2,nan,0\n", "line 2: lr 'nan' is not a learning rate"),
        ("step,loss,lr,epoch\n1,nan,0.1,0\n", "holds no finite loss"),
        ("step,loss,lr,epoch\n0,2,0.1,0\n", "ends at step 0; there is nothing to replay"),
        ('{"step": 1, "loss": null, "lr": 0.1, "epoch": 0}', "holds no finite loss"),
        ('{"step": 1, "loss": 2}', "line 1 lacks epoch"),
        ('{"step": 1, "loss": 2, "lr": 0.1, "epoch": 0}\n{"ste\n{}', "line 2: not JSON"),
        ('{"step": 1, "loss": 2, "lr": 0.1, "epoch": 0}\n{"ste\n', "line 2: not JSON"),
        ('{"ste', "holds no training step"),
    ],
)
def test_bad_logs_are_named(tmp_path, text, message):
    path = tmp_path / "run.log"
    path.write_text(text)
    with pytest.raises(SourceError, match=message) as caught:
        read_log(path)
    assert str(path) in str(caught.value)


def test_a_missing_log_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"gone\.csv cannot be read: No such file"):
        read_log(tmp_path / "gone.csv")


def test_smooth_is_the_mean_around_each_step():
    values = np.random.default_rng(1).normal(size=50)
    for window in (1, 2, 7, 80):
        expected = [
            values[max(0, i - (window - 1) // 2) : i + window // 2 + 1].mean() for i in range(50)
        ]
        assert smooth(values, window) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["mhlr", "cosine"])
def test_the_plot_is_a_picture(tmp_path, run, name):
    pytest.importorskip("matplotlib", reason="needs the extra 'plot'")
    from PIL import Image

    log = read_log(write_csv(tmp_path / "log.csv", rows_of(run, 20)))
    draw_replay(log, replay_log(log, name), tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.size == (1200, 840)


def test_without_matplotlib_the_extra_is_named(tmp_path, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    log = read_log(write_csv(tmp_path / "log.csv", rows_of(run, 20)))
    with pytest.raises(MissingExtraError, match=r"pip install 'facepack\[plot\]'"):
        draw_replay(log, replay_log(log, "cosine"), tmp_path / "plot.png")


# --- the command --------------------------------------------------------------------------------


def test_the_command_prints_each_change(tmp_path, run):
    path = write_csv(tmp_path / "log.csv", rows_of(run, 1))
    result = CliRunner().invoke(
        root, ["schedule", str(path), "--schedule", "mhlr", "--set", "window=120"]
    )
    assert result.exit_code == 0
    assert result.stderr == ""
    printed = [line.split() for line in result.stdout.splitlines()]
    assert [(int(step), float(lr)) for step, lr in printed] == [
        (step, pytest.approx(lr)) for step, lr in run[2].changes
    ]


def test_the_command_prints_json(tmp_path, run):
    path = write_csv(tmp_path / "log.csv", rows_of(run, 10))
    arguments = [
        "--schedule",
        "mhlr_guarded",
        "--set",
        "threshold=0.1",
        "--set",
        "band=3",
        "--json",
    ]
    result = CliRunner().invoke(root, ["schedule", str(path), *arguments])
    assert result.exit_code == 0
    printed = json.loads(result.stdout)
    expected = replay_log(read_log(path), "mhlr_guarded", threshold=0.1, band=3)
    assert printed == {
        "schedule": "mhlr_guarded",
        "options": {
            "window": 105, "threshold": 0.1, "factor": 0.5, "restart": 4.0, "read_every": 1,
            "refractory": 210, "band": 3, "tail": 0.15,
        },
        "changes": [{"step": step, "lr": lr} for step, lr in expected.changes],
        "lr": {"first": 0.02, "middle": expected.lrs[3000], "last": expected.lrs[-1]},
    }  # fmt: skip
    assert printed["changes"]


def test_the_command_takes_the_run_and_says_when_nothing_changed(tmp_path):
    path = write_csv(tmp_path / "log.csv", [(5, 1.0, 0.1, 0), (10, 1.0, 0.1, 0)])
    result = CliRunner().invoke(root, ["schedule", str(path), "--schedule", "constant"])
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "constant changes nothing: the rate stays at 0.1 for 10 steps\n"
    arguments = ["--schedule", "multistep", "--set", "milestones=[1]", "--steps-per-epoch", "4"]
    numbers = ["--base-lr", "8", "--total-steps", "99", "--batch-size", "1", "--warmup-steps", "2"]
    result = CliRunner().invoke(root, ["schedule", str(path), *arguments, *numbers])
    assert result.stdout.split() == ["4", "0.8"]


def test_the_command_says_what_a_schedule_without_sudden_changes_does(tmp_path):
    path = write_csv(tmp_path / "log.csv", [(5, 1.0, 0.1, 0), (10, 1.0, 0.1, 0)])
    result = CliRunner().invoke(root, ["schedule", str(path), "--schedule", "poly"])
    assert (result.exit_code, result.stdout) == (0, "")
    assert "0.1 in the first of 10 steps, 0.05 in the middle one, 0.01 in the last" in result.stderr


@pytest.mark.parametrize("write", [write_csv, write_json_lines, write_trainer_lines])
def test_a_log_without_rates_replays_with_the_one_given(tmp_path, run, write):
    path = write(tmp_path / "log", rows_of(run, 10))
    whole = replay_log(read_log(path), "mhlr", window=120)
    text = path.read_text()
    if write is write_csv:
        text = "".join(f"{s},{x},{e}\n" for s, x, _, e in csv.reader(text.splitlines()))
    elif write is write_json_lines:
        text = re.sub(r'"lr": [^,]+, ', "", text)
    else:
        text = re.sub(r"LearningRate \S+ +", "", text)
    path.write_text(text)
    log = read_log(path)
    assert (log.base_lr, log.changes(), log.steps_per_epoch) == (None, [], 1500)
    assert np.isnan(log.lrs).all()
    replay = replay_log(log, "mhlr", window=120, base_lr=0.02)
    assert replay.changes == whole.changes
    arguments = ["schedule", str(path), "--schedule", "mhlr", "--set", "window=120"]
    refused = CliRunner().invoke(root, arguments)
    assert refused.exit_code == 2
    assert "tells no learning rate: give the base rate of its run with --base-lr" in refused.stderr
    result = CliRunner().invoke(root, [*arguments, "--base-lr", "0.02"])
    assert len(result.stdout.splitlines()) == len(whole.changes)


def test_rows_may_lack_the_rate_that_others_tell(tmp_path):
    rows = [(1, 1.0, "", 0), (2, 1.0, 0.1, 0), (3, 1.0, "", 0), (4, 1.0, 0.1, 0), (5, 1.0, 0.2, 0)]
    log = read_log(write_csv(tmp_path / "log.csv", rows))
    assert (log.base_lr, log.changes()) == (0.2, [(5, 0.2)])


@pytest.mark.parametrize("is_told", [True, False])
def test_a_plot_needs_no_rates_of_the_log(tmp_path, is_told):
    pytest.importorskip("matplotlib", reason="needs the extra 'plot'")
    rows = [(step, 1.0, 0.1 if is_told else "", 0) for step in range(1, 30)]
    log = read_log(write_csv(tmp_path / "log.csv", rows))
    draw_replay(log, replay_log(log, "poly", base_lr=0.1), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 0


def test_the_command_leaves_out_a_line_that_a_crash_cut(tmp_path):
    path = write_json_lines(tmp_path / "log", [(5, 1.0, 0.1, 0), (10, 1.0, 0.1, 0)])
    whole = path.read_text()
    assert read_log(path).notices == ()
    path.write_text(whole + '\n{"kind": "tra')
    result = CliRunner().invoke(root, ["schedule", str(path), "--schedule", "cosine"])
    assert result.exit_code == 0
    assert result.stderr.splitlines()[0] == f"{path}, line 6 is cut short: left out"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ["--schedule", "cosin"],
            2,
            "schedule = 'cosin' is not one of constant, cosine, fastface, mhlr, mhlr_guarded, ",
        ),
        (["--schedule", "mhlr", "--set", "windw=4"], 2, "mhlr: unknown setting 'windw'"),
        (
            ["--schedule", "mhlr", "--set", "window=x"],
            2,
            "window = 'x' is not a whole number at least 2",
        ),
        (["--schedule", "mhlr", "--set", "window"], 2, "--set window: write it as key=value"),
        (
            ["--schedule", "mhlr", "--base-lr", "-1"],
            2,
            "base_lr = -1.0 is not allowed: it must be above 0",
        ),
        ([], 2, "Missing option '--schedule'"),
    ],
)
def test_the_command_refuses_in_words(tmp_path, arguments, status, message):
    path = write_csv(tmp_path / "log.csv", [(10, 1.0, 0.1, 0)])
    result = CliRunner().invoke(root, ["schedule", str(path), *arguments])
    assert result.exit_code == status
    assert message in result.stderr


def test_the_command_refuses_what_is_no_log(tmp_path):
    (tmp_path / "no.log").write_bytes(bytes(range(256)))
    result = CliRunner().invoke(root, ["schedule", str(tmp_path / "no.log"), "--schedule", "poly"])
    assert result.exit_code == 1
    assert "holds no training step" in result.stderr


def test_the_command_plots_and_says_so_on_stderr(tmp_path, run):
    pytest.importorskip("matplotlib", reason="needs the extra 'plot'")
    path, plot = write_csv(tmp_path / "log.csv", rows_of(run, 20)), tmp_path / "plot.png"
    arguments = ["--schedule", "mhlr", "--json", "--plot"]
    result = CliRunner().invoke(root, ["schedule", str(path), *arguments, str(plot)])
    assert plot.stat().st_size > 0
    assert json.loads(result.stdout)["schedule"] == "mhlr"
    assert str(plot) in result.stderr
    result = CliRunner().invoke(root, ["schedule", str(path), *arguments, str(tmp_path / "x.foo")])
    assert result.exit_code == 1
    assert "x.foo: Format 'foo' is not supported" in result.stderr


def test_the_help_names_every_schedule():
    (option,) = (p for p in schedule_command.params if p.name == "name")
    assert all(name in option.help.replace(".", "").replace(",", "").split() for name in names())


def test_the_base_rate_of_a_run_is_its_own(tmp_path: Path) -> None:
    """Rows that are far apart miss it, where a warm-up ends and a decay begins between two."""
    log = tmp_path / "metrics.jsonl"
    log.write_text(
        '{"kind": "train", "step": 20, "epoch": 0, "loss": 9.0, "lr": 0.035}\n'
        '{"kind": "train", "step": 40, "epoch": 0, "loss": 8.0, "lr": 0.0979}\n'
    )
    assert read_log(log).base_lr == 0.0979
    (tmp_path / "config.toml").write_text("lr = 0.1\n")
    assert read_log(log).base_lr == 0.1
    assert replay_log(read_log(log), "cosine").lrs[0] == 0.1
    assert replay_log(read_log(log), "cosine", base_lr=0.2).lrs[0] == 0.2
    (tmp_path / "config.toml").write_text("lr = 0.01\n")  # resumed at a lower rate
    assert read_log(log).base_lr == 0.0979
