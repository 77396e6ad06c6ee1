"""Names from sources never lead outside a target."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepack.convert.paths import image_path, is_safe_path

UNSAFE = [
    "../x.jpg",
    "a/../../x.jpg",
    "/etc/passwd.jpg",
    "a//b.jpg",
    "",
    ".",
    "a/.hidden/b.jpg",
    "a\\..\\b.jpg",
    "C:/x.jpg",
    "a\0b.jpg",
    "a\nb.jpg",
    "a /b.jpg",
    "a./b.jpg",
    "x" * 256 + "/a.jpg",
    "\udcff/a.jpg",
]


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_names_are_set_aside_under_their_number(name: str) -> None:
    assert not is_safe_path(name)
    if name:
        assert image_path(name, 3, 17, ".jpg") == "_renamed/17.jpg"


def test_safe_names_are_kept() -> None:
    assert image_path("a b/é@N00/1.JPG", 3, 17, ".png") == "a b/é@N00/1.JPG"
    assert image_path("lfw_0_1", 3, 17, ".jpg") == "3/lfw_0_1.jpg"
    assert image_path("1.jpg", -1, 17, ".jpg") == "-1/1.jpg"
    assert image_path(None, 3, 17, ".png") == "3/17.png"
    assert image_path("_renamed/4.jpg", 3, 17, ".jpg") == "_renamed/17.jpg"


@given(name=st.text(max_size=40) | st.text("./\\ab:\0", max_size=12))
def test_no_name_leads_outside(name: str) -> None:
    path = image_path(name, 0, 1, ".jpg")
    joined = Path(os.path.normpath(Path("/target") / path))
    assert joined.is_relative_to("/target") and joined != Path("/target")
    assert len(joined.parts) == 3 + path.count("/")


@pytest.mark.parametrize(
    "name", ["index.kv/1.jpg", "labels.txt/1.jpg", "Quarantine.jsonl/a/1.jpg", "pairs.npy/1.jpg"]
)
def test_no_name_takes_the_place_of_a_file_beside_the_images(name: str) -> None:
    assert image_path(name, 3, 17, ".jpg") == "_renamed/17.jpg"
    assert image_path(name.replace("/", "."), 3, 17, ".jpg") == f"3/{name.replace('/', '.')}"


def test_a_path_that_no_system_takes_is_set_aside() -> None:
    assert image_path("a/" * 2200 + "1.jpg", 3, 17, ".jpg") == "_renamed/17.jpg"
