"""Files that are there whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from facepack.atomic import replacing
from facepack.store.format import PART


@pytest.mark.parametrize("durable", [True, False])
def test_the_new_file_takes_the_place_of_the_old_one(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path, durable=durable) as part:
        part.write_text("new")
        assert path.read_text() == "old"
        assert part.parent == tmp_path
        assert PART.fullmatch(part.name)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_after_an_error_the_old_one_stays(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error), replacing(path, tmp_path / "chosen") as part:
        part.write_text("half")
        assert part.name == "chosen"
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_before_there_is_a_file_is_the_one_that_is_seen(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "absent" / "file") as part:
        part.write_text("new")


def test_a_kill_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    code = f"""
import os
from pathlib import Path
from facepack.atomic import replacing
with replacing(Path({str(path)!r})) as part:
    part.write_text("half")
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert path.read_text() == "old"
    (left,) = set(tmp_path.iterdir()) - {path}
    assert PART.fullmatch(left.name)
