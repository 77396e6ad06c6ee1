"""The margins against hand-computed values, their definitions and their derivatives."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from facepack.errors import ConfigError
from facepack.train.build import make_margin
from facepack.train.collect import make_config, merge_settings, parse_overrides
from facepack.train.config import TrainConfig
from facepack.train.heads.margins import (
    ArcFace,
    Combined,
    CosFace,
    CosineMargin,
    Margin,
    build_margin,
    register,
)

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
        ("arcfac", {}, r"margin = 'arcfac' is not one of .*arcface, combined, cosface"),
        ("cosface", {"m3": 0.4}, "margin cosface: unknown setting 'm3'; allowed: margin"),
        (
            "arcface",
            {"margin": 1.6},
            "margin = 1.6 is not allowed: it must be at least 0 and below π/2",
        ),
        ("arcface", {"margin": math.nan}, "margin arcface: margin = nan is not a finite number"),
        (
            "arcface",
            {"gradient": "none"},
            "gradient = 'none' is not one of exact, straight_through",
        ),
        (
            "cosface",
            {"margin": -0.1},
            "margin = -0.1 is not allowed: it must be at least 0 and below 2",
        ),
        ("combined", {"m1": 0.0}, "m1 = 0.0 is not allowed: it must be above 0"),
        ("combined", {"m2": -1.0}, "m2 = -1.0 is not allowed"),
        ("combined", {"m3": 2.0}, "m3 = 2.0 is not allowed"),
    ],
)
def test_errors_name_the_setting(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_margin(name, **options)


def config(**settings: object) -> TrainConfig:
    return make_config({"shards": "faces", **settings})


@pytest.mark.parametrize(
    ("settings", "margin"),
    [
        ({}, CosFace(margin=0.4)),
        ({"m3": 0.3}, CosFace(margin=0.3)),
        ({"margin_options": {"margin": 0.3}}, CosFace(margin=0.3)),
        ({"margin": "arcface", "m2": 0.4}, ArcFace(margin=0.4)),
        (
            {"margin": "arcface", "margin_gradient": "straight_through"},
            ArcFace(gradient="straight_through"),
        ),
        (
            {"margin": "combined", "m1": 0.9, "margin_options": {"m3": 0.1}},
            Combined(m1=0.9, m3=0.1),
        ),
    ],
)
def test_a_run_s_settings_make_the_margin(settings: dict[str, object], margin: object) -> None:
    assert make_margin(config(**settings)) == margin


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"m2": 0.4}, "m2 is set, but margin = cosface takes only m3, margin_options"),
        ({"margin_gradient": "straight_through"}, "margin_gradient is set, but margin = cosface"),
        ({"m3": 0.4, "margin_options": {"margin": 0.4}}, r"margin_options\.margin .* m3"),
        ({"margin_options": {"m": 0.4}}, "margin cosface: unknown setting 'm'; allowed: margin"),
        ({"margin_options": {"margin": 2}}, "margin cosface: margin = 2 is not allowed"),
    ],
)
def test_settings_of_another_margin_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_margin(config(**settings))


def test_margin_options_go_with_their_margin_and_are_not_written_where_unset() -> None:
    assert parse_overrides(["margin_options.margin=0.3"]) == {"margin_options": {"margin": 0.3}}
    below = {"margin": "arcface", "margin_options": {"margin": 0.3}}
    assert merge_settings(below, {"margin": "cosface"}) == {"margin": "cosface"}
    # Checkpoints of before there was the setting are those of runs that do not set it.
    assert "margin_options" not in config().as_dict()


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="already registered as 'arcface'"):
        register("arcface")(ArcFace)


def test_margins_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ArcFace().margin = 0.1


def test_a_margin_must_say_how_it_lowers() -> None:
    class Forgotten(Margin):
        pass

    class WithoutCosine(CosineMargin):
        pass

    for margin in (Forgotten, WithoutCosine):
        with pytest.raises(TypeError, match="abstract"):
            margin()
