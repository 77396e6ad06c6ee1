"""What mining hard tail identities costs: its own work beside a step, and its forward passes.

    OMP_NUM_THREADS=1 python benchmarks/mining.py PACK [--backbone r18] [--bag 96] [--rounds 5]

A bag's own work is to draw 1,200 of 100,000 identities and to find the hard ones by their centres'
distances; beside it the forward and backward pass of a step of 720 images (360 of the head, 3 of
each of 120 hard identities), timed on ``--batch-size`` images and multiplied. Then whole mining of
bags of PACK, which reads, decodes and embeds three images of each of ``--bag`` identities, and
decodes the batch that comes of it, beside the bare forward passes of as many images in memory; both
take turns, and a ratio is of one round. Weights are random.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from functools import partial
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is first imported

import numpy as np
import torch
from embed import bare, print_shares, take_turns, timed

import facepack
from facepack.train.backbones import Backbone, build
from facepack.train.collect import make_config
from facepack.train.methods.method import Setup
from facepack.train.methods.unequal.mining import Bags, hardest_identities
from facepack.train.methods.unequal.tail import HardTail
from facepack.train.ranks.group import ALONE

IDENTITIES, IMAGES_OF_STEP = 100_000, 720


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("--backbone", default="r18")
    parser.add_argument("--bag", type=int, default=96, help="identities in a bag of PACK")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    model = build(options.backbone).to(device, memory_format=torch.channels_last)
    own = own_work(options.rounds)
    print_seconds("own work for a bag", own)
    step = step_of(model, options.batch_size, device, options.rounds)
    print_seconds(f"a step of {IMAGES_OF_STEP} images", step)
    share = statistics.median(own) / statistics.median(step)
    print(f"own work, of a step: {100 * share:.2f} %")
    print_shares(mine(model, device, options))
    print(
        f"{options.backbone}, bags of {options.bag} × 3 images in batches of "
        f"{options.batch_size}, {platform.machine()}, {torch.get_num_threads()} threads, load "
        f"{os.getloadavg()[0]:.1f}, torch {torch.__version__}"
    )


def own_work(rounds: int) -> list[float]:
    """Processor seconds to draw a bag and to find its hard identities."""
    rng = np.random.default_rng(0)
    bags = Bags(
        np.repeat(np.arange(IDENTITIES), 5), identities=1_200, images=3, repeat=False, seed=0
    )
    embeddings = rng.normal(size=(1_200, 3, 512)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=2, keepdims=True)

    def work(number: int) -> None:
        bags.positions(number)
        hardest_identities(embeddings, 120)

    return [timed(partial(work, number))["cpu"] for number in range(-1, rounds)][1:]


def step_of(model: Backbone, batch_size: int, device: torch.device, rounds: int) -> list[float]:
    """Seconds of the passes of a step; on a CPU, those of the processors."""
    images = torch.randn(batch_size, 3, *model.image_size, device=device)

    def work() -> None:
        model(images).square().sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    model.train()
    what = "cpu" if device.type == "cpu" else "seconds"
    times = [timed(work)[what] for _ in range(-1, rounds)][1:]
    return [IMAGES_OF_STEP / batch_size * seconds for seconds in times]


def mine(
    model: Backbone, device: torch.device, options: argparse.Namespace
) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Seconds of mining a bag, and of its bare passes, in rounds."""
    with facepack.open(options.pack) as pack:
        bags = Bags(pack.labels, identities=options.bag, images=3, repeat=True, seed=0)
        options.bag = bags.size
        unused: Any = None
        setup = Setup(
            config=make_config(
                {
                    "shards": str(options.pack),
                    "backbone": options.backbone,
                    "batch_size": options.batch_size,
                    "loader": "cpu",
                }
            ),
            device=device,
            ranks=ALONE,
            data=cast(Any, pack),
            backbone=model,
            optimizer=unused,
            scaler=unused,
        )
        hard = HardTail(
            setup, cast(Any, pack), bags, hard=max(2, bags.size // 10), bags_per_round=1, passes=1
        )
        chosen = bags.positions(0).ravel().tolist()
        pixels = torch.from_numpy(np.stack([pack.decode(at) for at in chosen]))

        def whole() -> None:
            model.train()
            hard.next()

        def passes() -> None:
            model.eval()
            bare(model, pixels, options.batch_size, device, mirrored=False)

        try:
            return take_turns(whole, passes, options.rounds)
        finally:
            hard.close()


def print_seconds(what: str, seconds: list[float]) -> None:
    """Print their median and range."""
    low, high = min(seconds), max(seconds)
    print(
        f"{what}: {statistics.median(seconds):.3f} s ({low:.3f} to {high:.3f}, n = {len(seconds)})"
    )


if __name__ == "__main__":
    main()
