"""Partial FC against twins: a plain dense softmax, and one optimizer for each class centre."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

from facepack.errors import ConfigError, TrainingError
from facepack.train.heads import ArcFace, CosFace, PartialFC, check_labels, partial_fc
from facepack.train.heads.centres import fill_centres
from facepack.train.heads.row_optimizers import build_row_optimizer
from facepack.train.heads.sampling import sample_rows

CLASSES, FEATURES, BATCH = 40, 8, 6
SCALE, MARGIN = 16.0, 0.35
LR, MOMENTUM, DECAY = 0.1, 0.9, 5e-3
TIGHT = {"rtol": 1e-10, "atol": 1e-12}
STEPS = 15


def make_head(**options: object) -> PartialFC:
    settings = {"scale": SCALE, "momentum": MOMENTUM, "weight_decay": DECAY, "seed": 7} | options
    return PartialFC(CLASSES, FEATURES, margin=CosFace(margin=MARGIN), **settings)


def batches(steps: int, seed: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs (BATCH×FEATURES, float64) and labels; few classes are frequent, as in real data."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        inputs = torch.randn(BATCH, FEATURES, dtype=torch.float64, generator=generator)
        spread = torch.rand(BATCH, generator=generator) ** 2
        yield inputs, (spread * CLASSES).long()


def run(head: PartialFC, steps: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
    for inputs, labels in batches(steps, seed):
        head(inputs.to(dtype), labels).backward()
        head.step(LR)


def snapshot(head: PartialFC) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in head.named_buffers()}


def assert_same_bits(head: PartialFC, expected: dict[str, torch.Tensor]) -> None:
    actual = snapshot(head)
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        assert torch.equal(value, expected[name]), name


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The rows of each micro-batch, as the head draws them."""
    drawn: list[torch.Tensor] = []

    def recorded(*args: object) -> torch.Tensor:
        drawn.append(sample_rows(*args))
        return drawn[-1]

    monkeypatch.setattr(partial_fc, "sample_rows", recorded)
    return drawn


# ---- the twins ------------------------------------------------------------------------------


