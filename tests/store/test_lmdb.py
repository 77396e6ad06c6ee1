from __future__ import annotations

import itertools
import random
from pathlib import Path

import lmdb
import lmdb.verify
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facepack.store.fill import WINDOW, fill_pages
from facepack.store.lmdb_format import PAGE_HEADER, PAGE_SIZES
from facepack.store.lmdb_read import ScanError, leaf_numbers, read_page_size, stated_pages
from facepack.store.lmdb_write import fill_in_order, lmdb_pages, node_costs
from tests.store.lmdb_twin import scan_leaf

Items = list[tuple[bytes, bytes]]


def write(path: Path, items: Items, page_size: int) -> bytes:
    keys, values = [key for key, _ in items], [value for _, value in items]
    data = b"".join(lmdb_pages(keys, values, page_size=page_size))
    path.write_bytes(data)
    return data


def read_with_engine(path: Path) -> Items:
    with (
        lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        found = list(transaction.cursor())
        assert all(transaction.get(key) == value for key, value in found)
    return found


def scan(data: bytes) -> Items:
    view, page_size = memoryview(data), read_page_size(data)
    pages = leaf_numbers(view, page_size)
    return [(k, bytes(v)) for page in pages for k, v in scan_leaf(view, page, page_size)]


def engine_twin(path: Path, items: Items) -> Items:
    """The slow, obvious way: let LMDB write the file."""
    with lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 28) as environment:
        with environment.begin(write=True) as transaction:
            for key, value in items:
                transaction.put(key, value)
    return read_with_engine(path)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("count", [1, 2, 3, 7, 40, 400])
def test_engine_and_verifier_and_scan_agree(tmp_path: Path, count: int, page_size: int) -> None:
    rng = random.Random(count)
    sizes = [0, 1, 100, 4000, 16_355, 16_356, 16_357, 30_000, 60_000]
    items = [(b"%010d" % i, rng.randbytes(rng.choice(sizes))) for i in range(count)]
    items.append((b"__meta__", rng.randbytes(50)))
    path = tmp_path / "file.mdb"
    data = write(path, items, page_size)
    assert read_with_engine(path) == items == scan(data)
    assert lmdb.verify.verify(str(path), subdir=False) == []
    assert stated_pages(data) * page_size == len(data)
    if count <= 40:
        assert engine_twin(tmp_path / "twin.mdb", items) == items


@pytest.mark.parametrize("page_size", [4096, 32768])
def test_deep_trees(tmp_path: Path, page_size: int) -> None:
    count = 60_000  # three levels of 4 KiB pages
    items = [(b"%010d" % i, bytes([i % 251]) * 60) for i in range(count)]
    path = tmp_path / "file.mdb"
    write(path, items, page_size)
    assert read_with_engine(path) == items
    assert lmdb.verify.verify(str(path), subdir=False) == []
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment:
        assert environment.stat()["psize"] == page_size
        assert environment.stat()["depth"] == (3 if page_size == 4096 else 2)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.binary(min_size=1, max_size=40), st.binary(max_size=9000), min_size=1),
    st.sampled_from(PAGE_SIZES),
)
def test_any_keys_and_values(
    tmp_path_factory: pytest.TempPathFactory, content: dict[bytes, bytes], page_size: int
) -> None:
    items = sorted(content.items())
    path = tmp_path_factory.mktemp("any") / "file.mdb"
    data = write(path, items, page_size)
    assert read_with_engine(path) == items == scan(data)
    assert lmdb.verify.verify(str(path), subdir=False) == []


