"""What is odd about the labels of a pack, and is better known before a training than after it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facepack.convert.formats.pack.shard import PackShard, StatedShard
from facepack.store.gaps import note_on_gaps

_LOOKED_AT = 16  # records
_HEADERS = range(2, 17)  # numbers before the first object of a detection label


def notes_on_labels(
    path: Path, manifest: dict[str, Any], made: Sequence[dict[str, Any]]
) -> list[str]:
    """Notes on gaps between the labels of a pack, and on labels that look like boxes.

    These are looked for in a shard that was just ``made``.
    """
    notes = []
    if gaps := note_on_gaps(manifest["identities"], manifest["classes"]):
        notes.append(gaps)
    entry = next((entry for entry in made if entry["records"]), None)
    if entry is not None and _has_boxes(PackShard(path, StatedShard.of(entry))):
        notes.append(
            "the label vectors look like boxes (as of a data set for detection: header width, "
            "object width, objects of class and corners), not like identities: their first number "
            "was taken for the identity; pass a list or a .rec whose first label is the person"
        )
    return notes


def _has_boxes(shard: PackShard) -> bool:
    """Whether the first records of a shard all have labels that look like boxes."""
    columns = shard.columns
    names: list[str] = []
    while (name := f"label_{len(names) + 1}") in columns:
        names.append(name)
    keys = shard.keys[:_LOOKED_AT]
    rows = np.array([columns[name][keys] for name in names], np.float64).T
    return bool(len(rows)) and all(looks_like_boxes(row[~np.isnan(row)]) for row in rows)


def looks_like_boxes(labels: np.ndarray) -> bool:
    """Whether a label vector is one of MXNet's for detection.

    Such a vector is the width A of its header, the width B of an object, A - 2 more numbers, and
    objects: class, left, top, right, bottom as shares of the image, and B - 5 more numbers.
    ``labels`` (n,) are those behind the first, which may have been numbered anew.
    """
    if len(labels) < 6 or labels[0] < 5 or labels[0] % 1:
        return False
    width = int(labels[0])
    for header in _HEADERS:
        objects = labels[header - 1 :]
        if len(objects) and len(objects) % width == 0:
            _, left, top, right, bottom = objects[:5]
            if 0 <= left < right <= 1 and 0 <= top < bottom <= 1:
                return True
    return False
