"""The order of an epoch, the flips, and how they are cut into batches."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facepack.errors import ConfigError
from facepack.hashing import derive_seed, hash64
from facepack.loading.order import BlockShape, Sequential, Shuffled, flips
from facepack.loading.plan import Draws, Plan

GOLDEN_SMALL = [0, 6, 1, 4, 7, 5, 9, 3, 2, 8]
GOLDEN_LARGE = [1088821, 3919933, 2184772, 1036746]
GOLDEN_FLIPS = [1, 0, 1, 1, 0, 1, 0, 0, 0, 1, 0, 1]


def slow_permuted(size: int, place: int, *seeds: int) -> int:
    """What comes at one place, in plain integers: the twin of ``Permutation``."""
    bits = 2
    while 1 << bits < size:
        bits += 1
    while True:
        widths = [bits - bits // 2, bits // 2]
        left, right = place >> widths[1], place % (1 << widths[1])
        for number in range(12 if size <= 256 else 6):
            key = derive_seed(*seeds, number)
            left, right = right, left ^ (hash64(key, right) % (1 << widths[0]))
            widths.reverse()
        place = (left << widths[1]) + right
        if place < size:
            return place


def slow_place(seed: int, epoch: int, records: int, place: int) -> int:
    """The record at one place of an epoch: the twin of ``Shuffled``."""
    return slow_permuted(records, place, seed, 1, epoch)


def slow_flip(seed: int, epoch: int, record: int) -> bool:
    """One record's coin: the twin of ``flips``."""
    return hash64(derive_seed(seed, 2, epoch), record) >= 1 << 63


