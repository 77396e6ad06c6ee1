"""One optimizer step against its plain twin; fp16's skipped steps."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facepack.train.build import make_optimizer
from facepack.train.config import TrainConfig
from facepack.train.heads import CosFace, PartialFC
from facepack.train.methods.softmax.step import TrainStep
from facepack.train.precision import LossScaler, float32_products

CLASSES, FEATURES, BATCH = 6, 5, 8
CPU = torch.device("cpu")


def make_backbone() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.Flatten(), nn.Linear(64, FEATURES)
    )


def make_head() -> PartialFC:
    return PartialFC(CLASSES, FEATURES, margin=CosFace(margin=0.2), scale=16.0)


def make_step(
    backbone: nn.Module, head: PartialFC, *, fp16: bool = False, **options: Any
) -> TrainStep:
    optimizer = torch.optim.SGD(
        backbone.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=fp16
    )
    return TrainStep(backbone, head, optimizer, LossScaler(CPU, enabled=fp16), **options)


def make_batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(4)
    return [
        (
            torch.randn(BATCH, 3, 6, 6, generator=generator),
            torch.randint(CLASSES, (BATCH,), generator=generator),
        )
        for _ in range(count)
    ]


class PlainStep:
    """The same step in the most obvious way: one graph, a dense head, torch's own optimizer."""

    def __init__(self, backbone: nn.Module, weight: Tensor, accumulate: int, clip: float) -> None:
        self.backbone, self.weight = backbone, nn.Parameter(weight.clone())
        self.accumulate, self.clip = accumulate, clip
        options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
        self.optimizer = torch.optim.SGD([*backbone.parameters(), self.weight], **options)

    def __call__(self, images: Tensor, labels: Tensor, lr: float) -> Tensor:
        losses = []
        for x, y in zip(images.chunk(self.accumulate), labels.chunk(self.accumulate), strict=True):
            cosines = F.normalize(self.backbone(x)) @ F.normalize(self.weight).T
            margins = 0.2 * F.one_hot(y, CLASSES)
            losses.append(F.cross_entropy(16.0 * (cosines - margins), y))
        loss = torch.stack(losses).mean()
        loss.backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self.backbone.parameters(), self.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


@pytest.mark.parametrize("accumulate", [1, 2, 4])
@pytest.mark.parametrize("clip", [0.0, 0.05, 50.0])
def test_step_equals_its_plain_twin(accumulate: int, clip: float) -> None:
    backbone, head = make_backbone(), make_head()
    plain = PlainStep(copy.deepcopy(backbone), head.weight, accumulate, clip)
    step = make_step(backbone, head, accumulate=accumulate, clip_norm=clip)
    for number, (images, labels) in enumerate(make_batches(20)):
        lr = 0.1 / (1 + number)
        torch.testing.assert_close(step(images, labels, lr), plain(images, labels, lr))
    for ours, theirs in zip(backbone.parameters(), plain.backbone.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.weight, plain.weight.data, rtol=1e-4, atol=1e-5)


def test_accumulation_changes_nothing_where_images_do_not_see_each_other() -> None:
    states = []
    for accumulate in (1, 4):
        backbone, head = make_backbone().eval(), make_head()
        step = make_step(backbone, head, accumulate=accumulate, clip_norm=1.0)
        losses = [step(images, labels, 0.1) for images, labels in make_batches(10)]
        states.append([*losses, *backbone.parameters(), head.weight])
    for one, four in zip(*states, strict=True):
        torch.testing.assert_close(one, four, rtol=1e-4, atol=1e-5)


def test_batch_that_lost_images_is_still_a_mean_over_images() -> None:
    (images, labels) = make_batches(1)[0]
    whole, cut = (make_step(make_backbone().eval(), make_head(), accumulate=k) for k in (1, 2))
    for step in (whole, cut):
        step(images[:7], labels[:7], 0.1)
    torch.testing.assert_close(whole.head.weight, cut.head.weight)


def test_fp16_scale_does_not_change_the_step() -> None:
    backbones = [make_backbone(), make_backbone()]
    heads = [make_head(), make_head()]
    plain = make_step(backbones[0], heads[0], accumulate=2, clip_norm=0.5)
    scaled = make_step(backbones[1], heads[1], accumulate=2, clip_norm=0.5, fp16=True)
    for images, labels in make_batches(5):
        # The scale is a power of two: dividing it out is exact.
        assert torch.equal(plain(images, labels, 0.1), scaled(images, labels, 0.1))
    torch.testing.assert_close(heads[0].weight, heads[1].weight, rtol=1e-6, atol=1e-7)
    assert scaled.scaler.skipped_steps() == 0
    assert scaled.scaler.value() == 2.0**16


