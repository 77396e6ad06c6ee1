"""The runs of the study: what each is, how it is trained and scored, and the file of outcomes.

Every run is a :class:`facepack.train.loop.run.Trainer`'s; nothing here trains. An outcome is a line
of JSON, appended when its run is done, so a study that is killed goes on with the runs that are
left.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

import studies.schedules.backbone
import studies.schedules.shapes  # noqa: F401  (likewise)
from facepack.errors import EvaluationError, TrainingError
from facepack.evaluate.embedding.embed import embed, normalize
from facepack.evaluate.faces.decode import decode_batches
from facepack.train.collect import make_config
from facepack.train.loop.run import Trainer
from studies.schedules.sets import Faces
from studies.schedules.significance import accepted_at_far, right_by_pair

FAR = 1e-4
_PAIRS_AT_ONCE = 65536

Stage = Literal["calibrate", "tune", "final"]
Measure = Literal["accuracy", "tar"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run and how it is scored."""

    stage: Stage
    setting: str
    """TRAINED-TESTED; the pairs of the test are those of ``sets/TESTED.npz``."""
    arm: str
    rate: float
    """Base learning rate."""
    seed: int
    settings: Mapping[str, Any]
    """The trainer's settings, but for lr and seed."""
    faces: Path
    """The verification set."""
    measure: Measure
    """Ten-fold accuracy, or TAR at a FAR of 1e-4."""

    @property
    def key(self) -> str:
        """Tells the run from all others of a study; fits a file name."""
        return f"{self.stage}-{self.setting}-{self.arm}-{self.rate:g}-{self.seed}"

    def make_trainer(self, folder: Path, device: str | None) -> Trainer:
        """The trainer of the run, whose files go into ``folder``; runs that it needs are done."""
        return make_trainer(
            {**self.settings, "lr": self.rate, "seed": self.seed}, out=folder, device=device
        )


