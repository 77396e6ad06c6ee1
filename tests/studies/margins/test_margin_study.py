"""The study of margins: its runs, its intervals, its claims, and its way through."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facepack.train.collect import make_config
from facepack.train.heads.margins.registry import MARGINS
from studies.margins import study
from studies.schedules.runs import Outcome, Study
from studies.schedules.sets import Faces

PAIRS = 400


def test_arms_are_the_margins_and_all_have_the_same_budget(tmp_path: Path) -> None:
    plan = study.Plan()
    rates = dict.fromkeys(study.ARMS, 0.05)
    runs = study.make_runs(tmp_path, plan, "final", [(rates, seed) for seed in range(plan.seeds)])
    configs = {run.arm: make_config(run.settings) for run in runs}
    left_out = {"combined", "elastic_plus"}
    assert {config.margin for config in configs.values()} == MARGINS.keys() - left_out
    own = ("margin", "margin_options", "m2", "m3")
    budgets = [
        {name: value for name, value in config.as_dict().items() if name not in own}
        for config in configs.values()
    ]
    assert all(budget == budgets[0] for budget in budgets)
    assert (configs["softmax"].margin, configs["softmax"].m3) == ("cosface", 0.0)
    assert len(runs) == len({run.key for run in runs}) == 3 * len(study.ARMS)


def test_the_interval_of_three_seeds() -> None:
    """Mean 2, standard error 1/√3 of a deviation of 1, and Student's 4.303 with two degrees."""
    low, high = study.interval_of_seeds([1.0, 2.0, 3.0])
    assert low == pytest.approx(2 - 4.303 / 3**0.5)
    assert high == pytest.approx(2 + 4.303 / 3**0.5)
    assert study.interval_of_seeds([1.0]) is None


@pytest.mark.parametrize(
    ("is_clear", "seeds", "claimed"),
    [
        (True, (0.01, 0.02), True),
        (True, (-0.02, -0.01), True),
        (True, (-0.01, 0.02), False),
        (False, (0.01, 0.02), False),
        (True, None, False),
    ],
)
def test_a_claim_needs_both_intervals(
    is_clear: bool, seeds: tuple[float, float] | None, claimed: bool
) -> None:
    assert study.is_claimed({"is_clear": is_clear, "seeds": seeds}) == claimed


def outcome(stage: str, arm: str, seed: int, right: np.ndarray) -> Outcome:
    return Outcome(
        stage=stage,
        setting=study.SETTING,
        arm=arm,
        rate=0.05,
        seed=seed,
        score=float(right.mean()),
        right=np.packbits(right).tobytes().hex(),
        pairs=len(right),
        steps=3,
        loss=1.0,
        changes=[],
        sigma_h=None,
    )


def test_a_margin_that_is_better_on_all_seeds_is_claimed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    pairs = np.arange(2 * PAIRS).reshape(PAIRS, 2)
    issame = np.tile([True, False], PAIRS // 2)
    (tmp_path / "sets").mkdir()
    Faces(
        images=[b""] * 2 * PAIRS,
        pairs=pairs,
        issame=issame,
        identities=np.repeat(np.arange(PAIRS), 2),
    ).save(tmp_path / "sets" / "lfw.npz")
    made = Study(tmp_path)
    for seed in range(3):
        right = random.random(PAIRS) < 0.6
        made.outcomes[f"arcface {seed}"] = outcome("final", "arcface", seed, right)
        made.outcomes[f"softmax {seed}"] = outcome("final", "softmax", seed, right)
        better = right | (random.random(PAIRS) < 0.5)
        made.outcomes[f"adaface {seed}"] = outcome("final", "adaface", seed, better)
    rows = study.report(made)["results"]
    assert next(iter(rows)) == "arcface"
    assert rows["adaface"]["claimed"] and not rows["softmax"]["claimed"]
    assert rows["softmax"]["difference"]["mean"] == 0
    table = capsys.readouterr().out
    assert "| adaface | 0.05 |" in table and table.count("| yes |") == 1
