"""Plant noise in a pack, and compare what ``facepack noise`` found with the truth.

    python -m studies.noise plant PACK OUT [--permuted 0.1] [--outside 0.05]
    python -m studies.noise table PACK TRUTH NOISE ...

TRUTH is the OUT of before, or that of ``facepack synth``, whose pack is in the source's order
(``rec2lmdb --order source``); NOISE is what ``facepack noise`` wrote. Of several, made by runs of
several seeds, each figure is the mean, with the least and the largest. The tables are Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

import facepack
from studies.noise.plant import plant, read_truth

_SIZES = (2, 5, 9, 16, 1 << 31)
_CONFIDENCES = (0.0, 0.5, 0.9, 0.99)
_THRESHOLD, _CONFIDENCE = 0.007, 0.5  # those of facepack noise
_RIGHT, _WRONG, _OUTSIDE = range(3)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.noise", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    planting = commands.add_parser("plant")
    planting.add_argument("pack", type=Path)
    planting.add_argument("out", type=Path)
    planting.add_argument("--permuted", type=float, default=0.1)
    planting.add_argument("--outside", type=float, default=0.05)
    table = commands.add_parser("table")
    for name in ("pack", "truth"):
        table.add_argument(name, type=Path)
    table.add_argument("noise", type=Path, nargs="+")
    given = parser.parse_args()
    if given.command == "plant":
        plant(given.pack, given.out, permuted=given.permuted, outside=given.outside)
        return
    with facepack.open(given.pack) as pack:
        labels = pack.labels
    scores = [np.load(folder / "scores.npy") for folder in given.noise]
    report(Truth(labels=labels, kinds=read_truth(given.truth, len(labels))), scores)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is right and wrong in a pack."""

    labels: np.ndarray
    """int64 (n,)."""
    kinds: np.ndarray
    """int64 (n,): 0 right, 1 a wrong label, 2 a face of no class."""

    def by_size(self) -> list[tuple[str, np.ndarray]]:
        """The images, bool (n,), by how many images their identity has; first all of them."""
        sizes = np.bincount(self.labels)[self.labels]
        parts = [("all", np.ones(len(sizes), bool))]
        for low, high in pairwise(_SIZES):
            name = f"{low}–{high - 1}" if high < _SIZES[-1] else f"{low} and more"
            parts.append((name, (sizes >= low) & (sizes < high)))
        return [(name, some) for name, some in parts if some.any()]


def report(truth: Truth, runs: Sequence[np.ndarray]) -> None:
    """Print precision and recall: of wrong labels by argmax, of faces of no class by maxP.

    Args:
        truth: of the pack.
        runs: the scores of each run, (n,) as ``scores.npy`` has them.
    """
    others = [(run["predicted"] != truth.labels, run["predicted_p"]) for run in runs]
    kinds = truth.kinds
    _head("wrong labels: rule", "found", "precision", "recall", "outside", "right")
    for confidence in _CONFIDENCES:
        found = [other & (sure >= confidence) for other, sure in others]
        _row(
            f"argmax, P ≥ {confidence:g}",
            [each.sum() for each in found],
            [precision(each, kinds == _WRONG) for each in found],
            *([share(each, kinds == kind) for each in found] for kind in (1, 2, 0)),
        )
    _head("wrong labels, by images", "of these", f"P ≥ {_CONFIDENCE}: precision", "recall", "AP")
    for name, some in truth.by_size():
        _by_size(
            name,
            kinds[some] == _WRONG,
            [(other & (sure >= _CONFIDENCE))[some] for other, sure in others],
            [np.where(other, sure, 0.0)[some] for other, sure in others],
        )
    _head(
        "no class, by images",
        "of these",
        f"maxP < {_THRESHOLD}: precision",
        "recall",
        "AP by maxP",
        "AP by cosine",
    )
    for name, some in truth.by_size():
        _by_size(
            name,
            kinds[some] == _OUTSIDE,
            [(run["max_p"] < _THRESHOLD)[some] for run in runs],
            [-run["max_p"][some] for run in runs],
            [-run["cosine"][some] for run in runs],
        )
    print("\nleast maxP: " + ", ".join(f"{run['max_p'].min():.4f}" for run in runs))
    _head("area under the ROC by", "no class against right", "wrong against right")
    for name, field in (("maxP", "max_p"), ("P[label]", "own_p"), ("cosine", "cosine")):
        values = [run[field] for run in runs]
        _row(
            name,
            *(
                [area(each[kinds == kind], each[kinds == _RIGHT]) for each in values]
                for kind in (_OUTSIDE, _WRONG)
            ),
        )


def _by_size(
    name: str, wanted: np.ndarray, found: Sequence[np.ndarray], *ranks: Sequence[np.ndarray]
) -> None:
    """A row: the share that is wanted, precision and recall, and those over all thresholds."""
    _row(
        name,
        [wanted.mean()],
        [precision(each, wanted) for each in found],
        [share(each, wanted) for each in found],
        *([average_precision(each, wanted) for each in values] for values in ranks),
    )


def _head(*names: str) -> None:
    print(f"\n| {' | '.join(names)} |\n|---|{'--:|' * (len(names) - 1)}")


def _row(name: str, *cells: Sequence[float]) -> None:
    print(f"| {' | '.join([name, *map(_told, cells)])} |")


def _told(values: Sequence[float]) -> str:
    """The mean, and of several the least and the largest; of a run that has none, a dash."""
    write: Callable[[float], str] = "{:.3f}".format
    if all(isinstance(value, np.integer) for value in values):
        write = "{:,.0f}".format
    if np.isnan(values).any():
        return "–"
    mean, low, high = (write(f(values)) for f in (np.mean, np.min, np.max))
    return mean if low == high else f"{mean} ({low}–{high})"


def precision(found: np.ndarray, wanted: np.ndarray) -> float:
    """The share of what is found that is wanted; NaN where nothing is found."""
    return float(wanted[found].mean()) if found.any() else np.nan


def share(found: np.ndarray, of: np.ndarray) -> float:
    """The share of some images that is found; NaN of none."""
    return float(found[of].mean()) if of.any() else np.nan


def average_precision(values: np.ndarray, wanted: np.ndarray) -> float:
    """The mean precision over all thresholds, each weighed by the recall that it adds.

    Images with the same value are found together. One that is drawn at random has the share of
    what is wanted. NaN where nothing is.

    Args:
        values: (n,), the larger the sooner found.
        wanted: bool (n,).
    """
    if not wanted.any():
        return np.nan
    order = np.argsort(-values, kind="stable")
    last = np.append(np.flatnonzero(np.diff(values[order])), len(order) - 1)
    hits = wanted[order].cumsum()[last]
    return float((np.diff(hits, prepend=0) * hits / (last + 1)).sum() / wanted.sum())


def area(low: np.ndarray, high: np.ndarray) -> float:
    """The share of pairs in which ``low`` is below ``high``, equal ones by half."""
    ordered = np.sort(high)
    below, most = (np.searchsorted(ordered, low, side) for side in ("left", "right"))
    return float(1 - (below + most).mean() / 2 / len(high))


if __name__ == "__main__":
    main()
