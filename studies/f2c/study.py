"""What a dynamic class pool costs in accuracy on few faces: CFP → LFW at equal images seen.

    python -m studies.f2c OUT --data DIR [--workers 2] [--json FILE]
    python -m studies.f2c OUT --data DIR --tiny

The full softmax, Partial FC and F2C, the latter two at the same shares of the identities, with one
margin and scale, on the small network of the study of schedules. A step of F2C takes three times
the images of a step of the others, so it has a third of their steps, and the same warm-up in
images. The base rate is one for each family, chosen by short runs of its full arm on held-out
identities. A few more such runs try what holds F2C up.

DIR and OUT are as in the study of margins.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from facepack.train.collect import merge_settings, read_settings
from studies.margins.study import print_differences, run_command
from studies.schedules.runs import Run, Stage, Study, best_rate
from studies.schedules.study import TUNING_SEED, PlanA, compare, prepare_a, print_tuning

SETTING = "cfp-lfw"
REFERENCE = "softmax"

Family = Literal["softmax", "f2c"]

_IMAGES_OF_STEP: dict[Family, int] = {"softmax": 1, "f2c": 3}
"""In batch sizes."""


def _f2c(share: float) -> dict[str, Any]:
    return merge_settings(read_settings("cpu_tiny_f2c"), {"method_options": {"share": share}})


ARMS: dict[str, tuple[Family, dict[str, Any]]] = {
    "softmax": ("softmax", {}),
    "partial_fc_0.2": ("softmax", {"sample_rate": 0.2}),
    "partial_fc_0.1": ("softmax", {"sample_rate": 0.1}),
    "f2c_1": ("f2c", _f2c(1.0)),
    "f2c_0.2": ("f2c", _f2c(0.2)),
    "f2c_0.1": ("f2c", _f2c(0.1)),
}
"""Family, and settings over those of ``cpu_tiny``, whose margin is AM's with 0.4 as F2C's here."""

TUNED = {"softmax": "softmax", "f2c": "f2c_1"}
"""Family → the arm that its rate is chosen by."""

TRIALS: dict[str, dict[str, Any]] = {
    "untrained": {},
    "momentum_0.9": {"method_options": {"gallery_momentum": 0.9}},
    "momentum_0": {"method_options": {"gallery_momentum": 0.0}},
}
"""Single runs of F2C's full arm that look for what holds it up: settings over the arm's."""

_UNTRAINED_RATE = 1e-8  # batch normalisation gets its statistics, and no weight moves


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is run."""

    sets: PlanA = field(default_factory=PlanA)
    """How the sets are cut."""
    rates: tuple[float, ...] = (0.05, 0.1)
    seeds: int = 3
    f2c_steps: int = 250
    """A third of the steps of the others."""
    warmup: float = 0.5
    """In epochs over the images seen."""
    training: dict[str, Any] = field(
        default_factory=lambda: {
            "backbone": "patches",
            # The largest whose 1.5·28 labels of a pass fit a pool of a tenth of 425 identities.
            "batch_size": 28,
            "log_every": 1,
            "threads": 1,
            "loader_threads": 1,
        }
    )
    """Settings over those of every arm."""


TINY = Plan(seeds=2, f2c_steps=6, warmup=0.0)


def length_of(family: Family, plan: Plan) -> dict[str, Any]:
    """The settings that give both families the same images, in the run and in its warm-up.

    An epoch of F2C is one over the images that it draws as the softmax does, a third of its batch.
    """
    images = _IMAGES_OF_STEP[family]
    return {"steps": 3 * plan.f2c_steps // images, "warmup_epochs": plan.warmup / images}


def make_run(
    out: Path,
    plan: Plan,
    stage: Stage,
    arm: str,
    *,
    rate: float,
    seed: int,
    trial: str | None = None,
) -> Run:
    """One run of ``arm``, or of a trial of it."""
    family, own = ARMS[arm]
    sets = out / "sets"
    return Run(
        stage=stage,
        setting=SETTING,
        arm=trial or arm,
        rate=rate,
        seed=seed,
        settings=merge_settings(
            read_settings("cpu_tiny"),
            own,
            plan.training,
            length_of(family, plan),
            TRIALS[trial] if trial else {},
            {"shards": str(sets / "cfp")},
        ),
        faces=sets / ("lfw.npz" if stage == "final" else "cfp-held-out.npz"),
        measure="accuracy",
    )


def run_all(study: Study, data: Path, plan: Plan) -> None:
    """Choose each family's rate on held-out identities, then run the seeds, arm by arm."""
    prepare_a(data, study.out, plan.sets)
    rate_of = {}
    for family, arm in TUNED.items():
        trials = [
            make_run(study.out, plan, "tune", arm, rate=rate, seed=TUNING_SEED)
            for rate in plan.rates
        ]
        rate_of[family] = best_rate(study.complete(trials))
    study.complete(
        [
            make_run(study.out, plan, "final", arm, rate=rate_of[family], seed=seed)
            for seed in range(plan.seeds)
            for arm, (family, _) in ARMS.items()
        ]
    )
    study.complete(
        [
            make_run(
                study.out,
                plan,
                "calibrate",
                TUNED["f2c"],
                rate=_UNTRAINED_RATE if trial == "untrained" else rate_of["f2c"],
                seed=TUNING_SEED,
                trial=trial,
            )
            for trial in TRIALS
        ]
    )


def mean_of_steps(
    lines: Iterable[Mapping[str, Any]], names: Iterable[str], first: int, last: int
) -> dict[str, float]:
    """The mean of each metric over the steps ``first`` to ``last``, both counted."""
    chosen = [line for line in lines if first <= line.get("step", 0) <= last]
    return {name: float(np.mean([line[name] for line in chosen])) for name in names}


def print_pools(study: Study, rows: Mapping[str, Any]) -> None:
    """How F2C's loss and pool stood in the first seed's runs, in tenths of a run."""
    names = ("loss_mean", "pool_hits", "outliers")
    print(f"\n| arm | steps | {' | '.join(names)} |")
    print("|---|---|--:|--:|--:|")
    for arm, (family, _) in ARMS.items():
        if family != "f2c" or arm not in rows:
            continue
        key = f"final-{SETTING}-{arm}-{rows[arm]['rate']:g}-0"
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
    rows = compare(study, SETTING, "accuracy", reference=REFERENCE)
    print_differences(rows, "arm", "the softmax")
    print_pools(study, rows)
    trials = study.of_stage("calibrate")
    if trials:
        print("\n| trial of F2C on held-out identities | base rate | steps | accuracy, % |")
        print("|---|--:|--:|--:|")
    for o in trials:
        score = "diverged" if o.score is None else f"{100 * o.score:.2f}"
        print(f"| {o.arm} | {o.rate:g} | {o.steps} | {score} |")
    return {
        "tuning": [vars(o) for o in tuning],
        "results": rows,
        "trials": [vars(o) for o in trials],
    }


def main() -> None:
    run_command("f2c", __doc__, run_all, report, plan=Plan(), tiny=TINY)
