"""Plant noise in a pack, and compare what ``facepack noise`` found with the truth.

    python -m studies.noise plant PACK OUT [--permuted 0.1] [--outside 0.05]
    python -m studies.noise table PACK TRUTH NOISE

TRUTH is the OUT of before, or that of ``facepack synth``, whose pack is in the source's order
(``rec2lmdb --order source``); NOISE is what ``facepack noise`` wrote.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np

import facepack
from studies.noise.plant import plant, read_truth

_SIZES = (2, 5, 9, 16, 1 << 31)
_CONFIDENCES = (0.0, 0.5, 0.9, 0.99)
_THRESHOLD = 0.007


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.noise", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    planting = commands.add_parser("plant")
    planting.add_argument("pack", type=Path)
    planting.add_argument("out", type=Path)
    planting.add_argument("--permuted", type=float, default=0.1)
    planting.add_argument("--outside", type=float, default=0.05)
    table = commands.add_parser("table")
    for name in ("pack", "truth", "noise"):
        table.add_argument(name, type=Path)
    given = parser.parse_args()
    if given.command == "plant":
        plant(given.pack, given.out, permuted=given.permuted, outside=given.outside)
        return
    with facepack.open(given.pack) as pack:
        labels = pack.labels
    report(np.load(given.noise / "scores.npy"), labels, read_truth(given.truth, len(labels)))


def report(scores: np.ndarray, labels: np.ndarray, truth: np.ndarray) -> None:
    """Print precision and recall: of wrong labels by argmax, of people outside by maxP."""
    other = scores["predicted"] != labels
    sizes = np.bincount(labels)[labels]
    print("rule                         found  precision  recall  outside  right ones")
    for confidence in _CONFIDENCES:
        _line(f"argmax, P >= {confidence:g}", other & (scores["predicted_p"] >= confidence), truth)
    for low, high in pairwise(_SIZES):
        some = (sizes >= low) & (sizes < high)
        if some.any():
            _line(f"argmax, {low} to {high - 1} images", other[some], truth[some])
    found = scores["max_p"] < _THRESHOLD
    print(f"maxP < {_THRESHOLD}: {found.sum()} found; least maxP {scores['max_p'].min():.4f}")
    outside, right = truth == 2, truth == 0
    for name, values in (
        ("maxP", scores["max_p"]),
        ("P[label]", scores["own_p"]),
        ("cosine", scores["cosine"]),
    ):
        print(f"area under the ROC, outside against right, by {name}: ", end="")
        print(f"{area(values[outside], values[right]):.3f}", end="; wrong against right: ")
        print(f"{area(values[truth == 1], values[right]):.3f}")


def _line(rule: str, found: np.ndarray, truth: np.ndarray) -> None:
    """Precision and recall are of wrong labels; then the shares found of the others."""
    shares = [found[truth == kind].mean() if (truth == kind).any() else np.nan for kind in range(3)]
    precision = (truth[found] == 1).mean() if found.any() else np.nan
    print(
        f"{rule:28} {found.sum():6,}     {precision:6.3f}  {shares[1]:6.3f}   {shares[2]:6.3f}"
        f"      {shares[0]:6.3f}"
    )


def area(low: np.ndarray, high: np.ndarray) -> float:
    """The share of pairs in which ``low`` is below ``high``, equal ones by half."""
    ordered = np.sort(high)
    below, most = (np.searchsorted(ordered, low, side) for side in ("left", "right"))
    return float(1 - (below + most).mean() / 2 / len(high))


if __name__ == "__main__":
    main()
