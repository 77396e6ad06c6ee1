"""MATLAB's lists: each element as the format's description has it, and broken files in words."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facepack.errors import EvaluationError
from facepack.evaluate.sets.matlab import read_matlab

NAMES = ["1_1.jpg", "1_2.jpg", "25_ä.png"]


def element(order: str, kind: int, content: bytes) -> bytes:
    if 0 < len(content) <= 4:  # a small one
        return struct.pack(order + "I", len(content) << 16 | kind) + content.ljust(4, b"\0")
    return struct.pack(order + "II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def array(order: str, name: str, kind: int, shape: tuple[int, ...], *content: bytes) -> bytes:
    head = element(order, 6, struct.pack(order + "II", kind, 0))
    head += element(order, 5, struct.pack(f"{order}{len(shape)}i", *shape))
    return element(order, 14, head + element(order, 1, name.encode()) + b"".join(content))


def text(order: str, value: str) -> bytes:
    """A char array as MATLAB stores it: UTF-16."""
    sixteen = value.encode("utf-16-le" if order == "<" else "utf-16-be")
    return array(order, "", 4, (1, len(value)), element(order, 4, sixteen))


def mat(order: str, *variables: bytes, compressed: bool = False) -> bytes:
    mark = b"\x00\x01IM" if order == "<" else b"\x01\x00MI"
    body = b"".join(variables)
    if compressed:
        packed = [zlib.compress(variable) for variable in variables]
        body = b"".join(struct.pack(order + "II", 15, len(one)) + one for one in packed)
    return b"MATLAB 5.0 MAT-file".ljust(124) + mark + body


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compressed", [False, True])
def test_lists_of_names_and_numbers(order: str, compressed: bool, tmp_path: Path) -> None:
    ids = element(order, 4, struct.pack(order + "3H", 1, 1, 25))  # stored narrower than its class
    halves = element(order, 9, struct.pack(order + "4d", 0.5, 1.5, 2.5, 3.5))
    (tmp_path / "list.mat").write_bytes(
        mat(
            order,
            array(order, "probe_set", 1, (3, 1), *(text(order, name) for name in NAMES)),
            array(order, "probe_ids", 6, (3, 1), ids),
            array(order, "halves", 6, (2, 2), halves),
            array(order, "rows", 4, (2, 3), element(order, 1, b"acbd e")),
            array(order, "structure", 2, (1, 1), element(order, 5, struct.pack(order + "i", 1))),
            compressed=compressed,
        )
    )
    found = read_matlab(tmp_path / "list.mat")
    assert found["probe_set"] == NAMES
    np.testing.assert_array_equal(found["probe_ids"], [[1], [1], [25]])
    np.testing.assert_array_equal(found["halves"], [[0.5, 2.5], [1.5, 3.5]])
    assert found["rows"] == ["ab", "cde"]  # characters are stored down the columns
    assert list(found) == ["probe_set", "probe_ids", "halves", "rows"]


def test_scipys_files(tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    cells = np.empty((3, 1), object)
    cells[:, 0] = NAMES
    for compressed in (False, True):
        ids = np.array([[1], [1], [25]], np.uint16)
        stated = {"gallery_set": cells, "gallery_ids": ids, "other": {"a": 1}}
        savemat(tmp_path / "list.mat", stated, do_compression=compressed)
        found = read_matlab(tmp_path / "list.mat")
        assert found["gallery_set"] == NAMES and list(found) == ["gallery_set", "gallery_ids"]
        np.testing.assert_array_equal(found["gallery_ids"], ids)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it has not the header"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF", "version 7.3"),
        (mat("<", array("<", "x", 6, (9, 1), element("<", 9, bytes(16)))), r"2 numbers for .*9"),
        (mat("<", array("<", "x", 6, (2, 1), element("<", 99, bytes(16)))), "unknown kind 99"),
        (mat("<", array("<", "x", 6, (2, 1), element("<", 9, bytes(16))))[:-9], "are left"),
        (mat("<", b"".join([struct.pack("<II", 15, 8), bytes(8)])), "while decompressing"),
    ],
)
def test_what_is_no_list_is_told(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.mat").write_bytes(data)
    with pytest.raises(EvaluationError, match=message):
        read_matlab(tmp_path / "x.mat")
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_matlab(tmp_path / "absent.mat")


def test_hostile_files_raise_errors_of_ours(
    mutated: Callable[[bytes, random.Random], bytes], tmp_path: Path
) -> None:
    cells = array("<", "probe_set", 1, (3, 1), *(text("<", name) for name in NAMES))
    nested = cells
    for _ in range(6):
        nested = array("<", "deep", 1, (1, 1), nested)
    rng = random.Random(5)
    for good in (mat("<", cells), mat("<", cells, compressed=True), mat("<", nested)):
        for _ in range(300):
            (tmp_path / "x.mat").write_bytes(good[:128] + mutated(good[128:], rng))
            try:
                read_matlab(tmp_path / "x.mat")
            except EvaluationError:
                pass


def test_a_variable_that_inflates_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facepack.evaluate.sets.matlab._LARGEST", 1 << 16)
    bomb = array("<", "x", 6, (1 << 20, 1), element("<", 1, bytes(1 << 20)))
    (tmp_path / "x.mat").write_bytes(mat("<", bomb, compressed=True))
    with pytest.raises(EvaluationError, match="more than 65,536 bytes"):
        read_matlab(tmp_path / "x.mat")
