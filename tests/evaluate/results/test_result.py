"""Results: the same after JSON, never NaN, gaps between groups, tables that show all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facepack.errors import EvaluationError
from facepack.evaluate.results.result import Curve, Figure, HardPair, Histogram, Result
from facepack.evaluate.results.results_file import add_results, read_results
from facepack.evaluate.results.table import TablePrinter, json_object


def make_result(**changes: Any) -> Result:
    values: dict[str, Any] = {
        "target": "packs/faces",
        "protocol": "identities",
        "variant": "exact",
        "model": "runs/r50",
        "counts": {"images": 1200, "identities": np.int64(30)},
        "figures": {
            "TAR@1e-4": Figure(value=0.5, interval=(0.4, 0.625)),
            "rank-1": Figure(value=np.float64(0.75), std=0.01),
            "EER": Figure(value=None),
            "norm": Figure(value=21.5, unit="number"),
        },
        "curves": {"roc": Curve(x=np.array([0.0, 1e-4, 1]), y=np.array([0.0, 0.5, 1]))},
        "histograms": {
            "scores": Histogram(
                edges=np.array([-1.0, 0, 1]), same=np.array([0, 5]), different=np.array([7, 1])
            )
        },
        "groups": {
            "african": {"TAR@1e-4": Figure(value=0.25), "EER": Figure(value=None)},
            "asian": {"TAR@1e-4": Figure(value=0.75), "EER": Figure(value=0.125)},
        },
        "hardest": (HardPair(kind="false accept", first="a/1", second="b/2", score=0.875),),
        "notices": ("something",),
    }
    return Result(**{**values, **changes})


def test_a_result_is_the_same_after_json() -> None:
    result = make_result()
    text = json.dumps(result.as_dict(), allow_nan=False)
    again = Result.from_dict(json.loads(text))
    assert again.as_dict() == result.as_dict() and json.loads(text)["gaps"] == {"TAR@1e-4": 0.5}
    assert again.figures == result.figures and again.groups == result.groups
    assert again.hardest == result.hardest and again.versions["facepack"]
    np.testing.assert_array_equal(again.curves["roc"].x, result.curves["roc"].x)
    assert again.histograms["scores"].same.dtype == np.int64


@pytest.mark.parametrize("wrong", [np.nan, float("inf")])
def test_a_figure_is_a_number_or_undefined(wrong: float) -> None:
    with pytest.raises(EvaluationError, match="must be None"):
        Figure(value=wrong)
    with pytest.raises(EvaluationError, match="must be None"):
        Figure(value=0.5, interval=(0.1, wrong))


@pytest.mark.parametrize(
    "broken",
    [
        [],
        {},
        {"schema": 2},
        {**make_result().as_dict(), "figures": {"EER": 3}},
        {**make_result().as_dict(), "notices": [1]},
        {**make_result().as_dict(), "hardest": [{"kind": "false accept"}]},
    ],
)
def test_what_is_no_result_is_told(broken: Any) -> None:
    with pytest.raises(EvaluationError, match="no result of"):
        Result.from_dict(broken)


def test_results_of_a_model_are_kept_one_of_each_target(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    add_results(file, [make_result(), make_result(target="other")])
    add_results(file, [make_result(counts={"images": 7}), make_result(variant="published")])
    kept = read_results(file)
    assert [(each.target, each.variant, each.counts["images"]) for each in kept] == [
        ("packs/faces", "exact", 7),
        ("other", "exact", 1200),
        ("packs/faces", "published", 1200),
    ]
    file.write_text("[1]")
    with pytest.raises(EvaluationError, match="results"):
        add_results(file, [make_result()])
    assert file.read_text() == "[1]"


def test_a_table_shows_every_figure_group_and_gap() -> None:
    title, header, everyone, african, asian, gap = TablePrinter().lines(make_result())
    assert title == "packs/faces: identities, exact (1,200 images, 30 identities)"
    assert header.split() == ["group", "TAR@1e-4", "rank-1", "EER", "norm"]
    assert everyone.split("  ") and "50.00 [40.00, 62.50]" in everyone
    assert "75.00 ± 1.00" in everyone and everyone.endswith("21.50")
    assert african.split() == ["african", "25.00", "–", "–", "–"]
    assert asian.split() == ["asian", "75.00", "–", "12.50", "–"]
    assert gap.split() == ["gap", "50.00", "–", "–", "–"]
    _, names, values = TablePrinter().lines(make_result(groups={}))
    assert len(names) == len(values) and "–" in values
    assert json_object(make_result()) == make_result().as_dict()
