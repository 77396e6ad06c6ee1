"""Packs that grow: labels, names of shards, what a killed process leaves, what is deleted."""

from __future__ import annotations

import json
import random
import re
import shutil
import struct
import time
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import facepack
from facepack.care.merge import merge
from facepack.care.reindex import reindex
from facepack.care.verify import verify
from facepack.cli import root
from facepack.convert.formats.pack.append import append, separate_sources
from facepack.convert.formats.pack.delete_source import delete_source, source_files
from facepack.convert.formats.pack.relabel import Relabelled
from facepack.convert.formats.pack.sink import PackOptions, convert_to_pack
from facepack.convert.formats.rec.source import RecSource
from facepack.convert.formats.zip.source import ZipSource
from facepack.convert.source import Refusal
from facepack.errors import ConfigError, DamageError, PackError
from facepack.store import pack as pack_module
from facepack.store.checks import ImageCheck
from facepack.store.labelmap import LabelNames
from facepack.store.record import SourceRecord
from facepack.store.target import Target

MakeJpeg = Callable[..., bytes]
MakeRec = Callable[..., Path]
MakeZip = Callable[..., Path]
SMALL = PackOptions(shard_records=4)
RESUME = PackOptions(shard_records=4, resume=True)


@pytest.fixture
def make_zip(tmp_path: Path, make_jpeg: MakeJpeg) -> MakeZip:
    """``make_zip("0_0", {"ann": 3, …}, first=0)``: a zip of so many images of each identity."""

    def make(name: str, identities: Mapping[str, int], first: int = 0, bad: int = 0) -> Path:
        path = tmp_path / "zips" / f"{name}.zip"
        path.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(path, "w") as file:
            number = first
            for identity, count in identities.items():
                for _ in range(count):
                    file.writestr(f"faces/{identity}/{number}.jpg", make_jpeg(number))
                    number += 1
            for number in range(bad):
                file.writestr(f"faces/{identity}/bad-{number}.jpg", b"no image")
        return path

    return make


@pytest.fixture
def zips(make_zip: MakeZip) -> list[Path]:
    """Three zips, of which the last two share people with the first."""
    return [
        make_zip("0_0", {"ann": 3, "cy": 4}, 0),
        make_zip("0_1", {"ann": 2, "bob": 3, "dora": 3}, 100),
        make_zip("1_0", {"cy": 1, "bob": 2, "eve": 2, "adam": 1}, 200),
    ]


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def people(path: Path) -> dict[bytes, str]:
    """The identity's name of each image."""
    with facepack.open(path) as pack:
        names = pack.identity_names
        assert names is not None
        return {record.image: names[record.label] for record in pack}


def grow(path: Path, zips: list[Path], options: PackOptions = SMALL) -> None:
    convert_to_pack(ZipSource(zips[:1]), path, options)
    for zip_ in zips[1:]:
        append(path, ZipSource([zip_]), options)


