"""Lists of benchmarks: both forms of pairs, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path

import pytest

from facepack.errors import EvaluationError
from facepack.evaluate.sets.list_files import read_pairs, read_rows


def write(folder: Path, text: str) -> Path:
    (folder / "list.txt").write_text(text)
    return folder / "list.txt"


def test_a_pair_a_line(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path, "a/1.jpg a/2.jpg 1\r\n\nb/1.jpg\tc/1.jpg  0\n"))
    assert pairs.first == ["a/1.jpg", "b/1.jpg"] and pairs.second == ["a/2.jpg", "c/1.jpg"]
    assert pairs.issame.tolist() == [True, False]


def test_sllfws_own_form_tells_same_by_the_folder(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path, "a/a_1.jpg\na/a_2.jpg\na/a_1.jpg\nb/b_1.jpg\n"))
    assert pairs.first == ["a/a_1.jpg", "a/a_1.jpg"] and pairs.second == ["a/a_2.jpg", "b/b_1.jpg"]
    assert pairs.issame.tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the list is empty"),
        ("a b 1\nc d\n", "line 2 is 'c d'"),
        ("a b\n", "line 1 is 'a b'; expected two names and 1 for the same"),
        ("a b 1\na c 2\n", "row 2 ends with '2'"),
        ("a/1\na/2\na/3\n", "3 lines; a list of one image a line"),
        ("a/1\nb\n", "'b' is in no folder"),
    ],
)
def test_what_is_no_list_of_pairs_is_told(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=message):
        read_pairs(write(tmp_path, text))


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="cannot be read: No such file"):
        read_pairs(tmp_path / "absent.txt")
    (tmp_path / "list.txt").write_bytes(b"a\nb\xff\n")
    with pytest.raises(EvaluationError, match="line 2: the byte 0xff is not UTF-8"):
        read_rows(tmp_path / "list.txt", (1,), "a name")
