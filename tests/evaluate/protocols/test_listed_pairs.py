"""Pairs that lists name: of images and of templates, with something missing and without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facepack.convert.formats.pair_list.pair_list import PairList
from facepack.errors import EvaluationError
from facepack.evaluate.embedding.embed import row_norms
from facepack.evaluate.protocols.f2c_metrics import best_of_grid, best_score, f2c_figures
from facepack.evaluate.protocols.listed_pairs import (
    ListedPairs,
    TemplatePairs,
    open_sllfw,
    open_ytf,
)
from facepack.evaluate.protocols.verification import measure_pairs
from facepack.evaluate.sets.named_images import NamedImages, open_named_images

MakeJpeg = Callable[..., bytes]
PEOPLE, SHOTS = 10, 4


@pytest.fixture
def images(tmp_path: Path, make_jpeg: MakeJpeg) -> NamedImages:
    for person in range(PEOPLE):
        (tmp_path / "images" / f"p{person}").mkdir(parents=True)
        for shot in range(SHOTS):
            (tmp_path / "images" / f"p{person}" / f"{shot}.jpg").write_bytes(make_jpeg(0))
    return open_named_images(tmp_path / "images")


def make_pairs() -> PairList:
    """Forty pairs of images: by turns of one person, and of neighbours."""
    first, second, issame = [], [], []
    for k in range(40):
        person, shot = k % PEOPLE, k // PEOPLE
        other = person if k % 2 else (person + 1) % PEOPLE
        first.append(f"p{person}/{shot}.jpg")
        second.append(f"p{other}/{(shot + 1) % SHOTS}.jpg")
        issame.append(bool(k % 2))
    return PairList(first=first, second=second, issame=np.array(issame))


def embed(protocol: ListedPairs | TemplatePairs) -> dict[str, np.ndarray]:
    """An embedding of each image by its key: its person's centre and something of its own."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((PEOPLE, 6))
    keys = [protocol.faces.key(i) for i in range(len(protocol.faces))]
    return {key: centres[int(key[1])] + rng.standard_normal(6) for key in sorted(keys)}


def in_order(protocol: ListedPairs | TemplatePairs, of: dict[str, np.ndarray]) -> np.ndarray:
    return np.array([of[protocol.faces.key(i)] for i in range(len(protocol.faces))], np.float32)


def squared(first: np.ndarray, second: np.ndarray) -> float:
    first, second = (row / np.linalg.norm(row) for row in (first, second))
    return float(np.square(first - second).sum())


def test_pairs_of_images_equal_one_at_a_time(images: NamedImages) -> None:
    pairs = make_pairs()
    protocol = ListedPairs(images, pairs, target="similar")
    assert len(protocol.faces) == PEOPLE * SHOTS  # each once
    of = embed(protocol)
    rows = in_order(protocol, of)
    result = protocol.measure(rows, row_norms(rows))
    distances = np.array(
        [squared(of[a], of[b]) for a, b in zip(pairs.first, pairs.second, strict=True)]
    )
    wanted = measure_pairs("similar", distances, pairs.issame, norm=0).figures
    wanted |= f2c_figures(1 - distances / 2, pairs.issame, best_of_grid)
    assert result.protocol == "sllfw" and list(result.figures) == list(wanted)
    for name, figure in wanted.items():
        if name != "norm":
            assert result.figures[name].value == pytest.approx(figure.value, abs=1e-9), name
    assert 0.5 < result.figures["accuracy (F2C)"].value < 1  # type: ignore[operator]


def test_pairs_of_missing_images_are_left_out(images: NamedImages) -> None:
    pairs = make_pairs()
    pairs.first[0] = pairs.second[2] = "p0/gone.jpg"
    protocol = ListedPairs(images, pairs, target="similar")
    rows = in_order(protocol, embed(protocol))
    result = protocol.measure(rows, row_norms(rows))
    assert result.counts["pairs"] == 38
    assert result.notices[0].startswith("1 of 40 images are missing, first p0/gone.jpg")
    assert result.notices[1].startswith("2 of 40 pairs are left out")
    nothing = PairList(first=["x"], second=["y"], issame=np.array([True]))
    with pytest.raises(EvaluationError, match="of none of 1 pairs both images are in"):
        ListedPairs(images, nothing, target="similar")


