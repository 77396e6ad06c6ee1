"""The margins against hand-computed values, their definitions and their derivatives."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from facepack.errors import ConfigError
from facepack.train.heads.margins import ArcFace, Combined, CosFace, build_margin

EVERY_MARGIN = [
    ArcFace(),
    ArcFace(margin=0.3),
    ArcFace(gradient="straight_through"),
    CosFace(),
    Combined(),
    Combined(m1=0.9, m2=0.4, m3=0.15),
    Combined(m1=1.35, m2=0.0, m3=0.0),
    Combined(m1=1.2, m2=0.3, m3=0.1, gradient="straight_through"),
]


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_arcface_by_hand() -> None:
    # θ = 60° and 90°, with m = 0.5: cos(1.5471975512) and cos(2.0707963268) = −sin 0.5.
    actual = ArcFace(margin=0.5).apply(doubles(0.5, 0.0))
    torch.testing.assert_close(actual, doubles(0.0235965853, -0.4794255386), rtol=0, atol=1e-9)


def test_arcface_past_its_angle_by_hand() -> None:
    # θ = π − 0.2 is past π − 0.5: cos θ − 0.5·sin 0.5 = −0.9800665778 − 0.2397127693.
    actual = ArcFace(margin=0.5).apply(doubles(math.cos(math.pi - 0.2), -1.0))
    torch.testing.assert_close(actual, doubles(-1.2197793471, -1.2397127693), rtol=0, atol=1e-9)


def test_cosface_by_hand() -> None:
    actual = CosFace(margin=0.4).apply(doubles(0.5, 1.0, -1.0))
    torch.testing.assert_close(actual, doubles(0.1, 0.6, -1.4))


def test_combined_by_hand() -> None:
    # θ = 1, m = (0.9, 0.4, 0.15): cos 1.3 − 0.15.
    actual = Combined(m1=0.9, m2=0.4, m3=0.15).apply(doubles(math.cos(1.0)))
    torch.testing.assert_close(actual, doubles(0.1174988286), rtol=0, atol=1e-9)


@pytest.mark.parametrize("gradient", ["exact", "straight_through"])
def test_arcface_is_combined_with_m2_alone(gradient: str) -> None:
    cosines = torch.linspace(-1, 1, 1001)
    arcface = ArcFace(margin=0.45, gradient=gradient).apply(cosines)
    assert torch.equal(arcface, Combined(m1=1, m2=0.45, m3=0, gradient=gradient).apply(cosines))


def test_cosface_is_combined_with_m3_alone() -> None:
    cosines = torch.linspace(-1, 1, 1001)
    cosface = CosFace(margin=0.35).apply(cosines)
    assert torch.equal(cosface, Combined(m1=1, m2=0, m3=0.35).apply(cosines))


@pytest.mark.parametrize("margin", EVERY_MARGIN, ids=str)
def test_the_result_is_lower_and_falls_with_the_angle(margin: Combined) -> None:
    cosines = torch.cos(torch.linspace(0.002, math.pi - 0.002, 20_001, dtype=torch.float64))
    lowered = margin.apply(cosines)
    assert (lowered.diff() < 0).all()
    assert (lowered < cosines).all()


@pytest.mark.parametrize("margin", EVERY_MARGIN, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_up_to_the_ends(margin: Combined, dtype: torch.dtype) -> None:
    ends = [1.0, 1 - 1e-7, 1 - 1e-6, 1 - 1e-5, 0.0, -1 + 1e-5, -1 + 1e-6, -1 + 1e-7, -1.0]
    cosines = torch.tensor(ends, dtype=dtype, requires_grad=True)
    lowered = margin.apply(cosines)
    lowered.sum().backward()
    assert lowered.dtype == dtype
    assert torch.isfinite(lowered).all()
    assert torch.isfinite(cosines.grad).all()
    assert cosines.grad.abs().max() < 1000


def test_exact_gradient_is_the_derivative() -> None:
    angles = torch.tensor([0.1, 0.8, 1.6, 2.4], dtype=torch.float64)
    cosines = torch.cos(angles).requires_grad_()
    ArcFace(margin=0.5).apply(cosines).sum().backward()
    torch.testing.assert_close(cosines.grad, torch.sin(angles + 0.5) / torch.sin(angles))


@pytest.mark.parametrize("margin", [m for m in EVERY_MARGIN if "straight" not in str(m)], ids=str)
def test_exact_gradients_by_finite_differences(margin: Combined) -> None:
    cosines = torch.linspace(-0.95, 0.95, 38, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(margin.apply, (cosines,))


def test_straight_through_has_the_same_value_and_the_identity_s_gradient() -> None:
    cosines = torch.linspace(-1, 1, 1001, dtype=torch.float64, requires_grad=True)
    through = Combined(m1=1.1, m2=0.3, m3=0.1, gradient="straight_through").apply(cosines)
    exact = Combined(m1=1.1, m2=0.3, m3=0.1).apply(cosines)
    torch.testing.assert_close(through, exact)
    through.sum().backward()
    assert torch.equal(cosines.grad, torch.ones_like(cosines))


def test_build_by_name() -> None:
    assert build_margin("arcface", margin=0.4, gradient="straight_through") == ArcFace(
        margin=0.4, gradient="straight_through"
    )
    assert build_margin("cosface") == CosFace(margin=0.4)
    assert build_margin("combined", m1=1.0, m2=0.3, m3=0.2) == Combined()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("arcfac", {}, "margin: got 'arcfac'; it must be one of arcface, cosface, combined"),
        ("cosface", {"m3": 0.4}, "margin option 'm3': cosface has no such setting, only margin"),
        ("arcface", {"margin": 1.6}, r"margin: got 1.6; it must be in \[0, π/2\)"),
        ("arcface", {"margin": math.nan}, "margin: got nan"),
        ("arcface", {"gradient": "none"}, "gradient: got none; it must be exact or straight_thr"),
        ("cosface", {"margin": -0.1}, "margin: got -0.1"),
        ("combined", {"m1": 0.0}, "m1: got 0.0; it must be above 0"),
        ("combined", {"m2": -1.0}, "m2: got -1.0"),
        ("combined", {"m3": 2.0}, "m3: got 2.0"),
    ],
)
def test_errors_name_the_setting(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_margin(name, **options)


def test_margins_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ArcFace().margin = 0.1
