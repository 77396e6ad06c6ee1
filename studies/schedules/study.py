"""Does the shape of the learning rate matter, and does watching the loss? A study in three parts.

    python -m studies.schedules OUT --part a --data DIR [--workers 2] [--plots DIR] [--json FILE]
    python -m studies.schedules OUT --part b [--tiny] [--device cuda] …
    python -m studies.schedules OUT --part c --data DIR --plots DIR

Part a, on a CPU: shapes alone, CFP → LFW and LFW → CFP-FP. Part b, for a GPU: the detectors against
shapes on synthetic faces; ``--tiny`` goes through all of it in a few minutes on a CPU and means
nothing. Part c: where the detectors would have acted in runs that were logged, the MHLR authors'
and, if OUT has them, those of part a.

DIR holds ``cfp-rec/`` and ``lfw-rec/`` (train.rec and train.idx), ``bins/lfw.bin``,
``bins/cfp_fp.bin`` and ``mhlr-log/ms1mv3_r100.csv``. OUT keeps every outcome: a study that was
killed goes on where it was; ``--report`` runs nothing and prints what there is so far. The tables
are Markdown.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from facepack.convert.faces.synth import SynthOptions, generate
from facepack.evaluate.sets.pairs import load_pair_set
from facepack.train.replay import Replay, TrainingLog, read_log, replay_log
from studies.schedules.runs import Measure, Outcome, Run, Stage, Study, best_rate
from studies.schedules.sets import (
    Faces,
    all_same_and_some_different,
    choose_held_out,
    coarsen,
    digests,
    faces_of_pair_set,
    held_out_faces,
    read_rec,
    write_pack,
)
from studies.schedules.shapes import trace_of_changes, trace_of_log
from studies.schedules.significance import paired_difference

Arms = Mapping[str, tuple[str, dict[str, Any]]]  # name → schedule and its options

TUNING_SEED = 1000
REFERENCE = "cosine"
DETECTORS = ("mhlr", "fastface", "mhlr_guarded")
AUTHORS_LOG = Path("mhlr-log") / "ms1mv3_r100.csv"
AUTHORS_WINDOW = 4000


@dataclass(frozen=True, kw_only=True)
class PlanA:
    """What part a runs."""

    settings: tuple[tuple[str, str], ...] = (("cfp", "lfw"), ("lfw", "cfp_fp"))
    """Trained on the first, tested on the second."""
    held_out: float = 0.15
    """Share of the identities that no run trains on: rates are tuned on their pairs."""
    pairs_per_identity: int = 20
    rates: tuple[float, ...] = (0.05, 0.025, 0.1)
    seeds: int = 5
    training: dict[str, Any] = field(
        default_factory=lambda: {
            "backbone": "patches",
            "features": 128,
            "margin": "cosface",
            "m3": 0.4,
            "scale": 32.0,
            "clip_norm": 5.0,
            "epochs": 5,
            "batch_size": 64,
            "precision": "fp32",
            "log_every": 1,
            "threads": 1,
            "loader_threads": 1,
        }
    )


@dataclass(frozen=True, kw_only=True)
class PlanB:
    """What part b runs."""

    identities: int = 10_000
    images: int = 20
    label_noise: float = 0.05
    tuning_identities: int = 1_000
    unseen_identities: int = 2_000
    unseen_images: int = 4
    different: int = 2_000_000
    """Different pairs at which a FAR of 1e-4 is set."""
    sides: tuple[int, ...] = (112, 56, 40, 28, 20, 14, 10)
    """Difficulty, ascending: the pixels across that the faces are coarsened to."""
    band: tuple[float, float] = (0.6, 0.9)
    """TAR that the cosine must reach at the chosen difficulty."""
    rates: tuple[float, ...] = (0.01, 0.02, 0.04)
    seeds: int = 3
    training: dict[str, Any] = field(
        default_factory=lambda: {
            "backbone": "mbf",
            "margin": "cosface",
            "m3": 0.4,
            "clip_norm": 5.0,
            "epochs": 5,
            "batch_size": 128,
            "log_every": 10,
        }
    )


TINY_A = PlanA(seeds=2, rates=(0.05, 0.1), training={**PlanA().training, "steps": 20})
TINY_B = PlanB(
    identities=60,
    images=6,
    tuning_identities=20,
    unseen_identities=20,
    different=10_000,
    sides=(112, 28),
    rates=(0.02, 0.05),
    seeds=2,
    training={
        **PlanB().training,
        "backbone": "tiny",
        "features": 64,
        "batch_size": 32,
        "epochs": 3,
        "log_every": 1,
    },
)


# Part a -------------------------------------------------------------------------------------------


def shapes(data: Path) -> Arms:
    """The arms of part a."""
    return {
        "cosine": ("cosine", {}),
        "linear": ("poly", {"power": 1.0}),
        "constant_tail": ("linear_tail", {"tail": 0.15}),
        "trace": ("trace", trace_of_log(read_log(data / AUTHORS_LOG))),
    }


def prepare_a(data: Path, out: Path, plan: PlanA) -> None:
    """Cut each training set into a pack and held-out pairs; find the people of the test sets."""
    sets = out / "sets"
    sets.mkdir(parents=True, exist_ok=True)
    if all((sets / f"{test}.npz").exists() for _, test in plan.settings):
        return
    by_digest: dict[bytes, tuple[int, int]] = {}
    for number, (train, _) in enumerate(plan.settings):
        labelled = list(read_rec(data / f"{train}-rec"))
        by_digest |= {key: (number, label) for key, label in digests(labelled).items()}
        images = [image for image, _ in labelled]
        labels = np.array([label for _, label in labelled])
        held = np.isin(labels, choose_held_out(labels, share=plan.held_out, seed=0))
        kept = np.flatnonzero(~held)
        write_pack(sets / train, [images[i] for i in kept], labels[kept])
        aside = np.flatnonzero(held)
        held_out_faces(
            [images[i] for i in aside], labels[aside], per_identity=plan.pairs_per_identity
        ).save(sets / f"{train}-held-out.npz")
    for _, test in plan.settings:
        pair_set = load_pair_set(data / "bins" / f"{test}.bin")
        faces_of_pair_set(pair_set, by_digest).save(sets / f"{test}.npz")


def runs_a(
    out: Path,
    plan: PlanA,
    arms: Arms,
    stage: Stage,
    rates_and_seeds: Iterable[tuple[Callable[[str, str], float], int]],
) -> list[Run]:
    """The runs of a stage, all arms of all settings before the next rate or seed."""
    sets = out / "sets"
    return [
        Run(
            stage=stage,
            setting=f"{train}-{test}",
            arm=arm,
            rate=rate_of(f"{train}-{test}", arm),
            seed=seed,
            settings={
                **plan.training,
                "shards": str(sets / train),
                "schedule": arms[arm][0],
                "schedule_options": arms[arm][1],
            },
            faces=sets / (f"{test}.npz" if stage == "final" else f"{train}-held-out.npz"),
            measure="accuracy",
        )
        for rate_of, seed in rates_and_seeds
        for train, test in plan.settings
        for arm in arms
    ]


def part_a(study: Study, data: Path, plan: PlanA) -> None:
    """Tune each arm's rate on held-out identities, then run the seeds."""
    prepare_a(data, study.out, plan)
    arms = shapes(data)
    trials = [((lambda setting, arm, rate=rate: rate), TUNING_SEED) for rate in plan.rates]
    tuned = tuned_rates(study.complete(runs_a(study.out, plan, arms, "tune", trials)))
    finals = [((lambda setting, arm: tuned[setting, arm]), seed) for seed in range(plan.seeds)]
    study.complete(runs_a(study.out, plan, arms, "final", finals))


