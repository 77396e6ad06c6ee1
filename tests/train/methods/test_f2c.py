"""F2C's step beside its direct twin; margins, pool and guards by hand; whole runs."""

from __future__ import annotations

import copy
import json
import math
import socket
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn import functional as F

import facepack
from facepack.errors import ConfigError, TrainingError
from facepack.train.config import TrainConfig
from facepack.train.loop.run import Trainer
from facepack.train.methods.f2c.gallery import GalleryNetwork
from facepack.train.methods.f2c.losses import apply_margin, count_nearest, pool_loss
from facepack.train.methods.f2c.method import F2C, check_memory, expected_outliers
from facepack.train.methods.f2c.pool import Pool
from facepack.train.methods.f2c.step import TERMS, F2CState, F2CStep
from facepack.train.precision import LossScaler
from facepack.train.ranks.group import ALONE, Ranks
from tests.train.methods.f2c_twin import F2CTwin, Pass

MakeConfig = Callable[..., TrainConfig]
FEATURES, BATCH, IDENTITIES, CPU = 5, 8, 14, torch.device("cpu")
MARGINS = ("am", "arc", "sv")


def make_probe() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.Flatten(), nn.Linear(64, FEATURES)
    ).double()


def make_passes(steps: int, world: int = 1) -> list[list[Pass]]:
    """Batches as the loaders give them: pairs of identities, some with one image; repetitions."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(IDENTITIES, 3, 3, 6, 6, generator=generator, dtype=torch.float64)
    only_one = 3  # the first identities
    share = BATCH // world

    def draw(labels: Tensor) -> Tensor:
        return torch.where(
            labels < only_one, 0, torch.randint(3, labels.shape, generator=generator)
        )

    found = []
    for _ in range(steps):
        ranks = []
        for _ in range(world):
            pairs = torch.randint(IDENTITIES, (share,), generator=generator)
            one = draw(pairs)
            two = torch.where(pairs < only_one, 0, (one + 1) % 3)
            halves = [torch.randint(IDENTITIES, (share // 2,), generator=generator) for _ in "ab"]
            x_labels, y_labels = torch.cat([pairs, halves[0]]), torch.cat([pairs, halves[1]])
            x = images[x_labels, torch.cat([one, draw(halves[0])])]
            y = images[y_labels, torch.cat([two, draw(halves[1])])]
            ranks.append((x, x_labels, y, y_labels))
        found.append(ranks)
    return found


def make_step(slots: int, kind: Any, ranks: Ranks = ALONE) -> tuple[F2CStep, F2CState, nn.Module]:
    probe = make_probe()
    pool = Pool(slots, FEATURES, dtype=torch.float64, seed=1)
    state = F2CState(pool, GalleryNetwork(probe, 0.9), ranks)
    optimizer = torch.optim.SGD(
        probe.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3, nesterov=True
    )
    scaler = LossScaler(CPU, enabled=False)
    step = F2CStep(probe, state, optimizer, scaler, kind=kind, margin=0.3, scale=8.0, ranks=ranks)
    return step, state, probe


def check_twin(ranks: Ranks, slots: int, kind: str, steps: int = 30) -> None:
    """Steps, pool, LRU and both networks equal the twin's."""
    step, state, probe = make_step(slots, kind, ranks)
    twin = F2CTwin(make_probe(), state.pool.rows, kind, 0.3, 8.0, 0.9)
    for number, batch in enumerate(make_passes(steps, ranks.world)):
        lr = 0.1 / (1 + 0.1 * number)
        loss = step(*batch[ranks.rank], lr)
        terms = twin.step(batch, lr)
        assert float(loss) == pytest.approx(math.fsum(terms), rel=1e-7), number
        metrics = state.take_metrics()
        assert [metrics[name] for name in TERMS] == pytest.approx(terms, rel=1e-7)
        assert metrics["loss_mean"] == pytest.approx(math.fsum(terms) / 4, rel=1e-7)
        assert [list(pair) for pair in state.pool.lru.state()] == twin.held
        torch.testing.assert_close(state.pool.rows, twin.queue, rtol=1e-6, atol=1e-8)
    for ours, theirs in (
        (probe.parameters(), twin.probe.parameters()),
        (state.gallery.network.parameters(), twin.gallery.parameters()),
    ):
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)
    if ranks.world == 1:
        for name, value in state.gallery.network.named_buffers():
            torch.testing.assert_close(value, dict(twin.gallery.named_buffers())[name])


