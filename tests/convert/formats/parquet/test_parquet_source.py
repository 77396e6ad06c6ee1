"""Parquet files and Arrow folders as a source, against what ``pyarrow`` itself reads of them."""

from __future__ import annotations

import builtins
import datetime
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matrix.command import converted, facepack, invoke

from facepack.convert.formats.parquet import tables
from facepack.convert.formats.parquet.rows import ParquetRows, image_bytes
from facepack.convert.formats.parquet.source import ParquetSource
from facepack.convert.formats.parquet.tables import open_table
from facepack.convert.source import Refusal
from facepack.errors import ConfigError, FacepackError, SourceError
from facepack.store.record import SourceRecord

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

MakeJpeg = Callable[..., bytes]
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CLASSES = {"_type": "ClassLabel", "names": ["a", "b", "c"]}


def described(features: dict[str, Any]) -> dict[str, str]:
    """The schema's metadata, as ``datasets`` writes it."""
    return {"huggingface": json.dumps({"info": {"features": features}})}


def make_table(images: Sequence[Any], labels: Sequence[int | None], **features: Any) -> Any:
    """A table of an Image and a ClassLabel column."""
    features = features or {"image": {"_type": "Image"}, "label": CLASSES}
    schema = pa.schema([("image", IMAGE), ("label", pa.int64())], described(features))
    return pa.table([pa.array(images, IMAGE), pa.array(labels, pa.int64())], schema=schema)


def rows_of(make_jpeg: MakeJpeg, count: int) -> Any:
    """``count`` images of three people."""
    images = [{"bytes": make_jpeg(k), "path": f"{k}.jpg"} for k in range(count)]
    return make_table(images, [k % 3 for k in range(count)])


def save(folder: Path, table: Any, *, chunk: int = 4, names: Sequence[str] = ("data-0",)) -> Path:
    """A folder as ``save_to_disk`` writes it; each of ``names`` has the whole table."""
    folder.mkdir(parents=True)
    for name in names:
        with pa.ipc.new_stream(str(folder / f"{name}.arrow"), table.schema) as stream:
            stream.write_table(table, max_chunksize=chunk)
    files = [{"filename": f"{name}.arrow"} for name in names]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_indices_files": None}))
    return folder


def read(source: Any) -> list[SourceRecord | Refusal]:
    """All records."""
    return list(source.part(0, len(source)).read())


