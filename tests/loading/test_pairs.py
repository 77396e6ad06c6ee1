"""Pairs of images of one identity beside a batch: their index, their order, their reading."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import facepack
from facepack import Loader
from facepack.errors import ConfigError, DamageError
from facepack.hashing import derive_seed, hash64
from facepack.loading import identities as identities_module
from facepack.loading.augment import Augment
from facepack.loading.choice import pairs_ahead
from facepack.loading.extents import Extents
from facepack.loading.identities import IdentityIndex, Pairs
from facepack.loading.order import BlockShape, Permutation, flips
from facepack.loading.plan import Draws, Plan
from facepack.loading.readahead import PairsAhead, read_ahead
from facepack.memory import Memory
from facepack.store.pack import Pack

# Identities 0 to 8 with 1 to 7 images, 4 absent; two images have no identity.
COUNTS = {0: 1, 1: 7, 2: 2, 3: 5, 5: 1, 6: 3, 7: 4, 8: 2}
LABELS = np.array([label for label, count in COUNTS.items() for _ in range(count)] + [-1, -1])
GOLDEN = [[13, 14], [15, 15], [9, 8], [20, 22]]


def by_identity(labels: np.ndarray) -> dict[int, list[int]]:
    """The positions of each identity: the twin of the index."""
    found: dict[int, list[int]] = {}
    for position, label in enumerate(labels.tolist()):
        if label >= 0:
            found.setdefault(label, []).append(position)
    return dict(sorted(found.items()))


def slow_pairs(labels: np.ndarray, seed: int, count: int) -> list[tuple[int, int, int]]:
    """Identity epoch and both positions of the first pairs: the twin of ``Pairs``."""
    images = by_identity(labels)
    drawn: list[tuple[int, int, int]] = []
    for epoch in range(count // len(images) + 1):
        order = Permutation(len(images), seed, 7, epoch).at(np.arange(len(images)))
        for rank in order.tolist():
            label, own = list(images.items())[rank]
            first = hash64(derive_seed(seed, 8, epoch), label) % len(own)
            rest = own[first + 1 :] + own[:first]
            second = own[first]
            if rest:
                second = rest[hash64(derive_seed(seed, 9, epoch), label) % len(rest)]
            drawn.append((epoch, own[first], second))
    return drawn[:count]


def make_plan(labels: np.ndarray, **changes: Any) -> Plan:
    base: dict[str, Any] = {
        "records": len(labels),
        "batch_size": 4,
        "pairs": 3,
        "seed": 5,
        "rank": 0,
        "world": 1,
        "shuffle": True,
        "mirror": True,
        "drop_last": True,
    }
    return Plan(**{**base, **changes})


class TestIndex:
    @given(labels=st.lists(st.integers(-1, 9), max_size=80), piece=st.integers(1, 90))
    @settings(max_examples=80, deadline=None)
    def test_equals_its_twin(self, labels: list[int], piece: int) -> None:
        expected = by_identity(np.array(labels, np.int64))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(identities_module, "_PIECE", piece)
            if not expected:
                with pytest.raises(ConfigError, match=r"none of the \d+ images has one"):
                    IdentityIndex(np.array(labels, np.int64))
                return
            index = IdentityIndex(np.array(labels, np.int64))
        assert index.identities == len(expected)
        assert index.labels.tolist() == list(expected)
        ranks = np.arange(index.identities)
        counts = index.counts(ranks)
        assert counts.tolist() == [len(own) for own in expected.values()]
        every = np.repeat(ranks, counts)
        numbers = np.concatenate([np.arange(count) for count in counts])
        together = [position for own in expected.values() for position in own]
        assert index.position(every, numbers).tolist() == together

    def test_takes_at_most_eight_bytes_an_image(self) -> None:
        labels = np.random.default_rng(0).integers(0, 1000, 50_000)
        assert IdentityIndex(labels).nbytes < 5 * len(labels)

    @pytest.mark.parametrize("kind", [np.int32, np.int64])
    def test_large_labels(self, kind: type) -> None:
        labels = np.array([3_000_000, 7, 3_000_000], kind)
        index = IdentityIndex(labels)
        assert index.labels.tolist() == [7, 3_000_000]
        assert index.position(np.array([1, 1, 0]), np.array([0, 1, 0])).tolist() == [0, 2, 1]


class TestPairs:
    @given(
        labels=st.lists(st.integers(-1, 9), min_size=1, max_size=60).filter(lambda v: max(v) >= 0),
        seed=st.integers(0, 2**64 - 1),
    )
    @settings(max_examples=60, deadline=None)
    def test_equal_their_twin(self, labels: list[int], seed: int) -> None:
        array = np.array(labels)
        index = IdentityIndex(array)
        expected = slow_pairs(array, seed, 3 * index.identities + 2)
        found, keys = Pairs(index, seed).at(np.arange(len(expected)))
        assert found.dtype == keys.dtype == np.int64
        assert found.tolist() == [[first, second] for _, first, second in expected]
        for epoch in range(3):  # every identity once; two images wherever there are two
            own = found[epoch * index.identities :][: index.identities]
            assert sorted(array[own[:, 0]].tolist()) == index.labels.tolist()
            assert (array[own[:, 0]] == array[own[:, 1]]).all()
            counts = np.array([labels.count(label) for label in array[own[:, 0]].tolist()])
            assert ((own[:, 0] == own[:, 1]) == (counts == 1)).all()

    @given(entries=st.lists(st.integers(0, 10**15), min_size=1, max_size=20))
    @settings(max_examples=40, deadline=None)
    def test_any_entry_is_found_alone(self, entries: list[int]) -> None:
        pairs = Pairs(IdentityIndex(LABELS), 3)
        together, keys = pairs.at(np.array(entries))
        for number, entry in enumerate(entries):
            alone = pairs.at(np.array([entry]))
            assert [together[number].tolist(), keys[number].tolist()] == [
                part[0].tolist() for part in alone
            ]

    def test_are_the_same_for_ever(self) -> None:
        # Saved positions would point to other batches if this changed.
        assert Pairs(IdentityIndex(LABELS), 0).at(np.arange(4))[0].tolist() == GOLDEN

    def test_all_pairs_of_an_identity_are_alike(self) -> None:
        labels = np.repeat(np.arange(200), 4)
        pairs, _ = Pairs(IdentityIndex(labels), 1).at(np.arange(12_000))
        times = Counter(map(tuple, (pairs % 4).tolist()))
        assert len(times) == 12  # 1,000 each; four standard deviations
        assert max(abs(count - 1000) for count in times.values()) < 4 * 30.3

    def test_coins_of_both_images_are_independent(self) -> None:
        positions, keys = Pairs(IdentityIndex(np.arange(2000)), 1).at(np.arange(4000))
        assert (positions[:, 0] == positions[:, 1]).all()
        tossed = flips(1, 0, keys)
        alone = flips(1, 0, positions)
        by_epoch = (
            tossed[np.argsort(positions[:2000, 0])],
            tossed[2000:][np.argsort(positions[2000:, 0])],
        )
        for one, other in [
            (tossed[:, 0], tossed[:, 1]),
            (tossed[:, 0], alone[:, 0]),
            (by_epoch[0][:, 0], by_epoch[1][:, 0]),
        ]:
            assert abs(np.mean(one == other) - 0.5) < 0.05


class TestDraws:
    @pytest.mark.parametrize("world", [1, 2, 3])
    @pytest.mark.parametrize("blocks", [None, BlockShape(run=2, window=3)])
    def test_ranks_share_out_both_orders(self, world: int, blocks: BlockShape | None) -> None:
        whole = {"batch_size": 12, "pairs": 6, "blocks": blocks}
        shared = {"batch_size": 12 // world, "pairs": 6 // world, "blocks": blocks, "world": world}
        index = IdentityIndex(LABELS)
        plain = Draws(make_plan(LABELS, **{**whole, "pairs": 0}))
        ranks = [Draws(make_plan(LABELS, **shared, rank=r), index) for r in range(world)]
        pairs = slow_pairs(LABELS, 5, 6 * 20)
        assert ranks[0].plan.batches == plain.plan.batches
        for number in range(20):
            halves = [np.split(draws[number].positions, 2) for draws in ranks]
            for which in range(2):
                images = np.concatenate([parts[which][: 6 // world] for parts in halves])
                expected = pairs[6 * number : 6 * number + 6]
                assert images.tolist() == [pair[1 + which] for pair in expected]
            rest = [part[6 // world :] for parts in halves for part in parts]
            assert np.concatenate(rest).tolist() == plain[number].positions.tolist()

    @given(index=st.integers(0, 400))
    @settings(max_examples=40, deadline=None)
    def test_any_batch_is_found_alone(self, index: int) -> None:
        draws = Draws(make_plan(LABELS), IdentityIndex(LABELS))
        draws[0]
        alone = Draws(make_plan(LABELS), IdentityIndex(LABELS))[index]
        assert draws[index].positions.tolist() == alone.positions.tolist()
        assert draws[index].keys.tolist() == alone.keys.tolist()
        assert draws[index].flips.tolist() == alone.flips.tolist()

    def test_the_rest_of_a_batch_is_mirrored_as_without_pairs(self) -> None:
        plain = Draws(make_plan(LABELS, pairs=0))
        draws = Draws(make_plan(LABELS), IdentityIndex(LABELS))
        for number in range(12):
            rest = [part[3:] for part in np.split(draws[number].flips, 2)]
            assert np.concatenate(rest).tolist() == plain[number].flips.tolist()

    def test_more_pairs_than_identities_come_again(self) -> None:
        draws = Draws(make_plan(LABELS, pairs=30), IdentityIndex(LABELS))
        first = np.split(draws[0].positions, 2)[0][:30]
        assert first.tolist() == [pair[1] for pair in slow_pairs(LABELS, 5, 30)]

    @pytest.mark.parametrize("changes", [{"batch_size": 5}, {"drop_last": False}])
    def test_both_halves_have_one_length(self, changes: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=r"pairs = 3 needs .* even number, and drop_last"):
            make_plan(LABELS, **changes)

    def test_pairs_out_of_range(self) -> None:
        with pytest.raises(ConfigError, match="pairs = -1 is not allowed"):
            make_plan(LABELS, pairs=-1)

    def test_what_is_broken_takes_the_other_half_along(self) -> None:
        draw = Draws(make_plan(LABELS), IdentityIndex(LABELS))[0]
        assert draw.complete([]).tolist() == list(range(10))
        assert draw.complete([1, 9, 6]).tolist() == [0, 2, 3, 5, 7, 8]
        plain = Draws(make_plan(LABELS, pairs=0))[0]
        assert plain.complete([1]).tolist() == [0, 2, 3]


@pytest.fixture(scope="module")
def pack(
    tmp_path_factory: pytest.TempPathFactory, make_image: Callable[..., bytes]
) -> Iterator[Pack]:
    """Images of LABELS, shuffled over two shards."""
    yield from write_pack(tmp_path_factory, [make_image(number) for number in range(len(LABELS))])


@pytest.fixture(scope="module")
def spoiled(
    tmp_path_factory: pytest.TempPathFactory,
    make_image: Callable[..., bytes],
    damage: Callable[[bytes], bytes],
) -> Iterator[Pack]:
    """The same, of which the only image of identity 0 and one of identity 3 do not decode."""
    images = [make_image(number) for number in range(len(LABELS))]
    for number in (0, 11):
        images[number] = damage(images[number])
    yield from write_pack(tmp_path_factory, images)


def write_pack(factory: pytest.TempPathFactory, images: list[bytes]) -> Iterator[Pack]:
    folder = factory.mktemp("pairs") / "faces"
    with facepack.PackWriter(folder, order="source", shard_records=20) as writer:
        for number in np.random.default_rng(0).permutation(len(LABELS)).tolist():
            writer.add(images[number], int(LABELS[number]))
    with facepack.open(folder) as opened:
        yield opened


def backends() -> list[Any]:
    return [
        pytest.param({"backend": "cpu"}, id="cpu"),
        pytest.param({"backend": "dali"}, id="dali"),
        pytest.param({"backend": "cpu", "cache": "host"}, id="cache"),
    ]


def need(options: dict[str, Any]) -> None:
    if options["backend"] == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")


def copied(batch: facepack.loading.Batch) -> tuple[torch.Tensor, list[int], list[int]]:
    return batch.images.clone(), batch.labels.tolist(), batch.positions.tolist()


class TestLoader:
    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    @pytest.mark.parametrize("options", backends())
    def test_equals_its_twin(self, pack: Pack, options: dict[str, Any], dtype: str) -> None:
        need(options)
        draws = Draws(make_plan(pack.labels), IdentityIndex(pack.labels))
        with Loader(pack, batch_size=4, pairs=3, seed=5, dtype=dtype, **options) as loader:
            assert len(loader) == len(LABELS) // 4
            for epoch in range(2):
                for number, batch in enumerate(loader):
                    draw = draws[epoch * len(loader) + number]
                    assert batch.positions.tolist() == draw.positions.tolist()
                    assert batch.labels.tolist() == pack.labels[draw.positions].tolist()
                    for image, position, flip in zip(
                        batch.images, draw.positions.tolist(), draw.flips.tolist(), strict=True
                    ):
                        encoded = io.BytesIO(pack[position].image)
                        pixels = np.asarray(Image.open(encoded).convert("RGB")).astype(np.float32)
                        pixels = np.fliplr(pixels) if flip else pixels
                        if dtype == "float32":
                            pixels = (pixels - np.float32(127.5)) * np.float32(1 / 127.5)
                        assert torch.equal(
                            image.float(), torch.from_numpy(pixels.copy()).permute(2, 0, 1)
                        )

    def test_a_shorter_batch_keeps_its_pairs(self, pack: Pack) -> None:
        with Loader(pack, batch_size=4, pairs=3) as loader:
            batch = loader._next()
            for images in (10, 8, 2, 0):
                shorter = loader.shorten(batch, images)
                channels_last = shorter.images.is_contiguous(memory_format=torch.channels_last)
                assert channels_last or not images
                for half, whole in zip(shorter.halves(), batch.halves(), strict=True):
                    assert torch.equal(half.images, whole.images[: images // 2])
                    assert torch.equal(half.labels, whole.labels[: images // 2])
                    assert half.positions.tolist() == whole.positions[: images // 2].tolist()
        with Loader(pack, batch_size=4) as loader:
            batch = loader._next()
            shorter = loader.shorten(batch, 3)
            assert torch.equal(shorter.images, batch.images[:3])
            assert shorter.labels.tolist() == batch.labels[:3].tolist()
            assert shorter.positions.tolist() == batch.positions[:3].tolist()

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    @pytest.mark.parametrize("options", backends())
    def test_on_a_gpu_equals_the_processor(self, pack: Pack, options: dict[str, Any]) -> None:
        need(options)
        both = {"batch_size": 4, "pairs": 3, "seed": 5}
        with (
            Loader(pack, device="cuda", dali_decoder="cpu", **both, **options) as there,
            Loader(pack, backend="cpu", **both) as here,
        ):
            for batch, same in zip(there, here, strict=True):
                assert batch.positions.tolist() == same.positions.tolist()
                assert batch.labels.tolist() == same.labels.tolist()
                assert torch.equal(batch.images.cpu(), same.images)

    def test_halves_hold_pairs_and_half_the_rest(self, pack: Pack) -> None:
        with Loader(pack, batch_size=4, pairs=3) as loader:
            batch = next(iter(loader))
            x, y = batch.halves()
            assert x.images.shape == y.images.shape == (5, 3, 40, 48)
            assert x.images.data_ptr() == batch.images.data_ptr()
            assert x.labels[:3].tolist() == y.labels[:3].tolist()
            assert [*x.positions, *y.positions] == batch.positions.tolist()

    @pytest.mark.parametrize("options", backends())
    def test_changes_are_drawn_for_each_image(self, pack: Pack, options: dict[str, Any]) -> None:
        need(options)
        changes = Augment(crop=0.7)
        with Loader(pack, batch_size=4, pairs=8, augment=changes, **options) as loader:
            batches = [batch for epoch in range(2) for batch in map(copied, loader)]
        singles = 0
        for images, _, positions in batches:
            for row in range(8):
                if positions[row] == positions[10 + row]:
                    singles += int(not torch.equal(images[row], images[10 + row]))
        assert singles  # an identity's only image comes as two
        with Loader(pack, batch_size=4, pairs=8, augment=changes, backend="cpu") as loader:
            for images, labels, positions in batches[: len(loader)]:
                same = copied(loader._next())
                assert (labels, positions) == (same[1], same[2])
                assert torch.equal(images, same[0])

    def test_resumes_at_any_batch(self, pack: Pack) -> None:
        options: dict[str, Any] = {"batch_size": 4, "pairs": 3, "seed": 2}
        states, batches = [], []
        with Loader(pack, **options) as loader:
            for _ in range(3):
                for batch in loader:
                    batches.append(copied(batch))
                    states.append(loader.state_dict())
        for number, state in enumerate(states[:-1]):
            with Loader(pack, **options) as loader:
                loader.load_state_dict(state)
                images, labels, positions = copied(loader._next())
            assert (labels, positions) == batches[number + 1][1:]
            assert torch.equal(images, batches[number + 1][0])

    def test_state_moves_to_another_number_of_ranks(self, pack: Pack) -> None:
        with Loader(pack, batch_size=8, pairs=4) as whole:
            iterator = iter(whole)
            next(iterator)
            state = whole.state_dict()
            expected = next(iterator).labels.tolist()
        found: list[int] = []
        for rank in range(2):
            with Loader(pack, batch_size=4, pairs=2, world=2, rank=rank) as loader:
                loader.load_state_dict(state)
                found += next(iter(loader)).labels.tolist()
        assert sorted(found) == sorted(expected)

    def test_state_of_other_pairs_is_refused(self, pack: Pack) -> None:
        with Loader(pack, batch_size=4, pairs=3) as loader, Loader(pack, batch_size=4) as plain:
            with pytest.raises(ConfigError, match="global_pairs=3; this one has 0"):
                plain.load_state_dict(loader.state_dict())
            old = {key: v for key, v in plain.state_dict().items() if key != "global_pairs"}
            plain.load_state_dict(old)  # of a time before pairs
            with pytest.raises(ConfigError, match="global_pairs=0; this one has 3"):
                loader.load_state_dict(old)

    @pytest.mark.parametrize("options", backends())
    def test_a_broken_image_takes_its_pair_along(
        self, spoiled: Pack, options: dict[str, Any]
    ) -> None:
        need(options)
        broken = {
            position
            for position in range(len(spoiled))
            if spoiled[position].image.endswith(b"\xff\xd9")
            and not decodes(spoiled[position].image)
        }
        assert len(broken) == 2
        plan = make_plan(spoiled.labels, pairs=6)
        draws = Draws(plan, IdentityIndex(spoiled.labels))
        left_out = 0
        with Loader(spoiled, batch_size=4, pairs=6, seed=5, on_error="skip", **options) as loader:
            for _ in range(3):
                for batch in loader:
                    index = loader._index - 1
                    x, y = np.split(draws[index].positions, 2)
                    left_out += sum(int(p) in broken for p in (*x, *y))
                    whole = [
                        (a, b)
                        for a, b in zip(x.tolist(), y.tolist(), strict=True)
                        if not {a, b} & broken
                    ]
                    first, second = batch.halves()
                    pairs = zip(first.positions.tolist(), second.positions.tolist(), strict=True)
                    assert list(pairs) == whole
                    for half in (first, second):
                        assert half.labels.tolist() == spoiled.labels[half.positions].tolist()
                        assert len(half.images) == len(whole)
            assert loader.skipped == left_out > 6
            assert len(loader.skipped_keys) == 2

    def test_a_broken_image_is_raised(self, spoiled: Pack) -> None:
        with (
            Loader(spoiled, batch_size=4, pairs=6) as loader,
            pytest.raises(facepack.errors.DecodeError, match="leave such images out"),
        ):
            for _ in loader:
                pass

    def test_without_identities(self, tmp_path: Path, make_image: Callable[..., bytes]) -> None:
        with facepack.PackWriter(tmp_path / "none", order="source") as writer:
            for number in range(4):
                writer.add(make_image(number), -1)
        with (
            facepack.open(tmp_path / "none") as nobody,
            pytest.raises(ConfigError, match="pairs need identities"),
        ):
            Loader(nobody, batch_size=2, pairs=1)


def decodes(jpeg: bytes) -> bool:
    try:
        simplejpeg.decode_jpeg(jpeg, strict=True)
    except ValueError:
        return False
    return True


class TestReading:
    @pytest.fixture()
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
        """The positions that are read, as they are read, a batch each."""
        positions: list[list[int]] = []
        around = Extents.around

        def note(self: Extents, own: np.ndarray, gap: int) -> Iterator[object]:
            positions.append(own.tolist())
            return around(self, own, gap)

        monkeypatch.setattr(Extents, "around", note)
        return positions

    @pytest.mark.parametrize("first", [0, 5, 9])
    def test_a_pair_is_read_before_it_is_used(
        self, pack: Pack, asked: list[list[int]], first: int
    ) -> None:
        plan = make_plan(pack.labels, blocks=BlockShape(run=2, window=3), world=2, rank=1)
        index = IdentityIndex(pack.labels)
        draws = Draws(plan, index)
        ahead = PairsAhead(pack, plan, first, index, 2)
        for number in range(first, first + 9):
            ahead.wait(number)
            pairs = [part[:3].tolist() for part in np.split(draws[number].positions, 2)]
            assert asked[number - first] == sorted({at for part in pairs for at in part})
            assert len(asked) <= number - first + 3
        ahead.close()

    def test_blocks_are_read_with_their_pairs(self, pack: Pack, asked: list[list[int]]) -> None:
        plan = make_plan(pack.labels, blocks=BlockShape(run=2, window=3))
        index = IdentityIndex(pack.labels)
        ahead = read_ahead(pack, plan, 0, index)
        ahead.wait(3)
        ahead.close()
        assert (read := len(asked)) > 3
        whole = read_ahead(pack, replace(plan, blocks=None), 0, index)
        whole.wait(3)
        whole.close()
        assert len(asked) == read  # a pair is read like all else

    def test_a_loader_of_blocks_gives_the_same_pairs(self, pack: Pack) -> None:
        options: dict[str, Any] = {"batch_size": 4, "pairs": 3, "seed": 5}
        pairs = slow_pairs(pack.labels, 5, 60)
        with Loader(pack, order=BlockShape(run=2, window=3), **options) as loader:
            for number, batch in enumerate([copied(batch) for batch in loader]):
                x, y = np.split(np.array(batch[2]), 2)
                expected = [list(pair[1:]) for pair in pairs[3 * number :][:3]]
                assert np.stack([x[:3], y[:3]], axis=1).tolist() == expected

    def test_what_cannot_be_read_is_an_error_at_its_batch(
        self, tmp_path_factory: pytest.TempPathFactory, make_image: Callable[..., bytes]
    ) -> None:
        images = [make_image(number) for number in range(len(LABELS))]
        for own in write_pack(tmp_path_factory, images):
            plan = make_plan(own.labels, blocks=BlockShape(run=2, window=3))
            os.truncate(own.path / f"{own.shard_names[1]}.mdb", 4096)
            ahead = PairsAhead(own, plan, 0, IdentityIndex(own.labels), 2)
            with pytest.raises(DamageError, match="cannot be read"):
                for number in range(9):
                    ahead.wait(number)
            ahead.close()

    def test_memory_bounds_how_far(self, pack: Pack) -> None:
        assert pairs_ahead(pack, 256, Memory(64 << 30, "")) == 16
        assert 1 < pairs_ahead(pack, 256, Memory(8 << 30, "")) < 16
        assert pairs_ahead(pack, 4096, Memory(1 << 30, "")) == 1