def slow_batch(plan: Plan, epoch: int, batch: int) -> tuple[list[int], list[bool]]:
    """Positions and flips of one batch, record by record: the twin of ``Draws``."""
    order = list(range(plan.records))
    if plan.shuffle:
        order = [slow_place(plan.seed, epoch, plan.records, place) for place in order]
    whole = order[batch * plan.world * plan.batch_size :][: plan.world * plan.batch_size]
    edges = [len(whole) * rank // plan.world for rank in range(plan.world + 1)]
    mine = whole[edges[plan.rank] : edges[plan.rank + 1]]
    return mine, [plan.mirror and slow_flip(plan.seed, epoch, record) for record in mine]


def make_plan(**changes: object) -> Plan:
    base: dict[str, object] = {
        "records": 53,
        "batch_size": 4,
        "seed": 7,
        "rank": 0,
        "world": 1,
        "shuffle": True,
        "mirror": True,
        "drop_last": True,
    }
    return Plan(**{**base, **changes})  # type: ignore[arg-type]


class TestShuffled:
    @pytest.mark.parametrize("records", [1, 2, 3, 4, 5, 16, 17, 255, 256, 257, 1000, 4097])
    def test_equals_its_twin_and_is_a_permutation(self, records: int) -> None:
        order = Shuffled(3, 2, records).at(np.arange(records))
        assert order.dtype == np.int64
        assert order.tolist() == [slow_place(3, 2, records, place) for place in range(records)]
        assert sorted(order.tolist()) == list(range(records))

    @given(
        seed=st.integers(-(2**63), 2**64 - 1),
        epoch=st.integers(0, 10**6),
        records=st.integers(1, 10**15),
        data=st.data(),
    )
    @settings(max_examples=60, deadline=None)
    def test_any_place_of_any_epoch_is_found_alone(
        self, seed: int, epoch: int, records: int, data: st.DataObject
    ) -> None:
        places = data.draw(st.lists(st.integers(0, records - 1), min_size=1, max_size=5))
        order = Shuffled(seed, epoch, records)
        together = order.at(np.array(places))
        assert together.tolist() == [int(order.at(np.array([place]))[0]) for place in places]
        assert together.tolist() == [slow_place(seed, epoch, records, place) for place in places]

    def test_is_the_same_for_ever(self) -> None:
        # Saved positions would point to other batches if this changed.
        assert Shuffled(0, 0, 10).at(np.arange(10)).tolist() == GOLDEN_SMALL
        assert Shuffled(1, 5, 5_000_000).at(np.arange(4)).tolist() == GOLDEN_LARGE
        assert flips(0, 0, np.arange(12)).astype(int).tolist() == GOLDEN_FLIPS

    def test_seeds_and_epochs_give_unrelated_orders(self) -> None:
        places = np.arange(1000)
        orders = [Shuffled(seed, epoch, 1000).at(places) for seed in (0, 1) for epoch in (0, 1)]
        for number, one in enumerate(orders):
            for other in orders[:number]:
                assert np.sum(one == other) < 10  # 1 is expected of independent permutations

    @pytest.mark.parametrize(("records", "kinds"), [(3, 6), (4, 24)])
    def test_all_permutations_are_equally_frequent(self, records: int, kinds: int) -> None:
        places = np.arange(records)
        trials = range(40 * kinds)
        seen = Counter(tuple(Shuffled(seed, 0, records).at(places)) for seed in trials)
        assert len(seen) == kinds
        chi2 = sum((count - 40) ** 2 / 40 for count in seen.values())
        assert abs(chi2 - (kinds - 1)) < 4 * (2 * (kinds - 1)) ** 0.5

    def test_neighbours_do_not_stay_near(self) -> None:
        order = Shuffled(11, 0, 20_000).at(np.arange(20_000))
        steps = np.abs(np.diff(order))
        # |x − y| of two uniform draws from 0…n: mean n/3, standard deviation n/√18.
        assert abs(steps.mean() - 20_000 / 3) < 4 * 20_000 / (18 * 20_000) ** 0.5
        assert np.sum(steps == 1) < 12  # 2 are expected


class TestFlips:
    def test_equals_its_twin_and_is_fair(self) -> None:
        coins = flips(5, 3, np.arange(4000))
        assert coins.dtype == bool
        assert coins.tolist() == [slow_flip(5, 3, record) for record in range(4000)]
        assert abs(coins.mean() - 0.5) < 4 * 0.5 / 4000**0.5

    def test_belongs_to_the_record_and_the_epoch(self) -> None:
        positions = np.array([9, 3, 9, 5])
        coins = flips(1, 0, positions)
        assert coins.tolist() == [slow_flip(1, 0, int(position)) for position in positions]
        changed = flips(1, 0, np.arange(4000)) != flips(1, 1, np.arange(4000))
        assert abs(changed.mean() - 0.5) < 0.04


class TestPlan:
    @pytest.mark.parametrize("shuffle", [True, False])
    @pytest.mark.parametrize("world", [1, 3])
    @pytest.mark.parametrize("drop_last", [True, False])
    def test_equals_its_twin(self, shuffle: bool, world: int, drop_last: bool) -> None:
        for rank in range(world):
            plan = make_plan(shuffle=shuffle, world=world, rank=rank, drop_last=drop_last)
            draws = Draws(plan)
            for index in range(2 * plan.batches + 1):
                positions, coins = slow_batch(plan, *divmod(index, plan.batches))
                assert draws[index].positions.tolist() == positions
                assert draws[index].flips.tolist() == coins

    def test_computing_ahead_leaves_no_trace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plan = make_plan(drop_last=False)
        whole = [Draws(plan)[index].positions.tolist() for index in range(30)]
        monkeypatch.setattr("facepack.loading.plan._BLOCK", 12)
        draws = Draws(plan)
        for index in [*range(30), 3, 29, 0]:
            assert draws[index].positions.tolist() == whole[index]

    @pytest.mark.parametrize("world", [1, 2, 4])
    def test_ranks_share_out_each_global_batch(self, world: int) -> None:
        alone = Draws(make_plan(batch_size=8, drop_last=False))
        ranks = [
            Draws(make_plan(batch_size=8 // world, world=world, rank=rank, drop_last=False))
            for rank in range(world)
        ]
        assert {draws.plan.batches for draws in ranks} == {alone.plan.batches} == {7}
        for index in range(7):
            together = np.concatenate([draws[index].positions for draws in ranks])
            assert together.tolist() == alone[index].positions.tolist()

    def test_the_last_batch_is_shared_evenly(self) -> None:
        sizes = [
            len(Draws(make_plan(batch_size=8, world=6, rank=rank, drop_last=False))[1].positions)
            for rank in range(6)
        ]
        assert sum(sizes) == 53 - 48
        assert max(sizes) - min(sizes) == 1

    @pytest.mark.parametrize("drop_last", [True, False])
    def test_an_epoch_takes_each_record_at_most_once(self, drop_last: bool) -> None:
        plan = make_plan(drop_last=drop_last)
        draws = Draws(plan)
        seen = np.concatenate([draws[index].positions for index in range(plan.batches)])
        assert len(np.unique(seen)) == len(seen) == (52 if drop_last else 53)

    def test_any_size_needs_no_memory(self) -> None:
        plan = make_plan(records=10**14)
        assert len(Draws(plan)[10**12].positions) == 4

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"batch_size": 0}, "batch_size = 0 is not allowed: it must be at least 1"),
            ({"world": 0}, "world = 0 is not allowed: it must be at least 1"),
            (
                {"rank": 2, "world": 2},
                "with world = 2 it must be from 0 to 1",
            ),
            ({"rank": -1}, "rank = -1 is not allowed: with world = 1 it must be from 0 to 0"),
            ({"records": 0}, "the pack has no records"),
            ({"batch_size": 54}, "the pack has 53 records, fewer than one global batch of 54"),
        ],
    )
    def test_settings_out_of_range_are_named(
        self, changes: dict[str, object], message: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            make_plan(**changes)
        assert message in str(caught.value)

    def test_sequential_is_the_packs_order(self) -> None:
        assert Sequential(9, BlockShape(run=2, window=2)).at(np.array([3, 8])).tolist() == [3, 8]
        positions = Draws(make_plan(shuffle=False))[3].positions.tolist()
        assert all(after - before == 1 for before, after in pairwise(positions))
