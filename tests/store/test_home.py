"""The data home: the option, else the environment's, else here; and the shard sets in it."""

from __future__ import annotations

from pathlib import Path

import pytest

import facepack
from facepack.errors import DamageError
from facepack.store.home import data_home, is_pack, shard_sets
from facepack.store.sets import add_set


def test_option_then_environment_then_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FACEPACK_HOME", raising=False)
    assert data_home(None) == Path()
    monkeypatch.setenv("FACEPACK_HOME", "home")
    assert data_home(None) == Path("home")
    assert data_home("given") == data_home(Path("given")) == Path("given")


def test_shard_sets_of_the_packs_in_a_folder(tmp_path: Path) -> None:
    assert shard_sets(tmp_path / "nothing") == {}
    for name in ("b", "a"):
        with facepack.PackWriter(tmp_path / name):
            pass
    add_set(tmp_path / "b", ["shard-000"], "one", ["shard-000"])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "pack.json").write_text("{")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "plan.json").write_text("{}")
    (tmp_path / "file").write_text("")
    assert shard_sets(tmp_path) == {tmp_path / "a": [], tmp_path / "b": ["one"]}
    assert [is_pack(tmp_path / name) for name in ("a", "unfinished", "file", "no")] == [
        True,
        True,
        False,
        False,
    ]
    (tmp_path / "a" / "sets.json").write_text("{")
    with pytest.raises(DamageError, match=r"sets\.json"):
        shard_sets(tmp_path)
