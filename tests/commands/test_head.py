from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import facepack
from facepack.commands.head import head
from facepack.errors import ConfigError, DamageError
from facepack.store import format as fmt
from facepack.view.record_info import describe_record
from facepack.view.record_list import find_identity, list_records

MakePack = Callable[..., Path]
MakeJpeg = Callable[..., bytes]


def run(*words: object) -> Result:
    return CliRunner().invoke(head, [str(word) for word in words])


def test_every_record_is_listed_as_it_is_described(make_pack: MakePack) -> None:
    path = make_pack(60)
    listed = list(map(json.loads, run(path, "-n", 0, "--json").stdout.splitlines()))
    with facepack.open(path) as pack:
        assert [entry["position"] for entry in listed] == list(range(len(pack))) and len(pack)
        for entry in listed:
            facts = vars(describe_record(pack, entry["position"]))
            entry["source_name"] = entry.pop("name")
            assert entry == {name: facts[name] for name in entry}


def test_a_few_are_shown(make_pack: MakePack) -> None:
    path = make_pack(60)
    result = run(path)
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["key", "identity", "name", "label", "pixels", "bytes"]
    assert len(lines) == 11 and "10 of 60" in result.stderr
    assert lines[1].startswith("shard-000/0000000000")
    with facepack.open(path) as pack:
        assert lines[1].endswith(f" {len(pack[0].image):,}")
    assert len(run(path, "-n", 3).stdout.splitlines()) == 4
    assert len(run(path, "-n", 0).stdout.splitlines()) == 61


def test_an_identity_is_found_by_name_and_by_label(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    """A name that is a number is a name first."""
    names = {0: "Zoë", 1: "7", 2: "2"}
    with facepack.PackWriter(tmp_path / "p", order="source", shard_records=4) as writer:
        for i in range(12):
            label = [0, 2, 1, -1][i % 4]
            writer.add(make_jpeg(i), label, name=f"{i}.jpg", identity=names.get(label))
    with facepack.open(tmp_path / "p") as pack:
        for words, label in (("Zoë", 0), ("0", 0), ("7", 1), ("1", 1), ("2", 2), ("-1", -1)):
            expected = np.flatnonzero(pack.labels == label)
            assert find_identity(pack, words).tolist() == expected.tolist() and len(expected) == 3
        with pytest.raises(ConfigError, match="did you mean Zoë"):
            find_identity(pack, "Zoe")
        with pytest.raises(ConfigError, match="no record has the label 9"):
            find_identity(pack, "9")
        with pytest.raises(ConfigError, match="has no identity"):
            find_identity(pack, "9" * 5000)
    listed = run(tmp_path / "p", "--identity", "Zoë", "--json").stdout.splitlines()
    assert {json.loads(line)["name"] for line in listed} == {"0.jpg", "4.jpg", "8.jpg"}


def test_selections_and_shard_sets(make_pack: MakePack) -> None:
    path = make_pack(60)
    with facepack.open(path) as whole:
        keep = np.arange(len(whole)) % 7 == 3
        kept = [whole.key(k) for k in np.flatnonzero(keep)]
        names = [whole.source_name(k) for k in np.flatnonzero(keep)]
        with whole.select(keep) as pack:
            listed = list(list_records(pack, range(len(pack))))
            assert [entry.key for entry in listed] == kept
            assert [entry.name for entry in listed] == names
    shard = json.loads((path / "pack.json").read_bytes())["shards"][1]
    (path / "sets.json").write_text(json.dumps({"one": [shard["name"]]}))
    result = run(f"{path}:one", "-n", 0, "--json")
    assert result.exit_code == 0, result.output
    keys = [json.loads(line)["key"] for line in result.stdout.splitlines()]
    assert len(keys) == shard["records"]
    assert all(key.startswith(f"{shard['name']}/") for key in keys)


def test_names_of_strangers_are_not_obeyed(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    with facepack.PackWriter(tmp_path / "p") as writer:
        writer.add(make_jpeg(0), 0, name="a\n\x1b]0;title\x07", identity="\x1b[31mred")
    out = run(tmp_path / "p").stdout
    assert "\x1b" not in out and "\x07" not in out and len(out.splitlines()) == 2


def test_images_without_a_header_are_listed(make_pack: MakePack) -> None:
    path = make_pack(10)
    with facepack.open(path) as pack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(facepack.view.record_list, "read_header", _refuse)
        assert [entry.width for entry in list_records(pack, [0])] == [None]


def _refuse(image: object) -> None:
    raise facepack.errors.DecodeError("no header")


@pytest.mark.parametrize("names", [["a"], 5, {}])
def test_damaged_names_are_damage(make_pack: MakePack, names: object) -> None:
    path = make_pack(10)
    with facepack.open(path) as pack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "read_reserved", lambda k, key: names if key == fmt.NAMES else None)
        with pytest.raises(DamageError, match="names"):
            list(list_records(pack, range(len(pack))))
