"""Lists of pairs of one's own, and what their protocol makes of folds, groups and slips."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import facepack
from facepack.convert.formats.pair_list.pair_list import read_pair_list
from facepack.errors import ConfigError, EvaluationError, SourceError
from facepack.evaluate.protocols.own_pairs import OwnPairs
from facepack.evaluate.protocols.verification import measure_pairs
from facepack.evaluate.registry import find_target
from facepack.evaluate.results.pair_result import PairResult
from facepack.evaluate.results.result import Result
from facepack.evaluate.run import evaluate
from facepack.evaluate.sets.named_images import open_named_images

ROWS = [("a/1.jpg", "a/2.jpg", True), ("a/1.jpg", "b/1.jpg", False), ("b/1.jpg", "b/2.jpg", True)]


@pytest.mark.parametrize(
    "text",
    [
        "a/1.jpg,a/2.jpg,1\na/1.jpg,b/1.jpg,0\n\nb/1.jpg,b/2.jpg,1\n",
        "a/1.jpg a/2.jpg True\r\na/1.jpg  b/1.jpg False\r\nb/1.jpg b/2.jpg True",
        "a/1.jpg\ta/2.jpg\tyes\na/1.jpg\tb/1.jpg\tno\nb/1.jpg\tb/2.jpg\tyes\n",
        '\ufeffissame,first,second\n1,"a/1.jpg",a/2.jpg\n0,a/1.jpg,b/1.jpg\nyes,b/1.jpg,b/2.jpg',
        "a/1.jpg;a/2.jpg;1\na/1.jpg;b/1.jpg;-1\nb/1.jpg;b/2.jpg;1",
    ],
)
def test_lists_of_any_form_name_the_same_pairs(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(text, encoding="utf-8", newline="")
    listed = read_pair_list(path)
    assert list(zip(listed.first, listed.second, listed.issame.tolist(), strict=True)) == ROWS
    assert listed.folds is None and listed.columns == {}


def test_folds_and_groups_are_columns(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("a,b,1,x,old\nc,d,0,y,\ne,f,1,x,new\n")
    listed = read_pair_list(path)
    assert listed.folds is not None and listed.folds.tolist() == [0, 1, 0]
    assert listed.columns == {"group": ["old", "", "new"]}
    path.write_text("race,a,b,Same,sex,Fold\nx,1,2,1,f,7\ny,3,4,0,m,7\n")
    listed = read_pair_list(path)
    assert (listed.first, listed.second) == (["x", "y"], ["1", "3"])
    assert listed.folds is not None and listed.folds.tolist() == [0, 0]
    assert listed.columns == {"b": ["2", "4"], "sex": ["f", "m"]}


def test_numbers_of_pairs_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(",img1,img2,label\n0,a/1.jpg,a/2.jpg,1\n1,a/1.jpg,b/1.jpg,0\n")
    listed = read_pair_list(path)
    assert listed.first == ["a/1.jpg"] * 2 and listed.second == ["a/2.jpg", "b/1.jpg"]
    assert listed.columns == {}


def test_lfw_own_form(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text("2\t1\nAda\t1\t2\nAda\t1\tBo\t3\nCy\t2\t4\nCy\t2\tDi\t12\n")
    listed = read_pair_list(path)
    assert listed.first == ["Ada/Ada_0001.jpg"] * 2 + ["Cy/Cy_0002.jpg"] * 2
    assert listed.second[3] == "Di/Di_0012.jpg" and listed.issame.tolist() == [1, 0, 1, 0]
    assert listed.folds is not None and listed.folds.tolist() == [0, 0, 1, 1]
    path.write_text("2\t1\nAda\t1\t2\nAda\t1\tBo\t3\n")
    with pytest.raises(SourceError, match="tells of 4 pairs, and it has 2"):
        read_pair_list(path)


@pytest.mark.parametrize(
    "text",
    [
        "m.0a\t1\t3\nm.0a\t2\tm.0b\t1\n",  # RFW's have no first line
        "name,imagenum1,imagenum2,\nm.0a,1,3,\nm.0a,2,m.0b,1\n",  # LFW's on Kaggle
        "name,imagenum1,name,imagenum2\nm.0a,1,m.0a,3\nm.0a,2,m.0b,1\n",
    ],
)
def test_lfws_lines_without_its_first_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    listed = read_pair_list(path)
    assert listed.first == ["m.0a/m.0a_0001.jpg", "m.0a/m.0a_0002.jpg"]
    assert listed.second == ["m.0a/m.0a_0003.jpg", "m.0b/m.0b_0001.jpg"]
    assert listed.folds is None
    assert listed.issame.tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty"),
        ("a,b\n", "line 1"),
        ("a,b,1\nc,d\n", "line 2"),
        ("a,b,1\nc,d,2\n", "line 2 is 'c d 2'; expected 1 or 0"),
        ("a,b,1\n,d,0\n", "line 2"),
        ("one,two,three\na,b,1\n", "one called 'same'"),
        ("a,a,same\nx,y,1\n", "no name twice"),
        ("first,second,same\n", "no pairs"),
        ("a,b,1,0,g,h\n", "more than five"),
        ("2 1\nAda 1 2 3 4\n", "line 2"),
        (f"a,b,1,0,{'g' * 200_000}\n", "field larger"),
    ],
)
def test_slips_are_told_with_their_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    with pytest.raises(SourceError, match=told):
        read_pair_list(path)


# --- the protocol ------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, pair_images: tuple[list[bytes], np.ndarray]) -> Path:
    """40 images ``p/0.jpg`` …, of which 2i and 2i + 1 are a pair, and ``pairs.csv``."""
    images, issame = pair_images
    (tmp_path / "p").mkdir()
    for i, image in enumerate(images):
        (tmp_path / "p" / f"{i}.jpg").write_bytes(image)
    lines = [
        f"p/{2 * i}.jpg,p/{2 * i + 1}.jpg,{int(same)},{i % 4},{'x' if i % 3 else 'y'}"
        for i, same in enumerate(issame)
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    return tmp_path


def opened(folder: Path, **options: Any) -> OwnPairs:
    listed = read_pair_list(folder / "pairs.csv")
    return OwnPairs(open_named_images(folder), listed, target="own", **options)


def test_folds_and_groups_are_measured(folder: Path, averages: nn.Module) -> None:
    rng = np.random.default_rng(0)
    protocol = opened(folder)
    embeddings = rng.normal(size=(len(protocol.faces), 6)).astype(np.float32)
    norms = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    result = protocol.measure(embeddings, norms)
    unit = embeddings / norms[:, None]
    keys = [protocol.faces.key(i) for i in range(len(embeddings))]
    rows = np.array([[keys.index(f"p/{2 * i + side}.jpg") for side in (0, 1)] for i in range(20)])
    distances = ((unit[rows[:, 0]] - unit[rows[:, 1]]) ** 2).sum(axis=1)
    issame, folds = np.arange(20) % 2 == 0, np.arange(20) % 4
    accuracies = []
    for fold in range(4):
        best = max(
            (((distances < t) == issame)[folds != fold].mean(), -t) for t in np.arange(0, 4, 0.01)
        )
        accuracies.append(((distances < -best[1]) == issame)[folds == fold].mean())
    assert result.figures["accuracy"].value == pytest.approx(np.mean(accuracies))
    assert result.figures["accuracy"].std == pytest.approx(np.std(accuracies))
    for name, of in (("x", np.arange(20) % 3 > 0), ("y", np.arange(20) % 3 == 0)):
        wanted = measure_pairs(
            "own",
            distances[of],
            issame[of],
            norm=float(norms[rows[of]].mean()),
            folds=folds[of],
            members=rows[of],
        )
        found = PairResult.from_result(replace(result, figures=result.groups[name]))
        assert replace(found, pairs=0, notices=()) == replace(
            wanted,
            pairs=0,
            notices=(),
            auc=pytest.approx(wanted.auc),
            eer=pytest.approx(wanted.eer),
            norm=pytest.approx(wanted.norm),
        )
    assert set(result.gaps) == set(result.figures)


def test_a_list_is_a_target_and_its_images_may_be_in_a_pack(
    folder: Path, averages: nn.Module
) -> None:
    with facepack.PackWriter(folder / "pack", order="source") as writer:
        for i in range(40):
            writer.add((folder / "p" / f"{i}.jpg").read_bytes(), -1, name=f"p/{i}.jpg")
    with facepack.open(folder / "pack") as pack:
        keys = [pack.key(i) for i in range(40)]
    by_key = (folder / "pairs.csv").read_text()
    for i in range(39, -1, -1):
        by_key = by_key.replace(f"p/{i}.jpg", keys[i])
    (folder / "keys.csv").write_text(by_key)

    def figures(words: str) -> Any:
        return evaluate(averages, find_target(words, folder)()).figures

    of_folder = figures(f"{folder}/pairs.csv")
    assert of_folder["accuracy"].value == 1.0
    for words in ("pairs.csv --root pack", "keys.csv --root pack", "pairs.csv --root ."):
        assert figures(f"pairs {folder}/{words}") == of_folder


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("p/0.jpg,p/none.jpg,1,0,x", "1 of 41 images are missing, first p/none.jpg"),
        ("p/0.jpg,p/0.jpg,1,0,x", "1 pairs are of an image with itself"),
        ("p/3.jpg,p/2.jpg,0,0,x", "1 pairs are listed again"),
        ("p/3.jpg,p/2.jpg,1,0,x", "1 pairs are listed as same and as different"),
        ("p/3.jpg,p/6.jpg,0,0,", "1 pairs are in no group"),
    ],
)
def test_slips_of_a_list_are_said_and_the_rest_is_measured(
    folder: Path, averages: nn.Module, line: str, told: str
) -> None:
    with (folder / "pairs.csv").open("a") as file:
        file.write(f"\n{line}\n")
    result = evaluate(averages, opened(folder))
    assert any(told in notice for notice in result.notices), result.notices
    assert result.figures["AUC"].value is not None
    json.dumps(result.as_dict(), allow_nan=False)


def test_what_leaves_nothing_to_measure_is_refused(folder: Path) -> None:
    (folder / "pairs.csv").write_text("x/1.jpg,x/2.jpg,1\n")
    with pytest.raises(EvaluationError, match="of none of 1 pairs both images"):
        opened(folder)
    (folder / "pairs.csv").write_text("a,b,same,sex,race\np/0.jpg,p/1.jpg,1,f,x\n")
    with pytest.raises(EvaluationError, match="sex or race"):
        opened(folder)
    with pytest.raises(EvaluationError, match="no column 'age'"):
        opened(folder, group="age")
    assert list(opened(folder, group="sex")._groups) == ["f"]
    with pytest.raises(ConfigError, match="for lists of pairs"):
        find_target("pairs lfw --group sex", folder)


def test_one_fold_and_one_kind_leave_figures_undefined_with_a_word(
    folder: Path, averages: nn.Module
) -> None:
    (folder / "pairs.csv").write_text("p/0.jpg,p/1.jpg,1,1,x\np/4.jpg,p/5.jpg,1,1,x\n")
    result: Result = evaluate(averages, opened(folder))
    assert all(
        result.figures[name].value is None for name in ("accuracy", "TAR@1e-4", "AUC", "EER")
    )
    assert any("in one fold" in notice for notice in result.notices)
    assert any("all 2 pairs are same ones" in notice for notice in result.notices)


def test_the_case_of_lfws_form(
    tmp_path: Path, averages: nn.Module, make_jpeg: Callable[..., bytes]
) -> None:
    for name in ("Ada", "Bo"):
        (tmp_path / name).mkdir()
        for shot in (1, 2):
            image = make_jpeg(len(name) + shot, size=112)
            (tmp_path / name / f"{name}_{shot:04d}.jpg").write_bytes(image)
    (tmp_path / "pairs.txt").write_text("1\nAda 1 2\nAda 1 Bo 2\n")
    result = evaluate(averages, find_target(str(tmp_path / "pairs.txt"), None)())
    assert result.counts == {"pairs": 2}
