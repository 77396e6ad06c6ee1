"""What a step costs under full softmax, Partial FC and F2C: the head alone, and with its networks.

    python benchmarks/f2c.py [--identities 1000000] [--repeats 5] [--backbone tiny] [--json FILE]
    python benchmarks/f2c.py --pool 10000 --f2c-only         for other numbers of identities: flat
    python benchmarks/f2c.py --f2c-only --identities 10000000
    python benchmarks/f2c.py --paper                         memory at 1 M and 10 M, by arithmetic

Side by side in one run: the methods take turns, and each figure is the median of n steps, with the
least and the largest; they go to stderr as they come. A turn makes the method anew, for one of them
is in memory at a time (full softmax over a million identities takes 14 GB), and warms it up by a
step. A network pass has 256 images: of the softmax those of a
step; of F2C, in each of its two passes, two of three from the identities' pairs and one of three
from the instance loader. So a step of F2C has 512 images and its head works twice: times are given
for 256 images as well. Memory is what the head holds at its peak: on CUDA by the allocator; on the
CPU the growth of the process's peak, each method in a process of its own (Linux).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from facepack.train import backbones
from facepack.train.heads import CosFace, PartialFC
from facepack.train.methods.f2c.gallery import GalleryNetwork
from facepack.train.methods.f2c.method import pool_bytes
from facepack.train.methods.f2c.pool import Pool
from facepack.train.methods.f2c.step import F2CState, F2CStep
from facepack.train.methods.softmax.step import TrainStep
from facepack.train.precision import LossScaler

IMAGES, FEATURES = 256, 512
SAMPLED = {"softmax": 1.0, "partial_fc 0.1": 0.1}
"""Name → the share of the identities in a step's softmax."""

POOLED = {"f2c 1 %": 0.01, "f2c 0.1 %": 0.001}
"""Name → the share of the identities in the pool."""


class Embeddings(torch.nn.Module):
    """Stands for a network that costs nothing: an image is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(FEATURES))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The embeddings, with a gradient."""
        return images + self.shift


def pools_of(options: argparse.Namespace) -> dict[str, int]:
    """F2C's arms: name → slots."""
    if options.pool is not None:
        return {f"f2c K = {options.pool:,}": options.pool}
    return {name: max(1, int(share * options.identities)) for name, share in POOLED.items()}


def methods_of(options: argparse.Namespace) -> list[str]:
    """The names of all that are measured."""
    return [*(() if options.f2c_only else SAMPLED), *pools_of(options)]


def make_step(
    name: str, options: argparse.Namespace, backbone: torch.nn.Module, shape: tuple[int, ...]
) -> Callable[[], Any]:
    """One step of the method on random images of ``shape``; labels anew each time."""
    identities, device = options.identities, options.device
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.01, momentum=0.9)
    scaler = LossScaler(torch.device(device), enabled=False)
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> torch.Tensor:
        return torch.randint(identities, (count,), generator=generator).to(device)

    x, y = (torch.randn(IMAGES, *shape, device=device) for _ in "xy")
    if name in SAMPLED:
        head = PartialFC(
            identities, FEATURES, margin=CosFace(), sample_rate=SAMPLED[name], device=device
        )
        whole = TrainStep(backbone, head, optimizer, scaler)
        return lambda: whole(x, draw(IMAGES), 0.01)
    pool = Pool(pools_of(options)[name], FEATURES, device=device)
    for slot in range(pool.lru.capacity):  # a pool that is full, as it is but for the first steps
        pool.lru.get(identities + slot)
    state = F2CState(pool, GalleryNetwork(backbone, 0.99))
    step = F2CStep(backbone, state, optimizer, scaler, kind="am", margin=0.5, scale=32.0)
    pairs = 2 * IMAGES // 3

    def take() -> Any:
        both = draw(pairs)
        ends = [torch.cat([both, draw(IMAGES - pairs)]) for _ in "xy"]
        return step(x, ends[0], y, ends[1], 0.01)

    return take


