"""Images/s of the loader, warm, as a share of the raw decode limit of the same machine.

    python benchmarks/loader.py PACK [--threads 2] [--rounds 7] [--json FILE]

The limit is ``simplejpeg.decode_jpeg`` in as many threads, of the same images held in memory, with
nothing else to do. Limit and candidates take turns in rounds, and only shares within a round
count, so that other work on the machine disturbs them little. PACK is any pack of JPEGs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch

import facepack
from facepack.loading.loader import Loader

WARM_UP = 8  # batches not timed, so that nothing prepared while others ran is counted
CANDIDATES: dict[str, dict[str, Any]] = {
    "cpu uint8": {"backend": "cpu", "dtype": "uint8"},
    "cpu float32": {"backend": "cpu", "dtype": "float32"},
    "dali uint8": {"backend": "dali", "dtype": "uint8"},
    "dali float32": {"backend": "dali", "dtype": "float32"},
}


def time_decoding(images: list[bytes], threads: int) -> float:
    """Seconds an image takes simplejpeg in ``threads`` threads."""

    def decode(part: list[bytes]) -> None:
        for image in part:
            simplejpeg.decode_jpeg(image)

    with ThreadPoolExecutor(threads) as pool:
        parts = [images[number::threads] for number in range(threads)]
        start = time.perf_counter()
        list(pool.map(decode, parts))
        return (time.perf_counter() - start) / len(images)


def time_loading(loader: Loader, batches: int) -> float:
    """Seconds an image takes the loader, over ``batches`` batches after the warm-up."""
    seen, start = 0, 0.0
    while True:
        for batch in loader:
            if seen == WARM_UP:
                start = time.perf_counter()
            seen += 1
            if seen > WARM_UP + batches:
                return (time.perf_counter() - start) / (batches * len(batch.labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("--candidates", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--batches", type=int, default=48, help="timed in each round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()

    torch.set_num_threads(1)
    pack = facepack.open(options.pack)
    count = options.batches * options.batch_size
    positions = np.random.default_rng(0).integers(0, len(pack), count)
    images = [record.image for record in pack.batch(positions)]
    measures: dict[str, Callable[[], float]] = {
        "limit": partial(time_decoding, images, options.threads)
    }
    for name in options.candidates:
        loader = Loader(
            pack,
            batch_size=options.batch_size,
            threads=options.threads,
            **CANDIDATES[name],
        )
        measures[name] = partial(time_loading, loader, options.batches)
    rates: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(options.rounds + 1):
        for name, measure in measures.items():
            rate = 1 / measure()
            if turn:  # the first round warms the page cache and the decoders
                rates[name].append(rate)
        print(f"round {turn} of {options.rounds}", file=sys.stderr)

    results = {}
    print(f"{'':14}{'images/s':>10}{'share':>8}{'lowest':>8}{'highest':>8}")
    for name, values in rates.items():
        shares = sorted(value / limit for value, limit in zip(values, rates["limit"], strict=True))
        results[name] = {
            "images_per_s": statistics.median(values),
            "share_median": statistics.median(shares),
            "share_min": shares[0],
            "share_max": shares[-1],
        }
        print(
            f"{name:14}{statistics.median(values):10,.0f}{statistics.median(shares):8.3f}"
            f"{shares[0]:8.3f}{shares[-1]:8.3f}"
        )
    setting = describe(options, pack)
    print(", ".join(f"{key} {value}" for key, value in setting.items()))
    if options.json:
        report = {"setting": setting, "results": results, "rates": rates}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def describe(options: argparse.Namespace, pack: facepack.Pack) -> dict[str, str | int | float]:
    """What the figures were measured on and with."""
    versions = {}
    for package in ("facepack", "simplejpeg", "numpy", "lmdb", "torch", "nvidia-dali-cuda130"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return {
        "machine": processor(),
        "threads": options.threads,
        "batch": options.batch_size,
        "rounds": options.rounds,
        "images a round": options.batches * options.batch_size,
        "bytes an image": round(pack.manifest["payload_bytes"] / len(pack)),
        "python": platform.python_version(),
        **versions,
    }


def processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
