"""A pack of drawn faces, and the run of a few steps that was trained on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import facepack
from facepack.cli import root
from tests.evaluate.conftest import make_face, make_jpeg

CLASSES, EACH = 6, 8


@pytest.fixture(scope="session")
def run_cli():
    """``run_cli(*words)``: what ``facepack`` makes of them."""
    return lambda *words: CliRunner().invoke(root, [*map(str, words)])


@pytest.fixture(scope="session")
def pack_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six people of eight images; the last of each of the first three shows the next person."""
    path = tmp_path_factory.mktemp("noise") / "pack"
    with facepack.PackWriter(path, classes=CLASSES, order="source") as writer:
        for person in range(CLASSES):
            for shot in range(EACH):
                shown = person + (person < 3 and shot == EACH - 1)
                writer.add(make_jpeg(make_face(shown, 10 * person + shot)), label=person)
    return path


@pytest.fixture(scope="session")
def run_path(pack_path: Path, run_cli) -> Path:
    """A run of a few steps on it."""
    out = pack_path.parent / "run"
    settings = {"backbone": "tiny", "features": 32, "steps": 24, "batch_size": 16, "lr": 0.05}
    settings |= {"scale": 16.0, "m3": 0.1, "mirror": "false", "threads": 1, "loader_threads": 1}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    result = run_cli("train", "--shards", pack_path, "--out", out, "--device", "cpu", *words)
    assert result.exit_code == 0, result.output
    return out
