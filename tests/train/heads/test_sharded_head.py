"""A head over several processes against one process on the global batch.

Four gloo processes do all of it once, the first two of them also as a world of two. Each check
notes what it found, and is a test here.
"""

from __future__ import annotations

import socket
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from facepack.train.heads import ArcFace, PartialFC, build_margin, partial_fc
from facepack.train.heads.faces import gather_faces
from facepack.train.heads.logits import LogitRule, margin_logits
from facepack.train.methods.unequal.rule import NoiseResistantRule
from facepack.train.ranks.group import Ranks

PROCESSES = 4
FEATURES = 6
LR = 0.1
# Faces of each rank: unequal, as where images are broken.
PARTS = {2: [5, 3], 4: [3, 1, 4, 0]}


def make_head(ranks: Ranks | None, *, classes: int = 23, **options: Any) -> PartialFC:
    settings = {"scale": 16.0, "seed": 3, "weight_decay": 5e-3, "interclass_filter": 0.4} | options
    if ranks is not None:
        settings["ranks"] = ranks
    return PartialFC(classes, FEATURES, margin=ArcFace(margin=0.3), **settings)


def batches(
    steps: int, *, world: int, classes: int, dtype: torch.dtype
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        faces = sum(PARTS[world])
        images = torch.randn(faces, FEATURES, dtype=torch.float64, generator=generator).to(dtype)
        yield images, torch.randint(classes, (faces,), generator=generator)


def own_part(tensor: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    return tensor.split(PARTS[ranks.world])[ranks.rank]


def rows_of(tensor: torch.Tensor, ranks: Ranks, classes: int) -> torch.Tensor:
    start, stop = ranks.share(classes)
    return tensor[start:stop]


def check_one_process(
    ranks: Ranks, optimizer: str, chunk: int | None, micro_batches: int, dtype: torch.dtype
) -> None:
    options = {"optimizer": optimizer, "chunk": chunk}
    sharded = make_head(ranks, **options).to(dtype)
    alone = make_head(None, optimizer=optimizer).to(dtype)
    double = dtype == torch.float64
    tight = {"rtol": 1e-10, "atol": 1e-12} if double else {"rtol": 1e-4, "atol": 1e-4}
    found = []
    steps = batches(3 * micro_batches, world=ranks.world, classes=23, dtype=dtype)
    for _ in range(3):
        for _ in range(micro_batches):
            images, labels = next(steps)
            theirs = images.clone().requires_grad_()
            ours = own_part(images, ranks).clone().requires_grad_()
            expected = alone(theirs, labels)
            loss = sharded(ours, own_part(labels, ranks))
            (expected / micro_batches).backward()
            (loss / micro_batches).backward()
            found.append((loss, expected))
            found.append((ours.grad, own_part(theirs.grad, ranks)))
        alone.step(LR)
        sharded.step(LR)
    for name, value in sharded.named_buffers():
        found.append((value, rows_of(alone.get_buffer(name), ranks, 23)))
    for actual, wanted in found:
        torch.testing.assert_close(actual, wanted, **tight)


MARGINS: dict[str, dict[str, Any]] = {
    "sphereface": {"factor": 2.0, "lambda_base": 9.0},
    "curricularface": {"momentum": 0.7},
    "magface": {"low_norm": 1.0, "high_norm": 3.0},
    "adaface": {"t_alpha": 0.3},
    "uniface": {},
    "subcenter": {},
    "elastic": {"deviation": 0.1},
    "elastic_plus": {"deviation": 0.1},
}


def check_margin(ranks: Ranks, name: str, chunk: int | None) -> None:
    """What a margin needs of the faces, and keeps, is the same on any number of ranks."""
    options: dict[str, Any] = {"scale": 16.0, "seed": 3, "weight_decay": 5e-3}
    margin = build_margin(name, **MARGINS[name])
    for classes in (23, 3):
        sharded = PartialFC(
            classes, FEATURES, margin=margin, chunk=chunk, ranks=ranks, **options
        ).double()
        alone = PartialFC(classes, FEATURES, margin=margin, **options).double()
        found = []
        for images, labels in batches(6, world=ranks.world, classes=classes, dtype=torch.float64):
            records = labels.numpy() * 7
            theirs = images.clone().requires_grad_()
            ours = own_part(images, ranks).clone().requires_grad_()
            expected = alone(theirs, labels, records)
            loss = sharded(
                ours, own_part(labels, ranks), own_part(torch.tensor(records), ranks).numpy()
            )
            expected.backward()
            loss.backward()
            found += [(loss, expected), (ours.grad, own_part(theirs.grad, ranks))]
            alone.step(LR)
            sharded.step(LR)
        found.append((sharded.weight, rows_of(alone.weight, ranks, classes)))
        found += zip(sharded.margin_state.buffers(), alone.margin_state.buffers(), strict=True)
        for actual, wanted in found:
            torch.testing.assert_close(actual, wanted, rtol=1e-8, atol=1e-10)


def check_noise_resistance(ranks: Ranks, chunk: int | None) -> None:
    """The class that the model believes may lie on any rank."""
    sharded = make_head(ranks, chunk=chunk).double()
    alone = make_head(None).double()
    for head in (sharded, alone):
        kept = {name: getattr(head.logits, name) for name in ("margin", "scale")}
        head.logits = NoiseResistantRule(**kept, beta=0.6)
    for images, labels in batches(3, world=ranks.world, classes=23, dtype=torch.float64):
        theirs = images.clone().requires_grad_()
        ours = own_part(images, ranks).clone().requires_grad_()
        expected = alone(theirs, labels)
        loss = sharded(ours, own_part(labels, ranks))
        expected.backward()
        loss.backward()
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(ours.grad, own_part(theirs.grad, ranks), rtol=1e-9, atol=1e-12)
        alone.step(LR)
        sharded.step(LR)
    torch.testing.assert_close(sharded.weight, rows_of(alone.weight, ranks, 23))


def check_few_classes(ranks: Ranks) -> None:
    """Fewer classes than ranks: some hold none."""
    for sample_rate in (0.0, 0.5, 1.0):
        for chunk in (None, 1):
            head = make_head(ranks, classes=3, sample_rate=sample_rate, chunk=chunk).double()
            for images, labels in batches(2, world=ranks.world, classes=3, dtype=torch.float64):
                ours = own_part(images, ranks).clone().requires_grad_()
                loss = head(ours, own_part(labels, ranks))
                loss.backward()
                head.step(LR)
                assert torch.isfinite(loss)
                assert torch.isfinite(ours.grad).all()


def sampled_loss(
    images: torch.Tensor, centres: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    """The softmax over all classes, those not in ``rows`` at probability 0."""
    rule = LogitRule(margin=ArcFace(margin=0.3), scale=16.0, interclass_filter=0.4)
    logits = margin_logits(torch.nn.functional.normalize(images), centres, labels, rule)
    absent = torch.ones(len(centres), dtype=torch.bool)
    absent[rows] = False
    return torch.nn.functional.cross_entropy(logits.masked_fill(absent, -torch.inf), labels)


def check_sampled(ranks: Ranks, sample_rate: float, chunk: int | None) -> None:
    classes = 61
    head = make_head(ranks, classes=classes, sample_rate=sample_rate, chunk=chunk).double()
    start, stop = ranks.share(classes)
    found = []
    for images, labels in batches(3, world=ranks.world, classes=classes, dtype=torch.float64):
        every = torch.cat(ranks.gather_objects(head.weight.clone()))
        ours = own_part(images, ranks).clone().requires_grad_()
        loss = head(ours, own_part(labels, ranks))
        (used,) = head._pending
        here = used.rows
        mine = labels[(labels >= start) & (labels < stop)].unique() - start
        rows = torch.cat(ranks.gather_objects(here + start))
        theirs, leaf = images.clone().requires_grad_(), every.clone().requires_grad_()
        expected = sampled_loss(theirs, leaf, labels, rows)
        expected.backward()
        loss.backward()
        found += [
            (len(here), max(int(sample_rate * (stop - start)), len(mine))),
            (set(mine.tolist()) - set(here.tolist()), set()),
            (loss, expected),
            (ours.grad, own_part(theirs.grad, ranks)),
            # The step writes into it.
            (used.centres.grad.clone(), leaf.grad[start:stop][here]),
        ]
        head.step(LR)
    for actual, wanted in found:
        if isinstance(actual, torch.Tensor):
            torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-12)
        else:
            assert actual == wanted


def check_dense(ranks: Ranks, sample_rate: float, optimizer: str, storage: str) -> None:
    """Each rank against torch's optimizer over its whole part, also where it used no row."""
    classes = 61
    head = make_head(
        ranks,
        classes=classes,
        sample_rate=sample_rate,
        optimizer=optimizer,
        storage=storage,
        update="dense",
    ).double()
    start, stop = ranks.share(classes)
    whole = torch.nn.Parameter(head.weight.clone())
    rule = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer]
    momentum = {"momentum": 0.9} if optimizer == "sgd" else {}
    theirs = rule([whole], lr=LR, weight_decay=5e-3, **momentum)
    for images, labels in batches(3, world=ranks.world, classes=classes, dtype=torch.float64):
        loss = head(own_part(images, ranks), own_part(labels, ranks))
        (used,) = head._pending
        rows = torch.cat(ranks.gather_objects(used.rows + start))
        leaf = torch.cat(ranks.gather_objects(whole.detach().clone())).requires_grad_()
        sampled_loss(images, leaf, labels, rows).backward()
        loss.backward()
        whole.grad = leaf.grad[start:stop].clone()
        head.step(LR)
        theirs.step()
        torch.testing.assert_close(head.weight, whole.detach(), rtol=1e-9, atol=1e-12)


def check_ranks_draw_apart(ranks: Ranks) -> None:
    head = make_head(ranks, classes=400, sample_rate=0.2)
    for images, labels in batches(1, world=ranks.world, classes=400, dtype=torch.float32):
        head(own_part(images, ranks), own_part(labels, ranks))
    drawn = ranks.gather_objects(head._pending[0].rows.tolist())
    assert all(drawn[0] != other for other in drawn[1:])


def check_initial_centres(ranks: Ranks) -> None:
    for classes in (3, 23, 2100):
        part = make_head(ranks, classes=classes).weight
        whole = make_head(None, classes=classes).weight
        assert torch.equal(part, rows_of(whole, ranks, classes))


def check_whole_state(ranks: Ranks, block: int, options: dict[str, Any]) -> None:
    """Through one process's state and back, to the same bits."""
    partial_fc._GATHERED_ROWS = block  # no other check looks at it
    head = make_head(ranks, sample_rate=0.5, **options)
    for images, labels in batches(2, world=ranks.world, classes=23, dtype=torch.float32):
        head(own_part(images, ranks), own_part(labels, ranks)).backward()
        head.step(LR)
    state = head.whole_state()
    parts = ranks.gather_objects(dict(head.named_buffers()))
    (state, *others) = ranks.gather_objects(state)
    assert all(other is None for other in others)
    for name in parts[0]:
        assert torch.equal(state[name], torch.cat([part[name] for part in parts]))
    alone = make_head(None, sample_rate=0.5, **options | {"seed": 9})
    alone.load_state_dict(state)
    again = make_head(ranks, sample_rate=0.5, **options | {"seed": 9})
    again.load_whole_state(alone.whole_state())
    assert (
        again.get_extra_state()
        == head.get_extra_state()
        == {
            "seed": 3,
            "draws": 2,
            "steps": 2,
        }
    )
    for name, value in again.named_buffers():
        assert torch.equal(value, head.get_buffer(name))


def check_other_number_of_ranks(ranks: Ranks) -> None:
    """A full softmax goes on from one process's state as that process does."""
    alone = make_head(None).double()
    steps = batches(3, world=ranks.world, classes=23, dtype=torch.float64)
    images, labels = next(steps)
    alone(images, labels).backward()
    alone.step(LR)
    sharded = make_head(ranks, seed=8).double()
    sharded.load_whole_state(alone.whole_state())
    for images, labels in steps:
        alone(images, labels).backward()
        alone.step(LR)
        sharded(own_part(images, ranks), own_part(labels, ranks)).backward()
        sharded.step(LR)
    torch.testing.assert_close(sharded.weight, rows_of(alone.weight, ranks, 23))


def check_overflow(ranks: Ranks) -> None:
    head = make_head(ranks)
    before = head.weight.clone()
    for images, labels in batches(1, world=ranks.world, classes=23, dtype=torch.float32):
        (head(own_part(images, ranks), own_part(labels, ranks)) * torch.inf).backward()
        head.step(LR, grad_scale=torch.tensor(8.0), found_inf=torch.tensor(1.0))
    assert torch.equal(head.weight, before)


def check_gathered_faces(ranks: Ranks) -> None:
    part = torch.full((PARTS[ranks.world][ranks.rank], 2), float(ranks.rank))
    faces = gather_faces(part, torch.full((len(part),), ranks.rank), ranks)
    counts = PARTS[ranks.world]
    size, total = max(counts), sum(counts)
    expected = [rank if i < n else -1 for rank, n in enumerate(counts) for i in range(size)]
    assert faces.labels.tolist() == expected
    assert faces.embeddings.shape == (size * ranks.world, 2)
    wanted = torch.tensor([0.0 if label < 0 else 1 / total for label in expected])
    torch.testing.assert_close(faces.weights, wanted)


Check = Callable[[Ranks], None]


def checks(world: int) -> dict[str, Check]:
    """All checks by name, for two ranks a few; the same in every process."""
    every: dict[str, Check] = {
        "few classes": check_few_classes,
        "ranks draw apart": check_ranks_draw_apart,
        "initial centres": check_initial_centres,
        "other number of ranks": check_other_number_of_ranks,
        "overflow": check_overflow,
        "gathered faces": check_gathered_faces,
    }
    for optimizer, chunk, k in product(("sgd", "adamw"), (None, 4), (1, 2)):
        every[f"one process {optimizer} chunk={chunk} k={k}"] = (
            lambda ranks, a=(optimizer, chunk, k, torch.float64): check_one_process(ranks, *a)
        )
    for chunk in (None, 4):
        every[f"one process in float32 chunk={chunk}"] = lambda ranks, c=chunk: check_one_process(
            ranks, "sgd", c, 1, torch.float32
        )
    for rate, chunk in product((0.0, 0.2, 0.7), (None, 3)):
        every[f"sampled {rate} chunk={chunk}"] = lambda ranks, a=(rate, chunk): check_sampled(
            ranks, *a
        )
    for rate, optimizer, storage in product((0.0, 0.2), ("sgd", "adamw"), ("device", "host")):
        every[f"dense {rate} {optimizer} {storage}"] = lambda ranks, a=(rate, optimizer, storage): (
            check_dense(ranks, *a)
        )
    for name, chunk in product(MARGINS, (None, 4)):
        every[f"margin {name} chunk={chunk}"] = lambda ranks, a=(name, chunk): check_margin(
            ranks, *a
        )
    for chunk in (None, 4):
        every[f"noise resistance chunk={chunk}"] = lambda ranks, c=chunk: check_noise_resistance(
            ranks, c
        )
    kinds: dict[str, dict[str, Any]] = {
        "sgd": {},
        "adamw": {"optimizer": "adamw"},
        "bf16": {"momentum_dtype": torch.bfloat16},
        "host": {"storage": "host"},
    }
    for (kind, options), block in product(kinds.items(), (4, 1000)):
        every[f"whole state {kind} block={block}"] = lambda ranks, a=(block, options): (
            check_whole_state(ranks, *a)
        )
    few = (
        "one process sgd",
        "margin",
        "noise",
        "initial",
        "whole state sgd",
        "gathered",
        "sampled 0.2",
        "dense 0.2",
    )
    return {name: each for name, each in every.items() if world > 2 or name.startswith(few)}


def work(rank: int, port: int, folder: Path) -> None:
    """One process: all checks in a world of four, then, in the first two, in one of two."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=PROCESSES,
        timeout=timedelta(minutes=5),
    )
    two = dist.new_group([0, 1])
    worlds = [Ranks(rank, 4, dist.group.WORLD)]
    if rank < 2:
        worlds.append(Ranks(rank, 2, two))
    found: dict[tuple[int, str], str] = {}
    try:
        for ranks in worlds:
            for name, check in checks(ranks.world).items():
                try:
                    check(ranks)
                except AssertionError:
                    found[ranks.world, name] = traceback.format_exc()
                except Exception:
                    # The others may wait for what will not come: leave, so that they do too.
                    found[ranks.world, name] = traceback.format_exc()
                    raise
        dist.barrier()
        dist.destroy_process_group()
    finally:
        torch.save(found, folder / f"{rank}.pt")


def launch(_: int, port: int, folder: Path) -> None:
    """Fork the processes from one that has imported all and has no threads yet."""
    mp.start_processes(work, (port, folder), nprocs=PROCESSES, start_method="fork")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[int, str], str]]:
    folder = tmp_path_factory.mktemp("sharded-head")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(launch, (port, folder), nprocs=1)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


@pytest.mark.parametrize(
    ("world", "name"), [(world, name) for world in (2, 4) for name in checks(world)]
)
def test_ranks_together(found: list[dict[tuple[int, str], str]], world: int, name: str) -> None:
    for rank in range(world):
        assert (world, name) not in found[rank], f"rank {rank}:\n{found[rank][world, name]}"