class Overflow(torch.autograd.Function):
    """The identity, with a gradient beyond what the format holds."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * torch.inf


class Breaking(nn.Module):
    """A backbone whose gradients overflow while it is broken."""

    broken = False

    def __init__(self) -> None:
        super().__init__()
        self.inner = make_backbone()

    def forward(self, x: Tensor) -> Tensor:
        out = self.inner[0](x)
        return self.inner[1:](Overflow.apply(out) if self.broken else out)


def test_overflow_in_the_first_step_leaves_no_trace() -> None:
    def train(*, overflow: bool) -> Breaking:
        backbone = Breaking().eval()
        made = make_optimizer(TrainConfig(shards="none", lr=0.1), backbone, CPU)
        # As on CUDA, where the optimizer is fused.
        optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1, momentum=0.9, fused=True)
        optimizer.state.update(made.state)
        step = TrainStep(backbone, make_head(), optimizer, LossScaler(CPU, enabled=True))
        if overflow:
            backbone.broken = True
            # Memory that is not filled in tends to be what was freed last.
            freed = [torch.full_like(p, torch.nan) for p in backbone.parameters()]
            del freed
            step(*make_batches(1)[0], 0.1)
            assert step.scaler.skipped_steps() == 1
        backbone.broken = False
        for images, labels in make_batches(3):
            step(images, labels, 0.1)
        return backbone

    pairs = zip(*(train(overflow=o).parameters() for o in (False, True)), strict=True)
    for plain, skipped in pairs:
        torch.testing.assert_close(plain, skipped)


def test_momentum_of_zeros_makes_the_same_first_step() -> None:
    ours, theirs = make_backbone(), make_backbone()
    config = TrainConfig(shards="none", lr=0.1)
    optimizers = [
        make_optimizer(config, ours, CPU),
        torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4),
    ]
    for _ in range(3):
        for backbone, optimizer in zip((ours, theirs), optimizers, strict=True):
            backbone(make_batches(1)[0][0]).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("fused", [False, True])
def test_overflow_skips_backbone_and_head_alike_and_halves_the_scale(fused: bool) -> None:
    backbone, head = Breaking(), make_head()
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1, momentum=0.9, fused=fused)
    scaler = LossScaler(CPU, enabled=True)
    step = TrainStep(backbone, head, optimizer, scaler, accumulate=2, clip_norm=5.0)
    batches = make_batches(3)
    step(*batches[0], 0.1)
    watched = [*backbone.parameters(), *head.buffers()]
    before = [tensor.clone() for tensor in watched]

    backbone.broken = True
    assert torch.isfinite(step(*batches[1], 0.1))
    assert all(torch.equal(a, b) for a, b in zip(before, watched, strict=True))
    assert (scaler.skipped_steps(), scaler.value()) == (1, 2.0**15)

    backbone.broken = False
    step(*batches[2], 0.1)
    assert not torch.equal(before[0], next(backbone.parameters()))
    assert scaler.skipped_steps() == 1

    resumed = LossScaler(CPU, enabled=True)
    resumed.load_state_dict(scaler.state_dict())
    assert resumed.state_dict() == scaler.state_dict()


def test_scale_grows_after_a_hundred_good_steps() -> None:
    step = make_step(make_backbone(), make_head(), fp16=True)
    batches = make_batches(1) * 101
    scales = []
    for images, labels in batches:
        step(images, labels, 0.001)
        scales.append(step.scaler.value())
    assert scales[98:] == [2.0**16, 2.0**17, 2.0**17]


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile wants a C++ compiler here")
def test_compiled_step_is_the_same_step() -> None:
    batches = make_batches(3)
    results = []
    for mode in ("off", "default"):
        backbone, head = make_backbone(), make_head()
        step = make_step(backbone, head, compile=mode, accumulate=2, clip_norm=1.0)
        losses = torch.stack([step(images, labels, 0.1) for images, labels in batches])
        results.append((losses, backbone.state_dict(), head.weight))
    (losses, weights, centres), (compiled_losses, compiled_weights, compiled_centres) = results
    torch.testing.assert_close(compiled_losses, losses, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(compiled_weights, weights, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(compiled_centres, centres, rtol=1e-4, atol=1e-5)


def test_networks_are_compiled_for_whole_batches_alone() -> None:
    step = make_step(make_backbone(), make_head(), accumulate=2)
    sizes: list[int] = []

    def compiled(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return step.backbone(images)

    step._embed = compiled
    images, labels = make_batches(1)[0]
    for lost in (0, 3, 1, 0):
        step(images[lost:], labels[lost:], 0.1)
    # Of 8 images that lost 1, the first half is whole still.
    assert sizes == [4, 4, 4, 4, 4]


@pytest.mark.parametrize("tf32", [False, True])
def test_torch_can_tell_its_own_arithmetic(tf32: bool) -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn

    def names() -> tuple[Any, ...]:
        # torch raises where a setting's older and newer names disagree; torch.compile reads these.
        return matmul.allow_tf32, cudnn.allow_tf32, torch.get_float32_matmul_precision()

    before = names()
    with float32_products(tf32=tf32):
        assert names() == (tf32, tf32, "high" if tf32 else "highest")
    assert names() == before


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9"
)
def test_arithmetic_that_somebody_set_by_one_name_alone_is_put_back() -> None:
    conv: Any = torch.backends.cudnn.conv
    before = conv.fp32_precision
    conv.fp32_precision = "ieee"
    try:
        with pytest.raises(RuntimeError):
            _ = torch.backends.cudnn.allow_tf32
        for tf32 in (False, True):
            with float32_products(tf32=tf32):
                assert conv.fp32_precision == ("tf32" if tf32 else "ieee")
            assert conv.fp32_precision == "ieee"
    finally:
        conv.fp32_precision = before