def tuned_rates(outcomes: Sequence[Outcome]) -> dict[tuple[str, str], float]:
    """(setting, arm) → its best rate."""
    cells = dict.fromkeys((o.setting, o.arm) for o in outcomes)
    return {cell: best_rate([o for o in outcomes if (o.setting, o.arm) == cell]) for cell in cells}


# Part b -------------------------------------------------------------------------------------------

ARMS_B: Arms = {
    "cosine": ("cosine", {}),
    "linear": ("poly", {"power": 1.0}),
    "mhlr": ("mhlr", {"threshold": "auto"}),
    "fastface": ("fastface", {}),
    "mhlr_guarded": ("mhlr_guarded", {"threshold": "auto"}),
}


def draw_faces(out: Path, plan: PlanB) -> None:
    """Draw the synthetic people: to train on, to tune on and to test on, each of their own seed."""
    sizes = {
        "train": (plan.identities, plan.images, plan.label_noise),
        "tuning": (plan.tuning_identities, plan.unseen_images, 0.0),
        "unseen": (plan.unseen_identities, plan.unseen_images, 0.0),
    }
    for seed, (name, (identities, images, noise)) in enumerate(sizes.items()):
        folder = out / "synthetic" / name
        if not (folder / "train.rec").exists():
            options = SynthOptions(
                identities=identities, images_per_identity=images, label_noise=noise, seed=seed
            )
            generate(folder, options)


