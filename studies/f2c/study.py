"""What a dynamic class pool costs in accuracy at equal images seen: on few faces, and on more.

    python -m studies.f2c OUT --data DIR [--workers 2] [--json FILE]
    python -m studies.f2c OUT --data DIR --tiny

CFP → LFW, and 10,000 drawn people tested on others. In both, the full softmax, Partial FC and F2C,
the latter two at the same shares of the identities, with one margin and scale, on the small network
of the study of schedules; F2C with the published momentum of its gallery network, and with none. A
step of F2C takes three times the images of a step of the others, so it has a third of their steps,
and the same warm-up in images. The base rate is one for each family in both, chosen by runs of its
largest arm on held-out identities of CFP. A few more such runs try what holds F2C up.

DIR and OUT are as in the study of margins.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from facepack.train.collect import merge_settings, read_settings
from studies.margins.study import print_differences, run_command
from studies.schedules.runs import Run, Stage, Study, best_rate
from studies.schedules.study import TUNING_SEED, PlanA, compare, prepare_a, print_tuning
from studies.unequal.sets import draw

REFERENCE = "softmax"

_MOMENTUM = {"f2c": 0.99, "f2c_momentum_0": 0.0}
"""Of the gallery network, by family: as published, and the trained network itself."""

_TUNED_IN = "cfp-lfw"

TRIALS: dict[str, tuple[str, dict[str, Any]]] = {
    "untrained": ("f2c_1", {}),
    "momentum_0.9": ("f2c_1", {"method_options": {"gallery_momentum": 0.9}}),
    "long_momentum_0.99": ("f2c_0.1", {}),
    "long_momentum_0": ("f2c_momentum_0_0.1", {}),
}
"""Single runs on CFP that look for what holds F2C up: an arm, and settings over its own."""

_UNTRAINED_RATE = 1e-8  # batch normalisation gets its statistics, and no weight moves


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way to train."""

    family: str
    """Arms of one family have one base rate."""
    settings: Mapping[str, Any]
    """Over those of ``cpu_tiny``, whose margin is AM's with 0.4 as F2C's here."""

    @property
    def images_per_step(self) -> int:
        """In batch sizes."""
        return 1 if self.family == REFERENCE else 3


def make_arms(shares: Iterable[float]) -> dict[str, Arm]:
    """The softmax, and the others at each share of the identities; 1 stands for F2C alone."""
    arms = {"softmax": Arm(family=REFERENCE, settings={})}
    for share in shares:
        if share < 1:
            arms[f"partial_fc_{share:g}"] = Arm(family=REFERENCE, settings={"sample_rate": share})
    for family, momentum in _MOMENTUM.items():
        for share in shares:
            options = {"share": share, "gallery_momentum": momentum}
            arms[f"{family}_{share:g}"] = Arm(
                family=family,
                settings=merge_settings(read_settings("cpu_tiny_f2c"), {"method_options": options}),
            )
    return arms


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is trained on, for how long, and which arms; its pairs are those its name ends with."""

    shards: str
    shares: tuple[float, ...]
    f2c_steps: int
    """A third of the steps of the others."""
    training: Mapping[str, Any]
    """Settings over those of every arm."""

    @property
    def arms(self) -> dict[str, Arm]:
        """By name."""
        return make_arms(self.shares)

    def tuned_by(self) -> dict[str, str]:
        """Family → its first arm, which has most identities."""
        return {arm.family: name for name, arm in reversed(self.arms.items())}


_TRAINING = {"backbone": "patches", "log_every": 1, "threads": 1, "loader_threads": 1}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is run."""

    sets: PlanA = field(default_factory=PlanA)
    """How the sets are cut."""
    identities: int = 10_000
    """That are drawn, of five images."""
    unseen: int = 1_000
    rates: tuple[float, ...] = (0.05, 0.1)
    seeds: int = 3
    warmup: float = 0.5
    """In epochs over the images seen."""
    long_steps: int = 850
    """Of the long trials: four epochs, half of what ``cpu_tiny_f2c`` has."""
    settings: Mapping[str, Setting] = field(
        default_factory=lambda: {
            "cfp-lfw": Setting(
                shards="cfp",
                shares=(1.0, 0.2, 0.1),
                f2c_steps=250,
                # The largest batch whose 1.5·28 labels of a pass fit a pool of a tenth of 425.
                training={**_TRAINING, "batch_size": 28},
            ),
            "drawn-unseen": Setting(
                shards="drawn-right",
                shares=(0.1, 0.01),
                f2c_steps=300,
                training={**_TRAINING, "batch_size": 32, "features": 128},
            ),
        }
    )
    """TRAINED-TESTED → what it is."""


TINY = Plan(
    seeds=2,
    warmup=0.0,
    long_steps=8,
    identities=500,
    unseen=20,
    settings={name: replace(setting, f2c_steps=6) for name, setting in Plan().settings.items()},
)


