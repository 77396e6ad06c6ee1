"""Images that are read from Parquet's pages by our own means, against the library's."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facepack.convert.formats.parquet import plain, tables
from facepack.convert.formats.parquet.rows import ParquetRows
from facepack.convert.formats.parquet.thrift import read_struct
from facepack.convert.source import Refusal
from facepack.errors import FacepackError
from facepack.store.record import RecordRun

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
Row = tuple[int, bytes, int, str | None]
Mutated = Callable[[bytes, random.Random], bytes]


def make_images(count: int, sizes: tuple[int, int] = (1, 900), missing: int = 0) -> list[Any]:
    """Random bytes of random sizes; one of ``missing`` is not there."""
    random = np.random.default_rng(count)
    images = [random.bytes(int(size)) for size in random.integers(*sizes, count)]
    return [None if missing and k % missing == 1 else image for k, image in enumerate(images)]


def write(path: Path, images: list[Any], kind: Any = IMAGE, **options: Any) -> Path:
    """A Parquet file of an image and a label in each row."""
    if kind == IMAGE:
        values = [{"bytes": image, "path": f"{k}.jpg"} for k, image in enumerate(images)]
    else:
        values = images
    table = pa.table({"image": pa.array(values, kind), "label": range(len(images))})
    usual = {"compression": "none", "use_dictionary": False, "write_batch_size": 4}
    usual["write_statistics"] = ["label"]  # those of images would be images
    pq.write_table(table, path, **usual | options)
    return path


def read(path: Path, start: int = 0, stop: int | None = None) -> list[Row | Refusal]:
    """All rows, as a worker reads them."""
    source = ParquetRows([path])
    rows: list[Row | Refusal] = []
    for item in source.part(start, len(source) if stop is None else stop).read_runs():
        if isinstance(item, RecordRun):
            rows += [(r.ordinal, bytes(r.image), r.label, r.name) for r in item.records()]
        else:
            assert isinstance(item, Refusal)
            rows.append(item)
    return rows


def by_library(path: Path, start: int = 0, stop: int | None = None) -> list[Row | Refusal]:
    """As :func:`read`, by the library alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "find_chunks", lambda file, leaf: [])
        return read(path, start, stop)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of :func:`plain.read_images` gave."""
    counts: list[int] = []

    def counting(*args: Any, **options: Any) -> Iterator[plain.Images]:
        counts.append(0)
        for images in plain.read_images(*args, **options):
            counts[-1] += len(images.starts)
            yield images

    monkeypatch.setattr(tables, "read_images", counting)
    return counts


@pytest.mark.parametrize("block", [70, 1000, plain.MAX_BLOCK])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kind": pa.binary()},
        {"kind": pa.large_binary()},
        {"data_page_size": 1000},
        {"data_page_size": 1000, "row_group_size": 7},
        {"write_batch_size": 1, "data_page_size": 1},
        {"version": "1.0", "write_page_index": True},
        {"compression": {"image.bytes": "none", "image.path": "zstd", "label": "snappy"}},
    ],
    ids=str,
)
def test_usual_pages(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    counted: list[int],
    block: int,
    options: dict[str, Any],
) -> None:
    monkeypatch.setattr(plain, "MAX_BLOCK", block)
    images = make_images(50)
    path = write(tmp_path / "faces.parquet", images, **options)
    rows = read(path)
    assert sum(counted) == 50
    named = options.get("kind", IMAGE) == IMAGE
    assert rows == [(k, image, k, f"{k}.jpg" if named else None) for k, image in enumerate(images)]
    assert rows == by_library(path)


def test_statistics_of_pages_are_passed_over(tmp_path: Path, counted: list[int]) -> None:
    images = make_images(50, (3000, 4000))
    path = write(tmp_path / "faces.parquet", images, write_statistics=True, data_page_size=9000)
    assert [row[1] for row in read(path) if isinstance(row, tuple)] == images
    assert counted == [50]


def test_required_columns_have_no_levels(tmp_path: Path, counted: list[int]) -> None:
    images = make_images(30)
    schema = pa.schema([pa.field("image", pa.binary(), False), pa.field("label", pa.int64())])
    table = pa.table([pa.array(images, pa.binary()), pa.array(range(30))], schema=schema)
    path = tmp_path / "faces.parquet"
    pq.write_table(table, path, compression="none", use_dictionary=False)
    assert [row[1] for row in read(path) if isinstance(row, tuple)] == images
    assert counted == [30]


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ({"compression": "snappy"}, None),
        ({"use_dictionary": True}, None),
        ({"column_encoding": {"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"}}, None),
        ({"data_page_version": "2.0"}, 0),
        ({"write_page_checksum": True}, 0),
    ],
    ids=str,
)
def test_what_is_stored_otherwise_is_read_by_the_library(
    tmp_path: Path, counted: list[int], options: dict[str, Any], first: int | None
) -> None:
    images = make_images(30)
    path = write(tmp_path / "faces.parquet", images, **options)
    assert [row[1] for row in read(path) if isinstance(row, tuple)] == images
    assert counted == ([] if first is None else [first])


@pytest.mark.parametrize("block", [70, plain.MAX_BLOCK])
def test_an_image_that_is_not_there_leaves_the_rest_to_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: list[int], block: int
) -> None:
    monkeypatch.setattr(plain, "MAX_BLOCK", block)
    images = [*make_images(20), None, b"", *make_images(20)]
    path = write(tmp_path / "faces.parquet", images, data_page_size=1)
    rows = read(path)
    assert rows == by_library(path)
    assert [row.reason for row in rows if isinstance(row, Refusal)] == [
        "it holds no image, but the path of one on the machine that wrote the file: '20.jpg'",
        "it holds no image, but the path of one on the machine that wrote the file: '21.jpg'",
    ]
    if block == 70:
        assert counted == [20]


def test_rows_without_labels(tmp_path: Path, counted: list[int]) -> None:
    images = make_images(30)
    table = pa.table({"image": pa.array(images, pa.binary())})
    path = tmp_path / "faces.parquet"
    pq.write_table(table, path, compression="none", use_dictionary=False)
    assert read(path) == [(k, image, -1, None) for k, image in enumerate(images)]
    assert counted == [30]


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 59), st.integers(1, 60), st.sampled_from([70, 700, plain.MAX_BLOCK]))
def test_any_rows(tmp_path_factory: Any, start: int, count: int, block: int) -> None:
    folder = tmp_path_factory.getbasetemp() / "any-rows"
    path = folder / "faces.parquet"
    images = make_images(60, (1, 200))
    if not path.exists():
        folder.mkdir()
        write(path, images, row_group_size=25, data_page_size=500)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "MAX_BLOCK", block)
        stop = min(start + count, 60)
        assert [row[1] for row in read(path, start, stop) if isinstance(row, tuple)] == images[
            start:stop
        ]


def test_batches_of_what_is_beside_images_end_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: list[int]
) -> None:
    monkeypatch.setattr(tables, "_BATCH_ROWS", 3)
    monkeypatch.setattr(plain, "MAX_BLOCK", 2000)
    path = write(tmp_path / "faces.parquet", make_images(50), data_page_size=900)
    assert read(path) == by_library(path)
    assert sum(counted) == 50


def outcome(look: Callable[[], list[Row | Refusal]]) -> Any:
    """The rows, or that the file is refused."""
    try:
        return look()
    except FacepackError:
        return "refused"


def test_mutated_files_are_what_the_library_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutated: Mutated
) -> None:
    monkeypatch.setattr(plain, "MAX_BLOCK", 300)
    good = write(tmp_path / "good.parquet", make_images(12, (1, 90)), data_page_size=200)
    data, path = good.read_bytes(), tmp_path / "faces.parquet"
    images = [row[1] for row in read(good) if isinstance(row, tuple)]
    rng = random.Random(0)
    for _ in range(400):
        path.write_bytes(mutated(data, rng))
        found, by_twin = outcome(lambda: read(path)), outcome(lambda: by_library(path))
        # The library also looks at what nobody needs, such as histograms of levels.
        assert found == by_twin or (by_twin == "refused" and [row[1] for row in found] == images)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_structure_or_raise(data: bytes) -> None:
    try:
        _, end = read_struct(memoryview(data), 0)
    except (ValueError, IndexError):
        return
    assert 0 < end <= len(data)


def test_values_that_lie_too_deep_are_refused() -> None:
    for head in (b"\x1c", b"\x19"):  # a structure in a structure, a list in a list
        with pytest.raises((ValueError, IndexError)):
            read_struct(memoryview(head + b"\x19\x1c" * 100_000), 0)
