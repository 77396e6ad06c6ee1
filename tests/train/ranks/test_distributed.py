"""Several ranks against the twins they must equal, and how they end together.

The ranks are real processes that torchrun starts, four of them, once: run as a script, this file is
what each of them does. Two of the four also form runs of two. What they find they leave in a
folder; the tests look at it.
"""

from __future__ import annotations

import copy
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

import facepack
from facepack.errors import FacepackError, TrainingError
from facepack.train.build import check_ranks
from facepack.train.config import TrainConfig
from facepack.train.heads import CosFace, PartialFC
from facepack.train.loop.checkpoint import CHECKPOINT_FILE, load_checkpoint
from facepack.train.loop.run import Trainer
from facepack.train.methods.gradients import GradientSum
from facepack.train.methods.softmax.step import TrainStep
from facepack.train.precision import LossScaler
from facepack.train.ranks.agreement import OtherRankError, tell, together
from facepack.train.ranks.group import ALONE, Ranks, rank_device

CPU = torch.device("cpu")
CLASSES, FEATURES, BATCH, STEPS = 7, 5, 16, 5
WORLDS = (2, 4)
TWINS = [(world, accumulate) for world in WORLDS for accumulate in (1, 2)]


# One step: data, parts, the plain twin -----------------------------------------------------------


def make_backbone(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(3)
    backbone = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.Flatten(), nn.Linear(64, FEATURES)
    )
    return backbone.to(dtype=dtype, memory_format=torch.channels_last)


