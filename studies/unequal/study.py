"""What unequal training and cleaning are worth on long-tailed, noisy data, at equal images seen.

    python -m studies.unequal OUT --data DIR [--json FILE]
    python -m studies.unequal OUT --data DIR --tiny

Two noisy sets whose noise is known: CFP thinned to a long tail, tested on LFW, and drawn faces,
tested on drawn people of whom none is in the set. On each, ArcFace on all of it, on what a list of
``facepack noise`` leaves and on what the truth leaves, ArcFace on the head alone, and the three
stages of unequal training. The lists are of a short ArcFace run of each seed; OUT keeps them with
their scores in ``noise``, for the study of noise.

DIR is as in the study of schedules. OUT keeps every outcome: a study that was killed goes on where
it was. The tables are Markdown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import facepack
from facepack.convert.faces.tail import LongTail
from facepack.evaluate.noise.classifier import open_classifier
from facepack.evaluate.noise.find import NoiseOptions, look_for_noise
from facepack.evaluate.sets.labelled import open_labelled
from facepack.train.collect import merge_settings, read_settings
from facepack.train.loop.run import Trainer
from studies.margins.study import print_differences, run_command
from studies.schedules.runs import Run, Stage, Study, best_rate, make_trainer
from studies.schedules.study import TUNING_SEED, PlanA, compare, prepare_a, print_tuning
from studies.unequal.sets import Noisy, draw, thin

SETTINGS = ("cfp-lfw", "drawn-unseen")
"""TRAINED-TESTED; rates are tuned on held-out people of the first."""

REFERENCE = "arcface"
ARMS = ("arcface", "cleaned", "cleaned_by_truth", "unequal", "head_alone")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is run."""

    sets: PlanA = field(default_factory=PlanA)
    """How CFP is cut."""
    whole: float = 0.4
    """Share of CFP's identities that keep all images."""
    cfp_tail: LongTail = field(default_factory=lambda: LongTail.parse("zipf:1.2:3-8"))
    identities: int = 400
    """That are drawn."""
    drawn_tail: str = "zipf:1.2:3-60"
    unseen: int = 500
    permuted: float = 0.1
    outside: float = 0.05
    min_images: int = 9
    """Of the head."""
    rates: tuple[float, ...] = (0.025, 0.05, 0.1, 0.2)
    seeds: int = 3
    images: int = 42_000
    """That a run sees, in all its stages."""
    shares: tuple[float, ...] = (0.5, 0.25, 0.25)
    """Of the images, for each stage."""
    scorer_images: int = 14_000
    """Of the run whose classifier looks for noise: early, before it has learned the noise."""
    training: dict[str, Any] = field(
        default_factory=lambda: {
            "backbone": "patches",
            "margin": "arcface",
            "m2": 0.4,
            "batch_size": 64,
            "warmup_epochs": 0.5,
            "log_every": 1,
            "threads": 1,
            "loader_threads": 1,
        }
    )
    """Settings over those of ``cpu_tiny``, for every arm."""
    tail: dict[str, Any] = field(
        default_factory=lambda: {"hard_identities": 32, "bag_identities": 128, "bags": 10}
    )
    """Options of the last stage."""


TINY = Plan(
    seeds=2,
    identities=120,
    unseen=20,
    images=64 * 12,
    scorer_images=64 * 6,
    training={**Plan().training, "warmup_epochs": 0.0},
    tail={"hard_identities": 4, "bag_identities": 16, "bags": 2},
)


@dataclass(frozen=True, kw_only=True)
class StagedRun(Run):
    """Unequal training: stages that begin from one another, the last of which is the run."""

    stages: tuple[Mapping[str, Any], ...]
    """Settings of each over the run's."""

    def make_trainer(self, folder: Path, device: str | None) -> Trainer:
        """Trains all stages but the last."""
        *first, last = self.stages
        before: dict[str, Any] = {"lr": self.rate, "seed": self.seed}
        for number, own in enumerate(first):
            stage = folder / f"stage-{number}"
            settings = merge_settings(self.settings, own, before)
            if make_trainer(settings, out=stage, device=device).run().stopped != "finished":
                raise KeyboardInterrupt
            before["pretrained"] = str(stage)
        return make_trainer(merge_settings(self.settings, last, before), out=folder, device=device)


def noisy_set(out: Path, setting: str) -> Noisy:
    """The set that a setting trains on."""
    return Noisy(folder=out / "sets" / f"{setting.partition('-')[0]}-noisy")


def prepare(data: Path, out: Path, plan: Plan) -> None:
    """Make the noisy sets, and the pairs to tune and to test on."""
    sets = out / "sets"
    prepare_a(data, out, plan.sets)
    for setting in SETTINGS:
        noisy = noisy_set(out, setting)
        if noisy.wrong.exists():
            continue
        name = setting.partition("-")[0]
        right = sets / f"{name}-right"
        if name == "cfp":
            thin(sets / "cfp", right, whole=plan.whole, tail=plan.cfp_tail)
        else:
            draw(sets, identities=plan.identities, images=plan.drawn_tail, unseen=plan.unseen)
        noisy.make(right, permuted=plan.permuted, outside=plan.outside, min_images=plan.min_images)


def steps_of(images: float, per_step: int) -> dict[str, Any]:
    """The settings of a run over so many images."""
    return {"steps": round(images / per_step)}


