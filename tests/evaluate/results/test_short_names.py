"""What tables call models: as short as tells them apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from facepack.evaluate.results.short_names import short_names


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/home/me/runs/a", "/home/me/runs/b/"], ["a", "b"]),
        (["/home/me/x/a", "/home/me/y/a", "/r50.pt"], ["x/a", "y/a", "r50.pt"]),
        (["/home/me/runs/a/model.pt"], ["a/model.pt"]),
        (["/runs/a", "/runs/a"], ["a", "a (2)"]),
        (["/a", "/x/a"], ["a", "x/a"]),
    ],
)
def test_names(paths: list[str], names: list[str]) -> None:
    assert short_names(list(map(Path, paths))) == names


def test_of_the_folder_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    assert short_names([Path()]) == ["run"]