def make_trainer(settings: Mapping[str, Any], *, out: Path, device: str | None) -> Trainer:
    """A trainer that begins anew in the folder ``out``, and says nothing."""
    return Trainer(
        make_config(settings), out=out, device=device, overwrite=True, notify=lambda text: None
    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a run."""

    stage: Stage
    setting: str
    arm: str
    rate: float
    seed: int
    score: float | None
    """Share of one; None if the run diverged."""
    right: str
    """For each pair (accuracy) or same pair (TAR) one bit, in hexadecimal."""
    pairs: int
    """How many bits count."""
    steps: int
    loss: float | None
    """Of the last step, or of the last ten; None if the run diverged."""
    changes: list[list[float]]
    """The schedule's sudden changes: steps done, learning rate from then on."""
    sigma_h: float | None
    """The noise of H, of schedules that measure it."""

    def right_by_pair(self) -> np.ndarray:
        """Bool (pairs,)."""
        bits = np.frombuffer(bytes.fromhex(self.right), np.uint8)
        return np.unpackbits(bits, count=self.pairs).astype(bool)


def perform(run: Run, out: Path, device: str | None) -> Outcome:
    """Train and score ``run``; its losses stay in ``out/losses/KEY.jsonl``.

    Raises:
        KeyboardInterrupt: a signal ended it.
    """
    folder = out / "runs" / run.key
    trainer = run.make_trainer(folder, device)
    score, right, loss = None, np.zeros(0, bool), None
    try:
        summary = trainer.run()
        if summary.stopped != "finished":
            raise KeyboardInterrupt
        score, right = score_backbone(trainer.backbone, Faces.load(run.faces), run.measure)
        loss = summary.loss
    except (TrainingError, EvaluationError) as error:
        if "diverged" not in str(error):
            raise
        # A rate that is too high brings this about: an outcome as any other.
        print(f"{run.key}: {error}", file=sys.stderr)
    losses = out / "losses"
    losses.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").replace(losses / f"{run.key}.jsonl")
    shutil.rmtree(folder)
    return Outcome(
        stage=run.stage,
        setting=run.setting,
        arm=run.arm,
        rate=run.rate,
        seed=run.seed,
        score=score,
        right=np.packbits(right).tobytes().hex(),
        pairs=len(right),
        steps=trainer.total_steps,
        loss=loss,
        changes=[[step, lr] for step, lr in trainer.schedule.changes],
        sigma_h=getattr(trainer.schedule, "sigma_h", None),
    )


def score_backbone(backbone: nn.Module, faces: Faces, measure: Measure) -> tuple[float, np.ndarray]:
    """The score of a backbone and what it made of each pair, or each same pair for TAR."""
    keys = [f"image {position}" for position in range(len(faces.images))]
    batches = decode_batches(
        faces.images, keys=keys, name="faces", batch_size=128, threads=torch.get_num_threads()
    )
    unit, _ = normalize(embed(backbone, batches))
    distances = distances_of(unit, faces.pairs)
    if measure == "tar":
        right = accepted_at_far(distances, faces.issame, FAR)
    else:
        right = right_by_pair(distances, faces.issame)
    return float(right.mean()), right


def distances_of(unit: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Squared L2 distances (P,) of the rows of ``unit`` (n, F) that ``pairs`` (P, 2) names."""
    parts = np.array_split(pairs, max(1, -(-len(pairs) // _PAIRS_AT_ONCE)))
    return np.concatenate(
        [np.square(unit[part[:, 0]] - unit[part[:, 1]]).sum(axis=1) for part in parts]
    )


class Study:
    """The outcomes of a study in the folder ``out``, and what adds to them.

    Args:
        out: the folder; made if it is not there.
        workers: runs at a time, each in a process of its own if more than one.
        device: what to train on; the trainer chooses when None.
    """

    def __init__(self, out: Path, *, workers: int = 1, device: str | None = None) -> None:
        self.out = out
        self._workers = workers
        self._device = device
        self._file = out / "outcomes.jsonl"
        out.mkdir(parents=True, exist_ok=True)
        self.outcomes = dict(_read_outcomes(self._file))
        if self._file.exists() and not self._file.read_bytes().endswith(b"\n"):
            with self._file.open("ab") as file:
                file.write(b"\n")  # a kill cut the last line short: the next one is its own

    def complete(self, runs: Sequence[Run]) -> list[Outcome]:
        """The outcomes of ``runs``, in their order; those that are missing are run first."""
        left = [run for run in runs if run.key not in self.outcomes]
        if self._workers == 1:
            for run in left:
                self._add(run.key, perform(run, self.out, self._device))
        elif left:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(self._workers, mp_context=context) as pool:
                flight = {pool.submit(perform, run, self.out, self._device): run for run in left}
                try:
                    for future in as_completed(flight):
                        self._add(flight[future].key, future.result())
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        return [self.outcomes[run.key] for run in runs]

    def of_stage(self, stage: Stage) -> list[Outcome]:
        """The outcomes so far of one stage."""
        return [outcome for outcome in self.outcomes.values() if outcome.stage == stage]

    def _add(self, key: str, outcome: Outcome) -> None:
        line = json.dumps({"key": key, **vars(outcome)})
        with self._file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self.outcomes[key] = outcome
        score = "diverged" if outcome.score is None else f"{outcome.score:.4f}"
        print(f"{key}: {score}", file=sys.stderr)


def _read_outcomes(path: Path) -> Iterator[tuple[str, Outcome]]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            fields = json.loads(line)
        except ValueError:
            continue  # cut short by a kill: that run is run again
        yield fields.pop("key"), Outcome(**fields)


def best_rate(outcomes: Sequence[Outcome]) -> float:
    """The rate with the highest mean score; of equal ones the lowest."""
    by_rate: dict[float, list[float]] = {}
    for outcome in outcomes:
        by_rate.setdefault(outcome.rate, []).append(outcome.score or 0.0)
    return max(sorted(by_rate), key=lambda rate: float(np.mean(by_rate[rate])))
