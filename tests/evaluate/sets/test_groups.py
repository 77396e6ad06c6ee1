"""Groups from tables: every form, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facepack.errors import EvaluationError
from facepack.evaluate.sets.groups import group_images, read_column


def write(folder: Path, text: str) -> Path:
    (folder / "table.csv").write_text(text)
    return folder / "table.csv"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_columns_of_a_table(delimiter: str, tmp_path: Path) -> None:
    text = 'key, race ,sex\n"a/1.jpg",African,f\n\nb/1.jpg,,m\n'
    path = write(tmp_path, text.replace(",", delimiter))
    assert read_column(Path(f"{path}:race")) == {"a/1.jpg": "African"}
    assert read_column(Path(f"{path}:sex")) == {"a/1.jpg": "f", "b/1.jpg": "m"}
    with pytest.raises(EvaluationError, match=r"has the columns race, sex: choose one as .*:COL"):
        read_column(path)
    with pytest.raises(EvaluationError, match="has no column 'age'; behind the names it has race"):
        read_column(Path(f"{path}:age"))


def test_a_table_of_one_column_and_plain_lines(tmp_path: Path) -> None:
    assert read_column(write(tmp_path, "key,sex\na,f\n")) == {"a": "f"}
    assert read_column(write(tmp_path, "a f\r\n\nb  m\n")) == {"a": "f", "b": "m"}


def test_a_file_name_may_hold_a_colon(tmp_path: Path) -> None:
    (tmp_path / "a:b").write_text("x f\n")
    assert read_column(tmp_path / "a:b") == {"x": "f"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b c\n", "line 1 is 'a b c'; expected NAME GROUP"),
        ("key,sex\na,f,x\n", "line 2 has 3 cells, the header 2"),
        ("key,sex\na,f\na,m\n", "line 3 puts 'a' into 'm', a line before into 'f'"),
        (f"key,sex\na,{'f' * 200_000}\n", "is no table of groups: field larger"),
    ],
)
def test_what_is_no_table_is_told(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=message):
        read_column(write(tmp_path, text))
    with pytest.raises(EvaluationError, match="cannot be read: No such file"):
        read_column(tmp_path / "absent.csv")


def test_an_image_is_in_its_own_group_else_in_its_identitys() -> None:
    column = {"train/1": "m", "b.jpg": "f", "Ann": "f", "2": "m", "Zoe": "f", "train/9": "m"}
    groups = group_images(
        column,
        keys="train/{}".format,
        labels=np.array([0, 0, 1, 2, 1, -1]),
        identity_names=["Ann", "Bob", "Cid"],
        source_names=[None, "x", "b.jpg", None, None, None],
    )
    assert groups.names == ["f", "m"]
    assert groups.of.tolist() == [0, 1, 0, 1, -1, -1]
    assert groups.unknown == ["Zoe", "train/9"]
    with pytest.raises(
        EvaluationError, match=r"none of 1 images is in a group: .* first 'train/1'"
    ):
        group_images(column, keys=str, labels=np.array([7]), identity_names=None)
