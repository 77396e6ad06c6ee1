"""``facepack bench load``: the stages, and what cannot be measured."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from facepack.cli import root
from facepack.errors import ConfigError, DecodeError
from facepack.loading import bench
from facepack.loading.bench import bench_load
from facepack.store.pack import Pack

STAGES = [
    "decode",
    "decode into",
    "check",
    "order",
    "read",
    "mirror",
    "normalize",
    "loader uint8",
    "loader float32",
]


@pytest.fixture(autouse=True)
def short_rounds_without_dali(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_ROUND_SECONDS", 0.002)
    monkeypatch.setattr(bench, "_PAUSE", 0)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)  # makes the import fail


def test_every_stage_is_measured_against_the_limit(faces: Pack) -> None:
    told: list[int] = []
    result = bench_load(faces, batch_size=8, threads=2, rounds=3, on_round=told.append)
    assert told == [0, 1, 2, 3]
    names = [stage.name for stage in result.stages]
    assert [name for name in names if "cuda" not in name] == STAGES
    for stage in result.stages:
        assert len(stage.rates) == len(stage.shares) == 3
        assert min(stage.rates) > 0
        assert stage.shares == sorted(stage.shares)
        low, high = stage.quartiles
        assert stage.shares[0] <= low <= stage.shares[1] <= high <= stage.shares[2]
    assert result.stages[0].shares == [1, 1, 1]
    assert result.setting["threads"] == 2
    assert result.setting["images_a_round"] % 8 == 0


def test_a_pack_smaller_than_a_batch_is_measured(faces: Pack) -> None:
    result = bench_load(faces, batch_size=1000, rounds=1)
    assert result.setting["batch_size"] == len(faces) == 53


def test_other_images_than_jpegs_are_named(
    make_pack: Callable[..., Pack], make_image: Callable[..., bytes]
) -> None:
    pack = make_pack([make_image(number, "PNG") for number in range(4)])
    with pytest.raises(DecodeError, match=r"shard-000/000000000\d: no JPEG.*take a pack of JPEGs"):
        bench_load(pack, batch_size=2)


@pytest.mark.parametrize("name", ["batch_size", "threads", "rounds"])
def test_numbers_out_of_range_are_named(faces: Pack, name: str) -> None:
    options: dict[str, Any] = {name: 0}
    with pytest.raises(ConfigError, match=f"{name} = 0 is not allowed: it must be at least 1"):
        bench_load(faces, **options)


def test_the_command_prints_a_table_or_json(faces: Pack) -> None:
    options = ["bench", "load", str(faces.path), "--batch-size", "8", "--rounds", "1"]
    table = CliRunner().invoke(root, options)
    assert table.exit_code == 0, table.output
    lines = table.stdout.splitlines()
    assert lines[0].split() == ["images/s", "share", "25", "%", "75", "%"]
    assert lines[1].startswith("decode: ")
    assert lines[-1].startswith("processor ")
    assert "round 1 of 1" in table.stderr
    as_json = json.loads(CliRunner().invoke(root, [*options, "--json"]).stdout)
    assert [stage["name"] for stage in as_json["stages"]][: len(STAGES)] == STAGES
    assert as_json["stages"][0]["share"] == 1
    assert set(as_json) == {"machine", "setting", "stages"}


def test_what_is_no_pack_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(root, ["bench", "load", str(tmp_path)])
    assert result.exit_code == 1
    assert "is not a pack" in result.stderr
