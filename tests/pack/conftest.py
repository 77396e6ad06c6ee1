from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import facepack

NAMES = ["ann", "bob\nby", "c\\d", "dora"]


@pytest.fixture
def make_pack(tmp_path: Path, make_jpeg: Callable[..., bytes]) -> Callable[..., Path]:
    """``make_pack(count, name="pack", **PackWriter options)``: a pack of ``count`` small JPEGs."""

    def make(count: int = 60, name: str = "pack", **options: object) -> Path:
        options = {"shard_records": 25, "seed": 3, **options}
        with facepack.PackWriter(tmp_path / name, **options) as writer:
            for i in range(count):
                writer.add(make_jpeg(i), i % 4, name=f"{i}.jpg", identity=NAMES[i % 4])
        return tmp_path / name

    return make