@pytest.mark.parametrize("kind", MARGINS)
@pytest.mark.parametrize("slots", [1, 6, 11, 40])
def test_thirty_steps_equal_the_direct_twin(slots: int, kind: str) -> None:
    check_twin(ALONE, slots, kind)


def test_the_gallery_network_keeps_statistics_of_its_own() -> None:
    step, state, probe = make_step(6, "am")
    for (batch,) in make_passes(3):
        step(*batch, 0.1)
    assert state.gallery.network.training
    ours, theirs = (net.get_buffer("1.running_mean") for net in (state.gallery.network, probe))
    assert not torch.allclose(ours, theirs)
    assert not any(p.requires_grad for p in state.gallery.network.parameters())


# The pool ---------------------------------------------------------------------------------------


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_trial_leaves_the_pool_as_it_was_to_the_bit() -> None:
    pool = Pool(4, 3, seed=2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        before = pool.state_dict()
        features = F.normalize(torch.randn(9, 3, generator=generator))
        labels = torch.randint(8, (9,), generator=generator).tolist()
        other = copy.deepcopy(pool)
        with pool.trying(features, labels) as tried:
            during = pool.state_dict()
        assert not torch.equal(before["rows"], during["rows"])
        assert same(pool.state_dict(), before)
        assert other.write(features, labels) == tried
        assert torch.equal(other.rows, during["rows"])
        pool.write(F.normalize(torch.randn(2, 3, generator=generator)), labels[:2])


def test_of_several_features_for_one_place_the_last_stays() -> None:
    pool = Pool(3, 2)
    features = torch.arange(14.0).view(7, 2)
    written = pool.write(features, [5, 5, 5, 5, 7, 5, 5])
    # Rows 0, 1, 0, 1 of slot 0, then slot 1, then rows 0 and 1 of slot 0 again.
    assert pool.rows[:, 0].tolist() == [[10, 11], [12, 13]]
    assert pool.rows[0, 1].tolist() == [8, 9]
    assert (written.again, written.hits, written.evicted) == ([0], 5, 0)
    assert pool.write(features[:3], [7, 8, 9]).evicted == 1
    assert pool.lru.state() == [(9, 0), (8, 2), (7, 1)]


def test_the_pool_begins_normalised_and_positive() -> None:
    pool = Pool(50, 8, seed=4)
    torch.testing.assert_close(pool.rows.norm(dim=2), torch.ones(2, 50))
    assert bool((pool.rows >= 0).all())
    assert torch.equal(pool.rows, Pool(50, 8, seed=4).rows)
    assert not torch.equal(pool.rows, Pool(50, 8, seed=5).rows)


# Losses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("am", [0.6 - 0.25, 0.5, -0.2]),
        ("arc", [0.6 * math.cos(0.25) - 0.8 * math.sin(0.25), 0.5, -0.2]),
        ("sv", [0.6 - 0.25, 1.2 * 0.5 + 0.2, -0.2]),
    ],
)
def test_margins_by_hand(kind: Any, expected: list[float]) -> None:
    cosines = torch.tensor([[0.6, 0.5, -0.2]], dtype=torch.float64)
    changed = apply_margin(kind, 0.25, cosines, torch.tensor([[0]]))
    assert changed[0].tolist() == pytest.approx(expected)
    # SV leaves a cosine that is not above the margin.
    low = apply_margin("sv", 0.7, cosines, torch.tensor([[0]]))
    assert float(low[0, 0]) == 0.6


