"""Packs joined: shards untouched, labels mapped, everything checked and rebuilt as for any pack."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from xxhash import xxh3_128_hexdigest

import facepack
from facepack.care import merge as machinery
from facepack.care.merge import merge
from facepack.care.reindex import reindex
from facepack.care.verify import verify
from facepack.convert.commands.merge import merge as command
from facepack.convert.formats.pack.append import append
from facepack.convert.formats.pack.sink import PackOptions
from facepack.convert.formats.pack.source import PackSource
from facepack.errors import ConfigError, DamageError, PackError
from facepack.store import format as fmt
from facepack.store.labelmap import (
    LabelNames,
    apply_label_map,
    label_map_bytes,
    map_names,
    read_label_map,
)

MakeJpeg = Callable[..., bytes]
Make = Callable[..., Path]

LINKS = pytest.mark.skipif(not hasattr(os, "link"), reason="this system has no links")


@pytest.fixture
def make(tmp_path: Path, make_jpeg: MakeJpeg) -> Make:
    """``make(name, identities, named=True, **PackWriter options)``: five images of each identity.

    ``None`` among the identities is a class without name, with images; "-" one without images.
    """

    def build(name: str, identities: list[str | None], **options: object) -> Path:
        options = {"shard_records": 7, "classes": len(identities), **options}
        seed = sum(name.encode()) * 1000
        with facepack.PackWriter(tmp_path / name, **options) as writer:
            for label, identity in enumerate(identities):
                for i in range(0 if identity == "-" else 5):
                    image = make_jpeg(seed + 5 * label + i)
                    writer.add(image, label, f"{name}/{label}/{i}", identity)
            writer.add(make_jpeg(seed + 900), -1)
        return tmp_path / name

    return build


def by_name(path: Path) -> dict[bytes, tuple[int, str | None, str | None]]:
    """Of each image its label, its identity's name and its own."""
    with facepack.open(path) as pack:
        names = pack.identity_names or []
        return {
            record.image: (
                record.label,
                (names[record.label] or None) if 0 <= record.label < len(names) else None,
                pack.source_name(i),
            )
            for i, record in enumerate(pack)
        }


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_labels_of_each_pack_follow_those_of_the_last(make: Make, tmp_path: Path) -> None:
    one, two = make("one", ["ann", "bob"]), make("two", ["bob", "cy", "-"])
    three = make("three", [None, None])
    out = tmp_path / "all"
    manifest = merge([one, two, three], out)
    assert manifest["classes"] == 7 and manifest["identities"] == 6
    assert manifest["records"] == 11 + 11 + 11 and manifest["kind"] == "train"
    expected = {}  # the twin: labels of the k-th pack + the classes before it
    for path, offset in ((one, 0), (two, 2), (three, 5)):
        for image, (label, identity, name) in by_name(path).items():
            expected[image] = (label + offset if label >= 0 else -1, identity, name)
    assert by_name(out) == expected
    assert facepack.open(out).identity_names == ["ann", "bob", "bob", "cy", "", "", ""]
    assert not verify(out, decode=True).damage


def test_identities_of_one_name_share_a_label(make: Make, tmp_path: Path) -> None:
    packs = [
        make("one", ["ann", "bob", None]),
        make("two", ["bob", "cy", "ann", None]),
        make("three", ["dora", "cy"]),
    ]
    out = tmp_path / "all"
    manifest = merge(packs, out, by_name=True)
    # The unnamed of two packs are different people; new labels come in the order of the packs'.
    assert facepack.open(out).identity_names == ["ann", "bob", "", "cy", "", "dora"]
    assert manifest["classes"] == manifest["identities"] == 6
    found = by_name(out)
    for k, path in enumerate(packs):
        for image, (label, identity, name) in by_name(path).items():
            assert found[image][1:] == (identity, name)
            if identity is None and label >= 0:
                assert found[image][0] == (2, 4)[k]
    assert not verify(out).damage
    maps = sorted(name for name in manifest["files"] if fmt.is_label_map(name))
    assert maps == ["labels-000.npy", "labels-001.npy"]
    assert np.load(out / "labels-000.npy").tolist() == [1, 3, 0, 4]
    assert np.load(out / "labels-001.npy").tolist() == [5, 3]
    with pytest.raises(PackError, match=r"has no table 'labels-000'; it has \[\]"):
        facepack.open(out).table("labels-000")


