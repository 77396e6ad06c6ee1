"""The order ``blocks``: a permutation in windows of runs, found directly and read in stretches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facepack.errors import ConfigError
from facepack.hashing import derive_seed, hash64
from facepack.loading.blocks import Blocks
from facepack.loading.order import BlockShape, Permutation, Sequential
from facepack.loading.plan import Draws, Plan

GOLDEN = [7, 5, 3, 4, 6, 8, 0, 1, 10, 11, 9, 2]


def shape_of(run: int, window: int) -> BlockShape:
    return BlockShape(run=run, window=window)


def slow_windows(seed: int, epoch: int, records: int, shape: BlockShape) -> list[list[int]]:
    """The windows of an epoch as lists of positions: the twin of ``Blocks``."""

    def permuted(things: list, *seeds: int) -> list:
        order = Permutation(len(things), *seeds).at(np.arange(len(things)))
        return [things[place] for place in order]

    turn = hash64(derive_seed(seed, 3, epoch), 0) % records
    ring = [(turn + number) % records for number in range(records)]
    runs = [ring[at : at + shape.run] for at in range(0, records, shape.run)]
    rest = runs.pop() if records % shape.run else []
    runs = permuted(runs, seed, 4, epoch)
    count = max(1, -(-len(runs) // shape.window))
    sizes = [len(runs) // count + (number < len(runs) % count) for number in range(count)]
    windows = []
    for number, size in enumerate(sizes):
        records_here = [record for run in runs[:size] for record in run]
        if number == count - 1:
            records_here += rest
        windows.append(permuted(records_here, derive_seed(seed, 5, epoch), number))
        runs = runs[size:]
    return windows


SIZES = [
    (1, 1, 1),
    (1, 5, 3),
    (2, 1, 1),
    (7, 10, 2),  # a run longer than the pack
    (12, 3, 2),
    (53, 4, 3),
    (53, 4, 100),  # a window larger than the pack
    (64, 1, 4),
    (100, 7, 1),
    (1000, 30, 5),
]


class TestBlocks:
    @pytest.mark.parametrize(("records", "run", "window"), SIZES)
    def test_equals_its_twin(self, records: int, run: int, window: int) -> None:
        for seed, epoch in [(0, 0), (0, 1), (9, 5)]:
            order = Blocks(seed, epoch, records, shape_of(run, window))
            windows = slow_windows(seed, epoch, records, shape_of(run, window))
            found = order.at(np.arange(records))
            assert found.dtype == np.int64
            assert found.tolist() == [record for records in windows for record in records]
            assert order.windows == len(windows)
            of_place = [order.window_of(place) for place in range(records)]
            assert of_place == [k for k, records in enumerate(windows) for _ in records]
            for k, positions in enumerate(windows):
                stretches = order.stretches(k).tolist()
                inside = [at for start, stop in stretches for at in range(start, stop)]
                assert inside == sorted(positions)

    @given(
        seed=st.integers(-(2**63), 2**64 - 1),
        epoch=st.integers(0, 10**6),
        records=st.integers(1, 600),
        run=st.integers(1, 700),
        window=st.integers(1, 40),
    )
    @settings(max_examples=60, deadline=None)
    def test_takes_each_record_once(
        self, seed: int, epoch: int, records: int, run: int, window: int
    ) -> None:
        order = Blocks(seed, epoch, records, shape_of(run, window))
        assert sorted(order.at(np.arange(records)).tolist()) == list(range(records))
        stretches = np.concatenate([order.stretches(k) for k in range(order.windows)])
        inside = np.concatenate([np.arange(start, stop) for start, stop in stretches])
        assert sorted(inside.tolist()) == list(range(records))

    @given(
        seed=st.integers(0, 2**64 - 1),
        epoch=st.integers(0, 10**6),
        records=st.integers(1, 10**15),
        run=st.integers(1, 10**4),
        window=st.integers(1, 10**4),
        data=st.data(),
    )
    @settings(max_examples=60, deadline=None)
    def test_any_place_of_any_epoch_is_found_alone(
        self, seed: int, epoch: int, records: int, run: int, window: int, data: st.DataObject
    ) -> None:
        places = data.draw(st.lists(st.integers(0, records - 1), min_size=1, max_size=5))
        order = Blocks(seed, epoch, records, shape_of(run, window))
        together = order.at(np.array(places))
        assert ((together >= 0) & (together < records)).all()
        assert together.tolist() == [int(order.at(np.array([place]))[0]) for place in places]
        for place, position in zip(places, together.tolist(), strict=True):
            stretches = order.stretches(order.window_of(place))
            assert ((stretches[:, 0] <= position) & (position < stretches[:, 1])).any()

    def test_is_the_same_for_ever(self) -> None:
        # Saved positions would point to other batches if this changed.
        assert Blocks(0, 0, 12, shape_of(3, 2)).at(np.arange(12)).tolist() == GOLDEN

    def test_epochs_cut_other_runs(self) -> None:
        starts = {
            int(Blocks(1, epoch, 999, shape_of(10, 4)).stretches(0)[0, 0]) for epoch in range(9)
        }
        assert len({start % 10 for start in starts}) > 3

    def test_windows_are_even(self) -> None:
        order = Blocks(0, 0, 1030, shape_of(10, 30))  # 103 runs in 4 windows
        assert np.bincount([order.window_of(place) for place in range(1030)]).tolist() == [
            *[260] * 3,
            250,
        ]

    def test_a_batch_has_records_of_many_runs(self) -> None:
        order = Blocks(3, 0, 100_000, shape_of(50, 200))
        batches = order.at(np.arange(100_000)).reshape(-1, 100)
        nearest = np.diff(np.sort(batches, axis=1), axis=1).min(axis=1)
        runs = [len(np.unique(batch // 50)) for batch in batches]
        # 100 draws from 200 runs: 200 (1 − (1 − 1/200)^100) = 79 different ones are expected.
        assert 75 < np.mean(runs) < 95
        assert np.median(nearest) >= 1


class TestBlockShape:
    @pytest.mark.parametrize(("run", "window", "named"), [(0, 1, "run"), (1, 0, "window")])
    def test_sizes_out_of_range_are_named(self, run: int, window: int, named: str) -> None:
        with pytest.raises(ConfigError, match=f"{named} = 0 is not allowed: .* at least 1"):
            shape_of(run, window)

    def test_is_read_as_it_is_written(self) -> None:
        assert str(shape_of(84, 1024)) == "84x1024"
        assert BlockShape.parse("84x1024") == shape_of(84, 1024)
        for text in ("", "84", "x4", "4x", "-4x4", "4x4x4"):
            with pytest.raises(ConfigError, match="is no shape of blocks"):
                BlockShape.parse(text)


class TestSequential:
    @pytest.mark.parametrize(("records", "run", "window"), SIZES)
    def test_windows_hold_their_places(self, records: int, run: int, window: int) -> None:
        order = Sequential(records, shape_of(run, window))
        inside = []
        for k in range(order.windows):
            for start, stop in order.stretches(k).tolist():
                assert 0 < stop - start <= run
                inside += [(at, k) for at in range(start, stop)]
        assert inside == [(place, order.window_of(place)) for place in range(records)]


class TestPlan:
    def plan(self, **changes: object) -> Plan:
        base: dict[str, object] = {
            "records": 1003,
            "batch_size": 12,
            "seed": 7,
            "rank": 0,
            "world": 1,
            "shuffle": True,
            "mirror": True,
            "drop_last": False,
            "blocks": shape_of(9, 11),
        }
        return Plan(**{**base, **changes})  # type: ignore[arg-type]

    @pytest.mark.parametrize("world", [1, 2, 3])
    def test_ranks_share_out_an_epoch(self, world: int) -> None:
        expected = [
            record for window in slow_windows(7, 2, 1003, shape_of(9, 11)) for record in window
        ]
        ranks = [
            Draws(self.plan(batch_size=12 // world, world=world, rank=r)) for r in range(world)
        ]
        batches = ranks[0].plan.batches
        together = [
            draws[2 * batches + number].positions for number in range(batches) for draws in ranks
        ]
        assert np.concatenate(together).tolist() == expected

    @given(index=st.integers(0, 400))
    @settings(max_examples=40, deadline=None)
    def test_any_batch_is_found_alone(self, index: int) -> None:
        draws = Draws(self.plan())
        draws[0]
        alone = Draws(self.plan())[index]
        assert alone.index == index
        assert draws[index].positions.tolist() == alone.positions.tolist()
        assert draws[index].flips.tolist() == alone.flips.tolist()

    def test_any_size_needs_no_memory(self) -> None:
        plan = self.plan(records=10**14, blocks=shape_of(80, 1000))
        assert len(Draws(plan)[10**12].positions) == 12
