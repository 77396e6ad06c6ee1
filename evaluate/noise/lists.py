"""Lists of images that may be noise, which ``--exclude`` takes: the published text, CSV, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facepack.cells import csv_text
from facepack.evaluate.noise.scores import NO_CLASS
from facepack.store.output import write_output
from facepack.train.data import TrainingData

NOISE, WRONG_LABELS = LISTS = ("noise", "wrong_labels")  #: names of the lists

COLUMNS = (
    *("key", "position", "label", "max_p", "own_p"),
    *("predicted", "predicted_p", "cosine", "predicted_cosine"),
)
"""Of CSV and JSON; :data:`~facepack.evaluate.noise.scores.SCORES` says what the scores are."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NoiseList:
    """Images that a rule found."""

    name: str  # of its files
    rule: str  # which images these are, in words
    positions: np.ndarray  # int64 (n,), the clearest first


def find_noise(
    scores: np.ndarray, labels: np.ndarray, *, threshold: float, confidence: float
) -> tuple[NoiseList, NoiseList]:
    """Images of no class, with a maxP below ``threshold``, and of another than their label's.

    Of (n,) :data:`~facepack.evaluate.noise.scores.SCORES`, and int64 (n,) labels: below zero, an
    image has none that could be wrong. One is called wrong from P[argmax] = ``confidence`` on.

    Returns:
        ``noise``, by maxP from the smallest; ``wrong_labels``, by P[argmax] from the largest.
    """
    of_none = np.flatnonzero(scores["max_p"] < threshold)
    other = is_other(scores, labels)
    of_other = np.flatnonzero(other & (scores["predicted_p"] >= confidence))
    nearer = scores["predicted_cosine"] - scores["cosine"]
    return (
        NoiseList(
            name=NOISE,
            rule=f"maxP < {threshold:g}",
            positions=of_none[np.argsort(scores["max_p"][of_none], kind="stable")],
        ),
        NoiseList(
            name=WRONG_LABELS,
            rule=f"argmax is not the label, P[argmax] >= {confidence:g}",
            # Those whose P rounds to 1 by how much nearer the class of the argmax is.
            positions=of_other[np.lexsort((-nearer[of_other], -scores["predicted_p"][of_other]))],
        ),
    )


def is_other(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the argmax is another class than that of the label: bool (n,)."""
    found: np.ndarray = (
        (labels >= 0) & (scores["predicted"] != NO_CLASS) & (scores["predicted"] != labels)
    )
    return found


def write_lists(
    out: Path,
    data: TrainingData,
    scores: np.ndarray,
    lists: Sequence[NoiseList],
    stated: dict[str, Any],
) -> None:
    """Write each list as ``NAME.txt``, ``NAME.csv`` and ``NAME.json`` into the folder ``out``.

    The text has the published form, ``label record_index maxP P[label]``, where the index is the
    position in the pack. ``stated`` stands in the JSON, before the rule and the records.

    Raises:
        PackError: a file cannot be written.
    """
    for found in lists:
        rows = list(_rows(data, scores, found.positions))
        text = [
            f"{row['label']} {row['position']} {row['max_p']:.9g} {row['own_p']:.9g}\n"
            for row in rows
        ]
        write_output(out / f"{found.name}.txt", "".join(text).encode())
        table = csv_text(COLUMNS, [[row[name] for name in COLUMNS] for row in rows])
        # Keys of a tree are paths, which need not be UTF-8.
        content = table.encode("utf-8", "backslashreplace")
        write_output(out / f"{found.name}.csv", content)
        plain = [{key: _number(value) for key, value in row.items()} for row in rows]
        whole = {**stated, "rule": found.rule, "records": plain}
        write_output(out / f"{found.name}.json", json.dumps(whole, indent=1).encode() + b"\n")


def _rows(
    data: TrainingData, scores: np.ndarray, positions: np.ndarray
) -> Iterator[dict[str, Any]]:
    for position in positions.tolist():
        row = {name: scores[name][position].item() for name in scores.dtype.names or ()}
        row |= {
            "key": data.key(position),
            "position": position,
            "label": int(data.labels[position]),
        }
        yield {name: row[name] for name in COLUMNS}


def _number(value: Any) -> Any:
    """As JSON knows it: no NaN."""
    return None if value != value else value
