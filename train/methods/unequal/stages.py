"""A stage until validation no longer rises: the published rule, with the best model kept."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from facepack.atomic import replacing
from facepack.errors import TrainingError
from facepack.reading import parse_json, read_text
from facepack.train.config import CONFIG_FILE, TrainConfig
from facepack.train.loop.checkpoint import CHECKPOINT_FILE, METRICS_FILE
from facepack.train.loop.run import Trainer
from facepack.train.loop.verification import MakeValidator
from facepack.train.models.pretrained import MODEL_FILE

BEST = "best"


def train_until_it_stops_rising(
    config: TrainConfig,
    out: Path,
    *,
    patience: int,
    device: str | None = None,
    home: Path | None = None,
    notify: Callable[[str], None] = print,
    validator: MakeValidator | None = None,
) -> Path | None:
    """Train from verification to verification, until ``patience`` epochs brought no new best.

    What counts is the mean of the sets' figures. All is read from the run's own log, so that a run
    that was killed goes on to the same end.

    The schedule is that of all the stage's epochs, however early it ends; ``best`` in the folder
    ``out`` holds model and checkpoint of the best epoch. The rest is as of :class:`Trainer`.

    Returns:
        The folder of the best epoch; None: the run was interrupted.

    Raises:
        TrainingError: the run is at its end, and no verification of all sets is in its log; or as
            :class:`Trainer`.
    """
    while True:
        trainer = Trainer(
            config,
            out=out,
            home=home,
            device=device,
            resume=(out / CHECKPOINT_FILE).exists(),
            notify=notify,
            validator=validator,
        )
        figures = mean_figures(out / METRICS_FILE, len(config.val))
        verified = {step: value for step, value in figures.items() if step <= trainer.step}
        if not verified and trainer.step >= trainer.total_steps:
            raise TrainingError(
                f"{out} is trained to its end, and its {METRICS_FILE} has no step with a figure of "
                "each verification set: name some to watch, remove the folder and start again"
            )
        best = max(verified, key=lambda step: (verified[step], -step), default=0)
        if verified and best == trainer.step:
            _keep(out)
        waited = (trainer.step - best) // trainer.steps_per_epoch
        if verified and (waited >= patience or trainer.step >= trainer.total_steps):
            notify(f"{out}: best after step {best:,}, {waited} epochs ago: the stage ends")
            return out / BEST
        # To where it is verified next, also from the middle of an epoch, where it was interrupted:
        # a best that the run has gone on from can no longer be kept.
        every = config.val_every or trainer.steps_per_epoch
        summary = trainer.run(max_steps=(trainer.step // every + 1) * every)
        if summary.stopped == "interrupted":
            return None


def mean_figures(log: Path, sets: int) -> dict[int, float]:
    """Step → the mean over the verification sets of each one's first figure, as a log has them.

    Steps at which not all ``sets`` have one are left out: of an interrupted verification the others
    are missing, and the mean would be of easier sets, or harder ones. So are lines that a kill cut
    short.
    """
    found: dict[int, dict[str, float]] = defaultdict(dict)
    for line in read_text(log).splitlines() if log.exists() else []:
        try:
            values = parse_json(line)
        except ValueError:
            continue
        if values.get("kind") != "val":
            continue
        figures = (
            value
            for name, value in values.items()
            if name not in ("step", "timing") and isinstance(value, float)
        )
        if (figure := next(figures, None)) is not None:
            found[values["step"]][values["set"]] = figure
    return {step: sum(each.values()) / sets for step, each in found.items() if len(each) == sets}


def _keep(out: Path) -> None:
    """Copy the run as it is to its ``best``, the checkpoint last."""
    (out / BEST).mkdir(exist_ok=True)
    for name in (CONFIG_FILE, MODEL_FILE, CHECKPOINT_FILE):
        with replacing(out / BEST / name) as part:
            shutil.copyfile(out / name, part)
