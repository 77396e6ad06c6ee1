"""Pages, pictures and tables of made-up results: what they say, and what they let in."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facepack.errors import ConfigError
from facepack.evaluate.plots import draw_curves, draw_histograms
from facepack.evaluate.report import csv_text, figure_table, hard_images, write_report
from facepack.evaluate.results.result import Curve, Figure, HardPair, Histogram, Result
from facepack.view.page import PageImage

EVIL = "<script>alert(1)</script>\"'\x00\u202e$x^{"


def made_up(model: str, better: float = 0.0, **changes: Any) -> Result:
    """A result with all that a page shows."""
    far = np.array([0, 0, 1e-4, 1e-2, 1])
    tar = np.array([0, 0.5, 0.7 + better, 0.9, 1])
    values: dict[str, Any] = {
        "target": "lfw",
        "protocol": "pairs",
        "model": model,
        "counts": {"pairs": 6000},
        "figures": {
            "accuracy": Figure(value=0.9 + better, std=0.01),
            "TAR@1e-4": Figure(value=0.7 + better, interval=(0.68 + better, 0.72 + better)),
            "EER": Figure(value=None),
            "norm": Figure(value=21.5, unit="number"),
        },
        "curves": {
            "roc": Curve(x=far, y=tar),
            "det": Curve(x=far, y=1 - tar),
            "cmc": Curve(x=np.arange(1.0, 21), y=1 - 0.2 / np.arange(1, 21)),
        },
        "histograms": {
            "scores": Histogram(
                edges=np.linspace(-1, 1, 201),
                same=np.arange(200),
                different=np.arange(200)[::-1].copy(),
            )
        },
        "groups": {
            "African": {"TAR@1e-4": Figure(value=0.25)},
            "Asian": {"TAR@1e-4": Figure(value=0.75)},
        },
        "hardest": tuple(
            HardPair(kind=kind, first=f"lfw/{k:010d}", second=f"lfw/{k + 1:010d}", score=score)
            for kind, score in (("false accept", 0.75), ("false reject", -0.125))
            for k in range(15)
        ),
        "notices": (f"a notice of {model}", "one for all"),
        "versions": {"facepack": "0.1.0", "torch": "2.13.0"},
    }
    return Result(**{**values, **changes})


def page(tmp_path: Path, *results: Result, **options: Any) -> str:
    write_report(results, tmp_path / "out.html", **options)
    return (tmp_path / "out.html").read_text(encoding="utf-8")


def test_a_page_says_all_that_results_hold(tmp_path: Path, read_page: Callable[[str], Any]) -> None:
    results = [made_up("a"), made_up("b", 0.1), made_up("a", target="ijbc", variant="exact")]
    reader = read_page(page(tmp_path, *results))
    texts = [text.strip() for text in reader.texts]
    for phrase in (
        *("2 models, 2 targets", "lfw: pairs", "ijbc: pairs (exact)", "6,000 pairs"),
        *("a: a notice of a", "b: a notice of b", "facepack 0.1.0"),
    ):
        assert phrase in reader.words, phrase
    for cell in (
        "90.00 ± 1.00",
        "80.00 [78.00, 82.00]",
        "21.50",
        "Asian",
        "gap",
        "50.00",
        "2.13.0",
    ):
        assert cell in texts, cell
    assert texts.count("one for all") == 2  # once a target, not once a model
    curves = [a for tag, a in reader.tags if tag == "path"]
    assert len(curves) == (3 * 2 + 2 * 2) + (3 + 2)
    # As a caption, and for those who do not see the chart.
    assert texts.count("ROC") == texts.count("CMC") == 2 * 2 and "Scores: b" in texts
    assert texts.count("0.7500") == 3 * 12  # pairs of each kind


def test_pairs_of_images_that_are_at_hand(tmp_path: Path, read_page: Callable[[str], Any]) -> None:
    first, second = "lfw/0000000000", "lfw/0000000001"
    images = {
        ("lfw", first): PageImage.from_pixels(first, np.zeros((112, 112, 3), np.uint8)),
        ("lfw", second): PageImage(key=second, reason="does not decode"),
    }
    reader = read_page(page(tmp_path, made_up("a"), images=images))
    shown = [a["src"][:30] for tag, a in reader.tags if tag == "img"]
    assert set(shown) == {"data:image/jpeg;base64,/9j/4AA"} and len(shown) == 2
    assert "does not decode" in reader.words and "-0.125" in reader.words
    classes = [a.get("class") for _, a in reader.tags]
    assert classes.count("pair") == 24 and "row same" in classes and "row different" in classes


def test_nothing_of_a_file_reaches_a_page_raw(
    tmp_path: Path, read_page: Callable[[str], Any]
) -> None:
    figure = Figure(value=0.5)
    evil = made_up(
        EVIL,
        target=EVIL,
        protocol=EVIL,
        variant=EVIL,
        counts={EVIL: 3},
        figures={EVIL: figure},
        groups={EVIL: {EVIL: figure}},
        curves={EVIL: Curve(x=np.arange(3.0), y=np.arange(3.0))},
        histograms={EVIL: made_up("a").histograms["scores"]},
        hardest=(HardPair(kind="false accept", first=EVIL, second=EVIL, score=0.5),),
        notices=(EVIL,),
        versions={EVIL: EVIL},
    )
    images = {(EVIL, EVIL): PageImage(key=EVIL, reason=EVIL)}
    for options in ({"images": images}, {}):
        source = page(tmp_path, evil, replace(evil, model=f"2{EVIL}"), **options)
        reader = read_page(source)
        assert not {"script", "iframe", "link"} & {tag for tag, _ in reader.tags}
        assert "\x00" not in source and "\u202e" not in source
        assert not [name for _, tag in reader.tags for name in tag if name.startswith("on")]
        assert reader.words.count("<script>alert(1)</script>") > 10
    assert "\x00" not in csv_text([evil])


def test_a_browser_shows_the_page(tmp_path: Path, browse: Callable[..., dict[str, Any]]) -> None:
    key = "lfw/0000000000"
    images = {("lfw", key): PageImage.from_pixels(key, np.zeros((112, 112, 3), np.uint8))}
    long = made_up("runs/a-long-name-without-a-blank" * 4, target="t" * 200)
    html = page(tmp_path, made_up("a"), made_up("b", 0.1), long, images=images)
    facts = browse(html, width=390)
    assert facts["width"] == 390 and facts["overflow"] == 0
    assert facts["rows"] == html.count("<tr>") - html.count("<thead>") > 30
    assert facts["charts"] == html.count("<svg") == 3 + 2 + 4
    assert facts["images"] == html.count("<img ") == 4
    assert not facts["console"] and not [it for it in facts["loaded"] if it[:5] != "data:"]


def test_what_may_be_chance_is_marked() -> None:
    columns, rows = figure_table([made_up("a"), made_up("b", 0.01), made_up("c", 0.1)])
    assert columns == ["figure", "#a", "#b", "#c"]
    marked = {row[0]: [cell.endswith(" ~") for cell in row[1:]] for row in rows}
    assert marked["TAR@1e-4"] == [False, True, False]
    assert marked["norm"] == marked["EER"] == [False, False, False]


def test_csv_holds_every_figure_and_no_formula() -> None:
    formula = made_up("=1+1", groups={"@SUM(A1)": {"TAR@1e-4": Figure(value=0.25, std=0.5)}})
    rows = list(csv.DictReader(io.StringIO(csv_text([made_up("a"), formula]))))
    assert len(rows) == (4 + 2) + (4 + 1)
    named = {(row["model"], row["group"], row["figure"]): row for row in rows}
    tar = named["a", "", "TAR@1e-4"]
    assert [float(tar[name]) for name in ("value", "low", "high")] == [0.7, 0.68, 0.72]
    assert tar["std"] == "" and named["a", "", "EER"]["value"] == ""
    assert float(named["'=1+1", "'@SUM(A1)", "TAR@1e-4"]["std"]) == 0.5


def test_histograms_are_drawn_with_the_area_of_all_pairs() -> None:
    (plot,) = draw_histograms([made_up("a")])
    for line, counts in zip(plot.lines, (np.arange(200), np.arange(200)[::-1]), strict=True):
        heights = line.y[1:-1:2]
        assert len(heights) == 50 and heights.sum() == pytest.approx(1)
        np.testing.assert_allclose(heights, counts.reshape(50, 4).sum(axis=1) / counts.sum())
        assert line.x[0] == -1 and line.x[-1] == 1
    nothing = Histogram(edges=np.arange(3.0), same=np.zeros(2, int), different=np.zeros(2, int))
    assert not draw_histograms([made_up("a", histograms={"scores": nothing})])[0].lines


def test_curves_of_several_models_share_axes() -> None:
    plots = draw_curves([made_up("a"), made_up("b", 0.1), made_up("c", curves={})])
    assert [plot.title for plot in plots] == ["ROC", "DET", "CMC"]
    assert all([line.name for line in plot.lines] == ["a", "b"] for plot in plots)
    assert [(plot.x.log, plot.y.log) for plot in plots] == [
        (True, False),
        (True, True),
        (True, False),
    ]


def test_a_roc_alone_is_drawn_as_det_too() -> None:
    roc = made_up("a").curves["roc"]
    plots = draw_curves([made_up("a", curves={"cmc": roc, "roc": roc})])
    assert {plot.title for plot in plots} == {"ROC", "DET", "CMC"}
    (det,) = [plot.lines[0] for plot in plots if plot.title == "DET"]
    np.testing.assert_allclose(det.y, 1 - roc.y)


def test_suffixes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.doc.*\.html.*\.png.*\.csv"):
        write_report([made_up("a")], tmp_path / "out.doc")
    write_report([made_up("a")], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().startswith("model,target,")
    pytest.importorskip("matplotlib", reason="needs the extra 'plot'")
    write_report([made_up("a"), made_up("b")], tmp_path / "out.PNG")
    assert (tmp_path / "out.PNG").read_bytes().startswith(b"\x89PNG")


class Faces:
    """Faces of which the second does not decode."""

    def __len__(self) -> int:
        return 3

    def key(self, position: int) -> str:
        return f"lfw/{position:010d}"

    def batches(self, start: int, stop: int, **options: Any) -> Any:
        if start == 1:
            raise ConfigError("no image")
        yield np.full((stop - start, 112, 112, 3), 90, np.uint8)


def test_images_of_the_hardest_pairs_are_found_by_their_keys() -> None:
    protocol: Any = type("", (), {"faces": Faces()})()
    result = made_up("a", hardest=made_up("a").hardest[1:2])
    found = hard_images(protocol, result, (112, 112))
    assert {key: bool(image.jpeg) for key, image in found.items()} == {
        ("lfw", "lfw/0000000001"): False,
        ("lfw", "lfw/0000000002"): True,
    }
    assert found["lfw", "lfw/0000000001"].reason == "no image"