@pytest.fixture
def small_batches() -> Iterator[None]:
    """Batches of three rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_BATCH_ROWS", 3)
        yield


# Values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd"])
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.usefixtures("small_batches")
def test_images_of_every_encoding(
    make_jpeg: MakeJpeg, tmp_path: Path, compression: str, kind: Any, dictionary: bool
) -> None:
    images = [None if k % 5 == 2 else make_jpeg(k % 7) for k in range(20)]
    table = pa.table({"jpg": pa.array(images, kind), "cls": pa.array(range(20), pa.int16())})
    path = tmp_path / "faces.parquet"
    pq.write_table(
        table, path, row_group_size=7, compression=compression, use_dictionary=dictionary
    )
    found = read(ParquetRows([path]))
    assert [each.ordinal for each in found] == list(range(20))
    for image, record in zip(images, found, strict=True):
        if image is None:
            assert isinstance(record, Refusal) and record.reason == "it holds no image"
        else:
            assert isinstance(record, SourceRecord)
            assert (bytes(record.image), record.label) == (image, record.ordinal)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.usefixtures("small_batches")
def test_any_rows_of_any_part(make_jpeg: MakeJpeg, tmp_path: Path, saved: bool) -> None:
    table = rows_of(make_jpeg, 23)
    if saved:
        path = save(tmp_path / "faces", table, chunk=5)
    else:
        path = tmp_path / "faces.parquet"
        pq.write_table(table, path, row_group_size=8)
    source = ParquetRows([path])
    plain = table.to_pylist()

    @settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=60)
    @given(st.integers(0, 22), st.integers(1, 23), st.randoms(use_true_random=False))
    def check(start: int, count: int, random: Any) -> None:
        part = source.part(start, min(start + count, 23))
        keep = np.array([random.random() < 0.4 for _ in range(part.stop - start)])
        found = [
            (record.ordinal, bytes(record.image), record.label, record.name)
            for record in part.read(keep)
            if isinstance(record, SourceRecord)
        ]
        rows = [start + k for k in np.flatnonzero(keep).tolist()]
        images = [plain[row]["image"] for row in rows]
        labels = [plain[row]["label"] for row in rows]
        expected = [(image["bytes"], image["path"]) for image in images]
        assert found == [
            (row, image, label, name)
            for row, (image, name), label in zip(rows, expected, labels, strict=True)
        ]
        assert [entry.label for entry in part.entries()] == [
            row["label"] for row in plain[part.start : part.stop]
        ]

    check()


def test_views_and_slices_are_found_in_memory() -> None:
    values = [b"one", None, b"", b"four" * 20, b"five"]
    for kind in (pa.binary(), pa.large_binary(), pa.binary_view()):
        column = pa.array([b"before", *values], kind).slice(1)
        data, starts, stops = image_bytes(column)
        found = [bytes(data[a:b]) for a, b in zip(starts, stops, strict=True)]
        assert found == [value or b"" for value in values]
    assert [len(each) for each in image_bytes(pa.array([], pa.binary()))[1:]] == [0, 0]
    odd = pa.py_buffer(np.array([0, 1, 3], np.int32).tobytes() + b"?")  # as damaged streams have it
    column = pa.Array.from_buffers(pa.binary(), 2, [None, odd, pa.py_buffer(b"xyz")])
    assert [each.tolist() for each in image_bytes(column)[1:]] == [[0, 1], [1, 3]]


def test_images_that_are_elsewhere_are_set_aside(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    images = [
        {"bytes": make_jpeg(0), "path": None},
        {"bytes": None, "path": "/home/someone/faces/1.jpg"},
        None,
        {"bytes": b"", "path": None},
    ]
    pq.write_table(make_table(images, [0, 1, 2, 0]), tmp_path / "faces.parquet")
    figures = converted("parquet2lmdb", tmp_path / "faces.parquet", tmp_path / "pack")
    assert (figures["packed"], figures["quarantined"]) == (1, 3)
    lines = (tmp_path / "pack" / "quarantine.jsonl").read_text().splitlines()
    elsewhere, *none = map(json.loads, lines)
    assert elsewhere["key"] == "row 1" and elsewhere["file"] == "faces.parquet"
    assert "on the machine that wrote the file: '/home/someone/faces/1.jpg'" in elsewhere["reason"]
    assert "embedded" in elsewhere["remedy"]
    assert [line["reason"] for line in none] == ["it holds no image"] * 2


def test_labels_that_no_index_holds_are_set_aside(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    labels = pa.array([0, 2**64 - 1, 10**8, None], pa.uint64())
    table = pa.table({"image": [make_jpeg(k) for k in range(4)], "label": labels})
    pq.write_table(table, tmp_path / "faces.parquet")
    figures = converted("parquet2lmdb", tmp_path / "faces.parquet", tmp_path / "pack")
    assert (figures["packed"], figures["quarantined"]) == (2, 2)
    assert (tmp_path / "pack" / "faces.kv").read_text().split()[1::2].count("-0000001") == 1


@pytest.mark.parametrize("options", [(), ("--min-images", "1"), ("--dry-run",)])
def test_labels_that_no_index_holds_are_none_for_any_sink_and_choice(
    make_jpeg: MakeJpeg, tmp_path: Path, options: tuple[str, ...]
) -> None:
    labels = pa.array([0.0, 1e12, -5.0, 0.5, 10.0**8, 3.0], pa.float64())
    table = pa.table({"image": [make_jpeg(k) for k in range(6)], "label": labels})
    pq.write_table(table, tmp_path / "faces.parquet")
    figures = converted("parquet2img", tmp_path / "faces.parquet", tmp_path / "tree", *options)
    assert (figures["identities"], figures["classes"]) == (2, 2 if "--min-images" in options else 4)
    if "--dry-run" in options:
        assert [entry["ordinal"] for entry in figures["refused"]] == [1, 2, 3, 4]
    else:
        assert (figures["packed"], figures["quarantined"]) == (2, 4)


def test_whole_numbers_may_be_floats(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    """As pandas writes integers where some are missing."""
    images = [{"bytes": make_jpeg(k), "path": None} for k in range(6)]
    for kind in (pa.float64(), pa.float32()):
        labels = pa.array([2.0, None, float("nan"), 0.5, -1.0, 7.0], kind)
        pq.write_table(
            pa.table({"image": pa.array(images, IMAGE), "label": labels}), tmp_path / "a.parquet"
        )
        records = list(ParquetRows([tmp_path / "a.parquet"]).part(0, 6).read())
        refused = records.pop(3)
        assert isinstance(refused, Refusal) and refused.reason == "its label is no whole number"
        assert [each.label for each in records if isinstance(each, SourceRecord)] == [
            2, -1, -1, -1, 7,
        ]  # fmt: skip
    floats = pa.table({"a": [b"x"], "age": [3.5]})
    assert columns_of(tmp_path, floats)[1] is None
    assert columns_of(tmp_path, floats, label_column="age")[1] == "age"


def test_a_dictionary_in_a_stream_is_no_damage(tmp_path: Path) -> None:
    table = pa.table({"image": [b"x"], "label": pa.array(["a"]).dictionary_encode()})
    with pytest.raises(SourceError, match="its column 'label' is a dictionary"):
        ParquetSource([save(tmp_path / "set", table)])


@pytest.mark.parametrize("count", [3, 12])
def test_numbers_that_are_texts_are_the_labels(
    make_jpeg: MakeJpeg, tmp_path: Path, count: int
) -> None:
    images = [make_jpeg(k) for k in range(count + 1)]
    for written in (str, "{:03d}".format):
        texts = [*map(written, range(count)), None]
        for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())):
            table = pa.table({"image": images, "label": pa.array(texts, pa.string()).cast(kind)})
            pq.write_table(table, tmp_path / "faces.parquet")
            source = ParquetRows([tmp_path / "faces.parquet"])
            labels = [entry.label for entry in source.part(0, len(source)).entries()]
            assert labels == [*range(count), -1]
            assert source.classes is None and not source.part(0, 1).identity_names()
    # One that is none, or none that an index holds, makes names of all.
    for other in ("x", str(1 << 31), "1.0", "-1"):
        table = pa.table({"image": images, "label": [*map(str, range(count)), other]})
        pq.write_table(table, tmp_path / "faces.parquet")
        source = ParquetRows([tmp_path / "faces.parquet"])
        names = source.part(0, 1).identity_names()
        labels = [names[entry.label] for entry in source.part(0, len(source)).entries()]
        assert labels == [*map(str, range(count)), other]


def test_names_that_are_the_numbers_are_no_names(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    numbers = {"_type": "ClassLabel", "names": ["0", "1", "2", "3"]}
    table = make_table([{"bytes": make_jpeg(0), "path": None}], [2], label=numbers)
    pq.write_table(table, tmp_path / "faces.parquet")
    source = ParquetRows([tmp_path / "faces.parquet"])
    assert source.classes == 4 and source.part(0, 1).identity_names() == {}


def test_a_large_row_group_takes_little_memory(tmp_path: Path) -> None:
    images = [np.random.default_rng(k).bytes(100_000) for k in range(400)]
    table = pa.table({"image": images, "label": list(range(400))})
    pq.write_table(table, tmp_path / "faces.parquet", compression="none", write_batch_size=16)
    del images, table
    with open_table(tmp_path / "faces.parquet") as file:
        (piece,) = file.pieces(["image"])
        before = most = pa.total_allocated_bytes()
        rows = 0
        for batch in file.batches(piece, {"image": (), "label": ()}):
            most = max(most, pa.total_allocated_bytes())
            rows += batch.num_rows
            del batch
    assert rows == 400
    assert most - before < 25_000_000  # of 40


# Columns -----------------------------------------------------------------------------------------


def columns_of(tmp_path: Path, table: Any, **options: Any) -> tuple[Any, ...]:
    """What is found in a table: images, label, whether they are pairs."""
    pq.write_table(table, tmp_path / "faces.parquet")
    columns = ParquetRows([tmp_path / "faces.parquet"], **options).columns
    return columns.images, columns.label, columns.pairs


def test_columns_are_found(tmp_path: Path) -> None:
    image, text = [b"x"], ["x"]
    assert columns_of(tmp_path, pa.table({"a": image, "age": [1], "label": [2]})) == (
        ("a",), "label", False,
    )  # fmt: skip
    assert columns_of(tmp_path, pa.table({"a": image, "age": [1], "identity": [2]}))[1] == (
        "identity"
    )
    assert columns_of(tmp_path, pa.table({"a": image, "name": text}))[1] is None
    assert columns_of(tmp_path, pa.table({"a": image, "identity": text}))[1] == "identity"
    for column, taken in (("label", "label"), ("id", "age"), ("name", "age")):
        table = pa.table({"a": image, column: text, "age": [30]})
        assert columns_of(tmp_path, table)[1] == taken
    assert columns_of(tmp_path, pa.table({"x": image, "y": image, "label": text, "one": [1]})) == (
        ("x", "y"), "one", True,
    )  # fmt: skip
    struct = pa.array([{"bytes": b"x"}], pa.struct([("bytes", pa.binary())]))
    assert columns_of(tmp_path, pa.table({"mask": image, "face": struct}))[0] == ("face",)
    assert columns_of(tmp_path, pa.table({"x": image, "y": image, "label": [1]})) == (
        ("x", "y"), "label", True,
    )  # fmt: skip
    assert columns_of(
        tmp_path, pa.table({"x": image, "y": image, "label": [1]}), image_column=["y"]
    ) == (("y",), "label", False)
    sized = pa.table({"image": image, "width": [112]})
    assert columns_of(tmp_path, sized)[1] is None
    assert columns_of(tmp_path, sized.append_column("pid", [[5]]))[1] == "pid"
    classes = make_table([{"bytes": b"x", "path": None}], [1]).append_column("cls", [[5]])
    assert columns_of(tmp_path, classes) == (("image",), "label", False)


def test_a_column_that_is_taken_is_told_with_how_to_take_another(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [b"x"], "age": [30]}), tmp_path / "faces.parquet")
    (note,) = ParquetRows([tmp_path / "faces.parquet"]).notices
    assert "labels from 'age'" in note and "--label-column" in note and "--image-column" in note


def test_a_column_that_is_called_as_labels_are_and_holds_none_is_told(tmp_path: Path) -> None:
    dates = [datetime.date(2020, 1, day) for day in (1, 2)]
    for name, values in (("label", [Decimal(1), Decimal(2)]), ("id", dates)):
        pq.write_table(pa.table({"a": [b"x", b"y"], name: values}), tmp_path / "faces.parquet")
        (note,) = ParquetRows([tmp_path / "faces.parquet"]).notices
        assert f"no column has labels (not {name!r}: labels are whole numbers or texts" in note


@pytest.mark.parametrize(
    ("columns", "label"),
    [
        ({"Image": [b"x"], "ID": [7], "Label": [3]}, "Label"),
        ({"a": [b"x"], "LABEL": ["Ann"]}, "LABEL"),
        ({"a": [b"x"], "person": ["Ann"], "age": [30], "pose": [2]}, "person"),
        ({"a": [b"x"], "subject_id": [5], "age": [30]}, "subject_id"),
        ({"a": [b"x"], "Person": [5.0]}, "Person"),
        ({"a": [b"x"], "b": [b"y"], "person": [5], "Is_Same": [1]}, "Is_Same"),
    ],
)
def test_labels_are_known_by_usual_names(tmp_path: Path, columns: Any, label: str) -> None:
    assert columns_of(tmp_path, pa.table(columns))[1] == label


@pytest.mark.parametrize(
    ("columns", "options", "error", "text"),
    [
        ({"a": [1]}, {}, SourceError, "no column holds images, of 'a' int64"),
        ({key: [b"x"] for key in "abc"}, {}, SourceError, "3 columns may hold images"),
        ({"a": [b"x"], "b": [1], "c": [2]}, {}, SourceError, "several columns may be the labels"),
        ({"a": [b"x"], "b": [b"x"]}, {}, SourceError, "needs a column of 0 and 1"),
        (
            {"a": [b"x"]},
            {"image_column": ["b"]},
            ConfigError,
            "--image-column b: the column of images is not there; those of faces.parquet: 'a' b",
        ),
        ({"a": [b"x"]}, {"label_column": "a"}, ConfigError, "labels is of another type .* cast"),
    ],
)
def test_columns_that_cannot_be_told(
    tmp_path: Path, columns: Any, options: Any, error: type[FacepackError], text: str
) -> None:
    with pytest.raises(error, match=text):
        columns_of(tmp_path, pa.table(columns), **options)


def test_what_was_found_is_said(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    pq.write_table(rows_of(make_jpeg, 3), tmp_path / "faces.parquet")
    result = invoke("parquet2lmdb", tmp_path / "faces.parquet", tmp_path / "pack")
    assert "images are taken from the column 'image', labels from 'label'" in result.stderr


@pytest.mark.parametrize(
    "told", ["[", '"x"', '{"info": []}', '{"info": {"features": 3}}', "[" * 9999]
)
def test_damaged_descriptions_tell_nothing(make_jpeg: MakeJpeg, tmp_path: Path, told: str) -> None:
    table = rows_of(make_jpeg, 3).replace_schema_metadata({"huggingface": told})
    assert columns_of(tmp_path, table) == (("image",), "label", False)


def test_files_must_agree(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    table = rows_of(make_jpeg, 3)
    pq.write_table(table, tmp_path / "a.parquet")
    others = {"_type": "ClassLabel", "names": ["c", "b", "a"]}
    pq.write_table(
        table.replace_schema_metadata(described({"label": others})), tmp_path / "b.parquet"
    )
    with pytest.raises(SourceError, match=r"b\.parquet: the names of its labels .* --by-name"):
        ParquetRows([tmp_path])
    pq.write_table(table.rename_columns(["face", "label"]), tmp_path / "b.parquet")
    with pytest.raises(SourceError, match=r"b\.parquet: its columns .* \(there .*'image' .*'face'"):
        ParquetRows([tmp_path])
    with pytest.raises(SourceError, match="is given twice"):
        ParquetRows([tmp_path / "a.parquet", tmp_path / "a.parquet"])


# Folders -----------------------------------------------------------------------------------------


def test_a_folder_of_splits(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    for k, name in enumerate(["data/train-00000-of-00001", "data/test-00000-of-00001", ".cache/x"]):
        path = tmp_path / "set" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows_of(make_jpeg, 2 + k), path)
    source = ParquetSource([tmp_path / "set"])
    assert len(source) == 3 + 2
    assert any("holds the splits test, train: all are taken" in note for note in source.notices)
    (stem, _, _), *others = source.groups()
    assert stem == "set" and not others
    alone = ParquetSource([tmp_path / "set/data/train-00000-of-00001.parquet"])
    assert alone.groups()[0].stem == "train"
    assert not any("splits" in note for note in alone.notices)


def test_labels_that_only_the_names_of_folders_have_are_not_lost(
    make_jpeg: MakeJpeg, tmp_path: Path
) -> None:
    faces = rows_of(make_jpeg, 4)
    pq.write_to_dataset(faces, tmp_path / "set", partition_cols=["label"])
    with pytest.raises(SourceError, match=r"such as 'label=0' .* write the set anew .*'label'"):
        ParquetSource([tmp_path / "set"])
    parts = pa.array(["train", "train", "train", "test"])
    pq.write_to_dataset(
        faces.append_column("split", parts), tmp_path / "splits", partition_cols=["split"]
    )
    source = ParquetSource([tmp_path / "splits"])
    assert len(source) == 4
    assert any("holds the splits test, train" in note for note in source.notices)


def test_folders_of_save_to_disk(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    first, second = rows_of(make_jpeg, 5), rows_of(make_jpeg, 9).slice(5)
    folder = save(tmp_path / "set" / "train", first, names=["data-9", "data-1"])
    with pa.ipc.new_stream(str(folder / "data-1.arrow"), second.schema) as stream:
        stream.write_table(second)
    (folder / "data-2.arrow").write_bytes(b"listed by nobody")
    names = [record.name for record in read(ParquetSource([folder]))]  # type: ignore[union-attr]
    assert names == [f"{k}.jpg" for k in range(9)]
    save(tmp_path / "set" / "test", first)
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    source = ParquetSource([tmp_path / "set"])
    assert len(source) == 9 + 5
    assert any("splits test, train" in note for note in source.notices)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ("[", "is damaged"),
        ("[]", "is damaged"),
        ('{"_data_files": [3]}', "no name of a file beside it"),
        ('{"_data_files": [{"filename": "../other.arrow"}]}', "no name of a file beside it"),
        ('{"_data_files": [], "_indices_files": [{"filename": "i"}]}', r"flatten_indices\(\)"),
        ('{"_data_files": [{"filename": "gone.arrow"}]}', "cannot be read"),
        ('{"_data_files": []}', "lists no file"),
    ],
)
def test_folders_that_lie(tmp_path: Path, state: str, text: str) -> None:
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(SourceError, match=text):
        ParquetSource([tmp_path])


def test_other_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    heads = {"a": b"ARROW1\0\0", "b": b"PAREPARE", "c": b"hello", "d": b""}
    texts = ["Feather", "encrypted", "neither a Parquet", "neither a Parquet"]
    for (name, head), text in zip(heads.items(), texts, strict=True):
        (tmp_path / name).write_bytes(head)
        with pytest.raises(SourceError, match=text):
            ParquetSource([tmp_path / name])
    with pytest.raises(SourceError, match=r"holds none: expected \.parquet files"):
        ParquetSource([tmp_path / "folder"])


def test_the_extra_is_named(
    make_jpeg: MakeJpeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(rows_of(make_jpeg, 3), tmp_path / "faces.parquet")
    plain = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return plain(name, *rest)

    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    result = invoke("parquet2lmdb", tmp_path / "faces.parquet", tmp_path / "pack")
    assert result.exit_code == 1
    assert "pyarrow is not installed" in result.stderr and "facepack[parquet]" in result.stderr


# Damage ------------------------------------------------------------------------------------------


def test_a_damaged_row_group_is_named(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    path = tmp_path / "faces.parquet"
    table = rows_of(make_jpeg, 12)
    pq.write_table(
        table,
        path,
        row_group_size=4,
        write_page_checksum=True,
        use_dictionary=False,
        write_statistics=False,
        compression="none",
    )
    data = path.read_bytes()
    image = table.to_pylist()[6]["image"]["bytes"]
    at = data.index(image) + len(image) // 2
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    result = invoke("parquet2lmdb", path, tmp_path / "pack")
    assert result.exit_code == 1
    assert f"{path}: row group 1: cannot be read" in result.stderr
    path.write_bytes(data[:-20])
    result = invoke("parquet2lmdb", path, tmp_path / "pack")
    assert result.exit_code == 1 and f"{path}: cannot be read" in result.stderr
    assert "--resume" not in result.stderr  # nothing was begun


def test_an_arrow_stream_that_is_cut_is_refused(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    folder = save(tmp_path / "faces", rows_of(make_jpeg, 12))
    path = folder / "data-0.arrow"
    data = path.read_bytes()
    with open_table(path) as file:
        pieces = file.pieces(["image"])
    assert [piece.rows for piece in pieces] == [4, 4, 4]
    for size in (len(data) - 8, pieces[2].at):  # between two messages: no reader minds
        path.write_bytes(data[:size])
        with pytest.raises(SourceError, match="the mark that ends a stream is not at its end"):
            ParquetSource([folder])
    path.write_bytes(data[: pieces[2].at + 300])
    with pytest.raises(SourceError, match=r"record batch 2: cannot be read"):
        ParquetSource([folder])


def test_changed_files_are_noticed(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    path = tmp_path / "faces.parquet"
    pq.write_table(rows_of(make_jpeg, 12), path)
    part = ParquetSource([path]).part(0, 12)
    pq.write_table(rows_of(make_jpeg, 11), path)
    with pytest.raises(SourceError, match="changed while it was read"):
        list(part.read())


@pytest.mark.parametrize("saved", [False, True])
def test_mutated_files_raise_our_errors_alone(
    make_jpeg: MakeJpeg, tmp_path: Path, saved: bool
) -> None:
    if saved:
        path = save(tmp_path / "faces", rows_of(make_jpeg, 6), chunk=3) / "data-0.arrow"
    else:
        path = tmp_path / "faces.parquet"
        pq.write_table(rows_of(make_jpeg, 6), path, row_group_size=3)
    data = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        mutated = bytearray(data)
        for at in random.integers(0, len(data), random.integers(1, 6)):
            mutated[at] = random.integers(0, 256)
        path.write_bytes(
            mutated[: random.integers(1, len(data))] if random.random() < 0.1 else mutated
        )
        try:
            read(ParquetSource([path]))
        except FacepackError:
            pass


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_bytes_that_inflate_beyond_measure_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool, compression: str
) -> None:
    """Some kilobytes can claim all memory."""
    monkeypatch.setattr(tables, "_FREE", 1 << 20)
    for size, refused in ((100_000, False), (4_000_000, True)):
        table = pa.table({"image": pa.array([bytes(size)], pa.large_binary()), "label": [0]})
        path = tmp_path / f"{size}.{'arrow' if saved else 'parquet'}"
        if saved:
            options = pa.ipc.IpcWriteOptions(compression=compression)
            with pa.ipc.new_stream(str(path), table.schema, options=options) as stream:
                stream.write_table(table)
        else:
            pq.write_table(table, path, compression=compression, use_dictionary=False)
        if refused:
            with pytest.raises(SourceError, match=r"inflate to 4,000,\d+, more than 100 times"):
                ParquetSource([path])
        else:
            assert len(read(ParquetSource([path]))) == 1


# Pairs -------------------------------------------------------------------------------------------


def test_a_pair_whose_image_is_not_there_is_left_out(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    here = [{"bytes": make_jpeg(k), "path": f"{k}.jpg"} for k in range(3)]
    gone = [{"bytes": None, "path": f"/data/{k}.jpg"} for k in range(2)]
    table = pa.table(
        {
            "image1": pa.array([here[0], here[1], gone[0], here[2]], IMAGE),
            "image2": pa.array([here[1], here[0], here[0], gone[1]], IMAGE),
            "same": [True, False, True, True],
        }
    )
    pq.write_table(table, tmp_path / "lfw.parquet")
    figures = converted("parquet2lmdb", tmp_path / "lfw.parquet", tmp_path / "pack")
    assert (figures["pairs"], figures["packed"], figures["quarantined"]) == (2, 3, 2)
    assert np.load(tmp_path / "pack" / "pairs.npy").shape == (2, 3)
    lines = (tmp_path / "pack" / "quarantine.jsonl").read_text()
    assert "/data/0.jpg" in lines and "/data/1.jpg" in lines


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (
            {"a": [b"x"] * 2, "b": [b"y"] * 2, "label": [1, 2]},
            "row 1: the column 'label' must be 1",
        ),
        ({"a": [b"x"] * 2, "b": [b"y"] * 2, "label": [1, None]}, "row 1"),
        ({"a": [b"x"] * 3, "is_same": [1, 1, 0]}, "not alike two by two"),
        ({"a": [b"x"] * 4, "is_same": [1, 0, 0, 1]}, "not alike two by two"),
    ],
)
def test_pairs_that_are_none(tmp_path: Path, columns: Any, text: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "lfw.parquet")
    with pytest.raises(SourceError, match=text):
        ParquetSource([tmp_path / "lfw.parquet"])


def test_a_label_that_calls_0_the_same_is_no_flag(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    table = pa.table({"a": [make_jpeg(0)], "b": [make_jpeg(1)], "label": [0]})
    for names, error in ((["Same", "different"], SourceError), (["different", "same"], None)):
        feature = {"label": {"_type": "ClassLabel", "names": names}}
        told = table.replace_schema_metadata(described(feature))
        pq.write_table(told, tmp_path / "lfw.parquet")
        if error is None:
            assert ParquetSource([tmp_path / "lfw.parquet"]).content == "pairs"
        else:
            with pytest.raises(error, match="0 is called 'Same': expected 1 for one person"):
                ParquetSource([tmp_path / "lfw.parquet"])


def test_files_with_other_columns_are_not_deleted(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    path = tmp_path / "faces.parquet"
    pq.write_table(rows_of(make_jpeg, 6).append_column("age", [list(range(6))]), path)
    pq.write_table(rows_of(make_jpeg, 9).slice(6), tmp_path / "first.parquet")
    facepack("parquet2lmdb", tmp_path / "first.parquet", tmp_path / "pack")
    words = ["append", tmp_path / "pack", path, "--source", "parquet", "--delete-source"]
    result = invoke(*words)
    assert result.exit_code == 2 and "--delete-source" in result.stderr and path.exists()


def test_pairs_become_a_pack_that_is_verified(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    table = pa.table(
        {"a": [make_jpeg(k) for k in range(6)], "is_same": [1, 1, 0, 0, 1, 1], "index": range(6)}
    )
    pq.write_table(table, tmp_path / "lfw.parquet")
    facepack("parquet2lmdb", tmp_path / "lfw.parquet", tmp_path / "pack", "--order", "source")
    assert np.load(tmp_path / "pack" / "pairs.npy").tolist() == [[0, 1, 1], [2, 3, 0], [4, 5, 1]]
    assert json.loads(facepack("verify", tmp_path / "pack", "--json"))["ok"]


def test_pairs_keep_their_paths_on_the_way_back(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    images = [{"bytes": make_jpeg(k), "path": f"people/{k}.jpg"} for k in range(3)]
    pairs = {
        "image1": pa.array([images[0], images[1]], IMAGE),
        "image2": pa.array([images[1], images[2]], IMAGE),
    }
    table = pa.table({**pairs, "label": [1, 0]})
    pq.write_table(table, tmp_path / "lfw.parquet")
    facepack("parquet2lmdb", tmp_path / "lfw.parquet", tmp_path / "pack")
    facepack("lmdb2parquet", tmp_path / "pack", tmp_path / "back")
    back = pq.read_table(tmp_path / "back" / "test-00000-of-00001.parquet")
    assert back.to_pylist() == table.to_pylist()
