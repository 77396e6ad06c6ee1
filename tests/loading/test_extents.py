"""Which bytes of a pack's files hold which records."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import lmdb
import numpy as np
import pytest

import facepack
from facepack.errors import DamageError
from facepack.loading.extents import Extents, _Leaves
from facepack.store.format import record_key
from facepack.store.lmdb_write import lmdb_pages
from facepack.store.pack import Pack


def holds(pack: Pack, extents: Extents, start: int, stop: int) -> bool:
    """Whether the extents of a stretch hold each of its records: looked for byte by byte."""
    found = [
        extent.path.read_bytes()[extent.offset : extent.offset + extent.length]
        for extent in extents.of(start, stop)
    ]
    return all(any(record.image in data for data in found) for record in pack[start:stop])


class TestExtents:
    def test_hold_every_stretch(self, faces: Pack) -> None:
        extents = Extents(faces)
        for start in range(len(faces)):
            for stop in range(start + 1, len(faces) + 1, 3):
                assert holds(faces, extents, start, stop)

    @pytest.mark.parametrize("gap", [0, 1, 32 << 10, 1 << 30])
    def test_hold_any_records_and_join_near_ones(self, faces: Pack, gap: int) -> None:
        extents = Extents(faces)
        rng = np.random.default_rng(gap)
        for count in (1, 2, 5, 20, 53):
            positions = np.sort(rng.choice(len(faces), count, replace=False))
            found = list(extents.around(positions, gap))
            data = [e.path.read_bytes()[e.offset : e.offset + e.length] for e in found]
            for position in positions.tolist():
                assert any(faces[position].image in some for some in data)
            for one, other in pairwise(found):
                apart = other.offset - one.offset - one.length
                assert one.path != other.path or apart > gap
            assert gap < 1 << 30 or len(found) <= len(faces.shard_names)

    def test_one_for_each_shard(self, faces: Pack) -> None:
        paths = [extent.path.name for extent in Extents(faces).of(19, 41)]
        assert paths == [f"{name}.mdb" for name in faces.shard_names]
        assert [extent.path.name for extent in Extents(faces).of(20, 40)] == paths[1:2]
        assert list(Extents(faces).of(20, 20)) == []

    def test_large_values_lie_behind_their_leaf(
        self, make_pack: Callable[..., Pack], make_image: Callable[..., bytes]
    ) -> None:
        pack = make_pack([make_image(number, "PNG", 150, 160) for number in range(12)])
        extents = Extents(pack)
        for start in range(len(pack)):
            assert holds(pack, extents, start, start + 1)
            assert list(extents.around(np.array([start]), 0)) == list(extents.of(start, start + 1))

    def test_shards_of_a_choice(self, faces: Pack) -> None:
        with facepack.open(faces.path, shards=faces.shard_names[1:]) as some:
            assert holds(some, Extents(some), 0, len(some))

    def test_a_damaged_shard_is_named(
        self, make_pack: Callable[..., Pack], make_image: Callable[..., bytes]
    ) -> None:
        pack = make_pack([make_image(number) for number in range(20)])
        file = pack.path / f"{pack.shard_names[0]}.mdb"
        file.write_bytes(file.read_bytes()[:40000])
        with pytest.raises(DamageError, match=r"its tree of pages .*facepack verify"):
            list(Extents(pack).of(0, 20))
        with pytest.raises(DamageError, match=r"its tree of pages .*facepack verify"):
            list(Extents(pack).around(np.arange(3), 0))


class TestLeaves:
    @pytest.mark.parametrize("records", [1, 3, 40, 2000, 40_000])
    @pytest.mark.parametrize("size", [30, 5000])
    def test_agree_with_the_file_at_any_depth(
        self, tmp_path: Path, records: int, size: int
    ) -> None:
        if size > 4096 and records > 2000:
            pytest.skip("too much to write")
        keys = [record_key(place) for place in range(records)] + [b"__meta__", b"__sums__"]
        values = [b"<%08d>" % place * (size // 10) for place in range(len(keys))]
        path = tmp_path / "shard.mdb"
        path.write_bytes(b"".join(lmdb_pages(keys, values, page_size=4096)))
        with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment:
            depth = environment.stat()["depth"]
        assert depth == 1 or records > 30
        data, leaves = path.read_bytes(), _Leaves(path)
        for place in np.unique(np.linspace(0, records - 1, 60).astype(int)).tolist():
            low, high = leaves.bytes_of(place, place + 1)
            assert low <= data.find(values[place]) <= high - size
            assert high - low == (8192 if size > 2000 else 4096) or high == len(data)
        low, high = leaves.bytes_of(0, records)
        assert low <= 3 * 4096
        assert data.find(values[records - 1]) <= high - size