def plain_loss(
    embeddings: torch.Tensor, centres: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    """The margin softmax with all classes in one matrix; those not in ``rows`` at probability 0."""
    cosines = (embeddings / embeddings.norm(dim=1, keepdim=True)) @ (
        centres / centres.norm(dim=1, keepdim=True)
    ).T
    own = nn.functional.one_hot(labels, CLASSES).to(cosines.dtype)
    logits = SCALE * (cosines - MARGIN * own)
    absent = torch.ones(CLASSES, dtype=torch.bool)
    absent[rows] = False
    logits = logits.masked_fill(absent, -math.inf)
    return -torch.log(torch.softmax(logits, dim=1)[own.bool()]).mean()


def torch_optimizer(name: str, parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(parameters, LR, momentum=MOMENTUM, weight_decay=DECAY)
    return torch.optim.AdamW(parameters, LR, weight_decay=DECAY)


class RowByRowTwin:
    """Each centre is a parameter with an optimizer of its own, which steps when it was sampled."""

    def __init__(self, weight: torch.Tensor, optimizer: str) -> None:
        self.rows = [nn.Parameter(row.clone()) for row in weight]
        self.optimizers = [torch_optimizer(optimizer, [row]) for row in self.rows]

    def loss(self, embeddings: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor):
        return plain_loss(embeddings, torch.stack(list(self.rows)), labels, rows)

    def step(self, used: set[int]) -> None:
        for row, optimizer in enumerate(self.optimizers):
            if row in used:
                optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("sample_rate", [0.0, 0.3, 0.8])
def test_steps_equal_an_optimizer_for_each_centre(
    optimizer: str, micro_batches: int, sample_rate: float, sampled: list[torch.Tensor]
) -> None:
    head = make_head(sample_rate=sample_rate, optimizer=optimizer).double()
    twin = RowByRowTwin(head.weight, optimizer)
    steps = batches(STEPS * micro_batches)
    for _ in range(STEPS):
        sampled.clear()
        for part in range(micro_batches):
            inputs, labels = next(steps)
            ours = inputs.clone().requires_grad_()
            theirs = inputs.clone().requires_grad_()
            loss = head(ours, labels)
            expected = twin.loss(theirs, labels, sampled[part])
            (loss / micro_batches).backward()
            (expected / micro_batches).backward()
            torch.testing.assert_close(loss, expected)
            torch.testing.assert_close(ours.grad, theirs.grad)
        head.step(LR)
        twin.step({int(row) for rows in sampled for row in rows})
    torch.testing.assert_close(head.weight, torch.stack(list(twin.rows)), **TIGHT)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_steps_at_rate_one_equal_the_dense_softmax(optimizer: str, micro_batches: int) -> None:
    head = make_head(sample_rate=1.0, optimizer=optimizer).double()
    centres = nn.Parameter(head.weight.clone())
    dense = torch_optimizer(optimizer, [centres])
    steps = batches(STEPS * micro_batches)
    for _ in range(STEPS):
        for _ in range(micro_batches):
            inputs, labels = next(steps)
            ours = inputs.clone().requires_grad_()
            theirs = inputs.clone().requires_grad_()
            loss = head(ours, labels)
            expected = plain_loss(theirs, centres, labels, torch.arange(CLASSES))
            (loss / micro_batches).backward()
            (expected / micro_batches).backward()
            torch.testing.assert_close(loss, expected)
            torch.testing.assert_close(ours.grad, theirs.grad)
        head.step(LR)
        dense.step()
        dense.zero_grad()
    torch.testing.assert_close(head.weight, centres.detach(), **TIGHT)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("sample_rate", [0.0, 0.3, 0.8])
def test_dense_steps_equal_one_optimizer_for_all_centres(
    optimizer: str, micro_batches: int, sample_rate: float, sampled: list[torch.Tensor]
) -> None:
    """arcface_torch's second Partial FC: one parameter, of which each step's softmax sees rows."""
    head = make_head(sample_rate=sample_rate, optimizer=optimizer, update="dense").double()
    centres = nn.Parameter(head.weight.clone())
    dense = torch_optimizer(optimizer, [centres])
    steps = batches(STEPS * micro_batches)
    for _ in range(STEPS):
        sampled.clear()
        for part in range(micro_batches):
            inputs, labels = next(steps)
            loss = head(inputs, labels)
            expected = plain_loss(inputs, centres, labels, sampled[part])
            torch.testing.assert_close(loss, expected)
            (loss / micro_batches).backward()
            (expected / micro_batches).backward()
        head.step(LR)
        dense.step()
        dense.zero_grad()
        torch.testing.assert_close(head.weight, centres.detach(), **TIGHT)
    state = dense.state[centres]
    for name, theirs in {"sgd": {"momentum": "momentum_buffer"}}.get(
        optimizer, {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}
    ).items():
        torch.testing.assert_close(head.get_buffer(name), state[theirs], **TIGHT)


def test_dense_momentum_carries_rows_that_are_sampled_no_more() -> None:
    head = make_head(sample_rate=0.0, update="dense")
    inputs, labels = torch.randn(2, FEATURES), torch.tensor([3, 3])
    head(inputs, labels + 1).backward()
    head.step(LR)
    weight, momentum = head.weight[4].clone(), head.momentum[4].clone()
    head(inputs, labels).backward()
    head.step(LR)
    moved = MOMENTUM * momentum + DECAY * weight
    torch.testing.assert_close(head.momentum[4], moved)
    torch.testing.assert_close(head.weight[4], weight - LR * moved)


def test_float32_stays_near_float64() -> None:
    single, double = make_head(sample_rate=0.5), make_head(sample_rate=0.5).double()
    run(single, 20)
    run(double, 20, dtype=torch.float64)
    torch.testing.assert_close(single.weight, double.weight.float(), rtol=1e-3, atol=1e-4)


def test_adamw_in_float32_keeps_its_first_corrections() -> None:
    weight = torch.full((3, 2), 0.5)
    rule = build_row_optimizer("adamw", momentum=0.0, weight_decay=0.0)
    rows = {"weight": weight, **rule.state(weight)}
    after = rule.update(rows, torch.full((3, 2), 1e-3), 0.1)
    # The first step of Adam is lr, whatever the gradient, up to eps.
    torch.testing.assert_close(after["weight"], weight - 0.1 / (1 + 1e-8 / 1e-3), rtol=2e-7, atol=0)
    assert after["steps"].tolist() == [1, 1, 1]


def test_the_margin_is_applied_to_the_own_class() -> None:
    head = PartialFC(3, 2, margin=ArcFace(margin=0.5), scale=10.0)
    head.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]))
    loss = head(torch.tensor([[5.0, 5.0]]), torch.tensor([1]))
    # 45° to classes 0 and 1, 135° to class 2; the own class at 45° + 0.5.
    own, other, opposite = math.cos(math.pi / 4 + 0.5), math.sqrt(0.5), -math.sqrt(0.5)
    total = sum(math.exp(10 * cosine) for cosine in (own, other, opposite))
    assert float(loss.detach()) == pytest.approx(-math.log(math.exp(10 * own) / total), rel=1e-5)


