"""MegaFace's feature files: byte for byte, and what is wrong with others."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from facepack.errors import EvaluationError
from facepack.evaluate.embedding.feature_files import (
    is_feature_folder,
    parse_feature,
    read_features,
    write_features,
)

PATHS = ["Adam/Adam_1.png", "Zoë/Zoë_7.png"]
OTHERS = ["100/1@N03/29_0.jpg"]


def write(folder: Path, width: int = 5, algorithm: str = "r100") -> np.ndarray:
    features = np.random.default_rng(0).standard_normal((3, width)).astype(np.float32)
    ending = f"_{algorithm}.bin"
    write_features(folder / "facescrub", PATHS, features[:2], ending=ending)
    write_features(folder / "megaface", OTHERS, features[2:], ending=ending)
    return features


def test_files_are_as_the_published_script_writes_and_reads_them(tmp_path: Path) -> None:
    features = write(tmp_path)
    data = (tmp_path / "megaface/100/1@N03/29_0.jpg_r100.bin").read_bytes()
    assert data == struct.pack("4i", 5, 1, 4, 5) + struct.pack("5f", *features[2])
    images, found = read_features(tmp_path)
    assert images == [
        "facescrub_images/Adam/Adam_1.png",
        "facescrub_images/Zoë/Zoë_7.png",
        "megaface_images/100/1@N03/29_0.jpg",
    ]
    np.testing.assert_array_equal(found, features)


def test_rows_and_float64_are_read() -> None:
    row = struct.pack("<4i3f", 1, 3, 12, 5, 1, 2, 3)
    double = struct.pack("<4i3d", 3, 1, 8, 6, 1, 2, 3)
    for data in (row, double):
        feature = parse_feature(data)
        assert feature.dtype == np.float32 and feature.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes; the header alone has 16"),
        (struct.pack("<4i", 3, 1, 4, 5) + bytes(8), "24 bytes; the header asks for 28"),
        (struct.pack("<4i", 3, 1, 4, 5) + bytes(16), "32 bytes; the header asks for 28"),
        (struct.pack("<4i", 3, 2, 8, 5) + bytes(24), "3 × 2 numbers"),
        (struct.pack("<4i", 3, 1, 4, 0) + bytes(12), "type 0"),
        (struct.pack("<4i", 3, 1, 8, 5) + bytes(12), "rows of 8 bytes"),
        (struct.pack("<4i", 1 << 30, 1, 4, 5), "1073741824 × 1"),
        (struct.pack("<4i", 0, 1, 4, 5), "0 × 1"),
    ],
)
def test_a_broken_file_is_named(data: bytes, message: str, tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "megaface/100/1@N03/29_0.jpg_r100.bin").write_bytes(data)
    with pytest.raises(EvaluationError, match=rf"29_0\.jpg_r100\.bin: is no feature .*{message}"):
        read_features(tmp_path)


def test_folders_of_several_models_or_of_none(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"of one algorithm, .* found none"):
        read_features(tmp_path)
    assert not is_feature_folder(tmp_path)
    write(tmp_path)
    assert is_feature_folder(tmp_path)
    write_features(tmp_path / "facescrub", ["A/c.png"], np.ones((1, 3)), ending="_r100.bin")
    with pytest.raises(EvaluationError, match=r"3 numbers, but 5 in|5 numbers, but 3 in"):
        read_features(tmp_path)
    write(tmp_path, algorithm="r50")
    with pytest.raises(EvaluationError, match=r"found .*_r\d+\.bin, .*_r\d+\.bin"):
        read_features(tmp_path)


@pytest.mark.parametrize("path", ["../a", "/a", "a/../../b", "a\0"])
def test_no_file_outside_the_folder_is_written(path: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="leads out of"):
        write_features(tmp_path, [path], np.ones((1, 4)), ending=".bin")
