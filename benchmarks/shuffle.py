"""How well each order shuffles: distinct identities a batch, and how alike neighbours' labels are.

    python benchmarks/shuffle.py [--plot docs/img/shuffle.png] [--json FILE]

Needs no images: labels are those of a pack of 2,000,000 records of 50,000 identities, 8 to 72
each (12 GB of faces of 6 KB), as packing lays them out. "In shards" is the default: a source
sorted by identity, cut into shards of 65,536 records that are shuffled inside. "Sorted" is
``--order source``: all images of an identity lie together. Runs are of 84 records (512 KiB), or as
the line says; a window is so many of them. Batches have 512 records; a perfect shuffle is NumPy's,
of the same labels. Everything is drawn from seeds: the spread is that over three of them.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facepack.loading.order import BlockShape
from facepack.loading.plan import Plan

RECORDS = 2_000_000
IDENTITIES = 50_000
SHARD = 65_536
BATCH = 512
RUN = 84
WINDOWS = (16, 64, 256, 1024, 4096)
LAGS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Case:
    """A layout of the pack and an order of the epoch; no blocks: global."""

    name: str
    layout: str
    blocks: BlockShape | None = None


def cases() -> list[Case]:
    """All that are compared."""
    found = [Case(f"global, {layout}", layout) for layout in ("in shards", "sorted")]
    for layout in ("in shards", "sorted"):
        for window in WINDOWS:
            shape = BlockShape(run=RUN, window=window)
            found.append(Case(f"{window} runs of {RUN}, {layout}", layout, shape))
    # The same memory in shorter runs: what a layout that is sorted gains from them.
    found.append(Case("4096 runs of 21, sorted", "sorted", BlockShape(run=21, window=4096)))
    return found


def lay_out(layout: str) -> np.ndarray:
    """The labels of the pack, by position."""
    rng = np.random.default_rng(42)
    sizes = rng.integers(8, 73, IDENTITIES)
    labels = np.repeat(np.arange(IDENTITIES), sizes)[:RECORDS]
    if layout == "in shards":
        for start in range(0, len(labels), SHARD):
            rng.shuffle(labels[start : start + SHARD])
    return labels


def measure(labels: np.ndarray) -> dict[str, float | list[float]]:
    """The figures of one epoch's labels, in the order in which they come."""
    batches = np.sort(labels[: len(labels) // BATCH * BATCH].reshape(-1, BATCH), axis=1)
    distinct = 1 + (np.diff(batches, axis=1) != 0).sum(axis=1)
    return {
        "distinct_mean": float(distinct.mean()),
        "distinct_least": float(distinct.min()),
        "correlation": [float(np.corrcoef(labels[:-lag], labels[lag:])[0, 1]) for lag in LAGS],
        "same": [float((labels[:-lag] == labels[lag:]).mean()) for lag in LAGS],
        # Batches of an epoch should not differ in which part of the pack they come from.
        "batch_mean_spread": float(
            np.std(batches.mean(axis=1)) / (np.std(labels) / np.sqrt(BATCH))
        ),
    }


def order_of(case: Case, seed: int, records: int) -> np.ndarray:
    """All positions of an epoch."""
    plan = Plan(
        records=records,
        batch_size=BATCH,
        seed=seed,
        rank=0,
        world=1,
        shuffle=True,
        mirror=True,
        drop_last=True,
        blocks=case.blocks,
    )
    order = plan.order(epoch=seed)
    return np.concatenate(
        [
            order.at(np.arange(start, min(start + 65_536, records)))
            for start in range(0, records, 65_536)
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", type=Path, help="draw the figures as a PNG (needs matplotlib)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    layouts = {layout: lay_out(layout) for layout in ("in shards", "sorted")}
    results: dict[str, dict] = {}
    perfect = [
        measure(np.random.default_rng(seed).permutation(layouts["sorted"])) for seed in SEEDS
    ]
    results["perfect"] = summarize(perfect)
    for case in cases():
        labels = layouts[case.layout]
        rounds = [measure(labels[order_of(case, seed, len(labels))]) for seed in SEEDS]
        results[case.name] = summarize(rounds)
        print(case.name, file=sys.stderr)
    print(f"{'':30}{'distinct of 512':>24}{'correlation, lag 1':>20}{'same label, lag 1':>19}")
    for name, result in results.items():
        low, mean, high = result["distinct"]
        print(
            f"{name:30}{mean:10.1f} ({low:.1f}-{high:.1f}){result['correlation'][0]:20.4f}"
            f"{result['same'][0]:19.6f}   batch means {result['batch_mean_spread']:.2f}"
        )
    setting = {
        "records": len(layouts["sorted"]),
        "identities": IDENTITIES,
        "batch": BATCH,
        "n": len(SEEDS),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    print(", ".join(f"{key} {value}" for key, value in setting.items()))
    if options.json:
        options.json.write_text(json.dumps({"setting": setting, "results": results}, indent=1))
    if options.plot:
        draw(results, options.plot)


def summarize(rounds: list[dict]) -> dict:
    """Means over the seeds; for distinct identities the least and greatest mean too."""
    distinct = sorted(r["distinct_mean"] for r in rounds)
    return {
        "distinct": [distinct[0], statistics.mean(distinct), distinct[-1]],
        "distinct_least": min(r["distinct_least"] for r in rounds),
        "correlation": np.mean([r["correlation"] for r in rounds], axis=0).tolist(),
        "same": np.mean([r["same"] for r in rounds], axis=0).tolist(),
        "batch_mean_spread": statistics.mean(r["batch_mean_spread"] for r in rounds),
    }


def draw(results: dict[str, dict], path: Path) -> None:
    """Two panels: distinct identities by window, and correlation by lag."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)
    for layout, colour in (("in shards", "tab:blue"), ("sorted", "tab:red")):
        means = [results[f"{w} runs of {RUN}, {layout}"]["distinct"][1] for w in WINDOWS]
        left.plot(WINDOWS, means, "o-", color=colour, label=f"blocks, {layout}")
        for window, style in ((WINDOWS[0], ":"), (WINDOWS[3], "-")):
            curve = results[f"{window} runs of {RUN}, {layout}"]["correlation"]
            wide = 5 if layout == "in shards" else 1.5  # the curves lie upon each other
            name = f"{window} runs, {layout}"
            right.plot(LAGS, curve, style, color=colour, lw=wide, alpha=0.8, label=name)
    left.axhline(results["perfect"]["distinct"][1], color="black", lw=1, label="perfect shuffle")
    right.plot(LAGS, results["perfect"]["correlation"], "k-", lw=1, label="perfect shuffle")
    left.set(xscale="log", xlabel="runs in a window", ylabel=f"distinct identities in {BATCH}")
    right.set(xscale="log", xlabel="lag", ylabel="correlation of labels")
    for axes in (left, right):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
