"""Centres in host memory and momentum in bfloat16, against those on the device and in float32."""

from __future__ import annotations

import pytest
import torch

from facepack.train.heads import CosFace, PartialFC, row_storage
from facepack.train.heads.row_optimizers import build_row_optimizer
from facepack.train.heads.row_storage import build_row_storage

CLASSES, FEATURES = 300, 8
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]


def make_head(**options: object) -> PartialFC:
    settings = {"sample_rate": 0.3, "scale": 16.0} | options
    return PartialFC(CLASSES, FEATURES, margin=CosFace(margin=0.2), **settings)


def train(head: PartialFC, *, steps: int, micro_batches: int = 1, device: str = "cpu") -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        for _ in range(micro_batches):
            images = torch.randn(20, FEATURES, generator=generator)
            labels = torch.randint(CLASSES, (20,), generator=generator)
            head(images.to(device), labels.to(device)).backward()
        head.step(0.1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(FEATURES,), ()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_rows_go_and_come_back(
    device: str, shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_storage, "_STAGED_ROWS", 7)
    host = build_row_storage("host")
    matrix = torch.randint(100, (50, *shape)).to(dtype)
    before = matrix.clone()
    for count in (3, 33, 0, 50):
        rows = torch.randperm(50)[:count].sort().values
        taken = host.take(matrix, rows.to(device), torch.device(device))
        assert taken.device.type == device
        assert torch.equal(taken.cpu(), before[rows])
        host.put(matrix, rows.to(device), taken + 1)
        before[rows] += 1
        assert torch.equal(matrix, before)
    assert torch.equal(host.take(matrix, slice(2, 40), torch.device(device)).cpu(), matrix[2:40])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("momentum_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sample_rate", [0.0, 0.3])
def test_a_head_on_the_host_trains_to_the_same_bits(
    device: str,
    micro_batches: int,
    momentum_dtype: torch.dtype,
    sample_rate: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(row_storage, "_STAGED_ROWS", 17)
    options = {"momentum_dtype": momentum_dtype, "sample_rate": sample_rate}
    near = make_head(**options).to(device)
    far = make_head(storage="host", **options).to(device)
    for head in (near, far):
        train(head, steps=8, micro_batches=micro_batches, device=device)
    assert far.weight.device.type == "cpu"
    assert torch.equal(far.weight, near.weight.cpu())
    assert torch.equal(far.momentum, near.momentum.cpu())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("momentum_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_dense_head_on_the_host_trains_alike(
    device: str, momentum_dtype: torch.dtype, optimizer: str
) -> None:
    if optimizer == "adamw" and momentum_dtype == torch.bfloat16:
        pytest.skip("adamw keeps its moments in float32")
    options = {"momentum_dtype": momentum_dtype, "optimizer": optimizer, "update": "dense"}
    near = make_head(**options).to(device)
    far = make_head(storage="host", **options).to(device)
    for head in (near, far):
        train(head, steps=8, micro_batches=2, device=device)
    assert far.weight.device.type == "cpu"
    # Rows that a step does not use are moved where they lie: a GPU may round otherwise.
    tight = {"rtol": 0, "atol": 0} if device == "cpu" else {"rtol": 1e-2, "atol": 1e-4}
    for name, value in near.named_buffers():
        torch.testing.assert_close(far.get_buffer(name), value.cpu(), **tight)


def test_a_head_on_the_host_takes_types_but_does_not_move() -> None:
    head = make_head(storage="host", device="meta")
    assert head.weight.device.type == "cpu"
    head.to("meta").double()
    assert head.weight.device.type == "cpu"
    assert head.weight.dtype == torch.float64
    near = make_head(device="meta")
    assert near.weight.device.type == "meta"


def test_state_moves_between_storages_and_types_of_momentum() -> None:
    first = make_head(storage="host", momentum_dtype=torch.bfloat16)
    train(first, steps=3)
    second = make_head()
    second.load_state_dict(first.state_dict())
    assert second.momentum.dtype == torch.float32
    assert torch.equal(second.momentum, first.momentum.float())
    assert torch.equal(second.weight, first.weight)


def velocity(dtype: torch.dtype, noise: float, steps: int = 300) -> tuple[float, float]:
    """Mean of v and of the weights' way, over 1,000 rows with a mean gradient of 1."""
    rule = build_row_optimizer("sgd", momentum=0.9, weight_decay=0.0, momentum_dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    rows = {"weight": torch.zeros(1000, 16)}
    rows |= rule.state(rows["weight"])
    assert rows["momentum"].dtype == dtype
    for _ in range(steps):
        gradient = 1 + noise * torch.randn(1000, 16, generator=generator)
        for name, value in rule.update(rows, gradient, 1.0).items():
            rows[name] = value.to(rows[name].dtype)
    return float(rows["momentum"].float().mean()), -float(rows["weight"].mean()) / steps


def test_bfloat16_momentum_stalls_a_little_under_a_constant_gradient_only() -> None:
    exact, way = velocity(torch.float32, noise=0.0)
    assert exact == pytest.approx(10.0, rel=1e-4)
    # v stops where a step's change is under half a unit in its last place: 4 % at the most.
    stalled, _ = velocity(torch.bfloat16, noise=0.0)
    assert 0.96 < stalled / exact < 1.0
    # Noise of the size of the mean, far less than a sampled gradient has, carries it over.
    _, way = velocity(torch.float32, noise=1.0)
    _, noisy = velocity(torch.bfloat16, noise=1.0)
    assert noisy == pytest.approx(way, rel=2e-3)


def test_bfloat16_momentum_learns_as_float32_does() -> None:
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        head = PartialFC(
            200, 32, margin=CosFace(margin=0.2), scale=16.0, sample_rate=0.3, momentum_dtype=dtype
        )
        generator = torch.Generator().manual_seed(5)
        means = torch.randn(200, 32, generator=generator)
        total = 0.0
        for step in range(150):
            labels = torch.randint(200, (64,), generator=generator)
            noise = 0.5 * torch.randn(64, 32, generator=generator)
            loss = head(means[labels] + noise, labels)
            loss.backward()
            head.step(0.05)
            if step >= 100:
                total += float(loss.detach()) / 50
        losses.append(total)
    assert losses[0] < 1.0
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)
