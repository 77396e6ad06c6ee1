"""A training run: builds it, takes its steps, writes what it measures and its checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from facepack.errors import ConfigError, TrainingError
from facepack.hashing import derive_seed
from facepack.loading.loader import Batch, Loader
from facepack.processors import usable_processors
from facepack.store.gaps import note_on_gaps
from facepack.store.home import absolute
from facepack.terminal import printable
from facepack.train.build import (
    check_ranks,
    enter_device,
    make_backbone,
    make_head,
    make_optimizer,
    make_schedule,
    micro_batch,
    resolve_config,
)
from facepack.train.config import CONFIG_FILE, TrainConfig, dump_config
from facepack.train.data import (
    ImageTree,
    check_training_data,
    lasting_shards,
    open_training_data,
)
from facepack.train.loop.checkpoint import (
    CHECKPOINT_FILE,
    METRICS_FILE,
    PREVIOUS_FILE,
    TENSORBOARD_FOLDER,
    check_resumable,
    describe_data,
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
from facepack.train.loop.metrics import LossMeter, MetricsLog, SilentLog
from facepack.train.loop.progress import SilentProgress, TrainProgress
from facepack.train.loop.step import TrainStep
from facepack.train.loop.stopwatch import Reading, Stopwatch
from facepack.train.loop.summary import RunSummary, Stopped
from facepack.train.loop.verification import MakeValidator, Validator, Verification
from facepack.train.models.arcface_torch import continue_run
from facepack.train.models.pretrained import MODEL_FILE, load_pretrained
from facepack.train.precision import LossScaler
from facepack.train.ranks.agreement import fail_together, tell, together
from facepack.train.ranks.group import ALONE, Ranks, local_world

_FOR_WEIGHTS, _FOR_DROPOUT = 0, 1


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
            if not resume and not overwrite:
                refuse_used(self.out)
            home = None if home is None else Path(home)
            self._build(config, home, device, validator)
            if not (resume and (self.out / CHECKPOINT_FILE).exists()):
                self._begin_from_others()
            self._keep_places(home)
        self._share_beginning()
        if resume:
            self._resume()

    def _build(
        self,
        config: TrainConfig,
        home: Path | None,
        device: str | torch.device | None,
        validator: MakeValidator | None,
    ) -> None:
        """Make every part of the run; collective in nothing."""
        ranks = self.ranks
        if config.val and validator is None:
            raise ConfigError(
                f"val names sets to verify on ({', '.join(config.val)}), and the trainer was given "
                "no validator: pass validator=facepack.evaluate.validation.Validator, or no val"
            )
        self.device = enter_device(device)
        self.config = config = resolve_config(config, self.device)
        check_ranks(config, ranks)
        if config.threads is not None:
            torch.set_num_threads(config.threads)

        self.data = open_training_data(config.shards, home, config.identity_level)
        for notice in self.data.notices if isinstance(self.data, ImageTree) else []:
            self._say(f"note: {printable(notice)}")
        torch.manual_seed(derive_seed(config.seed, _FOR_WEIGHTS))
        self.backbone = make_backbone(config, self.device)
        check_training_data(
            self.data,
            batch_size=config.batch_size,
            image_size=self.backbone.image_size,
            skip_others=config.on_bad_image == "skip",
        )
        self._described = describe_data(self.data)
        self.steps_per_epoch = len(self.data) // config.batch_size
        self.total_steps = config.steps or config.epochs * self.steps_per_epoch
        self.schedule = make_schedule(
            config, total_steps=self.total_steps, steps_per_epoch=self.steps_per_epoch
        )
        if gaps := note_on_gaps(self.data.identities, self.data.classes):
            self._say(f"note: {gaps}")  # before a head is made that memory may not hold
        self.head = make_head(config, self.data.classes, self.device, ranks)
        self._optimizer = make_optimizer(config, self.backbone, self.device)
        self._scaler = LossScaler(self.device, enabled=config.precision == "fp16", ranks=ranks)
        self._take_step = TrainStep(
            self.backbone,
            self.head,
            self._optimizer,
            self._scaler,
            accumulate=config.accumulate,
            clip_norm=config.clip_norm,
            compile=config.compile,
            ranks=ranks,
        )
        self._verification = Verification(
            _build_validator(validator, config, home, self.backbone.image_size, ranks)
            if ranks.is_first
            else None
        )
        self._loader = Loader(
            self.data,
            batch_size=config.batch_size // ranks.world,
            rank=ranks.rank,
            world=ranks.world,
            seed=config.seed,
            order=config.order,
            mirror=config.mirror,
            augment=None if config.augment == "none" else config.augment,
            cache=config.cache,
            backend=config.loader,
            device=self.device,
            dtype="float32",
            on_error=config.on_bad_image,
            threads=config.loader_threads or _loader_threads(),
            image_size=self.backbone.image_size,
        )
        self._meter = LossMeter(self.device)
        # Dropout draws from here on, however many numbers the weights took.
        torch.manual_seed(derive_seed(config.seed, _FOR_DROPOUT, *_beyond_first(ranks)))
        self.step = 0
        self._skipped_images = 0
        self._seen_skipped = 0
        self._last: dict[str, float] = {}
        self._guard = DivergenceGuard(
            checkpoint=self.out / CHECKPOINT_FILE,
            backbone=self.backbone,
            head=self.head,
            scaler=self._scaler,
            meter=self._meter,
            device=self.device,
            ranks=ranks,
        )

    def _begin_from_others(self) -> None:
        """Take the weights that the settings name to begin with."""
        config = self.config
        if config.pretrained is not None:
            load_pretrained(self.backbone, config.pretrained)
            self.config = replace(config, pretrained=absolute(config.pretrained))
        if config.continues is not None:
            folder = Path(config.continues)
            self._say(continue_run(folder, self.backbone, self._optimizer, self.head))
            self.config = replace(config, continues=absolute(config.continues))

    def _keep_places(self, home: Path | None) -> None:
        """Name the data so that the run goes on from any current folder."""
        config = self.config
        val = self._verification.lasting_sets(config.val)
        self.config = replace(config, shards=lasting_shards(config.shards, home), val=val)

    def _share_beginning(self) -> None:
        """Take rank 0's weights and order of images: machines of other kinds may choose others."""
        for tensor in self.backbone.state_dict().values():
            self.ranks.broadcast(tensor)
        loader = self.ranks.gather_objects(self._loader.state_dict())[0]
        with together(self.ranks):
            if loader["content_id"] != self.data.content_id:
                raise TrainingError(
                    f"{self.data.path} is not the pack that rank 0 trains on (content id "
                    f"{self.data.content_id[:12]}, its {loader['content_id'][:12]}): put the same "
                    "on each machine"
                )
            self._loader.load_state_dict(loader)

    def _resume(self) -> None:
        path = self.out / CHECKPOINT_FILE
        state: dict[str, Any] | None = None
        changes: list[str] = []
        with together(self.ranks):
            if path.exists() or (self.out / PREVIOUS_FILE).exists():
                state = load_checkpoint(path, lazily=self.ranks.world > 1)
                check_resumable(state, self.config, self.data, ranks=self.ranks.world)
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
        self.load_state_dict(state)
        self._guard.good_step = self.step
        self._say(f"resuming {self.out} at step {self.step:,} of {self.total_steps:,}")
        for change in changes:
            self._say(change)
        was = state["ranks"]
        if was != self.ranks.world:
            self._say(f"ranks: {was} before, {self.ranks.world} now")

    def _say(self, text: str) -> None:
        if self.ranks.is_first:
            self._notify(text)

    def state_dict(self) -> dict[str, Any]:
        """All that the steps to come depend on; waits for the device.

        Collective: each rank takes part, the state of rank 0 alone is whole.
        """
        return {
            "config": self.config.as_dict(),
            "data": self._described,
            "ranks": self.ranks.world,
            "step": self.step,
            "backbone": self.backbone.state_dict(),
            "head": self.head.whole_state(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "schedule": self.schedule.state_dict(),
            "meter": self._meter.state_dict(),
            "loader": self._loader.state_dict(),
            "random": self.ranks.gather_objects(_random_state(self.device)),
            "skipped_images": self._skipped_images,
            "last": dict(self._last),
            "best": {name: dict(best) for name, best in self._verification.best.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`; the settings and data must be those of the run.

        The number of ranks may be another: each then draws its dropout from a new beginning.
        """
        self.step = state["step"]
        self.backbone.load_state_dict(state["backbone"])
        self.head.load_whole_state(state["head"])
        # The options are the settings', which agree, but for what suits this device (fused).
        options = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict(
            {"state": state["optimizer"]["state"], "param_groups": options}
        )
        self._scaler.load_state_dict(state["scaler"])
        self.schedule.load_state_dict(state["schedule"])
        self._meter.load_state_dict(state["meter"])
        self._loader.load_state_dict(state["loader"])
        if state["ranks"] == self.ranks.world:
            _set_random_state(state["random"][self.ranks.rank], self.device)
        else:
            torch.manual_seed(
                derive_seed(self.config.seed, _FOR_DROPOUT, self.ranks.rank, self.step)
            )
        self._skipped_images = state["skipped_images"]
        self._last = state["last"]
        self._verification.best = state["best"]

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
        last = min(self.total_steps, max_steps or self.total_steps)
        if self.step >= last:
            self._say(f"{self.out}: step {self.step:,} is done already; nothing to do")
            with together(self.ranks):
                if self.ranks.is_first and not (self.out / MODEL_FILE).exists():
                    save_model(self.out / MODEL_FILE, self.backbone)
            stopped: Stopped = "finished" if self.step == self.total_steps else "max_steps"
            return self._summary(stopped, Reading())
        with ExitStack() as stack:
            with together(self.ranks):
                if self.ranks.is_first:
                    stack.enter_context(hold_folder(self.out))
                log = stack.enter_context(self._open_log())
                progress = stack.enter_context(self._open_progress())
            stack.enter_context(self._loader)
            stop = stack.enter_context(StopRequest(patient=self.ranks.world > 1))
            stopped, reading = self._train(last, log, progress, stop)
        return self._summary(stopped, reading)

    def _open_log(self) -> MetricsLog:
        if not self.ranks.is_first:
            return SilentLog()
        if self._overwrite:
            remove_run(self.out)
            self._overwrite = False
        text = dump_config(self.config).encode()
        save_atomic(self.out / CONFIG_FILE, lambda file: file.write(text))
        self._announce()
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
            batch_size=self.config.batch_size,
        )

    def _train(
        self, last: int, log: MetricsLog, progress: TrainProgress, stop: StopRequest
    ) -> tuple[Stopped, Reading]:
        self.backbone.train()
        self._loader.seek(*divmod(self.step, self.steps_per_epoch))
        watch = Stopwatch()
        in_flight = StepsInFlight(self.device)
        batches = self._batches(watch, in_flight)
        logged = watch.read()
        while True:
            batch, is_stop_agreed = self._next_batch(batches, stop)
            lr = self.schedule.lr
            self._advance(batch, lr, log)
            in_flight.add()
            watch.count(len(batch.labels) * self.ranks.world)
            if self._is_due(self.config.log_every):
                self._guard.check_loss(self.step)
                reading = watch.read()
                self._log_train(log, lr, reading.since(logged), reading.seconds)
                progress.set_loss(self._last["loss"])
                logged = reading
            progress.update(self.step, lr, watch.read())
            with watch.paused():
                if self.config.val and self._is_due(self.config.val_every or self.steps_per_epoch):
                    with watch.verifying():
                        self._guard.check_weights(self.step)
                        with together(self.ranks):
                            self._verification.run(
                                self.backbone,
                                step=self.step,
                                log=log,
                                progress=progress,
                                stop=stop,
                            )
                # Of several ranks one may have been asked to stop after all agreed to go on.
                is_asked = stop.requested if self.ranks.world == 1 else is_stop_agreed
                stopped = self._stopped(last, is_asked)
                self._save(stopped, log)
            if stopped is not None:
                return stopped, watch.read()

    def _batches(self, watch: Stopwatch, in_flight: StepsInFlight) -> Iterator[Batch]:
        """The loader's batches without end, the time for each counted as waiting."""
        while True:
            epoch = iter(self._loader)
            while True:
                in_flight.wait()
                with watch.waiting():
                    batch = next(epoch, None)
                if batch is None:
                    break
                yield batch

    def _next_batch(self, batches: Iterator[Batch], stop: StopRequest) -> tuple[Batch, bool]:
        """This rank's next batch, and whether any rank was asked to stop.

        Collective: it is here that ranks learn of each other, by way of the processors, while the
        devices still work. All batches have one size: where images do not decode, the other ranks
        leave out as many of their last.
        """
        batch: Batch | None = None
        error: Exception | None = None
        try:
            batch = next(batches)
            self._check_batch(batch)
        except Exception as caught:
            if self.ranks.world == 1:
                raise
            error = caught
        size = 0 if batch is None else len(batch.labels)
        skipped = self._loader.skipped - self._seen_skipped
        told = tell(self.ranks, [int(stop.requested), size, skipped], error=error)
        assert batch is not None
        stops, sizes, skips = zip(*told, strict=True)
        self._seen_skipped += skipped
        self._skipped_images += sum(skips)
        all_have = min(sizes)
        if all_have < size:
            batch = Batch(
                batch.images[:all_have], batch.labels[:all_have], batch.positions[:all_have]
            )
        return batch, any(stops)

    def _advance(self, batch: Batch, lr: float, log: MetricsLog) -> None:
        """Take the next step on ``batch``."""
        images = batch.images
        if not self.config.channels_last:
            images = images.contiguous()
        loss = self._take_step(images, batch.labels, lr)
        self.step += 1
        self._meter.add(loss, self.step)
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

    def _check_batch(self, batch: Batch) -> None:
        """A batch may have lost images; of each micro-batch two must be left."""
        if len(batch.labels) < 2 * self.config.accumulate:
            keys = ", ".join(self._loader.skipped_keys[-3:])
            raise TrainingError(
                f"step {self.step + 1}: only {len(batch.labels)} of "
                f"{self.config.batch_size // self.ranks.world} images of the batch decode (left "
                f"out: {keys} …). Look at the data with: "
                f"facepack verify --decode {self.data.path}"
            )

    def _log_train(self, log: MetricsLog, lr: float, lap: Reading, seconds: float) -> None:
        self._last = {"loss": self._meter.take_mean(), "lr": lr}
        values = {
            "epoch": (self.step - 1) // self.steps_per_epoch,
            **self._last,
            "skipped_images": self._skipped_images,
        }
        if self._scaler.enabled:
            values["loss_scale"] = self._scaler.value()
            values["skipped_steps"] = self._scaler.skipped_steps()
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
        state = self.state_dict()
        with together(self.ranks):
            if self.ranks.is_first:
                # The model first: a checkpoint of the last step says that everything is written.
                if ends_epoch or stopped is not None:
                    save_model(self.out / MODEL_FILE, self.backbone)
                log.sync()
                save_checkpoint(self.out / CHECKPOINT_FILE, state)
        self._guard.good_step = self.step

    def _announce(self) -> None:
        config = self.config
        parameters = sum(p.numel() for p in self.backbone.parameters())
        ranks = f" on each of {self.ranks.world} ranks" if self.ranks.world > 1 else ""
        self._notify(
            f"training {config.backbone} ({parameters / 1e6:.1f} M parameters) on "
            f"{self.data.name}: {len(self.data):,} images, {self.data.classes:,} classes; "
            f"{self.total_steps:,} steps of {config.batch_size} images, {self.steps_per_epoch:,} "
            f"an epoch; {self.device.type if ranks else self.device}{ranks}, {config.precision}, "
            f"loader {self._loader.backend}"
        )
        if self._loader.order == "blocks":
            self._notify(
                f"images are shuffled in blocks that are read together: {self._loader.order_reason}"
            )
        if config.precision == "fp16" and self.device.type == "cpu":
            self._notify("fp16 on the CPU is emulated and slow: fp32 is the faster precision here")

    def _summary(self, stopped: Stopped, reading: Reading) -> RunSummary:
        return RunSummary(
            out=str(self.out),
            stopped=stopped,
            step=self.step,
            total_steps=self.total_steps,
            images=reading.images,
            seconds=reading.seconds,
            images_per_second=reading.images_per_second,
            data_wait=reading.data_wait,
            verification_share=reading.verification_share,
            loss=self._last["loss"] if self._last else self._meter.mean(),
            lr=self._last["lr"] if self._last else self.schedule.lr_after(self.step - 1),
            skipped_steps=self._scaler.skipped_steps(),
            skipped_images=self._skipped_images,
            best=self._verification.best,
        )


# Building -------------------------------------------------------------------------------------


def _build_validator(
    validator: MakeValidator | None,
    config: TrainConfig,
    home: Path | None,
    image_size: tuple[int, int],
    ranks: Ranks,
) -> Validator | None:
    if validator is None or not config.val:
        return None
    # No more images in a pass than in one of training, for which the memory is known to do.
    size = micro_batch(config, ranks)
    return validator(config.val, home=home, image_size=image_size, batch_size=size)


def _beyond_first(ranks: Ranks) -> tuple[int, ...]:
    """What keys a rank's own draws; nothing for the first, which draws as a process alone does."""
    return () if ranks.is_first else (ranks.rank,)


def _loader_threads() -> int | None:
    """A share of the processors for each rank of this machine; None leaves it to the loader."""
    ranks = local_world()
    if ranks == 1:
        return None
    return max(1, usable_processors() // ranks)


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