def make_batches(dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(4)
    return [
        (
            torch.randn(BATCH, 3, 6, 6, generator=generator).to(dtype),
            torch.randint(CLASSES, (BATCH,), generator=generator),
        )
        for _ in range(STEPS)
    ]


def make_step(
    backbone: nn.Module, ranks: Ranks, *, fp16: bool = False, **options: Any
) -> TrainStep:
    """The real thing, in the backbone's precision."""
    dtype = next(backbone.parameters()).dtype
    head = PartialFC(CLASSES, FEATURES, margin=CosFace(margin=0.2), scale=16.0, ranks=ranks)
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    scaler = LossScaler(CPU, enabled=fp16, ranks=ranks)
    return TrainStep(backbone, head.to(dtype), optimizer, scaler, ranks=ranks, **options)


def take_steps(ranks: Ranks, *, accumulate: int, is_training: bool) -> dict[str, Any]:
    """Losses and final weights of a few steps; rank r takes slice r of each batch."""
    backbone = make_backbone().train(is_training)
    step = make_step(backbone, ranks, accumulate=accumulate, clip_norm=0.05)
    losses = []
    for number, (images, labels) in enumerate(make_batches()):
        start, stop = ranks.share(BATCH)
        losses.append(step(images[start:stop], labels[start:stop], 0.1 / (1 + number)))
    head = step.head.whole_state()
    return {
        "losses": losses,
        "backbone": list(backbone.parameters()),
        "head": None if head is None else head["weight"],
    }


def take_plain_steps(*, slices: int, is_training: bool) -> dict[str, Any]:
    """One process, one graph, a dense head, torch's optimizer; each slice is normalised apart."""
    backbone = make_backbone().train(is_training)
    weight = nn.Parameter(PartialFC(CLASSES, FEATURES, margin=CosFace(margin=0.2)).weight.double())
    optimizer = torch.optim.SGD(
        [*backbone.parameters(), weight], lr=0.1, momentum=0.9, weight_decay=5e-4
    )
    losses = []
    for number, (images, labels) in enumerate(make_batches()):
        embeddings = torch.cat([backbone(part) for part in images.chunk(slices)])
        cosines = F.normalize(embeddings) @ F.normalize(weight).T
        loss = F.cross_entropy(16.0 * (cosines - 0.2 * F.one_hot(labels, CLASSES)), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(backbone.parameters(), 0.05)
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (1 + number)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return {"losses": losses, "backbone": list(backbone.parameters()), "head": weight.detach()}


def sampled_steps_and_twin(ranks: Ranks, optimizer: str) -> dict[str, tuple[Any, Any]]:
    """Steps with all that makes them hard, and one process's: (ours, its) by name.

    Sampled classes, micro-batches of their own samples, a batch that lost images, clipping. The
    twin has a dense head whose rows have an optimizer each, which steps when a row was sampled.
    """
    classes, parts, lr = 23, 2, 0.01

    def optimize(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        if optimizer == "adamw":
            return torch.optim.AdamW(parameters, lr, weight_decay=5e-3)
        return torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=5e-3)

    backbone, twin = make_backbone(), make_backbone()
    options: dict[str, Any] = {"optimizer": optimizer, "weight_decay": 5e-3, "sample_rate": 0.5}
    margin = CosFace(margin=0.2)
    head = PartialFC(classes, FEATURES, margin=margin, scale=16.0, ranks=ranks, **options).double()
    step = TrainStep(
        backbone,
        head,
        optimize(list(backbone.parameters())),
        LossScaler(CPU, enabled=False, ranks=ranks),
        accumulate=parts,
        clip_norm=0.05,
        ranks=ranks,
    )
    drawn: list[Tensor] = []
    draw = head._draw

    def recorded(own: Tensor) -> Tensor:
        drawn.append(draw(own))
        return drawn[-1]

    head._draw = recorded  # type: ignore[method-assign]
    rows = [nn.Parameter(row) for row in torch.cat(ranks.gather_objects(head.weight.clone()))]
    row_optimizers, twin_optimizer = [optimize([r]) for r in rows], optimize([*twin.parameters()])
    losses = []
    for number, (images, labels) in enumerate(make_batches()):
        each = BATCH // ranks.world
        kept = each - (number == 2 and each > 2 * parts)
        slices = [slice(each * rank, each * rank + kept) for rank in range(ranks.world)]
        drawn.clear()
        own = slices[ranks.rank]
        loss = step(images[own], labels[own], lr)
        first = ranks.share(classes)[0]
        samples = ranks.gather_objects([sample + first for sample in drawn])
        total = torch.zeros((), dtype=torch.float64)
        for k in range(parts):
            micro = [images[s].tensor_split(parts)[k] for s in slices]
            own_labels = torch.cat([labels[s].tensor_split(parts)[k] for s in slices])
            units = F.normalize(torch.cat([twin(part) for part in micro]))
            cosines = units @ F.normalize(torch.stack(rows)).T
            absent = torch.ones(classes, dtype=torch.bool)
            absent[torch.cat([sample[k] for sample in samples])] = False
            logits = 16.0 * (cosines - 0.2 * F.one_hot(own_labels, classes))
            share = len(own_labels) / (kept * ranks.world)
            total = total + share * F.cross_entropy(
                logits.masked_fill(absent, -torch.inf), own_labels
            )
        total.backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 0.05)
        twin_optimizer.step()
        twin_optimizer.zero_grad()
        used = set(torch.cat([part for sample in samples for part in sample]).tolist())
        for row, row_optimizer in enumerate(row_optimizers):
            if row in used:
                row_optimizer.step()
            row_optimizer.zero_grad()
        losses.append((loss.double(), total.detach()))
    whole = torch.cat(ranks.gather_objects(head.weight.clone()))
    ours, theirs = zip(*losses, strict=True)
    return {
        "losses": (torch.stack(ours), torch.stack(theirs)),
        "head": (whole, torch.stack(rows).detach()),
        "backbone": tuple(
            torch.cat([p.detach().flatten() for p in network.parameters()])
            for network in (backbone, twin)
        ),
    }


class Breaking(nn.Module):
    """A backbone whose gradients are infinite while it is broken."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = make_backbone(torch.float32)
        self.broken = False

    def forward(self, images: Tensor) -> Tensor:
        embeddings = self.inner(images)
        if self.broken:
            embeddings.register_hook(lambda gradient: gradient * torch.inf)
        return embeddings


class LyingScaler(torch.amp.GradScaler):
    """Finds an infinite gradient where there is none, when it is told to."""

    lies = False

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        super().unscale_(optimizer)
        if self.lies:
            for verdict in self._found_inf_per_device(optimizer).values():
                verdict.fill_(1.0)


def overflow_on_one(ranks: Ranks, *, in_gradients: bool) -> dict[str, Any]:
    """The second step overflows on the last rank; by its gradient, or by its verdict alone."""
    backbone = Breaking()
    step = make_step(backbone, ranks, fp16=True, clip_norm=1.0)
    scaler = LyingScaler(CPU.type, growth_interval=100)
    step.scaler._scaler = scaler
    is_last = ranks.rank == ranks.world - 1
    trace = []
    for number, (images, labels) in enumerate(make_batches(torch.float32)):
        backbone.broken = in_gradients and is_last and number == 1
        scaler.lies = not in_gradients and is_last and number == 1
        start, stop = ranks.share(BATCH)
        before = copy.deepcopy([*backbone.parameters(), *step.head.buffers()])
        step(images[start:stop], labels[start:stop], 0.1)
        after = [*backbone.parameters(), *step.head.buffers()]
        trace.append(
            {
                "moved": [not torch.equal(a, b) for a, b in zip(before, after, strict=True)],
                "scale": step.scaler.value(),
                "skipped": step.scaler.skipped_steps(),
            }
        )
    return {"trace": trace, "weights": list(backbone.parameters())}


def sum_gradients(ranks: Ranks) -> list[Tensor | None]:
    """Two passes of which the second one's end sums; a parameter without gradient stays so."""
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Linear(40, 30), nn.Conv2d(2, 3, 3), nn.Linear(3, 2).double()])
    layers[1].to(memory_format=torch.channels_last)
    unused = nn.Parameter(torch.ones(3))
    sums = GradientSum([*layers.parameters(), unused], ranks)

    def loss() -> Tensor:
        factor = ranks.rank + 1
        images = torch.ones(1, 2, 5, 5).to(memory_format=torch.channels_last)
        return factor * (
            layers[0](torch.ones(1, 40)).sum()
            + layers[1](images).square().sum()
            + layers[2](torch.ones(1, 3).double()).sum()
        )

    loss().backward()
    with sums.over_ranks():
        loss().backward()
    return [None if p.grad is None else p.grad for p in [*layers.parameters(), unused]]