@LINKS
def test_shards_are_links_and_never_rewritten(make: Make, tmp_path: Path) -> None:
    one, two = make("one", ["ann"]), make("two", ["bob"])
    before = files(one) | {f"two/{name}": data for name, data in files(two).items()}
    out, copied = tmp_path / "all", tmp_path / "copied"
    manifest = merge([one, two], out)
    assert merge([one, two], copied, copy=True) == manifest
    assert files(out) == files(copied)
    for k, shard in enumerate(manifest["shards"]):
        pack = (one, two)[k >= len(facepack.open(one).shard_names)]
        source = pack / f"{shard['own_name']}.mdb"
        assert shard["name"] == f"{pack.name}-{shard['own_name']}"
        assert (out / f"{shard['name']}.mdb").samefile(source)
        assert not (copied / f"{shard['name']}.mdb").samefile(source)
        assert shard["pack_id"] == facepack.open(pack).pack_id
        assert shard["label_map"] == (None, "labels-000.npy")[k >= 1]
    assert before == files(one) | {f"two/{name}": data for name, data in files(two).items()}
    shutil.rmtree(one)
    shutil.rmtree(two)
    assert not verify(out).damage  # what is linked stays


def test_copies_where_links_cannot_be(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make("one", ["ann"]), make("two", ["bob"])

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse, raising=False)
        merge([one, two], tmp_path / "all")
    assert not (tmp_path / "all" / "one-shard-000.mdb").samefile(one / "shard-000.mdb")
    assert not verify(tmp_path / "all").damage
    shard = two / "shard-000.mdb"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamageError, match=r"shard-000\.mdb differs from what its manifest states"):
        merge([one, two], tmp_path / "other", copy=True)
    assert not (tmp_path / "other" / "two-shard-000.mdb").exists()


@LINKS
def test_shards_that_are_symbolic_links_are_followed(make: Make, tmp_path: Path) -> None:
    one, two = make("one", ["ann"]), make("two", ["bob"])
    shard = one / "shard-000.mdb"
    shard.rename(tmp_path / "elsewhere.mdb")
    shard.symlink_to("../elsewhere.mdb")
    out = tmp_path / "deep" / "er" / "all"
    merge([one, two], out)
    assert not (out / "one-shard-000.mdb").is_symlink()
    assert (out / "one-shard-000.mdb").samefile(shard)
    assert not verify(out).damage


def test_copies_are_asked_for_when_links_are_there(make: Make, tmp_path: Path) -> None:
    one, two, out = make("one", ["ann"]), make("two", ["bob"]), tmp_path / "all"
    merge([one, two], out)
    whole = files(out)
    (out / "pack.json").unlink()
    merge([one, two], out, copy=True, resume=True)
    assert files(out) == whole
    assert not (out / "one-shard-000.mdb").samefile(one / "shard-000.mdb")


