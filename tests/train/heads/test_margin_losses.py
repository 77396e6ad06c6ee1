"""Every margin against a twin that is written as its paper has it, face by face and class by class.

The twin knows nothing of chunks, ranks or samples: it is given all classes of a step's softmax, and
autograd differentiates it. Rows are moved by SGD written out.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from facepack.errors import ConfigError, TrainingError
from facepack.train.heads import PartialFC, build_margin
from facepack.train.heads.draws import draw_normals
from facepack.train.heads.margins.registry import Own

CLASSES, FEATURES, BATCH, SCALE = 40, 6, 8, 16.0
LR, MOMENTUM, DECAY = 0.05, 0.9, 5e-3
SEED = 5

CASES: dict[str, tuple[str, dict[str, object]]] = {
    "arcface": ("arcface", {}),
    "cosface": ("cosface", {}),
    "sphereface": ("sphereface", {"lambda_base": 20.0, "factor": 3.0}),
    "sphereface r_v1": ("sphereface", {"variant": "r_v1"}),
    "sphereface r_v2": ("sphereface", {"variant": "r_v2", "factor": 1.4}),
    "curricularface": ("curricularface", {"momentum": 0.7}),
    "magface": ("magface", {"low_norm": 1.0, "high_norm": 3.0}),
    "magface past 90°": ("magface", {"low_norm": 1.0, "high_norm": 3.0, "easy": False}),
    "adaface": ("adaface", {"t_alpha": 0.3}),
    "uniface": ("uniface", {"negatives": 0.8}),
    "subcenter": ("subcenter", {"centres": 3}),
    "elastic": ("elastic", {"deviation": 0.1}),
    "elastic_plus": ("elastic_plus", {"deviation": 0.1}),
    "elastic cosface": ("elastic", {"kind": "cosface", "margin": 0.35}),
}


class Twin:
    """The loss of a micro-batch, and what it keeps from one to the next."""

    def __init__(self, case: str, rate: float) -> None:
        self.name, options = CASES[case]
        self.margin = build_margin(self.name, **options)
        self.step = 0
        self.t, self.mean, self.deviation = 0.0, 20.0, 100.0
        self.bias = torch.tensor(math.log(10 * CLASSES * rate)).double()  # begins as a float32
        self.bias_velocity = 0.0

    def loss(self, embeddings: Tensor, centres: Tensor, own: Tensor, records: np.ndarray) -> Tensor:
        """Mean over faces; ``centres`` are (n, K, F), of any norm."""
        norms = embeddings.norm(dim=1)
        faces = embeddings / norms[:, None]
        units = centres / centres.norm(dim=2, keepdim=True)
        cosines = torch.einsum("bf,nkf->bnk", faces, units).max(2).values
        with torch.no_grad():
            self.see(cosines[torch.arange(len(own)), own], norms)
        normals = draw_normals(SEED, self.step, records)
        if self.name == "elastic_plus":
            own_cosines = cosines[torch.arange(len(own)), own].tolist()
            nearest_first = sorted(range(len(own)), key=lambda face: -own_cosines[face])
            drawn = sorted(normals)
            normals = {face: drawn[place] for place, face in enumerate(nearest_first)}
        parts = [
            self.face_loss(cosines[i], int(own[i]), norms[i], float(normals[i]))
            for i in range(len(own))
        ]
        return torch.stack(parts).mean()

    def see(self, own_cosines: Tensor, norms: Tensor) -> None:
        """The moving averages."""
        m = self.margin
        if self.name == "curricularface":
            self.t = m.momentum * self.t + (1 - m.momentum) * own_cosines.mean().item()
        if self.name == "adaface":
            norms = norms.clamp(0.001, 100)
            self.mean += m.t_alpha * (norms.mean().item() - self.mean)
            self.deviation += m.t_alpha * (norms.std().item() - self.deviation)

    def face_loss(self, cosines: Tensor, own: int, norm: Tensor, normal: float) -> Tensor:
        """One face, with its cosines to all classes."""
        m, scale, extra = self.margin, SCALE, 0.0
        cos = cosines[own]
        theta = torch.acos(cos)
        others = torch.cat([cosines[:own], cosines[own + 1 :]])
        if self.name in ("arcface", "subcenter", "curricularface"):
            past = theta > math.pi - m.margin
            lowered = cos - m.margin * math.sin(m.margin) if past else torch.cos(theta + m.margin)
        elif self.name in ("cosface", "uniface"):
            lowered = cos - m.margin
        elif self.name in ("elastic", "elastic_plus"):
            margin = m.margin + m.deviation * normal
            lowered = torch.cos(theta + margin) if m.kind == "arcface" else cos - margin
        elif self.name == "magface":
            a = norm.clamp(m.low_norm, m.high_norm)
            rise = (m.high_margin - m.low_margin) / (m.high_norm - m.low_norm)
            margin = m.low_margin + rise * (a - m.low_norm)
            lowered = torch.cos(theta + margin)
            if m.easy and cos <= 0:
                lowered = cos
            if not m.easy and theta >= math.pi - margin:
                lowered = cos - margin * torch.sin(margin)
            extra = m.penalty_weight * (a / m.high_norm**2 + 1 / a)
        elif self.name == "adaface":
            z = (norm.detach().clamp(0.001, 100) - self.mean) / (self.deviation + 1e-3) * m.h
            z = z.clamp(-1, 1)
            lowered = torch.cos((theta - m.margin * z).clamp(1e-3, math.pi - 1e-3))
            lowered = lowered - m.margin * (1 + z)
        else:
            lowered, others, scale = self.sphere(cos, theta, others, norm)
        if self.name == "curricularface":
            hard = others > lowered
            others = torch.stack(
                [c * (self.t + c) if h else c for c, h in zip(others, hard, strict=True)]
            )
        if self.name == "uniface":
            own = (scale * lowered - self.bias).clamp(-scale, scale)
            others = (scale * others - self.bias).clamp(-scale, scale)
            negatives = torch.log(1 + torch.exp(others)).sum()
            return torch.log(1 + torch.exp(-own)) + m.negatives * negatives
        logits = scale * torch.cat([lowered[None], others])
        return -torch.log(logits[0].exp() / logits.exp().sum()) + extra

    def sphere(
        self, cos: Tensor, theta: Tensor, others: Tensor, norm: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | float]:
        m = self.margin
        if m.variant == "r_v1":
            value = math.cos(min(m.multiple * theta.item(), math.pi))
            return cos + (value - cos.item()), others, SCALE
        if m.variant == "r_v2":
            values = torch.cos(torch.acos(others) / m.multiple).detach()
            return cos, others + (values - others.detach()), SCALE
        k = int(m.multiple * theta.item() / math.pi)
        psi = (-1) ** k * torch.cos(m.multiple * theta) - 2 * k
        weight = max(m.lambda_min, m.lambda_base / (1 + m.gamma * self.step))
        return (weight * cos + psi) / (1 + weight), others, norm

    def move_bias(self, gradient: float) -> None:
        """SGD on the one number that is learned."""
        bias = self.bias.item()
        self.bias_velocity = MOMENTUM * self.bias_velocity + gradient + DECAY * bias
        self.bias = torch.tensor(bias - LR * self.bias_velocity, dtype=torch.float64)
        self.step += 1


def make_head(case: str, **options: object) -> PartialFC:
    name, margin = CASES[case]
    given = {"scale": SCALE, "seed": SEED, "momentum": MOMENTUM, "weight_decay": DECAY} | options
    head = PartialFC(CLASSES, FEATURES, margin=build_margin(name, **margin), **given).double()
    with torch.no_grad():
        head.weight.mul_(100)
    return head


def micro_batch(generator: torch.Generator) -> tuple[Tensor, Tensor, np.ndarray]:
    """Embeddings of norms about 2, labels, and which records they are."""
    embeddings = torch.randn(BATCH, FEATURES, dtype=torch.float64, generator=generator)
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    return embeddings, labels, torch.randint(10**6, (BATCH,), generator=generator).numpy()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("rate", "parts", "chunk"), [(1.0, 1, None), (0.3, 2, None), (1.0, 2, 7), (0.3, 1, 7)]
)
def test_fifty_steps_of_the_twin(case: str, rate: float, parts: int, chunk: int | None) -> None:
    head, twin = make_head(case, sample_rate=rate, chunk=chunk), Twin(case, rate)
    weight = head.weight.clone()
    velocity = torch.zeros_like(weight)
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        gradient, used, bias_gradient = torch.zeros_like(weight), set(), 0.0
        for _ in range(parts):
            embeddings, labels, records = micro_batch(generator)
            ours, theirs = (embeddings.clone().requires_grad_() for _ in range(2))
            loss = head(ours, labels, records) / parts
            rows = head._pending[-1].rows
            rows = torch.arange(CLASSES) if rows is None else rows
            leaf = weight.clone().requires_grad_()
            twin.bias.requires_grad_()
            twin.bias.grad = None
            classes = leaf[rows].view(len(rows), -1, FEATURES)
            expected = twin.loss(theirs, classes, torch.searchsorted(rows, labels), records) / parts
            loss.backward()
            expected.backward()
            torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-7, atol=1e-9)
            gradient += leaf.grad
            used |= set(rows.tolist())
            bias_gradient += 0.0 if twin.bias.grad is None else twin.bias.grad.item()
        head.step(LR)
        rows = torch.tensor(sorted(used))
        velocity[rows] = MOMENTUM * velocity[rows] + gradient[rows] + DECAY * weight[rows]
        weight[rows] -= LR * velocity[rows]
        twin.move_bias(bias_gradient)
        torch.testing.assert_close(head.weight, weight, rtol=1e-7, atol=1e-9)
    kept = {"curricularface": ("t", twin.t), "uniface": ("bias", twin.bias.item())}
    if case in kept:
        name, value = kept[case]
        assert getattr(head.margin_state, name).item() == pytest.approx(value, rel=1e-6)
    if case == "adaface":
        assert head.margin_state.mean.item() == pytest.approx(twin.mean, rel=1e-6)
        assert head.margin_state.deviation.item() == pytest.approx(twin.deviation, rel=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_a_head_goes_on_from_its_state(case: str) -> None:
    """Bit for bit, random margins, averages and learned numbers included."""

    def train(head: PartialFC, steps: range) -> None:
        for step in steps:
            embeddings, labels, records = micro_batch(torch.Generator().manual_seed(step))
            head(embeddings.requires_grad_(), labels, records).backward()
            head.step(LR)

    straight, first, second = (make_head(case, sample_rate=0.5) for _ in range(3))
    train(straight, range(12))
    train(first, range(5))
    second.load_whole_state(first.whole_state())
    train(second, range(5, 12))
    for name, value in straight.state_dict().items():
        if name != "_extra_state":
            assert torch.equal(value, second.state_dict()[name]), name


@pytest.mark.parametrize("case", ["adaface", "curricularface", "uniface"])
def test_what_is_not_finite_stays_out_of_the_state(case: str) -> None:
    head = make_head(case)
    before = {name: value.clone() for name, value in head.margin_state.named_buffers()}
    embeddings, labels, records = micro_batch(torch.Generator().manual_seed(0))
    embeddings[0, 0] = torch.inf
    head(embeddings.requires_grad_(), labels, records).backward()
    head.step(LR, found_inf=torch.tensor(1.0))
    for name, value in head.margin_state.named_buffers():
        assert torch.equal(value, before[name])


def test_one_face_leaves_adafaces_deviation() -> None:
    head = make_head("adaface")
    embeddings, labels, records = (part[:1] for part in micro_batch(torch.Generator()))
    assert torch.isfinite(head(embeddings.requires_grad_(), labels, records))
    assert head.margin_state.deviation.item() == 100.0
    assert head.margin_state.mean.item() < 20.0


def test_random_margins_are_of_record_and_step() -> None:
    records = np.arange(100_000)
    normals = draw_normals(0, 3, records)
    order = np.random.default_rng(0).permutation(records)
    assert np.array_equal(draw_normals(0, 3, order), normals[order])
    assert abs(normals.mean()) < 0.01 and abs(normals.std() - 1) < 0.01
    assert abs(np.corrcoef(normals, draw_normals(0, 4, records))[0, 1]) < 0.01
    head = make_head("elastic")
    with pytest.raises(TrainingError, match="records"):
        head(*micro_batch(torch.Generator())[:2])


def test_a_state_of_another_margin_is_refused() -> None:
    state = make_head("curricularface").whole_state()
    with pytest.raises(TrainingError, match=r"margin_state\.t.*margin"):
        make_head("arcface").load_whole_state(state)


@pytest.mark.parametrize(
    ("name", "options", "names"),
    [
        ("magface", {"low_norm": 5.0, "high_norm": 2.0}, "low_norm"),
        ("magface", {"low_margin": 0.9}, "low_margin"),
        ("subcenter", {"centres": 0}, "centres"),
        ("adaface", {"t_alpha": 1.5}, "t_alpha"),
        ("sphereface", {"variant": "v3"}, "r_v1"),
        ("elastic", {"kind": "am"}, "cosface"),
        ("uniface", {"negatives": 0}, "negatives"),
    ],
)
def test_options_out_of_range(name: str, options: dict[str, object], names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        build_margin(name, **options)


def _is_finite(head: PartialFC, embeddings: Tensor, labels: Tensor) -> bool:
    head(embeddings.requires_grad_(), labels, np.arange(len(labels))).backward()
    assert embeddings.grad is not None
    return bool(torch.isfinite(embeddings.grad).all())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize("make", [lambda c: c, lambda c: -c, lambda c: 1e-3 * c, lambda c: 1e4 * c])
def test_gradients_stay_finite_at_the_ends(
    case: str, chunk: int | None, make: Callable[[Tensor], Tensor]
) -> None:
    """Embeddings on their centres and opposite, very short and very long."""
    head = make_head(case, chunk=chunk).float()
    labels = torch.arange(BATCH)
    assert _is_finite(head, make(head.weight[labels, :FEATURES]).clone(), labels)


def test_the_nearer_face_has_the_smaller_margin_and_what_fills_up_has_none() -> None:
    normals = torch.tensor([0.5, -1.0, 2.0, 0.0, 0.1])
    cosines = torch.tensor([0.4, 0.9, -0.2, 0.0, 0.3])
    own = Own(cosines=cosines, norms=torch.ones(5), normals=normals, step=0, state={})
    weights = torch.tensor([0.25, 0.25, 0.25, 0.0, 0.25])  # the fourth is none
    arranged = build_margin("elastic_plus").arrange(own, weights)
    assert arranged.tolist() == pytest.approx([0.1, -1.0, 2.0, 0.0, 0.5])