def test_the_engine_can_go_on_writing(tmp_path: Path) -> None:
    """Nothing about the file is special: the engine grows, deletes and reads it as its own."""
    path = tmp_path / "file.mdb"
    items = [(b"%010d" % i, bytes([i % 256]) * (i * 37 % 9000)) for i in range(500)]
    write(path, items, 32768)
    expected = dict(items)
    with lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 27) as environment:
        with environment.begin(write=True) as transaction:
            for i in range(0, 500, 3):
                transaction.delete(b"%010d" % i)
                del expected[b"%010d" % i]
            for i in range(1000, 1400):
                transaction.put(b"%010d" % i, b"x" * (i * 13 % 20_000))
                expected[b"%010d" % i] = b"x" * (i * 13 % 20_000)
    assert read_with_engine(path) == sorted(expected.items())
    assert lmdb.verify.verify(str(path), subdir=False) == []


@pytest.mark.parametrize(
    ("keys", "values", "options", "text"),
    [
        ([b"b", b"a"], [b"", b""], {}, "ascending"),
        ([b"a", b"a"], [b"", b""], {}, "ascending"),
        ([], [], {}, "0 keys"),
        ([b"a"], [], {}, "1 keys for 0 values"),
        ([b"x" * 512], [b""], {}, "511"),
        ([b"a"], [b""], {"page_size": 5000}, "page size 5000"),
        ([b"a", b"b"], [b"x" * 1500] * 2, {"leaf_starts": [0]}, None),
        ([b"a", b"b", b"c"], [b"x" * 1500] * 3, {"leaf_starts": [0]}, "exceeds a page"),
    ],
)
def test_what_cannot_be_written_is_refused(
    keys: list[bytes], values: list[bytes], options: dict[str, object], text: str | None
) -> None:
    options = {"page_size": 4096, **options}
    if text is None:
        assert b"".join(lmdb_pages(keys, values, **options))
        return
    with pytest.raises(ValueError, match=text):
        list(lmdb_pages(keys, values, **options))


def test_scan_of_damaged_bytes_ends_in_a_scan_error(tmp_path: Path) -> None:
    items = [(b"%010d" % i, bytes(i * 91 % 7000)) for i in range(60)]
    good = write(tmp_path / "file.mdb", items, 4096)
    rng = random.Random(5)
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(rng.choice([1, 1, 4])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        data = data[: rng.choice([len(data), rng.randrange(len(data))])]
        try:
            scan(bytes(data))
        except ScanError:
            continue


# Filling pages -----------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(2, 4080), min_size=1, max_size=300))
def test_filling_places_every_record_once_and_no_page_overflows(costs: list[int]) -> None:
    array = np.asarray(costs, np.int64)
    order, starts = fill_pages(array, 4080)
    assert sorted(order.tolist()) == list(range(len(costs)))
    assert starts[0] == 0 and all(a < b for a, b in itertools.pairwise(starts))
    assert np.add.reduceat(array[order], starts).max() <= 4080


def faces(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.exp(rng.normal(np.log(5800), 0.25, count)).astype(np.int64)


def test_filled_pages_waste_next_to_nothing() -> None:
    sizes = faces(20_000)
    costs = node_costs(32768, np.full(len(sizes), 10), sizes)
    room = 32768 - PAGE_HEADER
    order, starts = fill_pages(costs, room)
    in_order = fill_in_order(costs, 32768)
    assert len(starts) * 32768 < 1.012 * sizes.sum()
    assert len(in_order) * 32768 > 1.06 * sizes.sum()
    moved = np.abs(order - np.arange(len(order)))
    assert moved.mean() < 20 and moved.max() < 8 * WINDOW


def test_filling_is_a_pure_function() -> None:
    costs = node_costs(32768, np.full(3000, 10), faces(3000))
    one, two = fill_pages(costs, 32752), fill_pages(costs.copy(), 32752)
    assert (one[0] == two[0]).all() and one[1] == two[1]


def test_filling_in_order_equals_the_obvious_loop() -> None:
    costs = node_costs(8192, np.full(500, 10), faces(500) // 4)
    starts, used = [], 1 << 60
    for i, cost in enumerate(costs):
        if used + cost > 8192 - PAGE_HEADER:
            starts.append(i)
            used = 0
        used += cost
    assert fill_in_order(costs, 8192) == starts
