"""A training run: builds it, takes its steps, writes what it measures and its checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from facepack.errors import TrainingError
from facepack.loading.loader import Batch
from facepack.store.places import require_outside_packs
from facepack.train.config import CONFIG_FILE, TrainConfig, dump_config
from facepack.train.loop.announcement import RunPreview, announce, preview_run
from facepack.train.loop.batches import AgreedBatches
from facepack.train.loop.checkpoint import (
    CHECKPOINT_FILE,
    METRICS_FILE,
    PREVIOUS_FILE,
    TENSORBOARD_FOLDER,
    check_resumable,
    load_checkpoint,
    save_atomic,
    save_checkpoint,
    save_model,
)
from facepack.train.loop.course import take_up_course
from facepack.train.loop.divergence import DivergenceGuard
from facepack.train.loop.folder import hold_folder, refuse_used, remove_run
from facepack.train.loop.in_flight import StepsInFlight
from facepack.train.loop.interrupt import StopRequest
from facepack.train.loop.metrics import MetricsLog, SilentLog
from facepack.train.loop.parts import (
    begin_from_others,
    build_parts,
    make_paths_absolute,
    share_beginning,
)
from facepack.train.loop.progress import SilentProgress, TrainProgress
from facepack.train.loop.state import RunState
from facepack.train.loop.stopwatch import Reading, Stopwatch
from facepack.train.loop.summary import RunSummary, Stopped, summarize
from facepack.train.loop.verification import MakeValidator
from facepack.train.models.pretrained import MODEL_FILE
from facepack.train.ranks.agreement import fail_together, tell, together
from facepack.train.ranks.group import ALONE, Ranks


class Trainer:
    """One run: in one process on one device, or in several that each have their own.

    Everything that can be found wrong is found here, before the first step and on the CPU. The
    process's global random generator and, if ``threads`` is set, its number of threads become the
    run's own.

    Of several ranks each is given the same arguments but for ``ranks`` and ``device``. What one of
    them meets in building the run, in its data and in its files ends it on all: the rank at fault
    raises the error, the others an :class:`OtherRankError` with its words. Rank 0 alone writes,
    verifies and gives notice.

    Args:
        config: all settings.
        out: the run's folder.
        home: the data home, where names of data are looked up.
        device: what to train on; CUDA if it is there, else the CPU, when None.
        resume: go on from the checkpoint in ``out``; begin where there is none.
        overwrite: remove the run that ``out`` holds.
        notify: takes notices, a line each; prints them on stderr by default.
        ranks: this process's place among those of the run.
        validator: reads the verification sets that the settings name, as
            ``facepack.evaluate.validation.Validator`` does.

    Raises:
        ConfigError: settings that do not fit each other, the registries or the run to resume.
        TrainingError: the data, the device or the folder cannot be used.
        PackError, SourceError, EvaluationError: data or verification sets cannot be read.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        out: str | Path,
        home: str | Path | None = None,
        device: str | torch.device | None = None,
        resume: bool = False,
        overwrite: bool = False,
        notify: Callable[[str], None] | None = None,
        ranks: Ranks = ALONE,
        validator: MakeValidator | None = None,
    ) -> None:
        self.out = Path(out)
        self.ranks = ranks
        self._notify = notify or (lambda text: print(text, file=sys.stderr))
        self._overwrite = overwrite
        with together(ranks):
            require_outside_packs(self.out)
            if not resume and not overwrite:
                refuse_used(self.out)
            home = None if home is None else Path(home)
            parts = build_parts(
                config,
                home=home,
                device=device,
                ranks=ranks,
                make_validator=validator,
                say=self._say,
            )
            begins = not (resume and (self.out / CHECKPOINT_FILE).exists())
            if begins:
                begin_from_others(parts, self._say)
            make_paths_absolute(parts, home)
        share_beginning(parts)
        if begins:
            with together(ranks):
                parts.method_run.begin()
        self._parts = parts
        self.config, self.device, self.data = parts.config, parts.device, parts.data
        self.backbone, self.schedule = parts.backbone, parts.schedule
        self.head = parts.method_run.head
        self.total_steps, self.steps_per_epoch = parts.total_steps, parts.steps_per_epoch
        self._state = RunState(parts)
        self._batches = AgreedBatches(parts)
        self._guard = DivergenceGuard(parts, self.out / CHECKPOINT_FILE)
        if resume:
            self._resume()

    def _resume(self) -> None:
        path = self.out / CHECKPOINT_FILE
        state: dict[str, Any] | None = None
        changes: list[str] = []
        with together(self.ranks):
            if path.exists() or (self.out / PREVIOUS_FILE).exists():
                state = load_checkpoint(path, lazily=self.ranks.world > 1)
                check_resumable(
                    state,
                    self.config,
                    self.data,
                    ranks=self.ranks.world,
                    data_options=self._parts.method.data_options,
                )
                state["schedule"], changes = take_up_course(state, self.config, self.schedule)
        steps = [step for (step,) in tell(self.ranks, [-1 if state is None else state["step"]])]
        if len(set(steps)) > 1:
            fail_together(
                self.ranks,
                f"the ranks do not find the same checkpoint at {path}: --out must be in a folder "
                "that all machines of the run share",
            )
        if state is None:
            self._say(f"{self.out} holds no checkpoint: the run begins at step 0")
            return
        with together(self.ranks):
            self._take_up(state, path)
        self._guard.good_step = self.step
        self._say(f"resuming {self.out} at step {self.step:,} of {self.total_steps:,}")
        for change in changes:
            self._say(change)
        was = state["ranks"]
        if was != self.ranks.world:
            self._say(f"ranks: {was} before, {self.ranks.world} now")

    def _take_up(self, state: dict[str, Any], path: Path) -> None:
        try:
            self._state.load_state_dict(state)
        except torch.cuda.OutOfMemoryError:
            raise
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise TrainingError(
                f"{path} is whole, but its parts are not those of this run ({error}): put the "
                "checkpoint back that the run wrote, or start again with --overwrite"
            ) from error

    @property
    def step(self) -> int:
        """Optimizer steps done since the run began."""
        return self._state.step

    def preview(self, *, max_steps: int | None = None) -> RunPreview:
        """What :meth:`run` would do, hold and write; gives notice of what is trained on what."""
        if self.ranks.is_first:
            announce(self._parts, self._notify)
        return preview_run(self._parts, self.out, step=self.step, last=self._last(max_steps))

    def _last(self, max_steps: int | None) -> int:
        return min(self.total_steps, max_steps or self.total_steps)

    def _say(self, text: str) -> None:
        if self.ranks.is_first:
            self._notify(text)

    # The run --------------------------------------------------------------------------------

    def run(self, *, max_steps: int | None = None) -> RunSummary:
        """Train to the run's end, or until ``max_steps`` steps of it are done.

        SIGINT and SIGTERM end it after the step at hand, or after the verification set at hand;
        sets that follow are left out at that step. However it ends, short of an error or a kill,
        the folder holds the model and a checkpoint of the last step, from which the run goes on as
        if it had not stopped.

        Raises:
            TrainingError: the loss is not finite, or the disk takes no checkpoint.
            DecodeError: an image does not decode, under ``on_bad_image = raise``.
        """
        last = self._last(max_steps)
        if self.step >= last:
            self._say(f"{self.out}: step {self.step:,} is done already; nothing to do")
            with together(self.ranks):
                if self.ranks.is_first and not (self.out / MODEL_FILE).exists():
                    save_model(self.out / MODEL_FILE, self.backbone)
            stopped: Stopped = "finished" if self.step == self.total_steps else "max_steps"
            return summarize(self._parts, self._state, self.out, stopped, Reading())
        with ExitStack() as stack:
            with together(self.ranks):
                if self.ranks.is_first:
                    stack.enter_context(hold_folder(self.out))
                log = stack.enter_context(self._open_log())
                progress = stack.enter_context(self._open_progress())
            stack.enter_context(self._parts.method_run.loader)
            stop = stack.enter_context(StopRequest(patient=self.ranks.world > 1))
            stopped, reading = self._train(last, log, progress, stop)
        return summarize(self._parts, self._state, self.out, stopped, reading)

    def _open_log(self) -> MetricsLog:
        if not self.ranks.is_first:
            return SilentLog()
        if self._overwrite:
            remove_run(self.out)
            self._overwrite = False
        text = dump_config(self.config).encode()
        save_atomic(self.out / CONFIG_FILE, lambda file: file.write(text))
        announce(self._parts, self._notify)
        log = MetricsLog(
            self.out / METRICS_FILE,
            resume_step=self.step,
            tensorboard=self.out / TENSORBOARD_FOLDER,
        )
        if log.damaged_lines:
            self._notify(
                f"{self.out / METRICS_FILE}: {log.damaged_lines:,} lines are damaged; those before "
                f"good lines are left as they are"
            )
        return log

    def _open_progress(self) -> TrainProgress:
        kind = TrainProgress if self.ranks.is_first else SilentProgress
        return kind(
            total_steps=self.total_steps,
            steps_per_epoch=self.steps_per_epoch,
            batch_size=self._parts.method.images_per_step(self.config),
        )

    def _train(
        self, last: int, log: MetricsLog, progress: TrainProgress, stop: StopRequest
    ) -> tuple[Stopped, Reading]:
        self.backbone.train()
        self._parts.method_run.loader.seek(*divmod(self.step, self.steps_per_epoch))
        watch = Stopwatch()
        in_flight = StepsInFlight(self.device)
        batches = self._batches.endless(watch, in_flight)
        logged = watch.read()
        while True:
            batch, is_stop_asked, skipped = self._batches.next(
                batches, step=self.step + 1, stop=stop
            )
            self._state.skipped_images += skipped
            lr = self.schedule.lr
            self._advance(batch, lr, log)
            in_flight.add()
            watch.count(self._parts.method_run.images_in_step(batch) * self.ranks.world)
            if self._is_due(self.config.log_every):
                self._guard.check_loss(self.step)
                reading = watch.read()
                self._log_train(log, lr, reading.since(logged), reading.seconds)
                progress.set_loss(self._state.last["loss"])
                logged = reading
            progress.update(self.step, lr, watch.read())
            with watch.paused():
                if self.config.val and self._is_due(self.config.val_every or self.steps_per_epoch):
                    with watch.verifying():
                        self._guard.check_weights(self.step)
                        with together(self.ranks):
                            self._parts.verification.run(
                                self.backbone,
                                step=self.step,
                                log=log,
                                progress=progress,
                                stop=stop,
                            )
                # Of several ranks one may have been asked to stop after all agreed to go on.
                is_asked = stop.requested if self.ranks.world == 1 else is_stop_asked
                stopped = self._stopped(last, is_asked)
                self._save(stopped, log)
            if stopped is not None:
                return stopped, watch.read()

    def _advance(self, batch: Batch, lr: float, log: MetricsLog) -> None:
        """Take the next step on ``batch``."""
        if not self.config.channels_last:
            batch = batch._replace(images=batch.images.contiguous())
        loss = self._parts.method_run.take_step(batch, lr)
        self._state.step += 1
        self._parts.meter.add(loss, self.step)
        if self.device.type == "cpu":
            self._guard.check_loss(self.step)
        known = len(self.schedule.changes)
        self.schedule.step(loss)
        for _, changed in self.schedule.changes[known:]:
            log.write("lr", self.step, {"lr": changed})

    def _is_due(self, every: int) -> bool:
        """Whether what is done each ``every`` steps, and at the run's end, is due."""
        return self.step % every == 0 or self.step == self.total_steps

    def _stopped(self, last: int, is_asked: bool) -> Stopped | None:
        if self.step == self.total_steps:
            return "finished"
        if is_asked:
            return "interrupted"
        return "max_steps" if self.step == last else None

    # What is looked at and written ----------------------------------------------------------

    def _log_train(self, log: MetricsLog, lr: float, lap: Reading, seconds: float) -> None:
        self._state.last = {"loss": self._parts.meter.take_mean(), "lr": lr}
        values = {
            "epoch": (self.step - 1) // self.steps_per_epoch,
            **self._state.last,
            **self._parts.method_run.take_metrics(),
            "skipped_images": self._state.skipped_images,
        }
        if self._parts.scaler.enabled:
            values["loss_scale"] = self._parts.scaler.value()
            values["skipped_steps"] = self._parts.scaler.skipped_steps()
        timing = {
            "images_per_second": lap.images_per_second,
            "data_wait": lap.data_wait,
            "seconds": seconds,
        }
        log.write("train", self.step, values, timing)

    def _save(self, stopped: Stopped | None, log: MetricsLog) -> None:
        """Write the model and the checkpoint where they are due."""
        ends_epoch = self.step % self.steps_per_epoch == 0
        every = self.config.checkpoint_every
        if stopped is None and not ends_epoch and not (every and self._is_due(every)):
            return
        self._guard.check_weights(self.step)
        state = self._state.state_dict()
        with together(self.ranks):
            if self.ranks.is_first:
                # The model first: a checkpoint of the last step says that everything is written.
                if ends_epoch or stopped is not None:
                    save_model(self.out / MODEL_FILE, self.backbone)
                log.sync()
                save_checkpoint(self.out / CHECKPOINT_FILE, state)
        self._guard.good_step = self.step
