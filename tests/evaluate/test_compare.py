"""``facepack compare``: what it reads, what it prints, and the curves that it draws."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from facepack.cli import root
from facepack.errors import EvaluationError, FacepackError
from facepack.evaluate.compare import comparison_lines, read_comparison
from facepack.evaluate.report import write_report
from facepack.evaluate.results.pair_result import PairResult, ValidationRate
from facepack.evaluate.results.result import Curve, Figure
from facepack.evaluate.results.result import Result as Evaluation
from facepack.evaluate.results.results_file import add_results
from facepack.evaluate.training_run import read_run, training_plots
from facepack.train.config import TrainConfig, dump_config


def evaluation(accuracy: float, **changes: Any) -> Evaluation:
    values: dict[str, Any] = {
        "target": "lfw",
        "protocol": "pairs",
        "model": "somewhere",
        "counts": {"pairs": 6000},
        "figures": {"accuracy": Figure(value=accuracy, std=0.003), "EER": Figure(value=None)},
        "curves": {"roc": Curve(x=np.array([0, 1e-3, 1]), y=np.array([0, accuracy, 1]))},
    }
    return Evaluation(**{**values, **changes})


def write_run(folder: Path, *, seed: int = 0, steps: int = 30, best: float = 0.9) -> Path:
    """A run of ``steps`` steps, logged every ten, verified at the last two of these."""
    folder.mkdir()
    lines: list[dict[str, Any]] = []
    for step in range(10, steps + 1, 10):
        train = {"step": step, "epoch": 0, "loss": 60 / step, "lr": 0.1 / step}
        lines.append({"kind": "train", **train, "timing": {"seconds": 1.0}})
        if step > steps - 20:
            score = {"accuracy": best - (steps - step) / 1000, "std": 0.01, "auc": 0.5}
            lines.append({"kind": "val", "step": step, "set": "lfw", **score})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.toml").write_text(dump_config(TrainConfig(shards="faces", seed=seed)))
    return folder


def compare(*arguments: object) -> Result:
    return CliRunner().invoke(root, ["compare", *map(str, arguments)])


def test_runs_and_results_side_by_side(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=1, steps=50, best=0.95)
    add_results(a / "results.json", [evaluation(0.9)])
    add_results(b / "results.json", [evaluation(0.902), evaluation(0.7, target="cfp_fp")])
    add_results(tmp_path / "c.json", [evaluation(0.95, counts={"pairs": 5990})])
    done = compare(a, b, tmp_path / "c.json")
    assert done.exit_code == 0, done.output
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for line in (
        *("accuracy 90.00 ± 0.30 90.20 ± 0.30 ~ 95.00 ± 0.30", "accuracy 70.00 ± 0.30"),
        *("EER – – –", "a, b: 6,000 pairs", "c.json: 5,990 pairs"),
        *("steps 30 50", "loss at the end 2.0000 1.2000", "seed 0 1"),
        "lfw accuracy, last 0.9000 (step 30) 0.9500 (step 50)",
    ):
        assert line in lines, line
    assert not [line for line in lines if line.startswith("epochs")]
    stated = json.loads(compare(a, b, tmp_path / "c.json", "--json").stdout)
    assert [each["model"] for each in stated["results"]] == ["a", "b", "c.json", "b"]
    within = [each["within_chance"].get("accuracy") for each in stated["results"]]
    assert within == [None, True, False, None]
    (a_run, b_run) = stated["runs"]
    assert (a_run["name"], a_run["steps"], b_run["steps"]) == ("a", 30, 50)
    (score,) = [of for of in b_run["scores"] if of["figure"] == "accuracy"]
    assert (score["set"], score["values"][-1]) == ("lfw", 0.95)


def test_a_page_draws_runs_over_common_axes(
    tmp_path: Path, browse: Callable[..., dict[str, Any]]
) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", steps=50)
    for run in (a, b):
        add_results(run / "results.json", [evaluation(0.9)])
    done = compare(a, b, "--plot", tmp_path / "out.html")
    assert done.exit_code == 0, done.output
    html = (tmp_path / "out.html").read_text(encoding="utf-8")
    facts = browse(html, width=390)
    assert facts["overflow"] == 0 and not facts["console"] and not facts["loaded"]
    assert facts["charts"] == 5 and html.count('<path class="curve') == 5 * 2
    assert facts["rows"] == html.count("<tr>") - html.count("<thead>")


def test_a_picture_and_figures(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    done = compare(run, "--plot", tmp_path / "out.csv")
    assert done.exit_code == 0 and (tmp_path / "out.csv").read_text().count("\n") == 1
    pytest.importorskip("matplotlib", reason="needs the extra 'plot'")
    done = compare(run, "--plot", tmp_path / "out.png")
    assert done.exit_code == 0 and (tmp_path / "out.png").read_bytes()[1:4] == b"PNG"


def test_what_eval_printed_as_json(tmp_path: Path) -> None:
    pairs = PairResult(
        target="lfw",
        pairs=6000,
        accuracy=0.9,
        std=0.003,
        tar={1e-4: 0.5, 1e-3: 0.6, 1e-2: None},
        val=ValidationRate(mean=0.5, std=0.01, far=0.001),
        auc=0.98,
        eer=None,
        norm=21.5,
        intervals={"AUC": (0.97, 0.99)},
        notices=("one",),
    )
    (tmp_path / "a.json").write_text(
        json.dumps([pairs.as_dict(), evaluation(0.8, target="cfp").as_dict()])
    )
    first, second = read_comparison([tmp_path / "a.json"]).results
    assert PairResult.from_result(first) == pairs and not first.versions
    assert second.figures["accuracy"] == Figure(value=0.8, std=0.003)


def test_names_tell_apart_what_is_given_twice_or_of_several_models(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    add_results(path, [evaluation(0.9), evaluation(0.8, model="other", target="cfp")])
    found = read_comparison([path, path]).results
    assert [result.model for result in found] == [
        f"{name}: {model}" for name in ("a.json", "a.json (2)") for model in ("somewhere", "other")
    ]


def test_a_log_without_a_run(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("step,loss,epoch\n1,5.0,0\n2,nan,0\n3,4.0,0\n")
    run = write_run(tmp_path / "a")
    text = "\n".join(comparison_lines(read_comparison([log, run])))
    assert "4.0000" in text and "setting" not in text
    assert compare(log, run, "--plot", tmp_path / "out.html").exit_code == 0


def test_losses_of_a_long_run_are_drawn_as_means(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    rows = "".join(f"{step},{step % 2},0\n" for step in range(1, 1801))
    log.write_text(f"step,loss,epoch\n{rows}")
    plot = training_plots([read_run(log, "a")])[0]
    (line,) = plot.lines
    assert len(line.x) == 450 and "means" in plot.y.label
    np.testing.assert_allclose(line.x, np.arange(1, 1801).reshape(450, 4).mean(axis=1))
    np.testing.assert_array_equal(line.y, np.full(450, 0.5))


def test_a_log_that_a_crash_cut_short_is_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "val", "st')
    done = compare(run)
    assert done.exit_code == 0 and "cut short" in done.stderr and "0.9000" in done.stdout


def test_where_a_resumed_run_repeats_steps_the_later_line_counts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    again = {"kind": "val", "step": 30, "set": "lfw", "accuracy": 0.5}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(again) + "\n")
    steps, values = read_run(run, "a").scores["lfw", "accuracy"]
    assert steps.tolist() == [20, 30] and values[-1] == 0.5


WRONG: dict[str, Any] = {
    "no list": {"target": "lfw"},
    "no result": [{"target": "lfw"}],
    "numbers": [1, 2],
    "curve": [{**evaluation(0.9).as_dict(), "curves": {"roc": {"x": [0, 1], "y": [1]}}}],
    "histogram": [
        {
            **evaluation(0.9).as_dict(),
            "histograms": {"scores": {"edges": [1, 0], "same": [1], "different": [1]}},
        }
    ],
    "pair": [
        {
            **evaluation(0.9).as_dict(),
            "hardest": [{"kind": "false accept", "first": 1, "second": "b", "score": "high"}],
        }
    ],
    "unit": [
        {
            **evaluation(0.9).as_dict(),
            "figures": {"a": {"value": 1, "std": None, "interval": None, "unit": "<b>"}},
        }
    ],
    "overflow": [
        {
            **evaluation(0.9).as_dict(),
            "histograms": {"scores": {"edges": [0, 1], "same": [1e30], "different": [1]}},
        }
    ],
}


@pytest.mark.parametrize("name", WRONG)
def test_files_that_hold_no_results(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(WRONG[name]))
    with pytest.raises(EvaluationError, match=r"a\.json cannot be read as results"):
        read_comparison([path])


def test_what_is_no_run_is_told_with_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match=r"results\.json nor metrics\.jsonl"):
        read_comparison([tmp_path / "empty"])
    (tmp_path / "text").write_text("nothing")
    with pytest.raises(EvaluationError, match=r"no training step.*text\.json"):
        read_comparison([tmp_path / "text"])
    run = write_run(tmp_path / "a")
    good = {"kind": "val", "step": 3, "set": "lfw", "accuracy": 0.5}
    for wrong in (
        {"step": "x"},
        {"step": 2**64 - 1},
        {"step": -(2**63)},
        {"set": None},
        {"accuracy": None},
    ):
        line = {**good, **wrong}
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        with pytest.raises(FacepackError, match="no verification"):
            read_run(run, "a")


def test_mutated_files_are_refused_or_drawn(
    tmp_path: Path, mutated: Callable[[bytes, random.Random], bytes]
) -> None:
    run, rng = write_run(tmp_path / "a"), random.Random(0)
    add_results(run / "results.json", [evaluation(0.9)])
    good = {name: (run / name).read_bytes() for name in ("results.json", "metrics.jsonl")}
    refused = 0
    for k in range(60):
        for name, data in good.items():
            (run / name).write_bytes(
                mutated(data, rng) if (k % 2 == 0) == (name[0] == "r") else data
            )
        try:
            found = read_comparison([run])
            assert list(comparison_lines(found))
            write_report(found.results, tmp_path / "out.html", runs=found.runs)
        except FacepackError:
            refused += 1
    assert 0 < refused < 60
