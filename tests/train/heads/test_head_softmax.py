"""The margin softmax in chunks of classes against the plain one, and what is ever held."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from facepack.train.heads import ArcFace, Combined, CosFace, Margin, PartialFC, partial_fc
from facepack.train.heads.chunked import ChunkedLoss
from facepack.train.heads.logits import LogitRule, nothing_known, whole_loss
from facepack.train.ranks.group import ALONE

CLASSES, FEATURES, BATCH = 29, 6, 9
MARGINS = [
    ArcFace(margin=0.5),
    ArcFace(margin=0.5, gradient="straight_through"),
    CosFace(margin=0.35),
    Combined(m1=1.2, m2=0.3, m3=0.1),
    Combined(m1=0.9, m2=0.4, m3=0.15, gradient="straight_through"),
]


def case(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unit embeddings, centres, one of them zero, and labels, some of one class."""
    generator = torch.Generator().manual_seed(0)
    embeddings = F.normalize(torch.randn(BATCH, FEATURES, dtype=dtype, generator=generator))
    centres = torch.randn(CLASSES, FEATURES, dtype=dtype, generator=generator) * 0.1
    centres[5] = 0.0
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    labels[:3] = torch.tensor([0, CLASSES - 1, CLASSES - 1])
    # Angles past the margin's limit, and none at all.
    embeddings[0] = F.normalize(-centres[0], dim=0)
    embeddings[1] = F.normalize(centres[CLASSES - 1], dim=0)
    return embeddings, centres, labels


def chunked_loss(
    embeddings: torch.Tensor,
    centres: torch.Tensor,
    labels: torch.Tensor,
    rule: LogitRule,
    chunk: int,
) -> torch.Tensor:
    present = torch.ones_like(labels, dtype=torch.bool)
    weights = torch.full_like(embeddings[:, 0], 1 / len(labels))
    known = nothing_known(embeddings)
    inputs = (embeddings, centres, known.norms, None, labels, present, weights)
    return ChunkedLoss.apply(*inputs, known, rule, chunk, ALONE)


@pytest.mark.parametrize("margin", MARGINS, ids=str)
@pytest.mark.parametrize("interclass_filter", [0.0, 0.3])
@pytest.mark.parametrize("chunk", [1, 7, 28, 100])
def test_chunks_equal_the_whole(margin: Margin, interclass_filter: float, chunk: int) -> None:
    rule = LogitRule(margin=margin, scale=16.0, interclass_filter=interclass_filter)
    embeddings, centres, labels = case()
    inputs = [t.clone().requires_grad_() for t in (embeddings, centres) for _ in range(2)]
    whole = whole_loss(inputs[0], inputs[2], labels, rule)
    parts = chunked_loss(inputs[1], inputs[3], labels, rule, chunk)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    (whole * 3).backward()
    (parts * 3).backward()
    for plain, ours in zip(inputs[::2], inputs[1::2], strict=True):
        torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("margin", [m for m in MARGINS if "straight" not in str(m)], ids=str)
def test_the_gradient_is_the_derivative(margin: Margin) -> None:
    rule = LogitRule(margin=margin, scale=4.0)
    embeddings, centres, labels = case()
    # Both are kinks: the norm of nothing, and the cosine's end.
    centres[5] = 0.1
    embeddings[:2] = F.normalize(embeddings[:2] + 0.3)
    assert torch.autograd.gradcheck(
        lambda e, c: chunked_loss(e, c, labels, rule, 7),
        (embeddings.requires_grad_(), centres.requires_grad_()),
    )


def test_large_logits_do_not_overflow() -> None:
    rule = LogitRule(margin=CosFace(margin=0.4), scale=3000.0)
    embeddings, centres, labels = case(torch.float32)
    whole = whole_loss(embeddings, centres, labels, rule)
    parts = chunked_loss(embeddings, centres, labels, rule, 5)
    assert torch.isfinite(parts)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=0)


@pytest.mark.parametrize("sample_rate", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_heads_with_and_without_chunks_train_alike(sample_rate: float, optimizer: str) -> None:
    heads = [
        PartialFC(
            200,
            FEATURES,
            margin=ArcFace(margin=0.3),
            scale=16.0,
            sample_rate=sample_rate,
            optimizer=optimizer,
            chunk=chunk,
        ).double()
        for chunk in (None, 33)
    ]
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        images = torch.randn(12, FEATURES, dtype=torch.float64, generator=generator)
        labels = torch.randint(200, (12,), generator=generator)
        losses = [head(images, labels) for head in heads]
        torch.testing.assert_close(*losses)
        for head, loss in zip(heads, losses, strict=True):
            loss.backward()
            head.step(0.1)
    torch.testing.assert_close(heads[0].weight, heads[1].weight, rtol=1e-9, atol=1e-12)


def test_float32_chunks_stay_near_the_whole() -> None:
    rule = LogitRule(margin=ArcFace(margin=0.5), scale=64.0)
    embeddings, centres, labels = case(torch.float32)
    inputs = [t.clone().requires_grad_() for t in (embeddings, centres) for _ in range(2)]
    whole = whole_loss(inputs[0], inputs[2], labels, rule)
    parts = chunked_loss(inputs[1], inputs[3], labels, rule, 7)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=0)
    whole.backward()
    parts.backward()
    for plain, ours in zip(inputs[::2], inputs[1::2], strict=True):
        torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-3, atol=1e-4)


class Largest(TorchDispatchMode):
    """Notes the most values that any tensor had."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.values = max(self.values, result.numel())
        return result


def largest_tensor(chunk: int | None) -> int:
    head = PartialFC(500, 4, margin=CosFace(), chunk=chunk)
    images, labels = torch.randn(64, 4).requires_grad_(), torch.arange(64)
    with Largest() as largest:
        head(images, labels).backward()
    return largest.values


def test_logits_never_exist_whole() -> None:
    assert largest_tensor(None) == 64 * 500
    assert largest_tensor(40) == 64 * 40


def test_logits_of_a_large_head_are_cut_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    row_bytes = 4 * (64 + 4)
    monkeypatch.setattr(partial_fc, "_LARGEST_WHOLE", 500 * row_bytes - 1)
    monkeypatch.setattr(partial_fc, "_CHUNK_BYTES", 50 * row_bytes)
    assert largest_tensor(None) == 64 * 50
    assert largest_tensor(10_000) == 64 * 500


def test_the_plain_softmax_is_one_graph() -> None:
    rule = LogitRule(margin=ArcFace(margin=0.5), interclass_filter=0.4)
    embeddings, centres, labels = case(torch.float32)
    found = torch._dynamo.explain(whole_loss)(embeddings, centres, labels, rule)
    assert found.graph_count == 1
    assert found.graph_break_count == 0


def test_a_filtered_class_stays_in_the_softmax() -> None:
    embeddings = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    centres = torch.tensor([[1.0, 0.0], [0.8, 0.6]], dtype=torch.float64)
    rule = LogitRule(margin=CosFace(margin=0.0), scale=2.0, interclass_filter=0.5)
    expected = -math.log(math.exp(2) / (math.exp(2) + 1))
    for chunk in (1, 2):
        loss = chunked_loss(embeddings, centres, torch.tensor([0]), rule, chunk)
        assert float(loss) == pytest.approx(expected)