def make_part(name: str, part: str, options: argparse.Namespace) -> Callable[[], Any]:
    """A step of the head alone, or of the whole with its networks."""
    torch.manual_seed(0)
    backbone: torch.nn.Module = Embeddings()
    shape: tuple[int, ...] = (FEATURES,)
    if part == "whole":
        backbone = backbones.build(options.backbone, features=FEATURES)
        shape = (3, 112, 112)
    backbone = backbone.to(options.device).train()
    return make_step(name, options, backbone, shape)


def seconds_of(step: Callable[[], Any], device: str) -> float:
    """The time of one step."""
    start = time.perf_counter()
    step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_of(name: str, options: argparse.Namespace, send: Any) -> None:
    """Send the bytes that two steps of a head take at their peak."""
    torch.set_num_threads(options.threads)
    is_cuda = options.device.startswith("cuda")
    if is_cuda:
        torch.zeros(1, device=options.device)
        before = torch.cuda.memory_allocated()
    else:
        small = argparse.Namespace(**{**vars(options), "identities": 1000, "pool": None})
        alike = name if name in SAMPLED else next(iter(POOLED))
        make_part(alike, "head", small)()  # what libraries take, they have taken
        before = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = make_part(name, "head", options)
    for _ in range(2):
        step()
    after = (
        torch.cuda.max_memory_allocated()
        if is_cuda
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    send.send(after - before)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures: part → method → milliseconds, and the heads' peaks in bytes."""
    context = multiprocessing.get_context("spawn")
    methods = methods_of(options)
    found: dict[str, Any] = {"memory": {}}
    for name in methods:
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=peak_of, args=(name, options, send))
        process.start()
        send.close()
        found["memory"][name] = receive.recv()
        process.join()
        say(f"{name}: head's peak {found['memory'][name] / 1e6:,.0f} MB")
    for part in ("head", "whole"):
        found[part] = {name: [] for name in methods}
        for turn in range(1, options.repeats + 1):
            for name in methods:
                step = make_part(name, part, options)
                step()
                found[part][name].append(1e3 * seconds_of(step, options.device))
                say(f"{part}, turn {turn}, {name}: {found[part][name][-1]:,.1f} ms")
                del step
    return found


def say(text: str) -> None:
    """Tell a figure at once."""
    print(text, file=sys.stderr, flush=True)


def show(found: dict[str, Any]) -> None:
    """Print the figures as a table."""
    print("| | head ms (least–most) | for 256 images | peak MB | whole ms (least–most) |")
    print("| :-- | --: | --: | --: | --: |")
    for name, head in found["head"].items():
        whole = found["whole"][name]
        median = statistics.median(head)
        per_pass = median / (1 if name in SAMPLED else 2)
        print(
            f"| {name} | {median:.1f} ({min(head):.1f}–{max(head):.1f}) | {per_pass:.1f} | "
            f"{found['memory'][name] / 1e6:,.0f} | {statistics.median(whole):,.0f} "
            f"({min(whole):,.0f}–{max(whole):,.0f}) |"
        )


def show_paper() -> None:
    """Print what lasts in memory, by arithmetic: centres and momentum, or the pool."""
    print("| identities | softmax GB | partial_fc 0.1 GB | f2c 1 % GB | f2c 0.1 % GB |")
    print("| --: | --: | --: | --: | --: |")
    for identities in (1_000_000, 10_000_000):
        centres = 2 * 4 * FEATURES * identities
        copies = int(0.1 * identities) * FEATURES * 4
        pools = [pool_bytes(int(share * identities), FEATURES) for share in POOLED.values()]
        cells = [centres, centres + copies, *pools]
        print(f"| {identities:,} | " + " | ".join(f"{cell / 1e9:.3f}" for cell in cells) + " |")


def main() -> None:
    """Run what the options say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--identities", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--pool", type=int, metavar="K", help="slots, in the place of shares")
    parser.add_argument("--f2c-only", action="store_true", help="no softmax, no Partial FC")
    parser.add_argument("--paper", action="store_true", help="by arithmetic, at 1 M and 10 M")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.paper:
        show_paper()
        return
    torch.set_num_threads(options.threads)
    found = measure(options)
    print(
        f"{options.identities:,} identities, {options.device}, {options.threads} threads,", end=" "
    )
    print(f"torch {torch.__version__}, {platform.machine()}, n = {options.repeats}\n")
    show(found)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