def test_what_does_not_fit_replaces_nothing(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, out = make("one", ["ann"]), make("two", ["bob"]), tmp_path / "all"
    merge([one, two], out)
    whole = files(out)
    usage = type(shutil.disk_usage(out))(1000, 1000, 0)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(PackError, match=r"MB are needed and .* are free"):
            merge([one, two, make("three", ["cy", "di", "ed"])], out, copy=True, overwrite=True)
    assert files(out) == whole


def test_names_stay_where_they_do_not_collide(make: Make, tmp_path: Path) -> None:
    one, two = make("one", ["ann"], stem="a"), make("two", ["bob"], stem="b")
    merge([one, two], tmp_path / "all")
    assert facepack.open(tmp_path / "all").shard_names == ["a-000", "b-000"]
    three = make("three", ["cy", "dora"], stem="b")  # has b-000 and b-001
    merge([one, two, three], tmp_path / "more")
    names = ["a-000", "two-b-000", "three-b-000", "three-b-001"]
    assert facepack.open(tmp_path / "more").shard_names == names


def test_packs_in_folders_of_one_name(make: Make, tmp_path: Path) -> None:
    one = make("one", ["ann"])
    two = make("two", ["bob"])
    (tmp_path / "x").mkdir()
    two = two.rename(tmp_path / "x" / "one")
    merge([one, two], tmp_path / "all")
    assert facepack.open(tmp_path / "all").shard_names == ["one-1-shard-000", "one-2-shard-000"]


def test_a_merged_pack_is_merged_again(make: Make, tmp_path: Path) -> None:
    one, two, three = make("one", ["ann"]), make("two", ["bob", "cy"]), make("three", ["ann"])
    merge([one, two], tmp_path / "pair")
    merge([three, tmp_path / "pair"], tmp_path / "all")
    at_once = tmp_path / "at-once"
    merge([three, one, two], at_once)
    assert by_name(tmp_path / "all") == by_name(at_once)
    assert not verify(tmp_path / "all").damage
    merge([three, tmp_path / "pair"], tmp_path / "named", by_name=True)
    assert facepack.open(tmp_path / "named").identity_names == ["ann", "bob", "cy"]
    assert not verify(tmp_path / "named").damage
    before = files(tmp_path / "named")
    reindex(tmp_path / "named")
    assert files(tmp_path / "named") == before


def test_quarantines_are_joined(make: Make, tmp_path: Path) -> None:
    one, two = make("one", ["ann"]), make("two", ["bob"])
    line = {"file": "x.rec", "ordinal": 3, "reason": "it is torn"}
    data = (json.dumps(line, sort_keys=True) + "\n").encode()
    (two / fmt.QUARANTINE).write_bytes(data)
    manifest = json.loads((two / "pack.json").read_text())
    stated = {"bytes": len(data), "xxh3_128": fmt.xxhash.xxh3_128_hexdigest(data)}
    manifest["files"][fmt.QUARANTINE] = stated
    (two / "pack.json").write_text(json.dumps(manifest))
    assert merge([one, two], tmp_path / "all")["quarantined"] == 1
    assert (tmp_path / "all" / fmt.QUARANTINE).read_bytes() == data


def test_what_cannot_be_merged(
    make: Make, tmp_path: Path, make_jpeg: MakeJpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make("one", ["ann", "ann"]), make("two", ["bob"])
    out = tmp_path / "all"
    with pytest.raises(ConfigError, match="at least two packs are needed"):
        merge([one], out)
    for target in (one, tmp_path / "x" / ".." / "two"):
        with pytest.raises(PackError, match="is one of the packs that are merged"):
            merge([one, two], target, overwrite=True)
    with pytest.raises(PackError, match=r"and .*shard-000\.mdb are the same shard"):
        merge([one, two, one], out)
    with pytest.raises(PackError, match="one: two identities are called 'ann', labels 0 and 1"):
        merge([one, two], out, by_name=True)
    unnamed = make("unnamed", [None])
    with pytest.raises(PackError, match=r"unnamed has no labels\.txt: its identities have no nam"):
        merge([two, unnamed], out, by_name=True)
    with facepack.PackWriter(tmp_path / "pairs", order="source") as writer:
        writer.add_table("pairs", np.array([[0, 0, 1]]))
        writer.add(make_jpeg(0), -1)
    with pytest.raises(PackError, match=r"pairs is an evaluation set \(kind 'pairs'\): its tables"):
        merge([two, tmp_path / "pairs"], out)
    with pytest.raises(PackError, match="nothing is not a pack"):
        merge([two, tmp_path / "nothing"], out)
    assert not out.exists()
    (two / "shard-000.kv").write_bytes(b"0000000000 00000001\n" * 6)
    with pytest.raises(DamageError, match=r"shard-000\.kv differs from what the manifest states"):
        merge([unnamed, two], out)
    monkeypatch.setattr(fmt, "MAX_LABEL", 1)
    with pytest.raises(PackError, match="3 classes in all: a pack has at most 2"):
        merge([one, make("three", ["cy"])], out)


def test_a_label_that_the_map_lacks_is_damage(make: Make, tmp_path: Path) -> None:
    merge([make("one", ["ann"]), make("two", ["bob", "cy"])], tmp_path / "all")
    short = label_map_bytes(np.array([1]))
    (tmp_path / "all" / "labels-000.npy").write_bytes(short)
    found = verify(tmp_path / "all").damage
    assert any("label 1 lies beyond a label map of 1 labels" in str(d) for d in found)
    assert any("labels-000.npy: the file differs" in str(d) for d in found)


def test_an_index_that_does_not_follow_the_map_is_damage(make: Make, tmp_path: Path) -> None:
    out = tmp_path / "all"
    merge([make("one", ["ann"]), make("two", ["bob", "cy"])], out)
    unmapped = (tmp_path / "two" / "shard-000.kv").read_bytes()
    (out / "two-shard-000.kv").write_bytes(unmapped)
    assert any("label 0, the shard 1" in str(damage) for damage in verify(out).damage)
    manifest = json.loads((out / "pack.json").read_text())
    for label_map in ("labels-001.npy", "../x", 3):
        manifest["shards"][1]["label_map"] = label_map
        (out / "pack.json").write_text(json.dumps(manifest))
        with pytest.raises(DamageError, match="'label_map' is"):
            facepack.open(out)


# Rebuilding --------------------------------------------------------------------------------------


def test_a_merged_pack_is_rebuilt_from_shards_plan_and_maps(make: Make, tmp_path: Path) -> None:
    out = tmp_path / "all"
    merge([make("one", ["ann", None]), make("two", ["bob", "cy", "ann"])], out, by_name=True)
    before = files(out)
    for name in ["pack.json", "labels.txt", *(f for f in before if f.endswith(".kv"))]:
        (out / name).unlink()
    reindex(out)
    assert files(out) == before


def test_a_merged_pack_is_not_rebuilt_without_plan_or_maps(make: Make, tmp_path: Path) -> None:
    out = tmp_path / "all"
    merge([make("one", ["ann"]), make("two", ["bob", "cy"])], out)
    before = files(out)
    for name, text in (
        ("plan.json", r"holds shards of 2 packs .* copy back the plan\.json that they had"),
        ("labels-000.npy", r"the label map labels-000\.npy cannot be read .* merge again"),
        ("two-shard-001.mdb", r"1 of 3 shards are missing \(two-shard-001\.mdb first\)"),
    ):
        (out / name).unlink()
        with pytest.raises(DamageError, match=text):
            reindex(out)
        (out / name).write_bytes(before[name])
    (out / "labels-000.npy").write_bytes(label_map_bytes(np.array([2, 1])))
    with pytest.raises(DamageError, match=r"differs from what plan\.json states"):
        reindex(out)
    (out / "labels-000.npy").write_bytes(before["labels-000.npy"])
    (out / "one-shard-000.mdb").write_bytes(before["two-shard-000.mdb"])
    with pytest.raises(DamageError, match=r"one-shard-000\.mdb should be shard shard-000 \(number"):
        reindex(out)
    (out / "one-shard-000.mdb").write_bytes(before["one-shard-000.mdb"])
    (out / "stranger.mdb").write_bytes(before["one-shard-000.mdb"])
    with pytest.raises(DamageError, match=r"stranger\.mdb .*: move"):
        reindex(out)
    (out / "stranger.mdb").unlink()
    reindex(out)
    assert files(out) == before
    (out / "two-shard-000.mdb").unlink()
    assert reindex(out, partial=True)["partial"]
    assert not verify(out).damage and len(facepack.open(out)) == 6 + 4


# Interruptions -----------------------------------------------------------------------------------


def test_killed_anywhere_it_resumes_to_the_same_bytes(
    make: Make, tmp_path: Path, killed: Callable[..., None]
) -> None:
    packs = [make("one", ["ann"]), make("two", ["bob", "cy"], shard_records=20)]
    merge(packs, tmp_path / "undisturbed")
    expected = files(tmp_path / "undisturbed")
    finished = 0
    for number in range(100):
        out = tmp_path / f"killed-{number}"
        killed(partial(merge, packs, out), number)
        if (out / "pack.json").exists():
            finished += 1
        else:
            with pytest.raises(PackError, match=r"unfinished|has no pack\.json"):
                facepack.open(out)
        merge(packs, out, resume=True)
        assert files(out) == expected
        if finished == 2:
            break
    assert 10 < number < 99


def test_killed_at_any_time_it_resumes_to_the_same_bytes(
    make: Make, tmp_path: Path, killed: Callable[..., None]
) -> None:
    packs = [make("one", ["ann"]), make("two", ["bob", "cy"])]
    began = time.monotonic()
    merge(packs, tmp_path / "undisturbed")
    seconds = time.monotonic() - began
    expected = files(tmp_path / "undisturbed")
    rng = random.Random(1)
    for number in range(10):
        out = tmp_path / f"killed-{number}"
        killed(partial(merge, packs, out), rng.uniform(0, seconds))
        merge(packs, out, resume=True, copy=bool(number % 2))
        assert files(out) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: plan["shards"][0].pop("label_map"),
        lambda plan: plan["shards"][0].pop("name"),
        lambda plan: plan["shards"][0].pop("own_name"),
        lambda plan: plan["shards"][1].update(label_map="labels-007.npy"),
        lambda plan: plan["shards"].append(5),
        lambda plan: plan.update(label_maps=5),
        lambda plan: plan.update(label_maps={"labels-000.npy": 5}),
        lambda plan: plan.update(tables=[5]),
        lambda plan: plan["source"].update(packs=[5]),
        lambda plan: plan["source"]["packs"][0]["source"].pop("kind"),
    ],
)
def test_a_plan_that_makes_no_sense_is_no_plan(
    make: Make, tmp_path: Path, change: Callable[[dict], object]
) -> None:
    path = tmp_path / "all"
    merge([make("one", ["ann"]), make("two", ["bob"])], path)
    plan = json.loads((path / "plan.json").read_text())
    change(plan)
    data = fmt.json_text(plan).encode()
    (path / "plan.json").write_bytes(data)
    manifest = json.loads((path / "pack.json").read_text())
    manifest["files"]["plan.json"] = {"bytes": len(data), "xxh3_128": xxh3_128_hexdigest(data)}
    (path / "pack.json").write_text(fmt.json_text(manifest))
    with pytest.raises(DamageError, match=r"2 packs .*copy back the plan"):
        reindex(path)
    with pytest.raises(DamageError, match=r"plan\.json: "):
        append(path, PackSource(make("three", ["cy"])), PackOptions())


