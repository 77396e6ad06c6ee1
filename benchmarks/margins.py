"""What a step of the head costs under each margin, beside ArcFace's, one after the other.

    python benchmarks/margins.py [--identities 100000] [--rate 1] [--batch 128] [--n 7]

A step is forward, backward and update of random embeddings. Heads of ArcFace and of the other
margin take steps by turns in one process; the ratio is that of each turn, its median and range.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from facepack.train.heads import PartialFC, build_margin
from facepack.train.heads.margins import MARGINS
from facepack.train.precision import float32_products

# Variants that take another way through the head.
VARIANTS = {name: (name, {}) for name in sorted(MARGINS)} | {
    "sphereface r_v1": ("sphereface", {"variant": "r_v1"}),
    "sphereface r_v2": ("sphereface", {"variant": "r_v2"}),
}


def make_step(
    variant: str, options: argparse.Namespace, device: torch.device
) -> Callable[[], None]:
    """A step of a head with that margin."""
    name, settings = VARIANTS[variant]
    head = PartialFC(
        options.identities,
        512,
        margin=build_margin(name, **settings),
        sample_rate=options.rate,
        chunk=options.chunk,
        device=device,
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(options.batch, 512, generator=generator).to(device)
    labels = torch.randint(options.identities, (options.batch,), generator=generator).to(device)
    records = np.arange(options.batch)

    def step() -> None:
        embeddings = images.clone().requires_grad_()
        with float32_products(tf32=True):
            head(embeddings, labels, records).backward()
        head.step(0.01)

    return step


def seconds(step: Callable[[], None], device: torch.device) -> float:
    """Of one step."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Print a line a margin."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--identities", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--chunk", type=int)
    parser.add_argument("--n", type=int, default=7)
    parser.add_argument("--margins", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(
        f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads; "
        f"{options.identities:,} identities, rate {options.rate:g}, batch {options.batch}, "
        f"chunk {options.chunk}, n = {options.n}"
    )
    plain = make_step("arcface", options, device)
    rows = []
    for variant in options.margins:
        step = make_step(variant, options, device)
        plain(), step()
        turns = [(seconds(plain, device), seconds(step, device)) for _ in range(options.n)]
        ratios = [other / arcface for arcface, other in turns]
        row = {
            "margin": variant,
            "ms": 1e3 * statistics.median(other for _, other in turns),
            "ratio": statistics.median(ratios),
            "range": (min(ratios), max(ratios)),
        }
        rows.append(row)
        print(
            f"{variant:18}{row['ms']:9.1f} ms   {row['ratio']:.2f} of arcface's "
            f"({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )
        del step
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