def arcface(plan: Plan, pack: Path, images: float) -> dict[str, Any]:
    """Settings of plain ArcFace."""
    return merge_settings(
        read_settings("cpu_tiny"),
        plan.training,
        steps_of(images, plan.training["batch_size"]),
        {"shards": str(pack)},
    )


def find_noise(out: Path, plan: Plan, setting: str, rate: float, seed: int) -> Path:
    """Score the set by a short run of ArcFace on it; the list of what ``facepack noise`` finds."""
    folder = out / "noise" / f"{setting}-{seed}"
    found = folder / "wrong_labels.txt"
    if not found.exists():
        noisy = noisy_set(out, setting)
        run = out / "scorers" / f"{setting}-{seed}"
        settings = arcface(plan, noisy.pack, plan.scorer_images)
        trainer = make_trainer({**settings, "lr": rate, "seed": seed}, out=run, device="cpu")
        if trainer.run().stopped != "finished":
            raise KeyboardInterrupt
        look_for_noise(
            folder,
            open_labelled(str(noisy.pack), None),
            open_classifier(run),
            device=torch.device("cpu"),
            options=NoiseOptions(overwrite=True),
        )
    return found


def three_stages(plan: Plan, noisy: Noisy) -> tuple[Mapping[str, Any], ...]:
    """The stages of unequal training, all from the same base rate; the first one warms up."""
    per_step = plan.training["batch_size"]
    with_tail = per_step + 3 * plan.tail["hard_identities"]
    head, denoise, tail = (share * plan.images for share in plan.shares)
    return (
        {**steps_of(head, per_step), "method_options": {"stage": "head"}},
        {
            **steps_of(denoise, per_step),
            "warmup_epochs": 0.0,
            "method_options": {"stage": "denoise"},
        },
        {
            **steps_of(tail, with_tail),
            "warmup_epochs": 0.0,
            "method_options": {"stage": "tail", "tail": str(noisy.tail), **plan.tail},
        },
    )


def make_run(
    out: Path,
    plan: Plan,
    stage: Stage,
    setting: str,
    arm: str,
    *,
    rate: float,
    seed: int,
    exclude: Path | None = None,
) -> Run:
    """One run of an arm."""
    noisy = noisy_set(out, setting)
    pairs = setting.partition("-")[2] if stage == "final" else "cfp-held-out"
    given: dict[str, Any] = {
        "stage": stage,
        "setting": setting,
        "arm": arm,
        "rate": rate,
        "seed": seed,
        "faces": out / "sets" / f"{pairs}.npz",
        "measure": "accuracy",
    }
    if arm == "unequal":
        # The method below: over the others it would drop their margin and scale.
        settings = merge_settings({"method": "unequal"}, arcface(plan, noisy.head, plan.images))
        return StagedRun(**given, settings=settings, stages=three_stages(plan, noisy))
    settings = arcface(plan, noisy.head if arm == "head_alone" else noisy.pack, plan.images)
    if exclude is not None:
        settings["exclude"] = str(exclude)
    return Run(**given, settings=settings)


def run_all(study: Study, data: Path, plan: Plan) -> None:
    """Tune on held-out identities; look for noise; then run the seeds, arm by arm."""
    out = study.out
    torch.set_num_threads(plan.training["threads"])
    prepare(data, out, plan)
    tried = [
        make_run(out, plan, "tune", SETTINGS[0], REFERENCE, rate=rate, seed=TUNING_SEED)
        for rate in plan.rates
    ]
    rate = best_rate(study.complete(tried))
    for setting in SETTINGS:
        runs = []
        for seed in range(plan.seeds):
            lists = {
                "cleaned": find_noise(out, plan, setting, rate, seed),
                "cleaned_by_truth": noisy_set(out, setting).wrong,
            }
            runs += [
                make_run(
                    out,
                    plan,
                    "final",
                    setting,
                    arm,
                    rate=rate,
                    seed=seed,
                    exclude=lists.get(arm),
                )
                for arm in ARMS
            ]
        study.complete(runs)


def print_sets(study: Study) -> None:
    """What the noisy sets are."""
    print("\n| set | images | people | of the head | its images | wrong |")
    print("|---|--:|--:|--:|--:|--:|")
    for setting in SETTINGS:
        noisy = noisy_set(study.out, setting)
        with facepack.open(noisy.pack) as pack, facepack.open(noisy.head) as head:
            wrong = len(noisy.wrong.read_text(encoding="ascii").splitlines())
            cells = [setting, len(pack), pack.identities, head.identities, len(head), wrong]
        print(f"| {' | '.join(map(str, cells))} |")


def report(study: Study) -> dict[str, Any]:
    """Print the tables that the outcomes so far give."""
    print_sets(study)
    tuning = study.of_stage("tune")
    print_tuning(tuning)
    results = {}
    for setting in SETTINGS:
        results[setting] = compare(study, setting, "accuracy", reference=REFERENCE)
        print(f"\n{setting}")
        print_differences(results[setting], "arm", "ArcFace")
    return {
        "tuning": [vars(o) for o in tuning],
        "results": results,
    }


def main() -> None:
    run_command("unequal", __doc__, run_all, report, plan=Plan(), tiny=TINY)