# Whole runs --------------------------------------------------------------------------------------


def make_config(folder: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "shards": str(folder / "faces"),
        "backbone": "tiny",
        "features": 16,
        "dropout": 0.3,
        "sample_rate": 0.6,
        "lr": 0.05,
        "schedule": "mhlr",
        "schedule_options": {"window": 2, "read_every": 3, "threshold": 50.0},
        "steps": 7,
        "batch_size": 16,
        "precision": "fp32",
        "log_every": 2,
        "threads": 1,
        "loader_threads": 1,
    }
    settings.update(changes)
    return TrainConfig(**settings)


# Full softmax, no dropout, and slices normalised apart: the same mathematics on any ranks.
ALIKE = {"dropout": 0.0, "sample_rate": 1.0}


def train(
    config: TrainConfig, out: Path, ranks: Ranks, *, max_steps: int | None = None, **options: Any
) -> Any:
    trainer = Trainer(config, out=out, device="cpu", notify=lambda _: None, ranks=ranks, **options)
    summary = trainer.run(max_steps=max_steps)
    return summary.stopped, summary.step, summary.images, summary.skipped_images, summary.loss


def outcome(work: Callable[[], Any]) -> tuple[str, str]:
    """What became of it: the error's name and words."""
    try:
        return "done", repr(work())
    except FacepackError as error:
        return type(error).__name__, str(error)


def run_and_resume(folder: Path, ranks: Ranks) -> Any:
    """A run that keeps all kinds of state, whole, and stopped on the way."""
    config = make_config(folder, precision="bf16")
    out = folder / f"world{ranks.world}"
    train(config, out / "whole", ranks)
    train(config, out / "cut", ranks, max_steps=3)
    return train(config, out / "cut", ranks, resume=True)


