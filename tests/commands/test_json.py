"""What ``verify``, ``inspect`` and ``report`` print for scripts: values, and docs/json.md."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import facepack
from facepack.cli import root

MakeJpeg = Callable[..., bytes]
PAGE = Path(__file__).parents[2] / "docs" / "json.md"


def run(*words: object) -> Result:
    return CliRunner().invoke(root, [str(word) for word in words])


def told(*words: object) -> Any:
    """What a command printed on stdout, which is JSON and nothing else."""
    result = run(*words)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def pack(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    """Seven images of three people: four, two and, with a gap before it, one; two are the same."""
    out = tmp_path / "faces"
    with facepack.PackWriter(out, classes=5, shard_records=4) as writer:
        for seed, label in enumerate((0, 1, 0, 3, 0, 1)):
            writer.add(make_jpeg(seed, size=32 if label else 48), label)
        writer.add(make_jpeg(0, size=48), 0)
    return out


def damaged(pack: Path, name: str) -> Path:
    """A copy with a byte of a shard changed."""
    copy = pack.with_name(name)
    shutil.copytree(pack, copy)
    shard = sorted(copy.glob("*.mdb"))[0]
    data = bytearray(shard.read_bytes())
    data[data.index(b"\xff\xd8\xff") + 200] ^= 1
    shard.write_bytes(data)
    return copy


def fields(command: str) -> set[str]:
    """The fields that the page lists of a command."""
    section = PAGE.read_text().split(f"| field of {command} |")[1].split("\n\n")[0]
    rows = [line.split("|")[1] for line in section.splitlines()[2:]]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_verify_of_one_pack(pack: Path) -> None:
    size = sum(file.stat().st_size for file in pack.iterdir() if file.name != "pack.json")
    found = told("verify", "--json", pack)
    assert found == {
        "pack": str(pack),
        "ok": True,
        "records": 7,
        "file_bytes": found["file_bytes"],
        "damage": [],
    }
    assert size <= found["file_bytes"] <= size + (pack / "pack.json").stat().st_size
    assert {*found} | {"error"} == fields("verify")


def test_verify_of_several_packs_has_one_result_each_and_the_status_of_the_worst(
    pack: Path,
) -> None:
    bad, none = damaged(pack, "bad"), pack.with_name("none")
    result = run("verify", "--json", pack, bad, none, pack)
    found = json.loads(result.stdout)
    assert result.exit_code == 3
    assert [(each["pack"], each["ok"]) for each in found] == [
        (str(pack), True),
        (str(bad), False),
        (str(none), False),
        (str(pack), True),
    ]
    (fault,) = found[1]["damage"]
    assert fault["shard"] == "shard-000" and fault["key"] and fault["reason"]
    assert {*found[2]} == {"pack", "ok", "error"} and "nothing is there" in found[2]["error"]
    assert run("verify", "--json", pack, none).exit_code == 1
    assert run("verify", "--json", pack, pack).exit_code == 0
    assert run("verify", none).exit_code == 1


def test_verify_of_several_packs_in_words(pack: Path) -> None:
    bad, none = damaged(pack, "bad"), pack.with_name("none")
    result = run("verify", none, bad, pack)
    assert result.exit_code == 3
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{bad}: shard-000") and lines[-1].startswith(f"{pack}: 7 records")
    assert f"facepack verify: {none}" in result.stderr and "1 fault;" in result.stderr
    result = run("verify", "--untrusted", pack, bad)
    assert result.exit_code == 3 and "all good" in result.stdout


def test_inspect(pack: Path) -> None:
    found = told("inspect", "--json", "--sizes", pack)
    assert {*found} == fields("inspect")
    assert (found["records"], found["identities"], found["classes"]) == (7, 3, 5)
    assert (found["label_gaps"], found["without_identity"], found["quarantined"]) == (2, 0, 0)
    assert (found["kind"], found["pairs"], found["same_pairs"]) == ("train", None, None)
    assert found["images_per_identity"] == {"min": 1, "median": 2, "mean": 7 / 3, "max": 4}
    counted = found["images_per_identity_histogram"]
    assert sum(row["count"] for row in counted) == 3
    assert [row["count"] for row in counted if row["from"] <= 4 <= row["to"]] == [1]
    assert [shard["records"] for shard in found["shard_figures"]] == [4, 3] and found["shards"] == 2
    with facepack.open(pack) as opened:
        images = [bytes(opened[k][0]) for k in range(7)]
        assert found["content_id"] == opened.content_id
    assert found["payload_bytes"] == sum(map(len, images))
    assert found["file_bytes"] == sum(file.stat().st_size for file in pack.iterdir())
    assert found["overhead"] == found["file_bytes"] / found["payload_bytes"]
    sizes = {(s["height"], s["width"]): s["images"] for s in found["image_survey"]["sizes"]}
    assert sizes == {(48, 48): 4, (32, 32): 3}
    assert found["image_survey"]["formats"] == {"jpeg": 7} and found["channels"] == "rgb"
    assert {*told("inspect", "--json", pack)} == fields("inspect") - {"image_survey"}


def test_report(pack: Path, tmp_path: Path) -> None:
    found = told("report", pack, "--json")
    assert {*found} == fields("inspect") | fields("report")
    inspected = told("inspect", "--json", "--sizes", pack)
    assert {name: found[name] for name in inspected} == inspected
    assert found["refusals"] == []
    assert found["duplicates"] == {
        "groups": {"across": 0, "within": 1, "unlabeled": 0},
        "images": {"across": 0, "within": 2, "unlabeled": 0},
        "surplus": 1,
    }
    out = tmp_path / "page.html"
    assert told("report", pack, out, "--json", "--quick") == found | {"duplicates": None}
    assert out.read_text().startswith("<!DOCTYPE html>")
    assert {file.name for file in tmp_path.iterdir()} == {"faces", "page.html"}


def test_a_report_has_somewhere_to_go(pack: Path) -> None:
    result = run("report", pack)
    assert result.exit_code == 2 and "OUT" in result.stderr and "--json" in result.stderr
