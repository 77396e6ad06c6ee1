"""The study of F2C: equal images, equal shares, one rate for a family, and the course of a loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from facepack.train.collect import make_config
from studies.f2c import study

PLAN = study.Plan()
IDENTITIES = 425  # of CFP's 500, the others being held out


@pytest.fixture(name="configs")
def _configs(tmp_path: Path):
    return {
        arm: make_config(
            study.make_run(tmp_path, PLAN, "final", arm, rate=0.05, seed=0).settings
        ).as_dict()
        for arm in study.ARMS
    }


def test_all_arms_see_the_same_images_in_the_run_and_in_its_warm_up(configs) -> None:
    images, warmup = set(), set()
    for arm, config in configs.items():
        per_step = config["batch_size"] * (3 if arm.startswith("f2c") else 1)
        images.add(config["steps"] * per_step)
        # In epochs, which F2C counts by the third of a step's images that the instance loader has.
        warmup.add(config["warmup_epochs"] * per_step)
    assert images == {3 * PLAN.f2c_steps * 28}
    assert len(warmup) == 1


def test_arms_have_one_margin_and_scale_and_differ_in_method_and_share(configs) -> None:
    assert {c["sample_rate"] for a, c in configs.items() if not a.startswith("f2c")} == {
        1.0,
        0.2,
        0.1,
    }
    for arm, config in configs.items():
        if arm.startswith("f2c"):
            options = config["method_options"]
            assert options["share"] == float(arm.removeprefix("f2c_"))
            assert (options["loss"], options["margin"], options["scale"]) == ("am", 0.4, 32.0)
            # The smallest pool holds all that a pass brings, so no pair is torn.
            assert int(options["share"] * IDENTITIES) >= 3 * config["batch_size"] // 2
        else:
            assert (config["margin"], config["m3"], config["scale"]) == ("cosface", 0.4, 32.0)
    own = ("method", "method_options", "sample_rate", "steps", "warmup_epochs", "margin", "m3")
    rest = [
        {name: v for name, v in c.items() if name not in (*own, "scale", "epochs")}
        for c in configs.values()
    ]
    assert all(config == rest[0] for config in rest)


def test_each_family_is_tuned_by_its_full_arm() -> None:
    assert set(study.TUNED) == {family for family, _ in study.ARMS.values()}
    assert all(study.ARMS[arm][0] == family for family, arm in study.TUNED.items())


def test_means_are_over_the_steps_of_a_span_and_no_other_lines() -> None:
    lines = [{"kind": "run"}, *({"step": n, "loss_mean": float(n * n)} for n in range(1, 6))]
    assert study.mean_of_steps(lines, ["loss_mean"], 2, 4) == {"loss_mean": (4 + 9 + 16) / 3}
