"""Parquet files as a sink: row groups, names of labels, faults while writing."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matrix.command import converted, facepack, invoke

from facepack.convert.formats.parquet import sink, writer
from facepack.convert.formats.parquet.writer import IMAGE, integers, writing_table
from facepack.store import files

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

MakeJpeg = Callable[..., bytes]
MakeTree = Callable[[dict[str, int]], Path]
FILE = "train-00000-of-00001.parquet"


@pytest.fixture
def make_tree(tmp_path: Path, make_jpeg: MakeJpeg) -> MakeTree:
    """``make_tree({"a": 3})``: a tree with three images of ``a``."""

    def make(people: dict[str, int]) -> Path:
        for number, (person, count) in enumerate(people.items()):
            (tmp_path / "tree" / person).mkdir(parents=True)
            for k in range(count):
                path = tmp_path / "tree" / person / f"{k}.jpg"
                path.write_bytes(make_jpeg(100 * number + k))
        return tmp_path / "tree"

    return make


def label_of(path: Path) -> dict[str, Any]:
    """What the file says of its labels."""
    told = json.loads(pq.read_schema(path).metadata[b"huggingface"])
    feature: dict[str, Any] = told["info"]["features"]["label"]
    return feature


def test_row_groups_hold_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "GROUP_BYTES", 100)
    sizes = [40, 60, 1, 99, 100, 250, 30, 30]
    images = [bytes([k]) * size for k, size in enumerate(sizes)]
    path = tmp_path / "faces.parquet"
    with writing_table(path, {"image": IMAGE, "label": integers()}) as (table, _):
        for k, image in enumerate(images):
            table.add([image], [f"{k}.jpg" if k % 2 else None], [k])
    assert (table.rows, table.payload) == (8, sum(sizes))
    file = pq.ParquetFile(path)
    groups = [file.read_row_group(k).to_pylist() for k in range(file.num_row_groups)]
    assert [len(group) for group in groups] == [2, 2, 1, 1, 2]
    rows = [row for group in groups for row in group]
    assert [row["image"]["bytes"] for row in rows] == images
    assert [row["image"]["path"] for row in rows[:4]] == [None, "1.jpg", None, "3.jpg"]
    assert [row["label"] for row in rows] == list(range(8))


def test_images_are_stored_as_they_are_in_pages_of_few(tmp_path: Path) -> None:
    path = tmp_path / "faces.parquet"
    with writing_table(path, {"image": IMAGE, "label": integers()}) as (table, file):
        for k in range(2000):
            table.add([bytes(10_000)], [f"{k:08d}.jpg"], [k])
    assert file.size == path.stat().st_size
    columns = [pq.ParquetFile(path).metadata.row_group(0).column(k) for k in range(3)]
    assert [column.path_in_schema for column in columns] == ["image.bytes", "image.path", "label"]
    assert [column.compression for column in columns] == ["UNCOMPRESSED", "SNAPPY", "SNAPPY"]
    assert not columns[0].is_stats_set and not columns[0].has_dictionary_page
    assert columns[0].has_offset_index
    with pa.OSFile(str(path)) as raw:
        reader = pq.ParquetFile(raw, pre_buffer=False, buffer_size=1 << 16)
        before = pa.total_allocated_bytes()
        next(reader.iter_batches(10, columns=["image.bytes"], use_threads=False))
        assert pa.total_allocated_bytes() - before < 5_000_000  # of 20: a page or two


def test_names_become_a_class_label(make_tree: MakeTree, tmp_path: Path) -> None:
    out = tmp_path / "out"
    facepack("img2parquet", make_tree({"b": 2, "Zoë": 1, "a": 3}), out)
    assert label_of(out / FILE) == {"_type": "ClassLabel", "names": ["Zoë", "a", "b"]}
    assert (out / "labels.txt").read_text(encoding="utf-8") == "Zoë\na\nb\n"
    figures = converted("parquet2parquet", out, tmp_path / "again")
    assert (tmp_path / "again" / FILE).read_bytes() == (out / FILE).read_bytes()
    assert (figures["packed"], figures["identities"], figures["classes"]) == (6, 3, 3)


def test_names_that_a_class_label_cannot_have(
    make_tree: MakeTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_tree({"a": 2, "b": 2})
    for k in range(2):
        facepack("img2lmdb", tree, tmp_path / f"pack{k}", "--max-images", 2 - k)
    facepack("merge", tmp_path / "pack0", tmp_path / "pack1", tmp_path / "both")
    for out, text in (("out", "2 identities are called 'a'"), ("long", "names of identities take")):
        if out == "long":
            monkeypatch.setattr(sink, "_TEXT_IN_FILES", 2)
        words = ["lmdb2parquet", tmp_path / "both", tmp_path / out]
        result = invoke(*words)
        assert result.exit_code == 0 and text in result.stderr
        assert label_of(tmp_path / out / FILE.replace("1.p", "2.p")) == {
            "_type": "Value",
            "dtype": "int64",
        }
        assert (tmp_path / out / "labels.txt").read_text().split() == ["a", "b", "a", "b"]


def test_files_sort_as_the_source_does(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    for name in ("b", "a"):
        table = pa.table({"image": [make_jpeg(ord(name))], "label": [ord(name)]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
        facepack("parquet2lmdb", tmp_path / f"{name}.parquet", tmp_path / name)
    facepack("merge", tmp_path / "b", tmp_path / "a", tmp_path / "both")
    facepack("lmdb2parquet", tmp_path / "both", tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").glob("*.parquet"))
    assert names == [f"train-0000{k}-of-00002.parquet" for k in range(2)]
    images = [pq.read_table(tmp_path / "out" / name).to_pylist()[0]["image"] for name in names]
    assert [image["bytes"] for image in images] == [make_jpeg(ord("b")), make_jpeg(ord("a"))]


def test_a_full_disk_leaves_nothing_half(
    make_tree: MakeTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, out = make_tree({"a": 3, "b": 3}), tmp_path / "out"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.BlockWriter, "write", full)
        result = invoke("img2parquet", tree, out)
        assert result.exit_code == 1 and "the disk is full" in result.stderr
        assert not list(out.glob("*.parquet*"))
    facepack("img2parquet", tree, out, "--resume")
    assert pq.read_table(out / FILE).num_rows == 6


def test_a_bad_record_under_strict_leaves_no_file(make_tree: MakeTree, tmp_path: Path) -> None:
    tree, out = make_tree({"a": 3}), tmp_path / "out"
    (tree / "a" / "9.jpg").write_bytes(b"no image")
    result = invoke("img2parquet", tree, out, "--strict")
    assert result.exit_code == 1 and "--strict stops here" in result.stderr
    assert not list(out.glob("*.parquet*"))
    figures = converted("img2parquet", tree, out, "--resume")
    assert (figures["packed"], figures["quarantined"]) == (3, 1)