@pytest.mark.parametrize("kind", MARGINS)
@pytest.mark.parametrize("cosine", [1.0, -1.0, 1.0 + 1e-7])
def test_the_gradient_is_finite_at_the_ends(kind: Any, cosine: float) -> None:
    cosines = torch.tensor([[cosine, 0.1]], requires_grad=True)
    empty = torch.tensor([], dtype=torch.int64)
    first = torch.tensor([0])
    pool_loss(cosines, first, first, empty, kind=kind, margin=0.5, scale=32.0).backward()
    assert cosines.grad is not None
    assert bool(cosines.grad.isfinite().all())


def test_outliers_are_pushed_from_the_nearest_slots() -> None:
    cosines = torch.tensor([[0.5, -0.1, 0.3, 0.2, 0.1], [-0.5, -0.1, -0.3, -0.2, 0.3]])
    none, both = torch.tensor([], dtype=torch.int64), torch.tensor([0, 1])
    loss = pool_loss(cosines, none, none, both, kind="am", margin=0.5, scale=32.0)
    assert float(loss) == pytest.approx((0.5 + 0.3 + 0.2 + 0.3) / 6)
    assert [count_nearest(k) for k in (2, 3, 15_000, 20_000, 10**6)] == [2, 3, 3, 4, 10]