def fail_apart(folder: Path, ranks: Ranks) -> dict[str, tuple[str, str]]:
    """One rank meets an error at a time; what each of them makes of it."""
    out = folder / "failures"
    last = ranks.rank == ranks.world - 1

    def poisoned() -> Any:
        trainer = Trainer(
            make_config(folder), out=out / "nan", device="cpu", notify=lambda _: None, ranks=ranks
        )
        if last:
            with torch.no_grad():
                next(trainer.backbone.parameters()).fill_(torch.nan)
        return trainer.run()

    broken = make_config(folder, shards=str(folder / "broken"))
    nowhere = make_config(folder, shards="nowhere")
    results = {
        "build": outcome(
            lambda: train(nowhere if last else make_config(folder), out / "build", ranks)
        ),
        "decode": outcome(lambda: train(broken, out / "decode", ranks)),
        "nan": outcome(poisoned),
        "batch": outcome(lambda: train(make_config(folder, batch_size=17), out / "batch", ranks)),
    }
    trainer = Trainer(
        make_config(folder), out=out / "full", device="cpu", notify=lambda _: None, ranks=ranks
    )
    (out / "full" / CHECKPOINT_FILE / "in the way").mkdir(parents=True, exist_ok=True)
    results["disk"] = outcome(trainer.run)
    return results


def stop_one(folder: Path, ranks: Ranks) -> Any:
    """The last rank alone is asked to stop, in its third step, and asked again later."""
    trainer = Trainer(
        make_config(folder, steps=1000),
        out=folder / "stopped",
        device="cpu",
        notify=lambda _: None,
        ranks=ranks,
    )
    take_step = trainer._parts.method_run.take_step
    taken = 0

    def counted(*args: Any) -> Tensor:
        nonlocal taken
        taken += 1
        if ranks.rank == ranks.world - 1 and taken >= 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(*args)

    trainer._parts.method_run.take_step = counted  # type: ignore[method-assign]
    summary = trainer.run()
    return summary.stopped, summary.step


def basics(ranks: Ranks) -> dict[str, Any]:
    here = torch.tensor([[ranks.rank, 10 * ranks.rank]])

    def fail_on_two() -> None:
        with together(ranks):
            if ranks.rank in (1, ranks.world - 1):
                raise ValueError(f"from {ranks.rank}")

    try:
        fail_on_two()
        met = ""
    except Exception as error:
        met = f"{type(error).__name__}: {error}"
    return {
        "gathered": ranks.all_gather(here),
        "sum": ranks.all_reduce(torch.tensor([1.0, ranks.rank])),
        "max": ranks.all_reduce(torch.tensor([1.0, ranks.rank]), "max"),
        "shared": ranks.broadcast(torch.tensor([7 + ranks.rank])),
        "objects": ranks.gather_objects({"rank": ranks.rank}),
        "told": tell(ranks, [ranks.rank, 5]),
        "met": met,
    }


def work(folder: Path) -> None:
    """What each of the four processes does."""
    with pytest.raises(TrainingError, match="so ends"), Ranks.from_environment(CPU) as four:
        members = dist.new_group([0, 1])
        runs = [four]
        if four.rank < 2:
            assert isinstance(members, dist.ProcessGroup)
            runs.append(Ranks(four.rank, 2, members))
        for ranks in runs:
            found: dict[str, Any] = {
                "basics": basics(ranks),
                "sums": sum_gradients(ranks),
                "overflow": [overflow_on_one(ranks, in_gradients=g) for g in (True, False)],
                "sampled": {o: sampled_steps_and_twin(ranks, o) for o in ("sgd", "adamw")},
                "resumed": run_and_resume(folder, ranks),
            }
            for world, accumulate in TWINS:
                if world == ranks.world:
                    for is_training in (False, True):
                        found[f"step {accumulate} {is_training}"] = take_steps(
                            ranks, accumulate=accumulate, is_training=is_training
                        )
            if ranks.world == 2:
                found["failures"] = fail_apart(folder, ranks)
                found["stopped"] = stop_one(folder, ranks)
                skipping = make_config(folder, shards=str(folder / "broken"), on_bad_image="skip")
                found["skipped"] = train(skipping, folder / "skipped", ranks)
                found["moved"] = train(
                    make_config(folder, accumulate=2, **ALIKE),
                    folder / "moving",
                    ranks,
                    resume=True,
                    max_steps=4,
                )
            torch.save(found, folder / f"{ranks.world}-{ranks.rank}.pt")
        # From one rank to two, above; now from two to four.
        four.gather_objects(None)
        train(make_config(folder, **ALIKE), folder / "moving", four, resume=True, max_steps=6)
        (folder / f"threads-{four.rank}").write_text(str(gloo_threads()))
        del runs, ranks, members  # a group lives as long as somebody holds it
        gc.collect()  # as do heads whose methods are replaced above: they hold themselves
        tell(four, error=TrainingError("so ends a run of which a rank has failed"))
    (folder / f"left-{four.rank}").write_text(str(gloo_threads()))