def test_identities_keep_their_labels_and_new_ones_follow(zips: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "pack"
    convert_to_pack(ZipSource(zips[:1]), path, SMALL)
    assert facepack.open(path).identity_names == ["ann", "cy"]
    before = files(path)
    result = append(path, ZipSource(zips[1:2]), SMALL)
    assert (result.found, result.packed, result.quarantined, result.shards) == (8, 8, 0, 2)
    assert (result.identities, result.classes) == (4, 4)
    assert facepack.open(path).identity_names == ["ann", "cy", "bob", "dora"]
    append(path, ZipSource(zips[2:]), SMALL)
    assert facepack.open(path).identity_names == ["ann", "cy", "bob", "dora", "adam", "eve"]
    assert facepack.open(path).shard_names[2:] == ["0_1-000", "0_1-001", "1_0-000", "1_0-001"]
    assert not verify(path, decode=True).damage
    now = files(path)
    assert all(
        now[name] == data
        for name, data in before.items()
        if "json" not in name and name != "labels.txt"
    )
    # The twin: a pack of all zips at once holds the same people, under other numbers.
    convert_to_pack(ZipSource(zips), tmp_path / "whole", SMALL)
    assert people(path) == people(tmp_path / "whole")
    assert sorted(facepack.open(path, shards="webface4m").identity_names or []) == [
        "ann",
        "bob",
        "cy",
        "dora",
    ]


def test_zips_of_webface_grow_to_the_labels_of_the_whole(make_zip: MakeZip, tmp_path: Path) -> None:
    zips = [
        make_zip(f"{d}_{k}", {f"{d}_{k}_{i:07d}": 2 for i in range(3)}, 100 * d + 10 * k)
        for d in range(2)
        for k in range(2)
    ]
    options = PackOptions(shard_records=4, order="source")  # chance goes by the place in the source
    grow(tmp_path / "grown", zips, options)
    convert_to_pack(ZipSource(zips), tmp_path / "whole", options)
    for name in ("labels.txt", *(f"{zip_.stem}-000.kv" for zip_ in zips)):
        assert (tmp_path / "grown" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    first = facepack.open(tmp_path / "grown", shards=["0_*"])
    assert first.classes == first.identities == 6


def test_sources_without_names_are_all_new(make_rec: MakeRec, tmp_path: Path) -> None:
    path = tmp_path / "pack"
    convert_to_pack(RecSource(make_rec(10)), path, SMALL)
    append(path, RecSource(make_rec(15, "two", vector=True)), SMALL)
    pack = facepack.open(path)
    assert pack.classes == 5 and np.bincount(pack.labels).tolist() == [5] * 5
    # The names collide, so the new ones say that they are new; and so once more.
    assert pack.shard_names[3:] == [f"append1-train-00{k}" for k in range(4)]
    append(path, RecSource(make_rec(5, "three", bad={1: b"torn"})), SMALL)
    assert facepack.open(path).shard_names[7:] == [f"append2-train-00{k}" for k in range(2)]
    assert not verify(path).damage
    assert facepack.open(path).manifest["quarantined"] == 1


def test_names_come_to_a_pack_that_had_none(
    make_rec: MakeRec, zips: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "pack"
    convert_to_pack(RecSource(make_rec(10)), path, SMALL)
    append(path, ZipSource(zips[:1]), SMALL)
    assert facepack.open(path).identity_names == ["", "", "ann", "cy"]
    assert not verify(path).damage


def test_a_source_is_appended_once(zips: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "pack"
    grow(path, zips[:2])
    before = files(path)
    for zip_ in zips[:2]:
        with pytest.raises(PackError, match=r"already has this source \(shards: 2\)"):
            append(path, ZipSource([zip_]), SMALL)
        again = append(path, ZipSource([zip_]), RESUME)
        assert again.packed in (7, 8)
        assert "the figures are those of the run that appended it" in again.notices[-1]
    assert files(path) == before


def test_what_does_not_grow(
    zips: list[Path], make_rec: MakeRec, make_jpeg: MakeJpeg, tmp_path: Path
) -> None:
    path = tmp_path / "pack"
    source = ZipSource(zips[1:2])
    with pytest.raises(PackError, match="pack is not a pack"):
        append(path, source, SMALL)
    assert not path.exists()
    with facepack.PackWriter(path, order="source") as writer:
        writer.add_table("pairs", np.array([[0, 0, 1]]))
        writer.add(make_jpeg(0), -1)
    with pytest.raises(PackError, match=r"is an evaluation set \(kind 'pairs'\): its tables point"):
        append(path, source, SMALL)
    shutil.rmtree(path)
    convert_to_pack(ZipSource(zips[:1]), path, SMALL)
    source.content = "pairs"
    with pytest.raises(PackError, match="kind 'zip' that holds 'pairs' is not a training set"):
        append(path, source, SMALL)
    source.content = "train"
    (path / "0_1-000.mdb").write_bytes(b"")
    with pytest.raises(PackError, match=r"0_1-000\.mdb is in the way"):
        append(path, source, SMALL)
    (path / "0_1-000.mdb").unlink()
    (path / "0_0-000.mdb").unlink()
    reindex(path, partial=True)
    with pytest.raises(PackError, match=r"lacks shards that it had \(partial\)"):
        append(path, source, SMALL)


def test_names_that_do_not_tell_who_is_meant(
    zips: list[Path], make_zip: MakeZip, tmp_path: Path
) -> None:
    packs = [tmp_path / zip_.stem for zip_ in zips[:2]]
    for pack, zip_ in zip(packs, zips, strict=False):
        convert_to_pack(ZipSource([zip_]), pack, SMALL)
    merge(packs, tmp_path / "all")  # two people called ann
    with pytest.raises(
        PackError, match=r"two identities are called 'ann', labels 0 and 2: .*merge"
    ):
        append(tmp_path / "all", ZipSource([make_zip("2_0", {"ann": 2}, 300)]), SMALL)
    append(tmp_path / "all", ZipSource(zips[2:]), SMALL)  # no ann in it
    assert not verify(tmp_path / "all").damage


def test_a_damaged_pack_does_not_grow(zips: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "pack"
    convert_to_pack(ZipSource(zips[:1]), path, SMALL)
    text = (path / "labels.txt").read_bytes()
    (path / "labels.txt").write_bytes(text.replace(b"ann", b"anna")[: len(text)])
    with pytest.raises(DamageError, match=r"labels\.txt differs from what the manifest states"):
        append(path, ZipSource(zips[1:2]), SMALL)


def test_merged_packs_grow_and_grown_packs_merge(
    zips: list[Path], make_zip: MakeZip, tmp_path: Path
) -> None:
    grow(tmp_path / "grown", zips[:2])
    convert_to_pack(ZipSource(zips[2:]), tmp_path / "other", SMALL)
    path = tmp_path / "all"
    merge([tmp_path / "other", tmp_path / "grown"], path, by_name=True)
    assert people(path) == people(tmp_path / "grown") | people(tmp_path / "other")
    more = make_zip("more", {"ann": 2, "bob": 3, "dora": 3}, 300)
    append(path, ZipSource([more]), SMALL)
    assert facepack.open(path).identity_names == ["adam", "bob", "cy", "eve", "ann", "dora"]
    assert not verify(path).damage
    before = files(path)
    reindex(path)
    assert files(path) == before


def test_a_streamed_pack_grows(zips: list[Path], make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    path = tmp_path / "pack"
    with facepack.PackWriter(path, shard_records=4) as writer:
        for i in range(9):
            writer.add(make_jpeg(500 + i), i % 2, identity=("ann", "zoe")[i % 2])
    for zip_ in zips:
        append(path, ZipSource([zip_]), SMALL)
    assert facepack.open(path).identity_names == ["ann", "zoe", "cy", "bob", "dora", "adam", "eve"]
    assert not verify(path).damage
    before = files(path)
    (path / "pack.json").unlink()
    reindex(path)
    assert files(path) == before
    (path / "plan.json").unlink()
    reindex(path)
    assert files(path) == before


def test_a_grown_pack_is_rebuilt_from_its_shards_alone(zips: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "pack"
    grow(path, zips)
    before = files(path)
    for file in list(path.iterdir()):
        if file.suffix != ".mdb":
            file.unlink()
    reindex(path)
    assert files(path) == before
    (path / "0_1-000.mdb").unlink()
    with pytest.raises(DamageError, match=r"1 of 6 shards are missing \(0_1-000\.mdb first\)"):
        reindex(path)
    reindex(path, partial=True)
    assert not verify(path).damage and facepack.open(path).manifest["partial"]


# Interruptions -----------------------------------------------------------------------------------


def check_old_or_new(path: Path, old: dict[bytes, str], new: dict[bytes, str]) -> bool:
    """Whether the pack is the new one; it must be all of one of the two."""
    found = people(path)
    assert found in (old, new)
    assert not verify(path).damage
    return found == new


def test_killed_anywhere_it_is_old_or_new_and_resumes_to_the_same_bytes(
    zips: list[Path], tmp_path: Path, killed: Callable[..., None]
) -> None:
    base = tmp_path / "base"
    options = PackOptions(shard_records=8)
    convert_to_pack(ZipSource(zips[:1]), base, options)
    source = ZipSource(zips[1:2])
    shutil.copytree(base, tmp_path / "undisturbed")
    append(tmp_path / "undisturbed", source, options)
    expected, old, new = (
        files(tmp_path / "undisturbed"),
        people(base),
        people(tmp_path / "undisturbed"),
    )
    moments = grown = 0
    while grown < 12:  # the manifest, three names behind it, and what comes after those
        path = tmp_path / f"killed-{moments}"
        shutil.copytree(base, path)
        killed(partial(append, path, source, options), moments)
        is_new = check_old_or_new(path, old, new)
        assert is_new or not grown
        grown += is_new
        if moments % 3 == 0 and (path / "pack.json").exists():
            reindex(path)  # leaves what is not the pack's alone
            assert check_old_or_new(path, old, new) == is_new
        append(path, source, PackOptions(shard_records=8, resume=True))
        assert files(path) == expected
        moments += 1
    assert moments > 20


def test_opening_a_pack_that_grows_meanwhile(
    zips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pack"
    convert_to_pack(ZipSource(zips[:1]), path, SMALL)
    check_sizes = pack_module.check_sizes

    def grow_first(*arguments: Any) -> None:
        monkeypatch.undo()
        append(path, ZipSource(zips[1:2]), SMALL)
        check_sizes(*arguments)

    early = facepack.open(path)
    monkeypatch.setattr(pack_module, "check_sizes", grow_first)
    assert len(facepack.open(path)) == 7 + 8
    assert len(early[:]) == 7 and early.identity_names == ["ann", "cy"]  # still what it was


def test_killed_at_any_time_it_resumes_to_the_same_bytes(
    make_rec: MakeRec, tmp_path: Path, killed: Callable[..., None]
) -> None:
    base = tmp_path / "base"
    convert_to_pack(RecSource(make_rec(5)), base, SMALL)
    source = RecSource(make_rec(60, "two"))
    options = PackOptions(shard_records=10)
    shutil.copytree(base, tmp_path / "undisturbed")
    began = time.monotonic()
    append(tmp_path / "undisturbed", source, options)
    seconds = time.monotonic() - began
    expected = files(tmp_path / "undisturbed")
    rng = random.Random(1)
    for number in range(10):
        path = tmp_path / f"killed-{number}"
        shutil.copytree(base, path)
        killed(partial(append, path, source, options), rng.uniform(0, seconds))
        assert len(facepack.open(path)) in (5, 65)
        append(path, source, PackOptions(shard_records=10, resume=True))
        assert files(path) == expected


def test_an_unfinished_append_is_resumed_or_discarded_and_no_other(
    zips: list[Path], tmp_path: Path, killed: Callable[..., None]
) -> None:
    path = tmp_path / "pack"
    convert_to_pack(ZipSource(zips[:1]), path, SMALL)
    before = files(path)
    source = ZipSource(zips[1:2])
    killed(partial(append, path, source, SMALL), 8)
    assert (path / "append.json").exists() and (path / "0_1-000.mdb").exists()
    with pytest.raises(PackError, match="holds an unfinished append: --resume completes it, --dis"):
        append(path, source, SMALL)
    for other, options in (
        (ZipSource(zips[2:]), RESUME),
        (source, PackOptions(shard_records=5, resume=True)),
    ):
        with pytest.raises(
            PackError, match=r"unfinished append under another plan \(.*shards.* differ\): resume"
        ):
            append(path, other, options)
    append(path, ZipSource(zips[2:]), SMALL, discard=True)
    assert facepack.open(path).shard_names == ["0_0-000", "0_0-001", "1_0-000", "1_0-001"]
    assert not [name for name in files(path) if name.startswith(("0_1", "append"))]
    killed(partial(append, path, source, SMALL), 8)
    convert_to_pack(ZipSource(zips[:1]), path, PackOptions(shard_records=4, overwrite=True))
    assert files(path) == before


def test_what_does_not_fit_is_not_begun(
    zips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pack"
    convert_to_pack(ZipSource(zips[:1]), path, SMALL)
    before, usage = files(path), type(shutil.disk_usage(path))(1000, 1000, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(PackError, match=r"are needed and 0\.0 MB are free"):
        append(path, ZipSource(zips[1:2]), SMALL)
    assert files(path) == before


def test_what_is_no_plan_of_an_append_costs_no_shard(zips: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "pack"
    convert_to_pack(ZipSource(zips[:1]), path, SMALL)
    before, source = files(path), ZipSource(zips[1:2])
    for text, message in (
        ('{"shards": [{"name": "0_0-000"}]}', "0_0-000 is being appended, which is a shard of"),
        ('{"shards": [{"name": "../pack/0_0-000"}]}', "append.json: not a plan"),
        ('{"plan": 1}', "append.json: not a plan"),
        ("[1]", "append.json: not a plan"),
    ):
        (path / "append.json").write_text(text)
        with pytest.raises(DamageError, match=f"{message}.*remove it"):
            append(path, source, SMALL, discard=True)
        (path / "append.json").unlink()
        assert files(path) == before


def test_a_list_of_duplicates_goes_with_what_it_was_of(zips: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "pack"
    convert_to_pack(ZipSource(zips[:1]), path, SMALL)
    (path / "duplicates.jsonl").write_text("{}\n")
    append(path, ZipSource(zips[1:2]), SMALL)
    assert not (path / "duplicates.jsonl").exists()
    (path / "duplicates.jsonl").write_text("{}\n")
    convert_to_pack(ZipSource(zips[:1]), path, PackOptions(overwrite=True))
    assert not (path / "duplicates.jsonl").exists()


# Deleting ----------------------------------------------------------------------------------------


def test_a_source_is_deleted_once_the_pack_holds_it(
    zips: list[Path], make_rec: MakeRec, tmp_path: Path
) -> None:
    path = tmp_path / "pack"
    convert_to_pack(ZipSource(zips[:1]), path, SMALL)
    source, stamps = ZipSource(zips[1:2]), source_files("zip", [zips[1]])
    with pytest.raises(PackError, match=r"does not hold .*0_1\.zip: nothing is deleted"):
        delete_source(path, source, stamps)
    append(path, source, SMALL)
    assert "deleted: " in delete_source(path, source, stamps)
    assert [zip_.exists() for zip_ in zips] == [True, False, True]
    folder = make_rec(10)
    stamps = source_files("rec", [folder])
    rec = RecSource(folder)
    append(path, rec, SMALL)
    delete_source(path, rec, stamps)
    assert [file.name for file in folder.iterdir()] == ["property"]
    assert not verify(path).damage


def test_a_source_is_kept_in_case_of_doubt(
    make_zip: MakeZip, make_jpeg: MakeJpeg, tmp_path: Path
) -> None:
    pytest.importorskip("fcntl", reason="without it no file is locked")
    path = tmp_path / "pack"
    convert_to_pack(ZipSource([make_zip("0_0", {"ann": 2})]), path, SMALL)

    def grown(zip_: Path, options: PackOptions = SMALL) -> tuple[Any, Any]:
        stamps, source = source_files("zip", [zip_]), ZipSource([zip_])
        append(path, source, options)
        return source, stamps

    zip_ = make_zip("0_1", {"ann": 3}, 10, bad=1)
    assert "0_1.zip: 1 of its records were set aside" in delete_source(path, *grown(zip_))
    zip_ = make_zip("0_2", {"ann": 3}, 20)
    options = PackOptions(check=ImageCheck(color="convert"))
    assert "0_2.zip: with --color convert" in delete_source(path, *grown(zip_, options))
    zip_ = make_zip("0_3", {"ann": 3}, 30)
    found = grown(zip_)
    zip_.touch()
    assert "0_3.zip: it was changed while it was appended" in delete_source(path, *found)
    zip_ = make_zip("0_4", {"ann": 3}, 40)
    found = grown(zip_)
    for name in ("0_4.mdb", "0_4.kv"):
        whole = (path / name).read_bytes()
        data = bytearray(whole)
        data[-3 if name.endswith("kv") else 9000] ^= 1
        (path / name).write_bytes(data)
        with pytest.raises(DamageError, match=r"0_4.*: the source is kept; see facepack verify"):
            delete_source(path, *found)
        (path / name).write_bytes(whole)
    with Target(path), pytest.raises(PackError, match="another process is writing here"):
        delete_source(path, *found)
    assert all((zip_.parent / f"0_{k}.zip").exists() for k in range(5))
    assert "deleted" in delete_source(path, *found)


def test_a_link_to_a_source_is_kept(make_zip: MakeZip, tmp_path: Path) -> None:
    path, link = tmp_path / "pack", tmp_path / "0_1.zip"
    convert_to_pack(ZipSource([make_zip("0_0", {"ann": 2})]), path, SMALL)
    link.symlink_to(make_zip("0_1", {"ann": 3}, 10))
    source = ZipSource([link])
    append(path, source, SMALL)
    said = delete_source(path, source, source_files("zip", [link]))
    assert re.match(
        r"kept: .*: it is a link; delete what it leads to yourself: .*/zips/0_1.zip", said
    )
    assert link.is_symlink() and link.exists()


@pytest.mark.parametrize("what", ["image", "label"])
def test_a_source_that_changed_since_it_was_packed_is_kept(
    what: str, make_rec: MakeRec, zips: list[Path], tmp_path: Path
) -> None:
    """Sizes, index and the sample that ``describe`` takes stay what they were."""
    path, folder = tmp_path / "pack", make_rec(200)
    convert_to_pack(ZipSource(zips[:1]), path, SMALL)
    before = RecSource(folder)
    append(path, before, PackOptions())
    sampled = set(np.linspace(0, len(before) - 1, 64).astype(int).tolist())
    changed = next(k for k in range(100, 200) if k not in sampled)
    (record,) = before.part(changed, changed + 1).read()
    assert isinstance(record, SourceRecord)
    data = (folder / "train.rec").read_bytes()
    start = data.index(record.image)
    if what == "label":  # a float in front of two numbers of 8 bytes and the image
        start -= 20
        new = struct.pack("<f", record.label + 1)
    else:
        start += len(record.image) - 3
        new = bytes([data[start] ^ 1])
    (folder / "train.rec").write_bytes(data[:start] + new + data[start + len(new) :])
    source = RecSource(folder)
    result = append(path, source, PackOptions(resume=True))
    assert result.packed == 200  # by an earlier run
    said = delete_source(path, source, source_files("rec", [folder]))
    # Of a label, the first image of an identity that it tears apart is named.
    match = re.search(r"its image (\d+) or the label of that is not the one that was packed", said)
    assert match and int(match[1]) - changed in ((0,) if what == "image" else (0, 1))
    assert (folder / "train.rec").exists()
    (folder / "train.rec").write_bytes(data)
    assert "deleted: " in delete_source(path, RecSource(folder), source_files("rec", [folder]))


def test_only_zips_and_recs_are_deleted(tmp_path: Path) -> None:
    for kind in ("img", "kv", "tar", "lst", "lmdb"):
        with pytest.raises(ConfigError, match=f"--source {kind}: only zips and .rec files are del"):
            source_files(kind, [tmp_path])


# Labels ------------------------------------------------------------------------------------------


def test_relabelled_records_are_the_source_s_under_other_labels(zips: list[Path]) -> None:
    source = ZipSource(zips[1:2])  # ann, bob, dora
    other = Relabelled(source, first=5, names=LabelNames(["zoe", "bob"]), prefix="x-")
    expected = {0: 5, 1: 1, 2: 6}
    assert other.classes == 7 and len(other) == len(source) == 8
    assert other.groups()[0].stem == "x-0_1" and other.describe() == source.describe()
    inner, part = source.part(2, 8), other.part(2, 8)
    assert (part.start, part.stop) == (2, 8)
    assert part.identity_names() == {1: "bob", 6: "dora"}
    for a, b in zip(inner.read(), part.read(), strict=True):
        assert not isinstance(a, Refusal) and not isinstance(b, Refusal)
        assert (b.ordinal, b.name, bytes(b.image)) == (a.ordinal, a.name, bytes(a.image))
        assert b.label == expected[a.label]
        assert part.refuse(b, "why") == inner.refuse(a, "why")
    for entry, twin in zip(inner.entries(), part.entries(), strict=True):
        assert (expected[entry.label], entry.name) == twin
    assert len(list(part.read(np.array([True, False] * 3)))) == 3


def test_sources_of_several_kinds(zips: list[Path], make_rec: MakeRec, tmp_path: Path) -> None:
    assert separate_sources("zip", [zips[0].parent]) == [[zip_] for zip_ in zips]
    assert separate_sources("rec", [Path("a"), Path("b")]) == [[Path("a")], [Path("b")]]
    assert separate_sources("kv", [Path("a"), Path("b")]) == [[Path("a"), Path("b")]]


# The command -------------------------------------------------------------------------------------


def run(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(root, ["append", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def test_the_command_appends_zips_one_by_one(zips: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "pack"
    convert_to_pack(ZipSource(zips[:1]), path, SMALL)
    result = run(
        path, *zips[1:], "--source", "zip", "--shard-records", 4, "--delete-source", "--json"
    )
    listed = json.loads(result.stdout)
    assert [(r["packed"], r["classes"]) for r in listed] == [(8, 4), (6, 6)]
    assert result.stderr.count("note: deleted: ") == 2 and not zips[1].exists()
    appended = json.loads((path / "plan.json").read_text())["appended"]
    assert [plan["source"]["files"][0]["name"] for plan in appended] == ["0_1.zip", "1_0.zip"]
    assert not verify(path).damage
    # What was deleted is out of the folder; the first zip is in the pack.
    result = run(path, zips[0].parent, "--source", "zip", "--resume", "--shard-records", 4)
    assert result.stdout.startswith(f"{path}: 7 images are in it already, 0 set aside, 6 iden")
    # Nor is one that was named and is gone in the way of the others.
    options = ("--source", "zip", "--resume", "--shard-records", 4, "--delete-source")
    result = run(path, zips[1], zips[0], *options)
    assert f"{zips[1]}: deleted by an earlier run, {path} holds it" in result.stderr
    assert not zips[0].exists()
    result = run(path, zips[0].parent / "0_6.zip", *options, code=1)
    assert "0_6.zip: cannot be looked at" in result.stderr


def test_the_command_s_usage(zips: list[Path], tmp_path: Path) -> None:
    convert_to_pack(ZipSource(zips[:1]), tmp_path / "pack", SMALL)
    result = run(tmp_path / "pack", zips[1], "--source", "zip", "--member", "x", code=2)
    assert "--member is for --source tar" in result.output
    result = run(tmp_path / "pack", zips[1].parent, "--source", "img", "--delete-source", code=2)
    assert "only zips and .rec files are deleted" in result.output
    result = run(tmp_path / "pack", zips[1].parent, "--source", "what", code=2)
    assert "'what' is not one of 'rec'" in result.output


def test_labels_without_a_name_close_ranks(make_rec: MakeRec, zips: list[Path]) -> None:
    """A partly named source: 20 identities, of which every second one has a name."""

    class Named(RecSource):
        def part(self, start: int, stop: int) -> Any:
            part = super().part(start, stop)
            part.identity_names = lambda: {k: f"p{k}" for k in range(0, 20, 2)}  # type: ignore[method-assign]
            return part

    names = LabelNames(["p4", "someone"])
    source = Relabelled(Named(make_rec(100)), first=2, names=names)
    labels = np.unique([entry.label for entry in source.part(0, 100).entries()])
    assert labels.tolist() == [0, *range(2, 21)]  # p4 is known, 9 other names, 10 without one


def test_a_zip_that_holds_more_than_images_is_kept(make_zip: MakeZip, tmp_path: Path) -> None:
    first, second = make_zip("0_0", {"ann": 3}), make_zip("0_1", {"bob": 3}, first=3)
    with zipfile.ZipFile(second, "a") as file:
        file.writestr("faces/landmarks.txt", "irreplaceable")
    convert_to_pack(ZipSource([first]), tmp_path / "pack", SMALL)
    files = source_files("zip", [second])
    source = ZipSource([second])
    append(tmp_path / "pack", source, SMALL)
    notice = delete_source(tmp_path / "pack", source, files)
    assert second.exists() and "1 members that are not images" in notice


def test_shards_that_all_belong_to_an_append_are_no_pack(zips: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "pack"
    convert_to_pack(ZipSource(zips), path, SMALL)
    (path / "plan.json").rename(path / "append.json")
    (path / "pack.json").unlink()
    with pytest.raises(DamageError, match="belong to an unfinished append"):
        reindex(path)
