"""WebDataset tars: what tarfile finds in them, round trips, interruption."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from PIL import Image

from facepack.convert.formats.pack.sink import PackOptions, convert_to_pack
from facepack.convert.formats.pairs.pickles import write_bin
from facepack.convert.formats.pairs.source import BinSource
from facepack.convert.formats.rec.recordio import pack_header
from facepack.convert.formats.rec.source import RecSource
from facepack.convert.formats.tar import wds_sink as to_wds
from facepack.convert.formats.tar.source import TarSource
from facepack.convert.formats.tar.wds_sink import WdsOptions, convert_to_wds, name_key, numbered_key
from facepack.convert.source import Source
from facepack.errors import PackError, SourceError
from facepack.store.record import SourceRecord

MakeRec = Callable[..., Path]
MakeJpeg = Callable[..., bytes]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def samples(path: Path) -> list[tuple[str, dict[str, bytes]]]:
    """The samples of a tar, as WebDataset readers group members: those that follow each other."""
    found: list[tuple[str, dict[str, bytes]]] = []
    with tarfile.open(path) as tar:
        for info in tar:
            folder, slash, base = info.name.rpartition("/")
            stem, _, suffix = base.partition(".")
            key = folder + slash + stem
            if not found or found[-1][0] != key:
                found.append((key, {}))
            found[-1][1][suffix] = tar.extractfile(info).read()  # type: ignore[union-attr]
            assert (info.mode, info.mtime, info.uid, info.gid) == (0o644, 0, 0, 0)
    return found


def records(source: Source) -> list[tuple[bytes, int, str | None]]:
    part = source.part(0, len(source))
    found = [record for record in part.read() if isinstance(record, SourceRecord)]
    return [(bytes(record.image), record.label, record.name) for record in found]


SMALL = WdsOptions(shard_records=15)


def test_a_rec_becomes_samples_of_its_bytes(make_rec: MakeRec, tmp_path: Path) -> None:
    source = RecSource(make_rec(40))
    result = convert_to_wds(source, tmp_path / "out", SMALL)
    out = tmp_path / "out"
    found = [sample for k in range(3) for sample in samples(out / f"train-00{k}.tar")]
    assert found == [
        (f"{label}/{k:010d}", {"jpg": image, "cls": str(label).encode()})
        for k, (image, label, _) in enumerate(records(source))
    ]
    summary = json.loads((out / "dataset.json").read_bytes())
    assert [tar["samples"] for tar in summary["tars"]] == [15, 15, 10]
    assert summary["samples"] == 40 and summary["classes"] == summary["identities"] == 8
    assert result.packed == 40 and result.shards == 3 and result.quarantined == 0
    named = [
        "dataset.json",
        "shardindex.json",
        "README.md",
        *(f"train-00{k}.tar" for k in range(3)),
    ]
    assert result.file_bytes == sum((out / name).stat().st_size for name in named)
    again = TarSource([out])
    assert [row[:2] for row in records_by_part(again)] == [row[:2] for row in records(source)]


def records_by_part(source: Source) -> list[tuple[bytes, int, str | None]]:
    found = []
    for _, start, stop in source.groups():
        for record in source.part(start, stop).read():
            assert isinstance(record, SourceRecord)
            found.append((bytes(record.image), record.label, record.name))
    return found


def make_wds(path: Path, rows: list[tuple[str, bytes, int]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for key, image, label in rows:
            for suffix, data in ((".jpg", image), (".cls", str(label).encode())):
                info = tarfile.TarInfo(key + suffix)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("workers", [1, 2])
def test_a_round_trip_changes_nothing(make_jpeg: MakeJpeg, tmp_path: Path, workers: int) -> None:
    keys = ["a/b/0001", "0002", "ü/ö", "x" * 90, "y/" * 45 + "z", "7"]
    rows = [(f"{key}_{k}", make_jpeg(k), k % 3 - 1) for k in range(4) for key in keys]
    source = TarSource([make_wds(tmp_path / "in.tar", rows)])
    expected = [(image, label, key) for key, image, label in rows]
    assert records(source) == expected
    convert_to_wds(source, tmp_path / "out", replace(SMALL, workers=workers))
    assert records_by_part(TarSource([tmp_path / "out"])) == expected


def test_a_tree_keeps_its_names(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    names = [f"t/{identity}/{k}.jpg" for identity in ("zoe", "ann", "a\nb") for k in range(9)]
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for k, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = len(make_jpeg(k))
            tar.addfile(info, io.BytesIO(make_jpeg(k)))
    source = TarSource([tmp_path / "in.tar"])
    out = tmp_path / "out"
    convert_to_wds(source, out, SMALL)
    assert (out / "labels.txt").read_text() == "a\\nb\nann\nzoe\n"
    again = TarSource([out])
    assert again.classes == source.classes == 3
    known = [part.identity_names() for part in (again.part(0, 15), again.part(15, 27))]
    assert known == [{1: "ann", 2: "zoe"}, {0: "a\nb", 1: "ann"}]
    stems = [name.removesuffix(".jpg") for name in names[:18]]
    assert [name for *_, name in records_by_part(again)][:18] == stems
    convert_to_wds(again, tmp_path / "again", SMALL)
    assert (tmp_path / "again" / "labels.txt").read_bytes() == (out / "labels.txt").read_bytes()


def test_a_pack_of_samples_keeps_their_names(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    lmdb = pytest.importorskip("facepack.convert.formats.pack.source")
    rows = [(f"a/{k}", make_jpeg(k), k % 3) for k in range(8)]
    source = TarSource([make_wds(tmp_path / "in.tar", rows)])
    convert_to_pack(source, tmp_path / "pack", PackOptions())
    packed = lmdb.PackSource(tmp_path / "pack")
    convert_to_wds(packed, tmp_path / "out", WdsOptions())
    expected = sorted((image, label, key) for key, image, label in rows)
    assert sorted(records_by_part(TarSource([tmp_path / "out"]))) == expected


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (None, None),
        ("ann/1.jpg", "ann/1"),
        ("ann/1.JPEG", "ann/1"),
        ("ann.b/1", "ann.b/1"),
        ("plain", "plain"),
        ("ann/1.2.jpg", None),
        ("ann/1.txt", None),
        ("/etc/passwd", None),
        ("../1.jpg", None),
        ("a/../1.jpg", None),
        ("a//1.jpg", None),
        (".hidden.jpg", None),
        ("a\\b.jpg", None),
        ("5/0000000001.jpg", None),
        ("-1/0000000001", None),
        ("5/1", "5/1"),
        ("x" * 95, "x" * 95),
        ("x" * 96, None),
        ("é" * 47, "é" * 47),
        ("é" * 48, None),
        ("", None),
    ],
)
def test_keys_are_names_that_stay_inside(name: str | None, key: str | None) -> None:
    assert name_key(name) == key


def test_names_that_cannot_be_keys_give_way_to_identity_and_number(
    make_jpeg: MakeJpeg, tmp_path: Path
) -> None:
    names = ["../../evil", "good", "good", "/abs", "a.b/c"]
    rows = [(name, make_jpeg(k), k) for k, name in enumerate(names)]
    source = TarSource([make_wds(tmp_path / "in.tar", rows)])
    result = convert_to_wds(source, tmp_path / "out", WdsOptions())
    found = [key for key, _ in samples(tmp_path / "out" / "in.tar")]
    assert found == ["0/0000000000", "good", "2/0000000002", "3/0000000003", "a.b/c"]
    assert "3 names cannot be keys" in result.notices[-1]
    convert_to_wds(source, tmp_path / "numbers", WdsOptions(naming="number"))
    found = [key for key, _ in samples(tmp_path / "numbers" / "in.tar")]
    assert found == [f"{k}/{k:010d}" for k in range(5)]


def drawn_rows(make_jpeg: MakeJpeg) -> list[tuple[str, bytes, int]]:
    """Samples whose keys come again in other tars, some twice, and within one."""
    keys = "abcd abxd bcye aazz cdef".replace(" ", "")
    return [(f"k/{key}", make_jpeg(k), k % 4 - 1) for k, key in enumerate(keys)]


def keys_by_hand(rows: list[tuple[str, bytes, int]]) -> list[str]:
    """Who has a key first keeps it."""
    seen: set[str] = set()
    keys = []
    for k, (key, _, label) in enumerate(rows):
        keys.append(numbered_key(label, k) if key in seen else key)
        seen.add(key)
    return keys


@pytest.mark.parametrize("workers", [1, 2])
def test_no_key_is_in_two_tars(make_jpeg: MakeJpeg, tmp_path: Path, workers: int) -> None:
    rows = drawn_rows(make_jpeg)
    source = TarSource([make_wds(tmp_path / "in.tar", rows)])
    out = tmp_path / "out"
    result = convert_to_wds(source, out, WdsOptions(shard_records=4, workers=workers))
    found = [sample for k in range(5) for sample in samples(out / f"in-00{k}.tar")]
    assert [key for key, _ in found] == keys_by_hand(rows)
    assert len({key for key, _ in found}) == len(rows)
    assert [(s["jpg"], int(s["cls"])) for _, s in found] == [row[1:] for row in rows]
    assert (
        f"{sum(a != b for a, (b, *_) in zip(keys_by_hand(rows), rows, strict=True))} names"
        in (result.notices[-1])
    )
    for tar in json.loads((out / "dataset.json").read_bytes())["tars"]:
        data = (out / tar["name"]).read_bytes()
        assert (tar["bytes"], tar["xxh3_128"]) == (len(data), xxhash.xxh3_128_hexdigest(data))


@pytest.mark.parametrize("stop", range(1, 19))
def test_renaming_is_resumed_to_the_same_bytes(
    make_jpeg: MakeJpeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    rows = drawn_rows(make_jpeg)
    bad = (rows[5][0], b"no image", 0)
    source = TarSource([make_wds(tmp_path / "in.tar", [*rows[:5], bad, *rows[5:]])])
    options = WdsOptions(shard_records=4)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no power cuts here
    convert_to_wds(source, tmp_path / "whole", options)
    out = tmp_path / "out"
    write, count = to_wds.write_file, 0

    def interrupted(path: Path, pieces: Any) -> tuple[str, int]:
        nonlocal count
        count += 1
        if count == 15 + stop:  # six tars are three files each: from the last of them on
            raise KeyboardInterrupt
        return write(path, pieces)

    monkeypatch.setattr(to_wds, "write_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_to_wds(source, out, options)
    convert_to_wds(source, out, replace(options, resume=True))
    assert contents(out) == contents(tmp_path / "whole")
    (out / "in-001.tar").write_bytes(b"short")
    (out / "dataset.json").unlink()
    convert_to_wds(source, out, replace(options, resume=True))
    assert contents(out) == contents(tmp_path / "whole")


def test_a_tar_has_at_most_so_many_bytes(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    rows = [(f"{k}", make_jpeg(k, side), 0) for k, side in enumerate([8, 8, 99, 8, 8, 300, 8])]
    source = TarSource([make_wds(tmp_path / "in.tar", rows)])
    for size in (5_000, 9_000, 12_345):
        out = tmp_path / str(size)
        convert_to_wds(source, out, WdsOptions(shard_bytes=size))
        tars = sorted(out.glob("*.tar"))
        assert [key for tar in tars for key, _ in samples(tar)] == [key for key, *_ in rows]
        for tar in tars:
            assert tar.stat().st_size <= size or len(samples(tar)) == 1
    with pytest.raises(PackError, match="allowed are 1 and more"):
        WdsOptions(shard_bytes=0)
    with pytest.raises(PackError, match="allowed are source, number"):
        WdsOptions(naming="name")


def test_a_tar_that_was_changed_before_its_keys_are_is_told(
    make_jpeg: MakeJpeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = TarSource([make_wds(tmp_path / "in.tar", drawn_rows(make_jpeg))])
    rename = to_wds._rename

    def spoiled(out: Path, span: Any, *rest: Any) -> None:
        path = out / f"{span.name}.tar"
        path.write_bytes(b"x" * path.stat().st_size)
        rename(out, span, *rest)

    monkeypatch.setattr(to_wds, "_rename", spoiled)
    with pytest.raises(PackError, match=r"in-001.tar is damaged .*--resume"):
        convert_to_wds(source, tmp_path / "out", WdsOptions(shard_records=4))
    monkeypatch.undo()
    convert_to_wds(source, tmp_path / "out", WdsOptions(shard_records=4, resume=True))
    convert_to_wds(source, tmp_path / "whole", WdsOptions(shard_records=4))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_suffixes_follow_the_format_and_refusals_are_kept(
    make_rec: MakeRec, tmp_path: Path
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(buffer, "PNG")
    bad = {
        1: pack_header(0, 2) + buffer.getvalue(),
        3: pack_header(0, 4) + b"nothing",
        4: pack_header(1 << 24, 5) + b"x",
    }
    source = RecSource(make_rec(8, bad=bad))
    result = convert_to_wds(source, tmp_path / "out", WdsOptions())
    assert (result.found, result.packed, result.quarantined) == (8, 6, 2)
    found = samples(tmp_path / "out" / "train.tar")
    assert "5 .jpg, 1 .png" in result.notices[-1]
    assert [sorted(members) for _, members in found][:2] == [["cls", "jpg"], ["cls", "png"]]
    lines = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["ordinal"] for line in lines] == [3, 4]
    with pytest.raises(SourceError, match="--strict stops here"):
        convert_to_wds(source, tmp_path / "strict", WdsOptions(strict=True))


def test_a_source_without_any_usable_record_fails(make_rec: MakeRec, tmp_path: Path) -> None:
    source = RecSource(make_rec(3, bad={k: pack_header(0, k + 1) + b"nothing" for k in range(3)}))
    with pytest.raises(SourceError, match=r"no record at all .* train\.rec: record 0"):
        convert_to_wds(source, tmp_path / "out", WdsOptions())
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_a_verification_set_keeps_its_pairs(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    write_bin(tmp_path / "lfw.bin", [make_jpeg(k) for k in range(8)], [True, False] * 2)
    result = convert_to_wds(BinSource(tmp_path / "lfw.bin"), tmp_path / "out", WdsOptions())
    assert result.pairs == 4 and result.identities == 0
    assert np.load(tmp_path / "out" / "pairs.npy").tolist() == [
        [0, 1, 1],
        [2, 3, 0],
        [4, 5, 1],
        [6, 7, 0],
    ]
    assert {members["cls"] for _, members in samples(tmp_path / "out" / "lfw.tar")} == {b"-1"}


def test_an_interrupted_run_is_completed_to_the_same_bytes(
    make_rec: MakeRec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = RecSource(make_rec(40, bad={20: pack_header(1, 8) + b"nothing"}))
    convert_to_wds(source, tmp_path / "whole", SMALL)
    out = tmp_path / "out"
    write, made = to_wds.write_file, []

    def stop_at_second(path: Path, pieces: Any) -> tuple[str, int]:
        if path.suffix == ".tar":
            made.append(path.name)
            if len(made) == 2:
                (out / f"{path.name}.part-0011aabb").write_bytes(b"half")
                raise KeyboardInterrupt
        return write(path, pieces)

    monkeypatch.setattr(to_wds, "write_file", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        convert_to_wds(source, out, SMALL)
    assert not (out / "dataset.json").exists()
    with pytest.raises(PackError, match="--resume completes it"):
        convert_to_wds(source, out, SMALL)
    for name in ("labels.txt", "dataset.json", "quarantine.jsonl"):
        (out / f"{name}.part-0011aabb").write_bytes(b"half")
    convert_to_wds(source, out, replace(SMALL, resume=True))
    assert made == ["train-000.tar", "train-001.tar", "train-001.tar", "train-002.tar"]
    good = contents(tmp_path / "whole")
    assert contents(out) == good
    made.clear()
    convert_to_wds(source, out, replace(SMALL, resume=True))
    assert made == []
    (out / "train-001.tar").write_bytes(b"short")
    (out / "dataset.json").unlink()
    convert_to_wds(source, out, replace(SMALL, resume=True))
    assert made == ["train-001.tar"] and contents(out) == good


def test_overwriting_removes_the_old_tars_and_nothing_else(
    make_rec: MakeRec, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert_to_wds(RecSource(make_rec(40)), out, SMALL)
    (out / "mine.tar").write_bytes(b"mine")
    with pytest.raises(PackError, match="--overwrite replaces it"):
        convert_to_wds(RecSource(tmp_path / "src"), out, SMALL)
    convert_to_wds(RecSource(make_rec(5, "small")), out, replace(SMALL, overwrite=True))
    assert {name for name in contents(out) if not name.startswith(".facepack")} == {
        "train.tar",
        "dataset.json",
        "shardindex.json",
        "README.md",
        "mine.tar",
    }
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").touch()
    with pytest.raises(PackError, match="is not empty"):
        convert_to_wds(
            RecSource(tmp_path / "small"), tmp_path / "other", replace(SMALL, overwrite=True)
        )