def prepare_b(out: Path, plan: PlanB, side: int) -> None:
    """Coarsen all faces to ``side`` pixels; pack those to train on, pair the others."""
    sets = out / "sets"
    sets.mkdir(parents=True, exist_ok=True)
    if (sets / f"unseen-{side}.npz").exists():
        return
    for name in ("train", "tuning", "unseen"):
        labelled = list(read_rec(out / "synthetic" / name))
        with ThreadPoolExecutor() as pool:  # what takes time there holds no lock
            images = list(pool.map(partial(coarsen, side=side), (image for image, _ in labelled)))
        labels = np.array([label for _, label in labelled])
        if name == "train":
            write_pack(sets / f"train-{side}", images, labels)
        else:
            made = all_same_and_some_different(images, labels, different=plan.different)
            made.save(sets / f"{name}-{side}.npz")


def run_b(
    out: Path,
    plan: PlanB,
    stage: Stage,
    schedule: tuple[str, dict[str, Any]],
    *,
    arm: str,
    rate: float,
    seed: int,
    side: int,
) -> Run:
    """One run of part b."""
    name, options = schedule
    sets = out / "sets"
    return Run(
        stage=stage,
        setting=f"synthetic-unseen-{side}",
        arm=arm,
        rate=rate,
        seed=seed,
        settings={
            **plan.training,
            "shards": str(sets / f"train-{side}"),
            "schedule": name,
            "schedule_options": options,
        },
        faces=sets / f"{'unseen' if stage == 'final' else 'tuning'}-{side}.npz",
        measure="tar",
    )


def choose_side(
    score_at: Callable[[int], float], sides: Sequence[int], band: tuple[float, float]
) -> tuple[int, float]:
    """The first difficulty, by bisection, whose score lies in ``band``; else the nearest tried.

    ``sides`` go from easy to hard, so ``score_at`` falls along them. Returns side and score.
    """
    low, high = 0, len(sides) - 1
    middle = sum(band) / 2
    tried: dict[int, float] = {}
    while low <= high:
        place = (low + high) // 2
        score = tried[sides[place]] = score_at(sides[place])
        if band[0] <= score <= band[1]:
            break
        low, high = (place + 1, high) if score > band[1] else (low, place - 1)
    side = min(tried, key=lambda side: abs(tried[side] - middle))
    return side, tried[side]


