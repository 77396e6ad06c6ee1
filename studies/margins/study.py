"""What a margin is worth on few faces: CFP → LFW at equal budget, plain softmax beside all margins.

    python -m studies.margins OUT --data DIR [--workers 2] [--json FILE]
    python -m studies.margins OUT --data DIR --tiny

Every margin has the settings of its ``cpu_tiny_*`` recipe on the small network of the study of
schedules, the same number of steps, and as many tries at its base rate, on held-out identities.

DIR holds what part a of the study of schedules reads. OUT keeps every outcome: a study that was
killed goes on where it was; ``--report`` runs nothing and prints what there is so far. The tables
are Markdown.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from facepack.train.collect import merge_settings, read_settings
from studies.schedules.runs import Run, Stage, Study
from studies.schedules.study import (
    TUNING_SEED,
    PlanA,
    compare,
    environment,
    prepare_a,
    print_tuning,
    tuned_rates,
)

SETTING = "cfp-lfw"
REFERENCE = "arcface"

P = TypeVar("P")

ARMS: dict[str, dict[str, Any]] = {
    "arcface": {"margin": "arcface"},
    "softmax": {"margin": "cosface", "m3": 0.0},
    "cosface": {"margin": "cosface", "m3": 0.4},
    "sphereface": read_settings("cpu_tiny_sphereface"),
    "sphereface_r": {"margin": "sphereface", "margin_options": {"variant": "r_v1"}},
    "elastic": read_settings("cpu_tiny_elastic"),
    "subcenter": read_settings("cpu_tiny_subcenter"),
    "curricularface": read_settings("cpu_tiny_curricularface"),
    "magface": read_settings("cpu_tiny_magface"),
    "adaface": read_settings("cpu_tiny_adaface"),
    "uniface": read_settings("cpu_tiny_uniface"),
}
"""Settings over those of ``cpu_tiny``; softmax is that of cosines, with the scale of all others."""

# Student's t, two-sided 95 %, by degrees of freedom: seeds are few.
_T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is run."""

    sets: PlanA = field(default_factory=PlanA)
    """How the sets are cut."""
    rates: tuple[float, ...] = (0.05, 0.025, 0.1)
    seeds: int = 3
    training: dict[str, Any] = field(
        default_factory=lambda: {
            "backbone": "patches",
            "epochs": 8,
            "batch_size": 64,
            "log_every": 1,
            "threads": 1,
            "loader_threads": 1,
        }
    )
    """Settings over those of every arm."""


TINY = Plan(
    seeds=2, rates=(0.05, 0.1), training={**Plan().training, "steps": 20, "warmup_epochs": 0.0}
)


def make_runs(
    out: Path, plan: Plan, stage: Stage, rates_and_seeds: Iterable[tuple[Mapping[str, float], int]]
) -> list[Run]:
    """The runs of a stage, all arms before the next rate or seed."""
    sets = out / "sets"
    return [
        Run(
            stage=stage,
            setting=SETTING,
            arm=arm,
            rate=rate_of[arm],
            seed=seed,
            settings=merge_settings(
                read_settings("cpu_tiny"), own, plan.training, {"shards": str(sets / "cfp")}
            ),
            faces=sets / ("lfw.npz" if stage == "final" else "cfp-held-out.npz"),
            measure="accuracy",
        )
        for rate_of, seed in rates_and_seeds
        for arm, own in ARMS.items()
    ]


def run_all(study: Study, data: Path, plan: Plan) -> None:
    """Tune each arm's rate on held-out identities, then run the seeds."""
    prepare_a(data, study.out, plan.sets)
    trials = [(dict.fromkeys(ARMS, rate), TUNING_SEED) for rate in plan.rates]
    tuned = tuned_rates(study.complete(make_runs(study.out, plan, "tune", trials)))
    rate_of = {arm: rate for (_, arm), rate in tuned.items()}
    finals = [(rate_of, seed) for seed in range(plan.seeds)]
    study.complete(make_runs(study.out, plan, "final", finals))


def interval_of_seeds(differences: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % t-interval of a mean over seeds; None for fewer than two."""
    if len(differences) < 2:
        return None
    mean = float(np.mean(differences))
    error = float(np.std(differences, ddof=1)) / math.sqrt(len(differences))
    half = _T95[len(differences) - 1] * error
    return mean - half, mean + half


def is_claimed(row: Mapping[str, Any]) -> bool:
    """Whether a difference to the reference may be claimed.

    It takes three seeds, a point at least, and that both the bootstrap's interval and that of the
    seeds leave out zero, the latter as the bootstrap of three seeds is too narrow.
    """
    seeds = row["seeds"]
    return bool(row["is_clear"]) and seeds is not None and (seeds[0] > 0 or seeds[1] < 0)


def print_differences(rows: Mapping[str, Any], column: str, reference: str) -> None:
    """Print the scores of :func:`compare` as a table; add to each row ``seeds`` and ``claimed``."""
    print(
        f"\n| {column} | base rate | accuracy, %, of each seed | to {reference}, points | 95 %, "
        "other people and seeds | 95 %, other seeds (t) | claimed |"
    )
    print("|---|--:|---|--:|---|---|---|")
    for arm, row in rows.items():
        cells = [arm, f"{row['rate']:g}", " ".join(f"{100 * s:.2f}" for s in row["scores"])]
        cells[-1] += f" (+{row['diverged']} diverged)" if row["diverged"] else ""
        if "difference" in row:
            difference = row["difference"]
            row["seeds"] = interval_of_seeds(difference["by_seed"])
            row["claimed"] = is_claimed(row)
            cells += [
                f"{100 * difference['mean']:+.2f}",
                *(
                    "–" if bounds is None else "{:+.2f} … {:+.2f}".format(*(100 * np.array(bounds)))
                    for bounds in (difference["both"], row["seeds"])
                ),
                "yes" if row["claimed"] else "no",
            ]
        else:
            cells += ["", "", "", ""]
        print(f"| {' | '.join(cells)} |")


def report(study: Study) -> dict[str, Any]:
    """Print the tables that the outcomes so far give."""
    tuning = study.of_stage("tune")
    if tuning:
        print_tuning(tuning)
    rows = compare(study, SETTING, "accuracy", reference=REFERENCE)
    print_differences(rows, "margin", "ArcFace")
    return {"tuning": [vars(o) for o in tuning], "results": rows}


def run_command(
    name: str,
    description: str,
    run_all: Callable[[Study, Path, P], None],
    report: Callable[[Study], dict[str, Any]],
    *,
    plan: P,
    tiny: P,
) -> None:
    """Run the study ``studies.NAME`` as its command line says, and print its report."""
    parser = argparse.ArgumentParser(
        f"python -m studies.{name}", description=description.splitlines()[0]
    )
    parser.add_argument("out", type=Path, help="keeps outcomes, losses and cut data sets")
    parser.add_argument("--data", type=Path, required=True, help="the data sets")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    parser.add_argument("--device", help="such as cuda; a GPU if there is one")
    parser.add_argument("--tiny", action="store_true", help="a few steps, to see that all works")
    parser.add_argument("--report", action="store_true", help="run nothing, print what there is")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    study = Study(options.out, workers=options.workers, device=options.device)
    if not options.report:
        run_all(study, options.data, tiny if options.tiny else plan)
    figures = report(study)
    setting = environment()
    print("\n" + ", ".join(f"{key} {value}" for key, value in setting.items()))
    if options.json:
        text = json.dumps({"setting": setting, "figures": figures}, indent=2)
        options.json.write_text(text + "\n")


def main() -> None:
    run_command("margins", __doc__, run_all, report, plan=Plan(), tiny=TINY)