def test_filtered_cosines_count_as_zero_and_take_no_gradient() -> None:
    centres = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], dtype=torch.float64)
    head = PartialFC(3, 2, margin=CosFace(margin=0.1), scale=10.0, interclass_filter=0.4).double()
    head.weight.copy_(centres)
    loss = head(torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([0]))
    # The own cosine, 1, stays although above 0.4; 0.8 becomes 0; 0 is what it was.
    total = math.exp(10 * 0.9) + 1 + 1
    assert float(loss.detach()) == pytest.approx(-math.log(math.exp(10 * 0.9) / total))
    loss.backward()
    before = head.weight.clone()
    head.step(1.0)
    # Weight decay alone moves the class that was filtered.
    torch.testing.assert_close(head.weight[1], before[1] * (1 - 5e-4))
    assert not torch.allclose(head.weight[2], before[2] * (1 - 5e-4), rtol=1e-6)


# ---- what a step touches --------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_rows_that_were_not_sampled_keep_their_bits(
    optimizer: str, micro_batches: int, sampled: list[torch.Tensor]
) -> None:
    head = make_head(sample_rate=0.2, optimizer=optimizer)
    run(head, 10)
    before = snapshot(head)
    sampled.clear()
    for inputs, labels in batches(micro_batches, seed=1):
        head(inputs.float(), labels).backward()
    head.step(LR)
    used = torch.zeros(CLASSES, dtype=torch.bool)
    used[torch.cat(sampled)] = True
    assert 0 < int(used.sum()) < CLASSES
    for name, value in snapshot(head).items():
        changed = (value != before[name]).reshape(CLASSES, -1).any(dim=1)
        assert torch.equal(changed, used), name