def part_b(study: Study, plan: PlanB) -> None:
    """Set the difficulty, tune each arm's rate, run the seeds; replays follow what they replay."""
    out = study.out
    draw_faces(out, plan)

    def cosine_at(side: int) -> float:
        prepare_b(out, plan, side)
        rate = plan.rates[len(plan.rates) // 2]
        run = run_b(
            out,
            plan,
            "calibrate",
            ARMS_B["cosine"],
            arm="cosine",
            rate=rate,
            seed=TUNING_SEED,
            side=side,
        )
        return study.complete([run])[0].score or 0.0

    side, score = choose_side(cosine_at, plan.sides, plan.band)
    if not plan.band[0] <= score <= plan.band[1]:
        print(
            f"at no difficulty does the cosine's TAR lie within {plan.band}; nearest: {score:.3f} "
            f"at {side} pixels",
            file=sys.stderr,
        )
    trials = [
        run_b(out, plan, "tune", ARMS_B[arm], arm=arm, rate=rate, seed=TUNING_SEED, side=side)
        for rate, arm in product(plan.rates, ARMS_B)
    ]
    tuned = {arm: rate for (_, arm), rate in tuned_rates(study.complete(trials)).items()}

    def final(arm: str, seed: int) -> Run:
        return run_b(
            out, plan, "final", ARMS_B[arm], arm=arm, rate=tuned[arm], seed=seed, side=side
        )

    watched = study.complete([final("mhlr", seed) for seed in range(plan.seeds)])
    rest = []
    for seed in range(plan.seeds):
        rest += [final(arm, seed) for arm in ARMS_B if arm != "mhlr"]
        other = watched[(seed + 1) % plan.seeds]
        trace = trace_of_changes(
            [(int(step), lr) for step, lr in other.changes],
            base_lr=other.rate,
            total_steps=other.steps,
        )
        rest.append(
            run_b(
                out,
                plan,
                "final",
                ("trace", trace),
                arm="mhlr_replayed",
                rate=tuned["mhlr"],
                seed=seed,
                side=side,
            )
        )
    study.complete(rest)


# Part c -------------------------------------------------------------------------------------------


def replay_detectors(log: TrainingLog, **numbers: Any) -> dict[str, Replay]:
    """Each detector after it has seen ``log``; ``numbers`` are :func:`replay_log`'s."""
    window = numbers.pop("window", None)
    replays = {}
    for name in DETECTORS:
        options = {} if name == "fastface" or window is None else {"window": window}
        replays[name] = replay_log(log, name, **numbers, **options)
    return replays


def part_c(out: Path, data: Path, plan: PlanA, plots: Path | None) -> dict[str, Any]:
    """Replay the authors' log and the first seed's cosine runs of part a."""
    logs: dict[str, tuple[TrainingLog, dict[str, Any]]] = {
        "authors": (read_log(data / AUTHORS_LOG), {"window": AUTHORS_WINDOW})
    }
    for outcome in Study(out).of_stage("final"):
        if (outcome.arm, outcome.seed) == (REFERENCE, 0) and outcome.score is not None:
            key = f"final-{outcome.setting}-{outcome.arm}-{outcome.rate:g}-0"
            own = read_log(out / "losses" / f"{key}.jsonl")
            numbers = {"batch_size": plan.training["batch_size"]}
            logs[outcome.setting] = (own, numbers)
    results: dict[str, Any] = {}
    for name, (log, numbers) in logs.items():
        replays = replay_detectors(log, **numbers)
        results[name] = {
            detector: {
                "changes": replay.changes,
                "sigma_h": getattr(replay.schedule, "sigma_h", None),
            }
            for detector, replay in replays.items()
        }
        print(f"\n{name}, {log.total_steps:,} steps, {log.steps_per_epoch:,} an epoch\n")
        print("| detector | σ_H at the end | changes: share of the run → factor on the base rate |")
        print("|---|---|---|")
        for detector, replay in replays.items():
            moves = ", ".join(
                f"{step / log.total_steps:.3f} → {lr / log.base_lr:.4g}"
                for step, lr in replay.changes
            )
            sigma = results[name][detector]["sigma_h"]
            shown = "–" if sigma is None else f"{sigma:.3g}"
            print(f"| {detector} | {shown} | {moves or 'none'} |")
        if plots is not None:
            from studies.schedules.plots import draw_detectors

            draw_detectors(log, replays, plots / f"schedules-detectors-{name}.png")
    return results


# Report -------------------------------------------------------------------------------------------


def compare(
    study: Study, setting: str, measure: Measure, *, reference: str = REFERENCE
) -> dict[str, Any]:
    """Scores of each arm of a setting over the seeds, and its difference to that of reference."""
    runs: dict[str, dict[int, Outcome]] = {}
    tuned = tuned_rates(study.of_stage("tune"))
    for outcome in study.of_stage("final"):
        # Runs at a rate that was the best before the grid of rates grew do not count.
        rate = tuned.get((setting, outcome.arm), outcome.rate)
        if (outcome.setting, outcome.rate) == (setting, rate):
            runs.setdefault(outcome.arm, {})[outcome.seed] = outcome
    if reference not in runs:
        return {}
    faces = Faces.load(study.out / "sets" / f"{setting.partition('-')[2]}.npz")
    members, issame = faces.identities[faces.pairs], faces.issame
    if measure == "tar":
        members, issame = members[issame], issame[issame]
    result: dict[str, Any] = {}
    for arm in sorted(runs, key=lambda arm: arm != reference):
        by_seed = runs[arm]
        scores = [o.score for _, o in sorted(by_seed.items()) if o.score is not None]
        row: dict[str, Any] = {
            "rate": next(iter(by_seed.values())).rate,
            "scores": scores,
            "diverged": sum(o.score is None for o in by_seed.values()),
            "sigma_h": [o.sigma_h for o in by_seed.values() if o.sigma_h is not None],
        }
        both = [
            (o, runs[reference][seed])
            for seed, o in sorted(by_seed.items())
            if seed in runs[reference] and None not in (o.score, runs[reference][seed].score)
        ]
        if arm != reference and both:
            first, second = (
                np.stack([pair[side].right_by_pair() for pair in both]) for side in (0, 1)
            )
            difference = paired_difference(first, second, members=members, issame=issame)
            row["difference"] = asdict(difference)
            row["is_clear"] = difference.is_clear
        result[arm] = row
    return result


def print_comparison(setting: str, rows: Mapping[str, Any]) -> None:
    """The table of a setting; figures in percent and points."""
    print(f"\n{setting}\n")
    print(
        "| arm | base rate | n | score, % (mean ± sd over seeds) | to cosine, points | 95 %, "
        "other people | 95 %, other people and seeds | claimed |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for arm, row in rows.items():
        scores = 100 * np.array(row["scores"])
        spread = f" ± {scores.std(ddof=1):.2f}" if len(scores) > 1 else ""
        n = f"{len(scores)}" + (f" (+{row['diverged']} diverged)" if row["diverged"] else "")
        cells = [arm, f"{row['rate']:g}", n, f"{scores.mean():.2f}{spread}" if n else "–"]
        if "difference" in row:
            difference = row["difference"]
            cells += [
                f"{100 * difference['mean']:+.2f}",
                *(
                    "{:+.2f} … {:+.2f}".format(*(100 * x for x in difference[kind]))
                    for kind in ("identities", "both")
                ),
                "yes" if row["is_clear"] else "no",
            ]
        else:
            cells += ["", "", "", ""]
        print(f"| {' | '.join(cells)} |")
    noises = [
        f"{arm} {', '.join(f'{s:.3g}' for s in row['sigma_h'])}"
        for arm, row in rows.items()
        if row["sigma_h"]
    ]
    if noises:
        print(f"\nσ_H at the end of each run: {'; '.join(noises)}")


def print_tuning(outcomes: Sequence[Outcome]) -> None:
    """Held-out scores by rate, in percent."""
    rates = sorted({o.rate for o in outcomes})
    print("\n| held-out identities | arm | " + " | ".join(f"{rate:g}" for rate in rates) + " |")
    print("|---" * (2 + len(rates)) + "|")
    for setting, arm in dict.fromkeys((o.setting, o.arm) for o in outcomes):
        own = {o.rate: o for o in outcomes if (o.setting, o.arm) == (setting, arm)}
        cells = []
        for rate in rates:
            score = own[rate].score if rate in own else None
            text = "–" if score is None else f"{100 * score:.2f}"
            cells.append(f"**{text}**" if rate == best_rate(list(own.values())) else text)
        print(f"| {setting} | {arm} | " + " | ".join(cells) + " |")


def report(study: Study, measure: Measure, plots: Path | None, data: Path | None) -> dict[str, Any]:
    """Print all tables that the outcomes so far give, and draw them."""
    tuning = study.of_stage("tune")
    if tuning:
        print_tuning(tuning)
    settings = dict.fromkeys(o.setting for o in study.of_stage("final"))
    results = {setting: compare(study, setting, measure) for setting in settings}
    results = {setting: rows for setting, rows in results.items() if rows}
    for setting, rows in results.items():
        print_comparison(setting, rows)
    if plots is not None:
        from studies.schedules.plots import draw_differences, draw_shapes, draw_tuning

        part = "a" if measure == "accuracy" else "b"
        if data is not None:
            draw_shapes(shapes(data), plots / "schedules-shapes.png")
        if tuning:
            draw_tuning(tuning, plots / f"schedules-tuning-{part}.png")
        if results:
            draw_differences(results, plots / f"schedules-differences-{part}.png")
    return {
        "tuning": [
            {name: getattr(o, name) for name in ("setting", "arm", "rate", "seed", "score")}
            for o in tuning
        ],
        "results": results,
    }


def environment() -> dict[str, str]:
    """What the figures were made on and with."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    return {
        "device": device,
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "numpy")},
    }


def processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m studies.schedules", description=__doc__.splitlines()[0]
    )
    parser.add_argument("out", type=Path, help="keeps outcomes, losses and cut data sets")
    parser.add_argument("--part", choices=("a", "b", "c"), required=True)
    parser.add_argument("--data", type=Path, help="the data sets and the log (parts a and c)")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    parser.add_argument("--device", help="such as cuda; a GPU if there is one")
    parser.add_argument("--tiny", action="store_true", help="a few steps, to see that all works")
    parser.add_argument("--report", action="store_true", help="run nothing, print what there is")
    parser.add_argument("--plots", type=Path, help="also draw, into this folder")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if options.part != "b" and options.data is None:
        parser.error(f"part {options.part} needs --data")
    if options.plots is not None:
        options.plots.mkdir(parents=True, exist_ok=True)

    plan_a = TINY_A if options.tiny else PlanA()
    if options.part == "c":
        figures = part_c(options.out, options.data, plan_a, options.plots)
    else:
        study = Study(options.out, workers=options.workers, device=options.device)
        if not options.report:
            if options.part == "a":
                part_a(study, options.data, plan_a)
            else:
                part_b(study, TINY_B if options.tiny else PlanB())
        measure: Measure = "accuracy" if options.part == "a" else "tar"
        figures = report(study, measure, options.plots, options.data)
    setting = environment()
    print("\n" + ", ".join(f"{key} {value}" for key, value in setting.items()))
    if options.json:
        text = json.dumps({"setting": setting, "figures": figures}, indent=2)
        options.json.write_text(text + "\n")
