"""Some shards of a pack as a pack, by patterns and by the names of sets."""

from __future__ import annotations

import json
import multiprocessing
import operator
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import facepack
from facepack.care.verify import verify
from facepack.cli import root
from facepack.commands.shards import shards as command
from facepack.errors import DamageError, PackError
from facepack.store.sets import (
    add_set,
    choose_shards,
    find_set,
    read_sets,
    remove_set,
    webface_sets,
)

MakePack = Callable[..., Path]
MakeJpeg = Callable[..., bytes]


@pytest.fixture
def path(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    """Six shards of ten records; shard k has the labels k and k + 1 and -1; sizes differ."""
    with facepack.PackWriter(tmp_path / "pack", shard_records=10, classes=20) as writer:
        for i in range(60):
            k = i // 10
            label = -1 if i % 10 == 9 else k + i % 2
            writer.add(make_jpeg(i, size=32 + 4 * k), label, f"{i}.jpg", f"id {label}")
    return tmp_path / "pack"


def test_a_subset_is_what_its_shards_hold(path: Path) -> None:
    with facepack.open(path) as whole:
        part = facepack.open(path, shards=["shard-004", "shard-00[12]"])
        chosen = [10 * k + i for k in (1, 2, 4) for i in range(10)]  # the twin: positions picked
        records = whole.batch(chosen)
        assert part.shard_names == ["shard-001", "shard-002", "shard-004"]
        assert part[:] == records and len(part) == 30
        assert part.labels.tolist() == whole.labels[chosen].tolist()
        assert part.classes == 6 and part.identities == len({1, 2, 3, 4, 5})
        assert part.manifest["payload_bytes"] == sum(len(record.image) for record in records)
        assert part.manifest["images"]["height"] == [36, 48] and part.image_size is None
        assert facepack.open(path, shards=["shard-003"]).image_size == (44, 44)
        assert part.identity_names == whole.identity_names[:6]
        assert [part.position(part.key(i)) for i in range(30)] == list(range(30))
        assert part.source_name(12) == whole.source_name(22)
        with pytest.raises(KeyError):
            part.position("shard-000/0000000000")
        with pytest.raises(IndexError, match="position 30"):
            part[30]
        assert "3 of its shards): 30 records, 5 identities" in repr(part)
        assert part.manifest["quarantined"] == 0 and part.pack_id == whole.pack_id


def test_content_ids_tell_subsets_apart(path: Path) -> None:
    ids = [
        facepack.open(path, shards=shards).content_id
        for shards in (["*"], ["shard-000"], ["shard-001"], ["shard-00[01]"])
    ]
    assert len(set(ids)) == 4
    assert ids[0] == facepack.open(path).content_id
    assert ids[3] == facepack.open(path, shards=["shard-001", "shard-000"]).content_id


def test_a_subset_survives_pickling_and_forks(path: Path) -> None:
    with facepack.open(path, shards=["shard-00[35]"]) as part:
        records = part[:]
        copy = pickle.loads(pickle.dumps(part))
        assert copy[:] == records and copy.content_id == part.content_id
        with multiprocessing.get_context("fork").Pool(1) as pool:
            assert pool.apply(operator.getitem, (part, slice(None))) == records
    add_set(path, part.shard_names, "some", ["shard-003"])
    by_set = pickle.dumps(facepack.open(path, shards="some"))
    add_set(path, facepack.open(path).shard_names, "some", ["shard-000"])
    assert pickle.loads(by_set).shard_names == ["shard-003"]  # shards are pickled, not the name


def test_a_subset_needs_only_its_own_files(path: Path) -> None:
    (path / "shard-000.mdb").unlink()
    with pytest.raises(DamageError, match=r"shard-000\.mdb is missing"):
        facepack.open(path)
    assert len(facepack.open(path, shards=["shard-00[1-5]"])) == 50


def test_shards_that_are_not_there(path: Path) -> None:
    with pytest.raises(PackError, match=r"pack: no shard is called 'x\*': there are shard-000, "):
        facepack.open(path, shards=["shard-000", "x*"])
    with pytest.raises(PackError, match="no shards were named: there are"):
        facepack.open(path, shards=[])
    with pytest.raises(PackError, match=r"has no shard set 'x'; it has none\. Make one with: face"):
        facepack.open(path, shards="x")
    many = [f"s{k}" for k in range(20)]
    with pytest.raises(PackError, match="there are 20, s0, s1, s2 … s19"):
        choose_shards(many, ["t"])


def test_an_evaluation_set_is_taken_whole(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    with facepack.PackWriter(tmp_path / "p", order="source") as writer:
        writer.add_table("pairs", np.array([[0, 1, 1]]))
        writer.add(make_jpeg(0), -1)
        writer.add(make_jpeg(1), -1)
    with pytest.raises(PackError, match=r"its tables \(pairs\) point at records by position"):
        facepack.open(tmp_path / "p", shards=["*"])


def test_a_subset_of_empty_shards(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    with facepack.PackWriter(tmp_path / "p", shard_records=1) as writer:
        writer.add(make_jpeg(0), -1)
        writer.add(make_jpeg(1), 3)
    part = facepack.open(tmp_path / "p", shards=["shard-000"])
    assert (len(part), part.classes, part.identities) == (1, 0, 0)


# Sets --------------------------------------------------------------------------------------------


def test_webface_sets_follow_from_the_names_of_zips() -> None:
    names = [f"{d}_{k}" for d in range(2) for k in range(7)]
    sets = webface_sets(names)
    assert sorted(sets) == ["webface4m", "webface8m"] and not sets["webface8m"].missing
    assert choose_shards(names, sets["webface4m"].patterns) == names[:7]
    whole = [f"{d}_{k}-{n:03d}" for d in range(10) for k in range(7) for n in range(2)]
    sets = webface_sets(whole)
    assert sorted(sets) == ["webface12m", "webface42m", "webface4m", "webface8m"]
    assert len(choose_shards(whole, sets["webface12m"].patterns)) == 3 * 7 * 2
    assert len(choose_shards(whole, sets["webface42m"].patterns)) == 10 * 7 * 2
    assert webface_sets(["0_0", "0_2-000", "2_0"])["webface4m"].missing == (
        "0_1",
        "0_3",
        "0_4",
        "0_5",
        "0_6",
    )
    assert list(webface_sets(["0_0", "0_2-000", "2_0"])) == ["webface4m"]
    assert webface_sets(["train-000", "0_7", "1_0", "0_0x", "x0_0"]) == {}


def test_sets_of_the_user(path: Path) -> None:
    names = facepack.open(path).shard_names
    add_set(path, names, "first", ["shard-000", "shard-00[12]"])
    add_set(path, names, "last", ["shard-005"])
    assert json.loads((path / "sets.json").read_text()) == {
        "first": ["shard-000", "shard-00[12]"],
        "last": ["shard-005"],
    }
    assert find_set(path, names, "first") == names[:3]
    assert len(facepack.open(path, shards="first")) == 30
    assert not verify(path).damage  # a file of the user's is no part of the pack
    with pytest.raises(PackError, match="has no shard set 'x'; it has first, last"):
        find_set(path, names, "x")
    remove_set(path, names, "first")
    assert list(read_sets(path, names)) == ["last"]
    with pytest.raises(PackError, match=r"set 'first' cannot be removed: sets\.json has last"):
        remove_set(path, names, "first")
    remove_set(path, names, "last")
    assert not (path / "sets.json").exists() and not (path / ".lock").exists()


def test_sets_that_cannot_be_made(path: Path) -> None:
    names = facepack.open(path).shard_names
    for name in ("", "../x", "a b", "a:b", ".a"):
        with pytest.raises(PackError, match="a name is made of letters"):
            add_set(path, names, name, ["*"])
    for pattern in ("", "../x", "a b", "x" * 181):
        with pytest.raises(PackError, match="names no shards: allowed are"):
            add_set(path, names, "x", [pattern])
    with pytest.raises(PackError, match="no shard is called 'train'"):
        add_set(path, names, "x", ["train"])
    with pytest.raises(PackError, match="every pack of WebFace zips has it"):
        add_set(path, ["0_0"], "webface4m", ["0_0"])
    with pytest.raises(PackError, match="every pack of WebFace zips has it"):
        remove_set(path, ["0_0"], "webface4m")
    assert not (path / "sets.json").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "not a map of names to lists"),
        ('{"a": "x"}', "'a' is not a list of shard names"),
        ('{"a": []}', "'a' is not a list of shard names"),
        ('{"a": [1]}', "1 names no shards"),
        ('{"a": ["../x"]}', r"'\.\./x' names no shards"),
        ('{"a/b": ["x"]}', "'a/b' cannot be a name"),
        ("[" * 100_000, "nested more than 200 deep"),
    ],
)
def test_a_damaged_file_of_sets(path: Path, text: str, reason: str) -> None:
    (path / "sets.json").write_text(text)
    with pytest.raises(DamageError, match=rf"sets\.json: .*{reason}.*: fix it, or delete it"):
        facepack.open(path, shards="a")
    assert len(facepack.open(path)) == 60  # whoever asks for no set is not troubled


