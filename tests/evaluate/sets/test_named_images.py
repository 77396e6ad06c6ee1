"""Images found by what lists call them, in folders and in packs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import facepack
from facepack.errors import EvaluationError
from facepack.evaluate.sets.named_images import missing_notice, open_named_images

MakeJpeg = Callable[..., bytes]
NAMES = ["a/1.jpg", "a/2.PNG", "b/1.jpg", "deep/c/3.jpg", "ä/4.jpeg"]


@pytest.fixture
def folder(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    for k, name in enumerate(NAMES):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(make_jpeg(k))
    (tmp_path / "images" / "list.txt").write_text("no image")
    return tmp_path / "images"


@pytest.fixture
def pack(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    with facepack.PackWriter(tmp_path / "pack", seed=1, shard_records=2) as writer:
        for k, name in enumerate(NAMES):
            writer.add(make_jpeg(k), 0, name=name)
    return tmp_path / "pack"


@pytest.mark.parametrize("where", ["folder", "pack"])
def test_lists_find_images(where: str, request: pytest.FixtureRequest, make_jpeg: MakeJpeg) -> None:
    images = open_named_images(request.getfixturevalue(where))
    assert sorted(images.names) == sorted(NAMES)
    # As listed; with another suffix; by its end; with an umlaut.
    found = images.find(["b/1.jpg", "a/2.jpg", "c/3.png", "ä/4.jpeg"])
    chosen = images.choose(found)
    with chosen.views([0, 1, 2, 3]) as views:
        assert [bytes(view) for view in views] == [make_jpeg(k) for k in (2, 1, 3, 4)]
    assert len(chosen) == 4 and chosen.image_size == (32, 32)
    assert chosen.key(1) == images.source.key(int(found[1]))


def test_what_is_missing_or_in_doubt_is_not_found(folder: Path) -> None:
    images = open_named_images(folder)
    wanted = ["a/9.jpg", "1.jpg", "a/1.jpg", "x/a/1.jpg", "1/jpg"]
    found = images.find(wanted)
    assert (found >= 0).tolist() == [False, False, True, False, False]
    (notice,) = missing_notice("images", wanted, found)
    assert notice.startswith("4 of 5 images are missing, first a/9.jpg")
    assert missing_notice("images", wanted[2:3], found[2:3]) == []


def test_images_below_a_folder_of_some_name(folder: Path) -> None:
    images = open_named_images(folder)
    below = [[images.names[i] for i in images.below(name)] for name in ("a", "c", "deep", "1", "")]
    assert below == [NAMES[:2], [NAMES[3]], [NAMES[3]], [], []]


def test_choices_of_the_same_images_are_told_apart_by_order(folder: Path) -> None:
    images = open_named_images(folder)
    first, second = images.choose(np.array([0, 1])), images.choose(np.array([1, 0]))
    assert first.content_id != second.content_id
    assert first.content_id == images.choose(np.array([0, 1])).content_id


def test_folders_and_packs_that_lists_cannot_speak_of(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match="empty holds no images"):
        open_named_images(tmp_path / "empty")
    (tmp_path / "empty/x.jpg").write_bytes(b"")
    with pytest.raises(EvaluationError, match=r"none of 1 images can be read, first x\.jpg"):
        open_named_images(tmp_path / "empty")
    with facepack.PackWriter(tmp_path / "nameless") as writer:
        writer.add(make_jpeg(0), 0)
    with pytest.raises(EvaluationError, match="its source had no names"):
        open_named_images(tmp_path / "nameless")