def gloo_threads() -> int:
    """This process's threads that serve a group, from torch 2.6 on: they have names since then."""
    names = [task.read_text() for task in Path("/proc/self/task").glob("*/comm")]
    return sum("gloo" in name for name in names)


# The tests ---------------------------------------------------------------------------------------


def write_faces(path: Path, make: Callable[[int, int], bytes], *, broken: int = 0) -> None:
    with facepack.PackWriter(path) as writer:
        for identity in range(CLASSES):
            for shot in range(7):
                image = make(identity, shot)
                if broken:
                    image, broken = image[:900] + b"\xff\xd9", broken - 1
                writer.add(image, identity)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_jpeg: Callable[..., bytes]) -> Path:
    """Where the ranks have been at work."""
    folder = tmp_path_factory.mktemp("ranks")

    def face(identity: int, shot: int) -> bytes:
        return make_jpeg(100 * identity + shot, size=112)

    write_faces(folder / "faces", face)
    write_faces(folder / "broken", face, broken=2)
    train(make_config(folder, accumulate=4, **ALIKE), folder / "alone", ALONE)
    train(make_config(folder, accumulate=4, **ALIKE), folder / "moving", ALONE, max_steps=2)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=4", "--standalone"]
    done = subprocess.run(
        [*command, __file__, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder


def found(folder: Path, world: int) -> list[dict[str, Any]]:
    files = [folder / f"{world}-{rank}.pt" for rank in range(world)]
    return [torch.load(file, weights_only=False) for file in files]


def test_failed_run_leaves_no_thread_that_aborts_the_process(folder: Path) -> None:
    during, after = (
        [int((folder / f"{name}-{rank}").read_text()) for rank in range(4)]
        for name in ("threads", "left")
    )
    assert min(during) > 0, "threads of gloo go by other names"
    assert after == [0] * 4


@pytest.mark.parametrize("world", WORLDS)
def test_ranks_speak_to_each_other(folder: Path, world: int) -> None:
    for rank, result in enumerate(found(folder, world)):
        said = result["basics"]
        assert said["gathered"].tolist() == [[r, 10 * r] for r in range(world)]
        assert said["sum"].tolist() == [world, sum(range(world))]
        assert said["max"].tolist() == [1.0, max(1, world - 1)]
        assert said["shared"].tolist() == [7]
        assert said["objects"] == [{"rank": r} for r in range(world)]
        assert said["told"] == [[r, 5] for r in range(world)]
        own, others = "ValueError: from 1", f"rank 1 of {world} failed: ValueError: from 1"
        assert said["met"] == (own if rank == 1 else f"OtherRankError: {others}")


@pytest.mark.parametrize("world", WORLDS)
def test_gradients_are_summed_over_ranks(folder: Path, world: int) -> None:
    one = sum_gradients(ALONE)
    for result in found(folder, world):
        for alone, summed in zip(one, result["sums"], strict=True):
            if alone is None:
                assert summed is None
            else:
                factor = sum(range(1, world + 1))
                torch.testing.assert_close(summed, factor * alone)
                assert summed.stride() == alone.stride()


@pytest.mark.parametrize(("world", "accumulate"), TWINS)
@pytest.mark.parametrize("is_training", [False, True])
def test_step_equals_one_process(
    folder: Path, world: int, accumulate: int, is_training: bool
) -> None:
    # With fixed statistics slices are no different from the whole batch.
    slices = world * accumulate if is_training else 1
    twin = take_plain_steps(slices=slices, is_training=is_training)
    one = take_steps(ALONE, accumulate=slices, is_training=is_training)
    results = [r[f"step {accumulate} {is_training}"] for r in found(folder, world)]
    for result in results:
        for other in (twin, one):
            torch.testing.assert_close(result["losses"], other["losses"], check_dtype=False)
            torch.testing.assert_close(result["backbone"], other["backbone"], rtol=1e-8, atol=1e-10)
        for first, own in zip(results[0]["losses"], result["losses"], strict=True):
            assert torch.equal(first, own)
        for first, own in zip(results[0]["backbone"], result["backbone"], strict=True):
            assert torch.equal(first, own)
    # The head keeps its momentum in float32, whatever its weights are.
    torch.testing.assert_close(results[0]["head"], twin["head"], rtol=1e-6, atol=1e-6)
    assert all(result["head"] is None for result in results[1:])


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_sampled_steps_equal_one_process(folder: Path, world: int, optimizer: str) -> None:
    # The loss is logged, and the head keeps its momentum, in float32.
    for result in found(folder, world):
        for name, (ours, theirs) in result["sampled"][optimizer].items():
            tight = {"rtol": 1e-6, "atol": 1e-6}
            torch.testing.assert_close(ours, theirs, **tight, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("how", [0, 1])
def test_overflow_on_one_rank_skips_the_step_on_all(folder: Path, world: int, how: int) -> None:
    results = [result["overflow"][how] for result in found(folder, world)]
    for result in results:
        scales = [step["scale"] for step in result["trace"]]
        assert scales == [2.0**16] + [2.0**15] * (STEPS - 1)
        assert [step["skipped"] for step in result["trace"]] == [0, 1, 1, 1, 1]
        assert not any(result["trace"][1]["moved"])
        assert all(any(step["moved"]) for step in result["trace"][2:])
        for first, own in zip(results[0]["weights"], result["weights"], strict=True):
            assert torch.equal(first, own)


@pytest.mark.parametrize("world", WORLDS)
def test_resumed_run_is_the_same_to_the_bit(
    assert_same: Callable[[Any, Any], None], folder: Path, world: int
) -> None:
    whole, cut = (
        load_checkpoint(folder / f"world{world}" / name / CHECKPOINT_FILE)
        for name in ("whole", "cut")
    )
    assert whole["ranks"] == len(whole["random"]) == world
    states = [state["cpu"] for state in whole["random"]]
    assert not torch.equal(states[0], states[1]), "each rank draws its own dropout"
    assert_same(whole, cut)
    results = [result["resumed"] for result in found(folder, world)]
    assert results[0][:3] == ("finished", 7, 4 * 16)
    assert len({repr(result) for result in results}) == 1, "loss and step are the same on all ranks"


def test_run_moves_to_other_numbers_of_ranks(folder: Path) -> None:
    # Steps 1 and 2 were one process's, 3 and 4 two's, 5 and 6 four's. The last is one's again.
    state = load_checkpoint(folder / "moving" / CHECKPOINT_FILE)
    assert (state["step"], state["ranks"]) == (6, 4)
    assert state["head"]["weight"].shape == (CLASSES, 16)
    config = make_config(folder, accumulate=4, **ALIKE)
    train(config, folder / "moving", ALONE, resume=True)
    moved, stayed = (
        load_checkpoint(folder / name / CHECKPOINT_FILE) for name in ("moving", "alone")
    )
    assert moved["step"] == stayed["step"] == 7
    torch.testing.assert_close(moved["head"]["weight"], stayed["head"]["weight"])
    for name in ("stem.0.weight", "fc.weight"):
        torch.testing.assert_close(moved["backbone"][name], stayed["backbone"][name])
    assert moved["last"]["loss"] == pytest.approx(stayed["last"]["loss"], rel=1e-4)


def test_error_of_one_rank_ends_all_with_its_words(folder: Path) -> None:
    first, second = (result["failures"] for result in found(folder, 2))
    assert second["build"][0] == "TrainingError"
    assert "no pack or image tree 'nowhere'" in second["build"][1]
    assert first["build"] == ("OtherRankError", f"rank 1 of 2 failed: {second['build'][1]}")

    decoding = sorted((first["decode"], second["decode"]))
    assert [name for name, _ in decoding] == ["DecodeError", "OtherRankError"]
    assert decoding[1][1].endswith(decoding[0][1])

    assert first["nan"][0] == "TrainingError"
    assert "the loss of step 1 is not finite" in first["nan"][1]
    assert second["nan"] == ("OtherRankError", first["nan"][1])

    assert first["batch"][0] == "ConfigError"
    assert "batch_size = 17 does not divide by 2 ranks × accumulate = 1" in first["batch"][1]
    assert second["batch"][0] == "OtherRankError", "what all find is said once"


def test_full_disk_of_the_first_rank_ends_all(folder: Path) -> None:
    first, second = (result["failures"]["disk"] for result in found(folder, 2))
    assert first[0] == "TrainingError"
    assert "cannot write" in first[1]
    assert second == ("OtherRankError", f"rank 0 of 2 failed: {first[1]}")


def test_signal_to_one_rank_stops_all_with_a_checkpoint(folder: Path) -> None:
    assert [result["stopped"] for result in found(folder, 2)] == [("interrupted", 4)] * 2
    assert load_checkpoint(folder / "stopped" / CHECKPOINT_FILE)["step"] == 4


def test_images_that_do_not_decode_are_left_out_on_all(folder: Path) -> None:
    first, second = (result["skipped"] for result in found(folder, 2))
    assert first == second
    stopped, _, images, skipped, _ = first
    assert (stopped, skipped > 0) == ("finished", True)
    # With each that is left out, the other rank leaves out one.
    assert 7 * 16 - 2 * skipped <= images < 7 * 16


# In one process ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "world"), [(10, 3), (4, 4), (7, 2), (1, 1), (2, 5)])
def test_shares_cover_everything_once(n: int, world: int) -> None:
    shares = [Ranks(rank, world).share(n) for rank in range(world)]
    assert np.concatenate([np.arange(*share) for share in shares]).tolist() == list(range(n))
    assert [stop - start for start, stop in shares] == [
        n // world + (rank < n % world) for rank in range(world)
    ]


def test_process_on_its_own_gets_back_what_it_gave() -> None:
    tensor = torch.arange(3.0)
    assert ALONE.all_reduce(tensor) is tensor
    assert ALONE.broadcast(tensor) is tensor
    assert ALONE.all_gather(tensor).data_ptr() == tensor.data_ptr()
    assert ALONE.gather_objects("me") == ["me"]
    assert tell(ALONE, [3, 4]) == [[3, 4]]
    error = TrainingError("mine")
    with pytest.raises(TrainingError) as caught:
        tell(ALONE, error=error)
    assert caught.value is error and not isinstance(error, OtherRankError)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "world", "message"),
    [
        (18, 1, 4, "batch_size = 18 does not divide by 4 ranks × accumulate = 1.*multiple of 4"),
        (16, 2, 3, "does not divide by 3 ranks × accumulate = 2.*Set it to a multiple of 6"),
        (
            8,
            2,
            4,
            "leaves one image in a micro-batch of each of 4 ranks.*at least 16, or start fewer",
        ),
    ],
)
def test_batch_must_divide_among_ranks(
    batch_size: int, accumulate: int, world: int, message: str
) -> None:
    config = TrainConfig(shards="x", batch_size=batch_size, accumulate=accumulate)
    with pytest.raises(FacepackError, match=message):
        check_ranks(config, Ranks(0, world))


def test_each_rank_takes_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rank_device("cuda:3") == "cuda:3"
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert rank_device(None) == rank_device("cuda") == "cuda:2"
    assert rank_device("cpu") == "cpu"
    with pytest.raises(FacepackError, match="cuda:1: with several processes each takes a device"):
        rank_device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(FacepackError, match=r"torch sees 3.*torchrun --nproc-per-node 3"):
        rank_device("cuda")


if __name__ == "__main__":
    began = time.perf_counter()
    work(Path(sys.argv[1]))
    print(f"{time.perf_counter() - began:.1f} s", file=sys.stderr)
