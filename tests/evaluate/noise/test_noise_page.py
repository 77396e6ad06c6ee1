"""The page to judge by eye: what it shows, that names stay text, and that marks become a list."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import facepack
from facepack.evaluate.faces.faces import SourceFaces
from facepack.evaluate.noise.find import Noise
from facepack.evaluate.noise.lists import find_noise
from facepack.evaluate.noise.page import Pictures, TypicalImages, write_noise_page
from facepack.evaluate.noise.scores import SCORES
from facepack.evaluate.sets.labelled import LabelledImages
from facepack.store.record_list import read_record_list

EVIL = '"><script>alert(1)</script>'


@pytest.fixture
def noise(pack_path: Path) -> Iterator[Noise]:
    """Of 48 images, the first of each person is taken for the next one; two are of no class."""
    with facepack.open(pack_path) as pack:
        scores = np.zeros(len(pack), SCORES)
        scores["predicted"] = pack.labels
        scores["max_p"], scores["predicted_p"] = 0.9, 0.9
        scores["cosine"] = np.linspace(0.1, 0.8, len(pack))
        scores["predicted"][:40:8] += 1
        scores["max_p"][[3, 8]] = 0.001, 0.002
        images = LabelledImages(source=pack, faces=SourceFaces(pack, "pack"))
        lists = find_noise(scores, pack.labels, threshold=0.007, confidence=0.5)
        yield Noise(images=images, scores=scores, rows=np.zeros((48, 2)), lists=lists)


@pytest.fixture
def page(noise: Noise, tmp_path: Path) -> str:
    write_noise_page(tmp_path / "page.html", noise, EVIL)
    return (tmp_path / "page.html").read_text()


def test_the_page_shows_each_image_once_beside_ten_others(page: str, noise: Noise) -> None:
    keys = re.findall('data-key="([^"]*)"', page)
    pack = noise.images.source
    # Of no class are 3 and 8, but 8 is in the other list, and marked there.
    assert keys == [pack.key(at) for at in (0, 8, 16, 24, 32, 3)]
    assert page.count("<img") == 6 * 11
    assert page.count("<script>") == 1 and EVIL not in page and "&lt;script" in page


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_draws_it_and_saves_marks_as_a_list(
    page: str, noise: Noise, browse: Callable[..., dict[str, Any]], width: int, tmp_path: Path
) -> None:
    act = """{
      for (const key of "nwknuw")
        view.document.dispatchEvent(new view.KeyboardEvent("keydown", {key}));
      return view.list();
    }"""
    facts = browse(page, width, act)
    assert facts["overflow"] == 0 and facts["images"] == 66 and facts["charts"] == 2
    assert not [line for line in facts["console"] if "Refused" in line or "Error" in line]
    marks = tmp_path / "marks.json"
    marks.write_text(facts["acted"])
    assert {kind: len(rows) for kind, rows in json.loads(facts["acted"]).items() if kind[0] != "c"}
    positions = read_record_list(marks, noise.images.source)
    np.testing.assert_array_equal(positions, [0, 32])
    assert [row["label"] for row in json.loads(facts["acted"])["keep"]] == [1]


def test_typical_images_are_the_nearest_of_a_class() -> None:
    labels = np.array([0, 1, 0, 0, 1, 0, 0, 0, 0])
    cosines = np.array([0.1, 0.9, 0.8, np.nan, 0.7, 0.6, 0.5, 0.4, 0.3], np.float32)
    typical = TypicalImages(labels, cosines)
    assert typical.of(0) == [2, 5, 6, 7, 8]
    assert typical.of(0, but=2) == [5, 6, 7, 8, 0]
    assert typical.of(1, but=1) == [4]
    assert typical.of(7) == []


def test_a_page_holds_so_many_bytes(pack_path: Path) -> None:
    with facepack.open(pack_path) as pack:
        pictures = Pictures(pack, most_bytes=1)
        assert not pictures.are_full
        assert pictures.of(0).jpeg and pictures.are_full