def test_another_label_map_of_the_same_labels_is_told(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "all"
    merge([make("one", ["ann"]), make("two", ["bob"])], path)
    data = (path / "labels-000.npy").read_bytes().replace(b"'descr': ", b"'descr':\t", 1)
    (path / "labels-000.npy").write_bytes(data)
    manifest = json.loads((path / "pack.json").read_text())
    stated = {"bytes": len(data), "xxh3_128": xxh3_128_hexdigest(data)}
    assert manifest["files"]["labels-000.npy"] != stated
    manifest["files"]["labels-000.npy"] = stated
    (path / "pack.json").write_text(fmt.json_text(manifest))
    assert "labels-000.npy" in {damage.shard for damage in verify(path).damage}


@pytest.mark.parametrize(
    "source", [{}, {"kind": "merge", "packs": [{}]}, {"kind": "a", "packs": 5}]
)
def test_a_manifest_with_an_impossible_source_is_not_merged(
    make: Make, tmp_path: Path, source: dict
) -> None:
    one, two, out = make("one", ["ann"]), make("two", ["bob"]), tmp_path / "all"
    manifest = json.loads((two / "pack.json").read_text())
    (two / "pack.json").write_text(fmt.json_text({**manifest, "source": source}))
    with pytest.raises(DamageError, match=r"two/pack\.json: .* facepack reindex"):
        merge([one, two], out)
    reindex(two)
    merge([one, two], out)
    assert not verify(out).damage


@pytest.mark.parametrize(
    ("field", "value"), [("identities", 7), ("classes", 9), ("source", {}), ("seed", 5)]
)
def test_the_manifest_of_a_merged_pack_is_compared_with_its_shards(
    make: Make, tmp_path: Path, field: str, value: object
) -> None:
    path = tmp_path / "all"
    merge([make("one", ["ann"]), make("two", ["bob"])], path)
    manifest = json.loads((path / "pack.json").read_text())
    (path / "pack.json").write_text(fmt.json_text({**manifest, field: value}))
    (damage,) = verify(path).damage
    assert damage.shard == "pack.json" and repr(field) in damage.reason
    reindex(path)
    assert not verify(path).damage and json.loads((path / "pack.json").read_text()) == manifest


def test_killed_while_it_overwrites_it_overwrites_again(
    make: Make, tmp_path: Path, killed: Callable[..., None]
) -> None:
    one, two, three = make("one", ["ann"]), make("two", ["bob"]), make("three", ["cy"])
    merge([one, two, three], tmp_path / "old")
    merge([three, one], tmp_path / "undisturbed")
    expected = files(tmp_path / "undisturbed")
    for number in range(24):
        out = tmp_path / f"killed-{number}"
        shutil.copytree(tmp_path / "old", out)
        killed(partial(merge, [three, one], out, overwrite=True), number, by="unlink")
        merge([three, one], out, overwrite=True)  # nothing stands in its way
        assert files(out) == expected, number


def test_another_merge_is_not_resumed(make: Make, tmp_path: Path) -> None:
    one, two = make("one", ["ann"]), make("two", ["bob"])
    merge([one, two], tmp_path / "all")
    (tmp_path / "all" / "pack.json").unlink()
    with pytest.raises(PackError, match="was begun under another plan"):
        merge([two, one], tmp_path / "all", resume=True)
    with pytest.raises(PackError, match="--overwrite replaces it; --resume completes it"):
        merge([one, two], tmp_path / "all")
    merge([two, one], tmp_path / "all", overwrite=True)
    assert facepack.open(tmp_path / "all").identity_names == ["bob", "ann"]


def test_the_command(make: Make, tmp_path: Path) -> None:
    packs = [str(make("one", ["ann"])), str(make("two", ["ann"]))]
    arguments = [*packs, str(tmp_path / "all"), "--by-name"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.output == f"{tmp_path / 'all'}: 12 records, 1 identity of 1 class, 2 shards\n"
    result = CliRunner().invoke(command, [*arguments, "--resume", "--json"])
    assert json.loads(result.stdout)["classes"] == 1


# Label maps --------------------------------------------------------------------------------------


def test_label_maps() -> None:
    label_map = np.array([5, 0, 7])
    labels = np.array([2, -1, 0, 0, 1])
    expected = [label_map[label] if label >= 0 else -1 for label in labels.tolist()]
    assert apply_label_map(label_map, labels).tolist() == expected
    assert apply_label_map(label_map, labels).dtype == np.int64
    assert apply_label_map(None, labels) is labels
    assert apply_label_map(np.zeros(0, np.int32), np.array([-1])).tolist() == [-1]
    with pytest.raises(DamageError, match="label 3 lies beyond a label map of 3 labels"):
        apply_label_map(label_map, np.array([3]))
    assert map_names(label_map, {2: "cy", 0: "ann"}) == {7: "cy", 5: "ann"}
    assert map_names(label_map, {}) == {} and map_names(None, {1: "x"}) == {1: "x"}
    assert read_label_map(label_map_bytes(label_map), "x").tolist() == [5, 0, 7]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no array",
        label_map_bytes(np.array([0]))[:-1],
        label_map_bytes(np.array([[0]])),
        label_map_bytes(np.array([-2])),
        label_map_bytes(np.array([100_000_000])),
        label_map_bytes(np.array([0])).replace(b"(1,)", b"(9999999999999,)"),
        label_map_bytes(np.array([0])).replace(b"<i4", b"<f4"),
    ],
)
def test_what_is_no_label_map(data: bytes) -> None:
    with pytest.raises(DamageError, match=r"^x: "):
        read_label_map(data, "x")


def test_names_that_tell_labels() -> None:
    names = LabelNames(["ann", "", "bob", "bob"])
    assert names.label("ann") == 0 and names.label("cy") is None and names.label("") is None
    with pytest.raises(
        PackError, match="two identities are called 'bob', labels 2 and 3: the name"
    ):
        names.label("bob")


def test_prefixes_are_fit_for_files() -> None:
    paths = [Path("/a/my pack"), Path("/b/.hidden"), Path("/c/my pack"), Path("/")]
    assert machinery._prefixes(paths) == ["my_pack-1", "hidden", "my_pack-2", "pack"]