def make_templates() -> tuple[list[list[str]], PairList]:
    """Two templates a person, of two shots each; pairs of a person's two, and of neighbours."""
    members = [
        [f"p{person}/{shot}.jpg", f"t{person}_{shot // 2}"]
        for person in range(PEOPLE)
        for shot in range(SHOTS)
    ]
    first = [f"t{k % PEOPLE}_0" for k in range(20)]
    second = [f"t{k}_1" if k < 10 else f"t{(k + 1) % 10}_1" for k in range(20)]
    order = np.random.default_rng(5).permutation(20)
    pairs = PairList(
        first=[first[k] for k in order],
        second=[second[k] for k in order],
        issame=np.array([k < 10 for k in order]),
    )
    return members, pairs


def test_a_template_is_the_normalised_mean_of_its_images(images: NamedImages) -> None:
    members, pairs = make_templates()
    protocol = TemplatePairs(images, members, pairs, target="videos")
    of = embed(protocol)
    rows = in_order(protocol, of)
    result = protocol.measure(rows, row_norms(rows))
    mean = {
        template: np.mean([of[name] for name, its in members if its == template], axis=0)
        for _, template in members
    }
    distances = np.array(
        [squared(mean[a], mean[b]) for a, b in zip(pairs.first, pairs.second, strict=True)]
    )
    wanted = measure_pairs("videos", distances, pairs.issame, norm=0).figures
    wanted |= f2c_figures(1 - distances / 2, pairs.issame, best_score)
    for name, figure in wanted.items():
        if name != "norm":
            assert result.figures[name].value == pytest.approx(figure.value, abs=1e-6), name
    assert result.counts == {"pairs": 20, "templates": 20, "images": 40}


def test_templates_without_images_and_images_without_embeddings(images: NamedImages) -> None:
    members, pairs = make_templates()
    members = [row for row in members if row[1] != "t4_0"]  # a template without images
    members += [["p0/0.jpg", "alone"], ["p9/9.jpg", "t9_1"]]  # in no pair; a missing image
    protocol = TemplatePairs(images, members, pairs, target="videos")
    rows = in_order(protocol, embed(protocol))
    keys = [protocol.faces.key(i) for i in range(len(rows))]
    rows[[keys.index("p0/0.jpg"), keys.index("p0/1.jpg"), keys.index("p1/0.jpg")]] = np.nan
    result = protocol.measure(rows, row_norms(rows))
    told = "\n".join(result.notices)
    assert "1 of 39 images are missing, first p9/9.jpg" in told
    assert "1 templates are in no pair" in told
    assert "3 of 38 images are not finite" in told
    assert "2 of 20 templates have no image, first t" in told
    assert "4 of 20 pairs are left out" in told
    assert result.counts["pairs"] == 16 and result.figures["AUC"].value is not None
    rows[:] = np.nan
    with pytest.raises(EvaluationError, match="of no pair both templates have images"):
        protocol.measure(rows, row_norms(rows))
    elsewhere = [[f"x/{name}", template] for name, template in members]
    with pytest.raises(EvaluationError, match="none of the 39 images of its pairs is in"):
        TemplatePairs(images, elsewhere, pairs, target="videos")


def test_lists_are_read_from_files(images: NamedImages, tmp_path: Path) -> None:
    members, pairs = make_templates()
    (tmp_path / "list.txt").write_text("".join(f"{name} {of}\n" for name, of in members))
    lines = zip(pairs.first, pairs.second, pairs.issame.astype(int), strict=True)
    (tmp_path / "pairs.txt").write_text("".join(f"{a} {b} {same}\n" for a, b, same in lines))
    files = tmp_path / "list.txt", tmp_path / "pairs.txt"
    protocol = open_ytf(images, *files, target="videos", flip=False)
    assert protocol.flip is False and len(protocol.faces) == 40
    (tmp_path / "pairs.txt").write_text("p0/0.jpg p0/1.jpg 1\np0/0.jpg p1/1.jpg 0\n")
    assert len(open_sllfw(images, files[1], target="similar", flip=True).faces) == 3