def test_a_set_of_shards_that_are_gone(path: Path) -> None:
    (path / "sets.json").write_text('{"old": ["train-*"]}')
    with pytest.raises(PackError, match=r"pack: shard set 'old': no shard is called 'train-\*'"):
        facepack.open(path, shards="old")


# The command -------------------------------------------------------------------------------------


@pytest.fixture
def webface(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    """Shards named as those of the zips 0_0 to 0_6 and 1_0, of three identities each."""
    names = [*(f"0_{k}" for k in range(7)), "1_0"]
    with facepack.PackWriter(tmp_path / "webface", shard_records=10, stem="x") as writer:
        for i in range(10 * len(names)):
            writer.add(make_jpeg(i), 3 * (i // 10) + i % 3)
    manifest = json.loads((tmp_path / "webface" / "pack.json").read_text())
    for shard, name in zip(manifest["shards"], names, strict=True):
        for suffix in (".mdb", ".kv"):
            old = f"{shard['name']}{suffix}"
            (tmp_path / "webface" / old).rename(tmp_path / "webface" / f"{name}{suffix}")
            shard["files"][f"{name}{suffix}"] = shard["files"].pop(old)
        shard["name"] = name
    (tmp_path / "webface" / "pack.json").write_text(json.dumps(manifest))
    return tmp_path / "webface"


def run(*arguments: object) -> str:
    result = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_lists_shards_and_sets(webface: Path) -> None:
    run(webface, "--add", "two", "0_0", "1_*")
    lines = run(webface).splitlines()
    assert lines[0].split() == ["shard", "records", "identities"]
    assert lines[8].split() == ["1_0", "10", "3"]
    assert lines[11].split() == ["webface4m", "70", "21", "7", "0_*"]
    assert lines[12].split("  without ")[1] == "6 zips (1_1, 1_2, 1_3 …)"
    assert lines[13].split() == ["two", "20", "6", "2", "0_0", "1_*"]
    listed = json.loads(run(webface, "--json"))
    assert listed["shards"][0] == {"name": "0_0", "records": 10, "identities": 3}
    assert [row["name"] for row in listed["sets"]] == ["webface4m", "webface8m", "two"]
    assert listed["sets"][0]["classes"] == 21 and listed["sets"][1]["classes"] == 24
    assert listed["sets"][1]["missing"] == ["1_1", "1_2", "1_3", "1_4", "1_5", "1_6"]
    assert facepack.open(webface, shards="webface4m").classes == 21
    (webface / "sets.json").write_text('{"old": ["train"]}')
    assert "cannot be used: no shard is called 'train'" in run(webface)
    run(webface, "--remove", "old")
    assert "old" not in run(webface)


def test_the_command_s_usage(webface: Path) -> None:
    for arguments in (["--add", "x"], ["0_0"]):
        result = CliRunner().invoke(command, [str(webface), *arguments])
        assert result.exit_code == 2 and "PATTERN" in result.output


# PACK:SET ----------------------------------------------------------------------------------------


@pytest.fixture
def named(path: Path) -> str:
    """``PACK:SET`` of shards 1 and 2."""
    with facepack.open(path) as pack:
        add_set(path, pack.shard_names, "part", ["shard-00[12]"])
    return f"{path}:part"


def test_a_set_is_opened_by_its_name_behind_the_pack(path: Path, named: str) -> None:
    with facepack.open(named) as part, facepack.open(path, shards="part") as twin:
        assert part.shard_names == twin.shard_names == ["shard-001", "shard-002"]
        assert part[:] == twin[:] and part.content_id == twin.content_id


def test_a_folder_with_a_colon_in_its_name_is_itself(path: Path) -> None:
    odd = path.with_name("pack:part")
    path.rename(odd)
    assert len(facepack.open(odd)) == 60


@pytest.mark.parametrize(
    "words", [["inspect"], ["get", "3", "--info"], ["sheet", "OUT.png"], ["report", "OUT.html"]]
)
def test_commands_that_read_take_a_set(named: str, tmp_path: Path, words: list[str]) -> None:
    words = [str(tmp_path / word) if word.startswith("OUT") else word for word in words]
    result = CliRunner().invoke(root, [words[0], named, *words[1:]])
    assert result.exit_code == 0, result.output
    if words[0] == "inspect":
        assert "shard-001" in result.stdout and "shard-003" not in result.stdout


def test_verifying_a_set_looks_at_its_shards_alone(path: Path, named: str) -> None:
    for name in ("shard-003", "shard-002"):
        data = bytearray((path / f"{name}.mdb").read_bytes())
        data[len(data) // 2] ^= 1
        (path / f"{name}.mdb").write_bytes(data)
        report = verify(Path(named))
        assert report.records == 20
        assert bool(report.damage) == (name == "shard-002")
    assert {damage.shard for damage in report.damage} == {"shard-002"}


@pytest.mark.parametrize(
    "words", [["merge", "SET", "PACK", "OUT"], ["append", "SET", "PACK", "--source", "lmdb"]]
)
def test_commands_on_whole_packs_say_how_a_set_becomes_one(
    path: Path, named: str, tmp_path: Path, words: list[str]
) -> None:
    meant = {"SET": named, "PACK": str(path), "OUT": str(tmp_path / "out")}
    result = CliRunner().invoke(root, [meant.get(word, word) for word in words])
    assert result.exit_code == 1 and f"facepack lmdb2lmdb {named} OUT" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_mistyped_set_is_answered_with_the_nearest(path: Path, named: str) -> None:
    with pytest.raises(PackError, match=r"no shard set 'prat' .did you mean part"):
        facepack.open(f"{path}:prat")


def test_a_lost_manifest_and_damage_name_the_command_that_helps(path: Path) -> None:
    data = bytearray((path / "shard-003.mdb").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "shard-003.mdb").write_bytes(data)
    result = CliRunner().invoke(root, ["verify", str(path)])
    assert result.exit_code == 3 and f"facepack salvage {path} OUT" in result.stderr
    (path / "pack.json").unlink()
    with pytest.raises(PackError, match=f"facepack reindex {path}"):
        facepack.open(path)
    (path / "plan.json").unlink()
    with pytest.raises(PackError, match=f"facepack reindex {path}"):
        facepack.open(path)