def length_of(arm: Arm, setting: Setting, warmup: float) -> dict[str, Any]:
    """The settings that give all arms the same images, in the run and in its warm-up.

    An epoch of F2C is one over the images that it draws as the softmax does, a third of its batch.
    """
    images = arm.images_per_step
    return {"steps": 3 * setting.f2c_steps // images, "warmup_epochs": warmup / images}


def make_run(
    out: Path,
    plan: Plan,
    stage: Stage,
    name: str,
    arm: str,
    *,
    rate: float,
    seed: int,
    trial: str | None = None,
) -> Run:
    """One run of ``arm`` in the setting ``name``, or of a trial that changes it."""
    setting = plan.settings[name]
    chosen = setting.arms[arm]
    sets = out / "sets"
    pairs = name.partition("-")[2] if stage == "final" else "cfp-held-out"
    return Run(
        stage=stage,
        setting=name,
        arm=trial or arm,
        rate=rate,
        seed=seed,
        settings=merge_settings(
            read_settings("cpu_tiny"),
            chosen.settings,
            setting.training,
            length_of(chosen, setting, plan.warmup),
            TRIALS[trial][1] if trial else {},
            {"steps": plan.long_steps} if trial and trial.startswith("long") else {},
            {"shards": str(sets / setting.shards)},
        ),
        faces=sets / f"{pairs}.npz",
        measure="accuracy",
    )


def run_all(study: Study, data: Path, plan: Plan) -> None:
    """Choose each family's rate on held-out identities, then run the seeds, arm by arm."""
    out = study.out
    prepare_a(data, out, plan.sets)
    if not (out / "sets" / "unseen.npz").exists():
        draw(out / "sets", identities=plan.identities, images=5, unseen=plan.unseen)
    rate_of = {}
    for family, arm in plan.settings[_TUNED_IN].tuned_by().items():
        tried = [
            make_run(out, plan, "tune", _TUNED_IN, arm, rate=rate, seed=TUNING_SEED)
            for rate in plan.rates
        ]
        rate_of[family] = best_rate(study.complete(tried))
    study.complete(
        [
            make_run(out, plan, "final", name, arm, rate=rate_of[chosen.family], seed=seed)
            for name, setting in plan.settings.items()
            for seed in range(plan.seeds)
            for arm, chosen in setting.arms.items()
        ]
    )
    study.complete([make_trial(out, plan, trial, rate_of) for trial in TRIALS])


def make_trial(out: Path, plan: Plan, trial: str, rate_of: Mapping[str, float]) -> Run:
    """A trial, at the rate of its arm's family."""
    arm, _ = TRIALS[trial]
    family = plan.settings[_TUNED_IN].arms[arm].family
    rate = _UNTRAINED_RATE if trial == "untrained" else rate_of[family]
    return make_run(
        out, plan, "calibrate", _TUNED_IN, arm, rate=rate, seed=TUNING_SEED, trial=trial
    )


def mean_of_steps(
    lines: Iterable[Mapping[str, Any]], names: Iterable[str], first: int, last: int
) -> dict[str, float]:
    """The mean of each metric over the steps ``first`` to ``last``, both counted."""
    chosen = [line for line in lines if first <= line.get("step", 0) <= last]
    return {name: float(np.mean([line[name] for line in chosen])) for name in names}


def print_pools(study: Study, setting: str, rows: Mapping[str, Any]) -> None:
    """How F2C's loss and pool stood in the first seed's runs, in tenths of a run."""
    names = ("loss_mean", "pool_hits", "outliers")
    print(f"\n| arm | steps | {' | '.join(names)} |")
    print("|---|---|--:|--:|--:|")
    for arm, row in rows.items():
        if not arm.startswith("f2c"):
            continue
        key = f"final-{setting}-{arm}-{row['rate']:g}-0"
        text = (study.out / "losses" / f"{key}.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        steps = max(line.get("step", 0) for line in lines)
        tenth = max(1, steps // 10)
        for first in (1, steps // 2, steps - tenth + 1):
            last = first + tenth - 1
            means = mean_of_steps(lines, names, first, last)
            cells = [arm, f"{first}–{last}", *(f"{means[name]:.2f}" for name in names)]
            print(f"| {' | '.join(cells)} |")


def report(study: Study) -> dict[str, Any]:
    """Print the tables that the outcomes so far give."""
    tuning = study.of_stage("tune")
    if tuning:
        print_tuning(tuning)
    results = {}
    for setting in dict.fromkeys(o.setting for o in study.of_stage("final")):
        print(f"\n{setting}")
        rows = compare(study, setting, "accuracy", reference=REFERENCE)
        print_differences(rows, "arm", "the softmax")
        print_pools(study, setting, rows)
        results[setting] = rows
    trials = study.of_stage("calibrate")
    if trials:
        print("\n| trial of F2C on held-out identities | base rate | steps | accuracy, % |")
        print("|---|--:|--:|--:|")
    for o in trials:
        score = "diverged" if o.score is None else f"{100 * o.score:.2f}"
        print(f"| {o.arm} | {o.rate:g} | {o.steps} | {score} |")
    return {
        "tuning": [vars(o) for o in tuning],
        "results": results,
        "trials": [vars(o) for o in trials],
    }


def main() -> None:
    run_command("f2c", __doc__, run_all, report, plan=Plan(), tiny=TINY)
