"""Lists of benchmarks, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path

import pytest

from facepack.errors import EvaluationError
from facepack.evaluate.sets.list_files import read_rows


def write(folder: Path, text: str) -> Path:
    (folder / "list.txt").write_text(text)
    return folder / "list.txt"


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="cannot be read: No such file"):
        read_rows(tmp_path / "absent.txt", (1,), "a name")
    (tmp_path / "list.txt").write_bytes(b"a\nb\xff\n")
    with pytest.raises(EvaluationError, match="line 2: the byte 0xff is not UTF-8"):
        read_rows(tmp_path / "list.txt", (1,), "a name")