def test_adamw_counts_the_steps_of_each_row(sampled: list[torch.Tensor]) -> None:
    head = make_head(sample_rate=0.2, optimizer="adamw")
    run(head, 12)
    expected = torch.bincount(torch.cat(sampled), minlength=CLASSES)
    assert torch.equal(head.steps, expected)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("sample_rate", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("update", ["sampled", "dense"])
def test_an_overflow_changes_nothing(optimizer: str, sample_rate: float, update: str) -> None:
    options = {"sample_rate": sample_rate, "optimizer": optimizer, "update": update}
    head, twin = make_head(**options), make_head(**options)
    run(head, 3)
    run(twin, 3)
    before = snapshot(head)
    inputs, labels = next(batches(1, seed=1))
    (head(inputs.float(), labels) * math.inf).backward()
    head.step(LR, grad_scale=torch.tensor(65536.0), found_inf=torch.tensor(1.0))
    assert_same_bits(head, before)

    # The gradients are gone: the next step is one from its own batch alone.
    with torch.no_grad():
        twin(inputs.float(), labels)  # draws the sample that the overflow cost the other
    for each, options in ((head, {"found_inf": torch.tensor(0.0)}), (twin, {})):
        each(inputs.float(), labels).backward()
        each.step(LR, **options)
    assert_same_bits(head, snapshot(twin))


def test_the_loss_scale_is_divided_out() -> None:
    plain, scaled = make_head(sample_rate=0.3), make_head(sample_rate=0.3)
    for inputs, labels in batches(5):
        plain(inputs.float(), labels).backward()
        plain.step(LR)
        (scaled(inputs.float(), labels) * 1024).backward()
        scaled.step(LR, grad_scale=torch.tensor(1024.0), found_inf=torch.tensor(0.0))
    assert_same_bits(scaled, snapshot(plain))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("sample_rate", [0.5, 1.0])
@pytest.mark.parametrize("update", ["sampled", "dense"])
def test_updating_in_blocks_changes_nothing(
    optimizer: str, sample_rate: float, update: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"sample_rate": sample_rate, "optimizer": optimizer, "update": update}
    at_once, in_blocks = make_head(**options), make_head(**options)
    run(at_once, 5)
    monkeypatch.setattr(partial_fc, "_UPDATED_ROWS", 3)
    run(in_blocks, 5)
    torch.testing.assert_close(in_blocks.weight, at_once.weight, rtol=1e-6, atol=1e-8)


def test_the_learning_rate_may_be_a_tensor() -> None:
    options = {"optimizer": "adamw", "sample_rate": 0.3, "update": "dense"}
    number, tensor = make_head(**options), make_head(**options)
    for inputs, labels in batches(5):
        for head, lr in ((number, 0.125), (tensor, torch.tensor(0.125))):
            head(inputs.float(), labels).backward()
            head.step(lr)
    torch.testing.assert_close(tensor.weight, number.weight)


def test_a_step_without_gradients_changes_nothing() -> None:
    head = make_head()
    run(head, 2)
    before = snapshot(head)
    head.step(LR)
    inputs, labels = next(batches(1))
    head(inputs.float(), labels).backward()
    head.zero_grad()
    head.step(LR)
    with torch.no_grad():
        head(inputs.float(), labels)
    head.step(LR)
    assert_same_bits(head, before)


def test_an_outer_autocast_changes_nothing() -> None:
    inside, outside = make_head(), make_head()
    inputs, labels = next(batches(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = inside(inputs.float(), labels)
    assert torch.equal(loss, outside(inputs.float(), labels))


# ---- state ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "names"),
    [("sgd", ["weight", "momentum"]), ("adamw", ["weight", "exp_avg", "exp_avg_sq", "steps"])],
)
def test_the_state_is_whole_matrices(optimizer: str, names: list[str]) -> None:
    head = make_head(optimizer=optimizer)
    state = head.state_dict()
    assert list(state) == [*names, "_extra_state"]
    for name in names:
        shape = (CLASSES,) if name == "steps" else (CLASSES, FEATURES)
        assert tuple(state[name].shape) == shape
    assert state["weight"].dtype == torch.float32
    assert list(head.parameters()) == []


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("sample_rate", [0.0, 0.3, 1.0])
def test_a_resumed_head_goes_on_to_the_same_bits(optimizer: str, sample_rate: float) -> None:
    straight = make_head(sample_rate=sample_rate, optimizer=optimizer)
    run(straight, 5)
    run(straight, 5, seed=1)

    halted = make_head(sample_rate=sample_rate, optimizer=optimizer)
    run(halted, 5)
    file = io.BytesIO()
    torch.save(halted.state_dict(), file)
    file.seek(0)
    resumed = make_head(sample_rate=sample_rate, optimizer=optimizer, seed=99)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    run(resumed, 5, seed=1)
    assert_same_bits(resumed, snapshot(straight))
    assert resumed.get_extra_state() == straight.get_extra_state()


def test_the_whole_state_is_the_state() -> None:
    head = make_head(sample_rate=0.3)
    run(head, 3)
    whole, state = head.whole_state(), head.state_dict()
    assert whole is not None
    assert list(whole) == list(state)
    other = make_head(sample_rate=0.3, seed=99)
    other.load_whole_state(whole)
    assert_same_bits(other, snapshot(head))
    assert other.get_extra_state() == head.get_extra_state()


def test_the_whole_state_of_another_head_is_refused() -> None:
    head = make_head()
    state = head.whole_state()
    assert state is not None
    with pytest.raises(TrainingError, match=r"holds .*exp_avg.*another optimizer"):
        head.load_whole_state(make_head(optimizer="adamw").state_dict())
    state["weight"] = state["weight"][:30]
    before = snapshot(head)
    with pytest.raises(TrainingError, match=r"weight is \(30, 8\); this head's is \(40, 8\)"):
        head.load_whole_state(state)
    assert_same_bits(head, before)


def test_initial_centres_are_seeded_and_small() -> None:
    torch.manual_seed(1)
    first = PartialFC(2000, 64, margin=CosFace(), seed=3)
    torch.manual_seed(2)
    assert torch.equal(first.weight, PartialFC(2000, 64, margin=CosFace(), seed=3).weight)
    assert not torch.equal(first.weight, PartialFC(2000, 64, margin=CosFace(), seed=4).weight)
    assert abs(float(first.weight.mean())) < 5 * 0.01 / math.sqrt(128_000)
    assert float(first.weight.std()) == pytest.approx(0.01, rel=0.01)
    assert len(first.weight.unique(dim=0)) == 2000


@pytest.mark.parametrize(("first", "rows"), [(0, 10), (1000, 48), (1023, 2), (1024, 1024), (5, 0)])
def test_any_part_of_the_initial_centres_can_be_made_alone(first: int, rows: int) -> None:
    whole, part = torch.empty(2500, 3), torch.empty(rows, 3)
    fill_centres(whole, first=0, seed=1)
    fill_centres(part, first=first, seed=1)
    assert torch.equal(part, whole[first : first + rows])


# ---- sampling -------------------------------------------------------------------------------


def test_samples_follow_seed_and_step(sampled: list[torch.Tensor]) -> None:
    for seed in (1, 1, 2):
        run(make_head(sample_rate=0.3, seed=seed), 2)
    first, second, again, _, other, _ = sampled
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, second)


def test_a_full_softmax_draws_nothing(sampled: list[torch.Tensor]) -> None:
    head = make_head(sample_rate=1.0)
    run(head, 2)
    assert sampled == []
    assert head.get_extra_state()["draws"] == 0


# ---- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("container", [torch.tensor, np.array])
def test_labels_outside_the_classes_are_named(container: Callable[[list[int]], object]) -> None:
    check_labels(container([0, 9, 4]), 10)
    with pytest.raises(TrainingError, match=r"label 10 \(at position 1\) is outside .* 10 classes"):
        check_labels(container([0, 10, -1]), 10)
    with pytest.raises(TrainingError, match=r"label -1 .* \[0, 10\), and 1 of 2 do not"):
        check_labels(container([3, -1]), 10)


@pytest.mark.parametrize("sample_rate", [0.3, 1.0])
def test_forward_refuses_labels_outside_the_classes(sample_rate: float) -> None:
    head = make_head(sample_rate=sample_rate)
    with pytest.raises(TrainingError, match=r"label 40 .* the head's 40 classes"):
        head(torch.ones(2, FEATURES), torch.tensor([0, 40]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_rate": 1.1}, "sample_rate = 1.1 is not allowed: it must be from 0 to 1"),
        ({"sample_rate": -0.1}, "sample_rate = -0.1"),
        ({"scale": 0.0}, "scale = 0.0 is not allowed: it must be above 0"),
        (
            {"interclass_filter": 1.0},
            "interclass_filter = 1.0 is not allowed: it must be at least 0 and below 1",
        ),
        ({"chunk": 0}, "chunk = 0 is not allowed: it must be at least 1"),
        (
            {"momentum_dtype": torch.float16},
            "momentum_dtype = torch.float16 is not one of torch.fl",
        ),
        (
            {"optimizer": "adamw", "momentum_dtype": torch.bfloat16},
            "momentum_dtype = torch.bfloat16: adamw keeps float32 moments",
        ),
        ({"storage": "pinned"}, "storage = 'pinned' is not one of device, host"),
        ({"storage": "host"}, "storage = host with sample_rate = 1 would copy"),
        ({"optimizer": "adam"}, "optimizer = 'adam' is not one of sgd, adamw"),
        ({"momentum": 1.0}, "momentum = 1.0"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0"),
        ({"optimizer": "adamw", "weight_decay": math.nan}, "weight_decay = nan"),
    ],
)
def test_options_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_head(**options)


@pytest.mark.parametrize(("classes", "features"), [(0, 8), (8, 0)])
def test_sizes_out_of_range(classes: int, features: int) -> None:
    with pytest.raises(ConfigError, match=r"(classes|features) = 0 is not allowed: .* at least 1"):
        PartialFC(classes, features, margin=CosFace())


# ---- devices --------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("sample_rate", [0.0, 0.3, 1.0])
def test_cuda_equals_the_cpu(optimizer: str, sample_rate: float) -> None:
    cpu = make_head(sample_rate=sample_rate, optimizer=optimizer).double()
    cuda = make_head(sample_rate=sample_rate, optimizer=optimizer).double().cuda()
    run(cpu, 20, dtype=torch.float64)
    for inputs, labels in batches(20):
        cuda(inputs.cuda(), labels.cuda()).backward()
        cuda.step(torch.tensor(LR, device="cuda"), found_inf=torch.zeros((), device="cuda"))
    torch.testing.assert_close(cuda.weight.cpu(), cpu.weight)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize("sample_rate", [0.3, 1.0])
def test_a_step_never_waits_for_the_device(sample_rate: float, chunk: int | None) -> None:
    head = make_head(sample_rate=sample_rate, chunk=chunk).cuda()
    inputs, labels = next(batches(1))
    inputs, labels = inputs.float().cuda(), labels.cuda()
    scale, found_inf = torch.tensor(1024.0, device="cuda"), torch.zeros((), device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        (head(inputs, labels) * scale).backward()
        head.step(LR, grad_scale=scale, found_inf=found_inf)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(head.weight).all()
