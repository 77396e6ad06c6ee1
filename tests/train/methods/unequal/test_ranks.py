"""The last stage on two gloo ranks: the hard identities of one process, and resuming to the bit."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import facepack
from facepack.care.select import split
from facepack.train.config import TrainConfig
from facepack.train.loop.checkpoint import load_checkpoint
from facepack.train.loop.run import Trainer
from facepack.train.ranks.group import ALONE, Ranks
from tests.train.conftest import make_jpeg

COUNTS = (10, 9, 4, 12, 3, 5, 3, 2, 3, 4, 9)


def make_config(folder: Path, stage: str, **changes: Any) -> TrainConfig:
    options: dict[str, Any] = {"stage": stage}
    if stage == "tail":
        options |= {"tail": str(folder / "tail"), "hard_identities": 4, "bag_identities": 6}
        options |= {"bags": 3, "block": 2}
    settings: dict[str, Any] = {
        "shards": str(folder / "head"),
        "method": "unequal",
        "method_options": options,
        "margin": "arcface",
        "backbone": "tiny",
        "features": 16,
        "lr": 0.05,
        "schedule": "constant",
        "steps": 5,
        "batch_size": 8,
        "precision": "fp32",
        "log_every": 2,
        "threads": 1,
        "loader_threads": 1,
    }
    return TrainConfig(**{**settings, **changes})


def train(config: TrainConfig, out: Path, ranks: Ranks, **options: Any) -> Trainer:
    last = options.pop("max_steps", None)
    trainer = Trainer(config, out=out, device="cpu", notify=lambda _: None, ranks=ranks, **options)
    trainer.run(max_steps=last)
    return trainer


def work(rank: int, port: int, folder: Path) -> None:
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    ranks = Ranks(rank, 2)
    settings = make_config(folder, "tail", pretrained=str(folder / "denoise"))
    train(settings, folder / "whole", ranks)
    train(settings, folder / "begun", ranks, max_steps=1)
    train(settings, folder / "parts", ranks, max_steps=2)
    train(settings, folder / "parts", ranks, resume=True)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of the first stages on one process, and of the last on two."""
    folder = tmp_path_factory.mktemp("ranks")
    with facepack.PackWriter(folder / "all", classes=len(COUNTS)) as writer:
        for identity, count in enumerate(COUNTS):
            for shot in range(count):
                writer.add(make_jpeg(identity, shot), identity)
    split(folder / "all", folder / "head", folder / "tail")
    train(make_config(folder, "head", steps=2), folder / "first", ALONE)
    denoise = make_config(folder, "denoise", steps=2, pretrained=str(folder / "first"))
    train(denoise, folder / "denoise", ALONE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(work, (port, folder), nprocs=2)
    return folder


def test_two_ranks_find_the_hard_identities_of_one(folder: Path) -> None:
    settings = make_config(folder, "tail", pretrained=str(folder / "denoise"), steps=1)
    train(settings, folder / "alone", ALONE)
    # The first round is mined before the first step, by the same network.
    alone, two = (
        load_checkpoint(folder / name / "checkpoint.pt")["head"]["unequal"]["tail"]
        for name in ("alone", "begun")
    )
    assert alone["round"] == two["round"] == 0
    assert torch.equal(alone["picked"], two["picked"])


def test_resuming_on_two_ranks_is_bit_for_bit(folder: Path, assert_same: Any) -> None:
    one, other = (load_checkpoint(folder / name / "checkpoint.pt") for name in ("whole", "parts"))
    assert_same(one, other)
