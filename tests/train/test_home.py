"""The data home: the option, else the environment's, else here."""

from __future__ import annotations

from pathlib import Path

import pytest

from facepack.train.home import data_home


def test_option_then_environment_then_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FACEPACK_HOME", raising=False)
    assert data_home(None) == Path()
    monkeypatch.setenv("FACEPACK_HOME", "home")
    assert data_home(None) == Path("home")
    assert data_home("given") == data_home(Path("given")) == Path("given")
