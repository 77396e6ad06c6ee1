"""The study of F2C: equal images, equal shares, one rate for a family, and the course of a loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from facepack.train.collect import make_config
from studies.f2c import study

PLAN = study.Plan()
IDENTITIES = {"cfp-lfw": 425, "drawn-unseen": 10_000}  # of CFP's 500, the others being held out


def _configs(tmp_path: Path, setting: str) -> dict[str, dict[str, Any]]:
    return {
        arm: make_config(
            study.make_run(tmp_path, PLAN, "final", setting, arm, rate=0.05, seed=0).settings
        ).as_dict()
        for arm in PLAN.settings[setting].arms
    }


@pytest.mark.parametrize("setting", PLAN.settings)
def test_all_arms_see_the_same_images_in_the_run_and_in_its_warm_up(
    tmp_path: Path, setting: str
) -> None:
    images, warmup = set(), set()
    for arm, config in _configs(tmp_path, setting).items():
        per_step = config["batch_size"] * (3 if arm.startswith("f2c") else 1)
        images.add(config["steps"] * per_step)
        # In epochs, which F2C counts by the third of a step's images that the instance loader has.
        warmup.add(config["warmup_epochs"] * per_step)
        assert config["batch_size"] <= 32
    assert len(images) == 1 and len(warmup) == 1


@pytest.mark.parametrize("setting", PLAN.settings)
def test_arms_have_one_margin_and_scale_and_differ_in_method_share_and_momentum(
    tmp_path: Path, setting: str
) -> None:
    configs = _configs(tmp_path, setting)
    shares: dict[str, set[float]] = {"softmax": set(), "f2c": set(), "f2c_momentum_0": set()}
    for arm, config in configs.items():
        family, _, share = arm.rpartition("_")
        if config["method"] == "f2c":
            options = config["method_options"]
            assert options["share"] == float(share)
            assert (options["loss"], options["margin"], options["scale"]) == ("am", 0.4, 32.0)
            assert options["gallery_momentum"] == (0.0 if "momentum" in arm else 0.99)
            # The smallest pool holds all that a pass brings, so no pair is torn.
            slots = int(options["share"] * IDENTITIES[setting])
            assert slots >= 3 * config["batch_size"] // 2
            shares[family].add(options["share"])
        else:
            assert (config["margin"], config["m3"], config["scale"]) == ("cosface", 0.4, 32.0)
            shares["softmax"].add(config["sample_rate"])
    assert shares["f2c"] == shares["f2c_momentum_0"] == set(PLAN.settings[setting].shares)
    assert shares["softmax"] == {1.0, *shares["f2c"]}
    own = ("method", "method_options", "sample_rate", "steps", "warmup_epochs", "margin", "m3")
    rest = [
        {name: v for name, v in c.items() if name not in (*own, "scale", "epochs")}
        for c in configs.values()
    ]
    assert all(config == rest[0] for config in rest)


def test_each_family_is_tuned_by_its_largest_arm() -> None:
    assert PLAN.settings["cfp-lfw"].tuned_by() == {
        "softmax": "softmax",
        "f2c": "f2c_1",
        "f2c_momentum_0": "f2c_momentum_0_1",
    }


def test_means_are_over_the_steps_of_a_span_and_no_other_lines() -> None:
    lines = [{"kind": "run"}, *({"step": n, "loss_mean": float(n * n)} for n in range(1, 6))]
    assert study.mean_of_steps(lines, ["loss_mean"], 2, 4) == {"loss_mean": (4 + 9 + 16) / 3}
