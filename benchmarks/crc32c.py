"""CRC-32C of images in memory: by NumPy, as TFRecords are checked, by a loop, by google-crc32c.

    pip install google-crc32c
    python benchmarks/crc32c.py

Methods take turns within a round. Printed are MB per CPU second: medians over the rounds, with the
lowest and highest beside them.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable

import numpy as np

from facepack.convert.formats.tfrecord.crc32c import crc32c, short_crc32c

_LOOPED = 200_000  # bytes, for the loop in Python


def main() -> None:
    """Measure every method that is installed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=6200, help="Of an image.")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    lengths = np.random.default_rng(0).integers(
        options.bytes * 4 // 5, options.bytes * 6 // 5, options.images
    )
    stops = np.cumsum(lengths)
    starts = stops - lengths
    data = np.random.default_rng(1).integers(0, 256, stops[-1], np.uint8)
    methods: dict[str, tuple[int, Callable[[], object]]] = {
        "NumPy": (len(data), lambda: crc32c(data, starts, stops)),
        "loop": (_LOOPED, lambda: short_crc32c(data[:_LOOPED].tobytes())),
    }
    try:
        google = importlib.import_module("google_crc32c")
    except ImportError:
        print("google-crc32c is not installed")
    else:
        images = [data[a:b].tobytes() for a, b in zip(starts, stops, strict=True)]
        methods["google-crc32c"] = len(data), lambda: [google.value(image) for image in images]
    speeds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(options.rounds):
        for name, (size, method) in methods.items():
            begun = time.process_time()
            method()
            speeds[name].append(size / 1e6 / (time.process_time() - begun))
    for name, each in speeds.items():
        print(f"{name:<14}{statistics.median(each):8.0f} ({min(each):.0f}–{max(each):.0f}) MB/s")


if __name__ == "__main__":
    main()
