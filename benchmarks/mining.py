"""What mining a bag of hard tail identities costs besides its forward passes, on one processor.

OMP_NUM_THREADS=1 python benchmarks/mining.py
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from facepack.train.methods.unequal.mining import Bags, hardest_identities

IDENTITIES, IMAGES, ROUNDS = 100_000, 5, 7


def main() -> None:
    """Print the median and the range of seconds a bag."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(IDENTITIES), IMAGES)
    bags = Bags(labels, identities=1_200, images=3, repeat=False, seed=0)
    embeddings = rng.normal(size=(1_200, 3, 512)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=2, keepdims=True)
    seconds = []
    for number in range(ROUNDS):
        start = time.perf_counter()
        bags.positions(number)
        hardest_identities(embeddings, 120)
        seconds.append(time.perf_counter() - start)
    low, high = min(seconds), max(seconds)
    print(f"{statistics.median(seconds):.2f} s a bag ({low:.2f} to {high:.2f}, {ROUNDS} rounds)")


if __name__ == "__main__":
    main()