# Settings, notes, errors ------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [20, 48, 200])
def test_the_expected_share_of_outliers_is_about_what_comes(slots: int) -> None:
    batch, identities = 32, 300
    pool, generator = Pool(slots, 2), torch.Generator().manual_seed(0)
    outliers = probes = 0
    for step in range(60):
        pairs = torch.randperm(identities, generator=generator)[:batch]
        ends = [torch.randint(identities, (batch // 2,), generator=generator) for _ in "ab"]
        x, y = (torch.cat([pairs, end]).tolist() for end in ends)
        pool.write(torch.zeros(len(x), 2), x)
        if step >= 20:
            outliers += sum(identity not in pool.lru for identity in y)
            probes += len(y)
    assert expected_outliers(slots, batch, identities) == pytest.approx(outliers / probes, abs=0.05)


def run_settings(**changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "method": "f2c",
        "sample_rate": 1.0,
        "schedule": "cosine",
        "schedule_options": {},
        "nesterov": True,
        "method_options": {"pool": 4, "loss": "arc", "gallery_momentum": 0.5},
    }
    return {**settings, **changes}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"margin": "arcface"}, "margin = arcface means nothing under method = f2c"),
        ({"scale": 32.0}, "scale = 32.0 means nothing"),
        ({"batch_size": 7}, "batch_size = 7 does not divide by 2 × 1 ranks"),
        ({"method_options": {"pool": 0}}, "method f2c: pool = 0 is not allowed"),
        ({"method_options": {"loss": "arx"}}, "method f2c: loss = 'arx' is not one of am, arc, sv"),
        ({"method_options": {"pool": 10**10}}, "a pool of 10,000,000,000 slots .* GiB"),
        ({"momentum": 0.0}, "nesterov = true is SGD's with a momentum"),
        ({"method": "softmax", "method_options": {}}, "nesterov = True means nothing"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_first_step(
    small_config: MakeConfig, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Trainer(small_config(**run_settings(**settings)), out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_one_identity_is_refused(small_config: MakeConfig, tmp_path: Path) -> None:
    import simplejpeg

    noise = torch.randint(256, (112, 112, 3), dtype=torch.uint8).numpy()
    with facepack.PackWriter(tmp_path / "one") as writer:
        for _ in range(9):
            writer.add(simplejpeg.encode_jpeg(noise), 0)
    config = small_config(**run_settings(shards=str(tmp_path / "one")))
    with pytest.raises(TrainingError, match="one identity only"):
        Trainer(config, out=tmp_path / "run", device="cpu")


def test_small_and_large_pools_are_told_of(small_config: MakeConfig, tmp_path: Path) -> None:
    few = "a pool of 3 slots for the 12 labels"
    many = "4 of them stay as they were drawn; method_options.pool = 5 holds all"
    for slots, words in ((3, few), (9, many)):
        said: list[str] = []
        config = small_config(**run_settings(method_options={"pool": slots}))
        Trainer(config, out=tmp_path / "run", device="cpu", notify=said.append)
        assert any(words in line for line in said), said
    assert F2C(share=0.01).slots(85_742) == 857
    assert F2C(share=0.01).slots(5) == 1
    check_memory(857, 512, CPU)


# Whole runs -------------------------------------------------------------------------------------


def read(out: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    for line in lines:
        line.pop("timing", None)
    return torch.load(out / "checkpoint.pt", weights_only=True), lines


def test_run_that_is_stopped_at_any_step_ends_with_the_same_bits(
    small_config: MakeConfig, tmp_path: Path, assert_same: Callable[[Any, Any], None]
) -> None:
    config = small_config(**run_settings(steps=8))

    def train(name: str, **options: Any) -> None:
        trainer = Trainer(
            config, out=tmp_path / name, device="cpu", notify=lambda _: None, resume=True
        )
        trainer.run(**options)

    train("whole")
    for last in range(1, 9):
        train("cut", max_steps=last)
    whole, cut = read(tmp_path / "whole"), read(tmp_path / "cut")
    assert_same(whole[0], cut[0])
    assert whole[1] == cut[1]
    line = whole[1][0]
    assert line["loss"] == pytest.approx(sum(line[name] for name in TERMS))
    assert line["loss_mean"] == pytest.approx(line["loss"] / 4)
    assert 0 < line["pool_hits"] <= 1
    assert 0 <= line["outliers"] < 1
    assert line["evictions"] >= 0
    assert whole[0]["head"]["pool"]["rows"].shape == (2, 4, 16)


def test_a_run_begins_from_a_model_in_both_networks(
    small_config: MakeConfig, tmp_path: Path
) -> None:
    config = small_config(**run_settings(steps=2))
    Trainer(config, out=tmp_path / "a", device="cpu", notify=lambda _: None).run()
    begun = Trainer(
        small_config(**run_settings(pretrained=str(tmp_path / "a"))),
        out=tmp_path / "b",
        device="cpu",
        notify=lambda _: None,
    )
    model = torch.load(tmp_path / "a" / "model.pt", weights_only=True)
    for name, value in begun.head.gallery.network.state_dict().items():  # type: ignore[attr-defined]
        assert torch.equal(value, model[name]), name


def test_state_is_rank_0s_and_fits_any_number_of_ranks() -> None:
    (batch,) = make_passes(1)[0]
    step, state, _ = make_step(6, "am")
    step(*batch, 0.1)
    whole = state.whole_state()
    assert whole is not None
    for ranks in (ALONE, Ranks(0, 2), Ranks(1, 2)):
        _, other, _ = make_step(6, "am", ranks)
        other.load_whole_state(whole)
        assert torch.equal(other.pool.rows, state.pool.rows)
        assert other.pool.lru.state() == state.pool.lru.state()
        assert (other.whole_state() is None) == (ranks.rank > 0)


# Several ranks ----------------------------------------------------------------------------------


def ranks_work(rank: int, port: int, folder: Path) -> None:
    """One of four processes: all four, then the first two, beside the twin."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=4,
        timeout=timedelta(minutes=5),
    )
    two = dist.new_group([0, 1])
    found: dict[int, str] = {}
    try:
        for ranks in (Ranks(rank, 4, dist.group.WORLD), *([Ranks(rank, 2, two)] * (rank < 2))):
            try:
                for kind, slots in (("am", 6), ("arc", 40)):
                    check_twin(ranks, slots, kind, steps=8)
            except Exception:
                found[ranks.world] = traceback.format_exc()
                raise
        dist.barrier()
        dist.destroy_process_group()
    finally:
        torch.save(found, folder / f"{rank}.pt")


def launch(_: int, port: int, folder: Path) -> None:
    """Fork the processes from one that has imported all and has no threads yet."""
    mp.start_processes(ranks_work, (port, folder), nprocs=4, start_method="fork")


def test_two_and_four_ranks_equal_the_direct_twin(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        mp.spawn(launch, (port, tmp_path), nprocs=1)
    finally:
        for path in sorted(tmp_path.glob("*.pt")):
            assert torch.load(path, weights_only=True) == {}
    assert len(list(tmp_path.glob("*.pt"))) == 4
