"""Label maps: they take the labels inside the shards of a merged pack to those of the pack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from facepack.errors import DamageError, PackError
from facepack.reading import parse_npy
from facepack.store import format as fmt


def apply_label_map(label_map: np.ndarray | None, labels: np.ndarray) -> np.ndarray:
    """``label_map[labels]``; −1 stays −1, and without a map all labels stay.

    Args:
        label_map: (n,) the new label of each old one, -1 for those of no record; or None.
        labels: int64 (m,), −1 or below n.

    Raises:
        DamageError: a label lies beyond the map.
    """
    if label_map is None:
        return labels
    highest = int(labels.max(initial=-1))
    if highest >= len(label_map):
        raise DamageError(f"label {highest} lies beyond a label map of {len(label_map)} labels")
    return np.append(label_map, fmt.NO_IDENTITY).astype(np.int64)[labels]


def label_map_bytes(label_map: np.ndarray) -> bytes:
    """The file of a label map: a NumPy array of ``<i4`` (n,)."""
    return fmt.npy_bytes(label_map.astype("<i4"))


def read_label_map(data: bytes, name: str) -> np.ndarray:
    """The label map in the bytes of a file; ``name`` is what errors call it.

    Raises:
        DamageError: it is none.
    """
    try:
        label_map = parse_npy(data)
    except ValueError as error:
        raise DamageError(f"{name}: not a label map: {error}") from error
    if label_map.dtype != np.dtype("<i4") or label_map.ndim != 1:
        raise DamageError(
            f"{name}: {label_map.dtype} of shape {label_map.shape}, not a label map of int32 (n,)"
        )
    if len(label_map) and not -1 <= label_map.min() <= label_map.max() <= fmt.MAX_LABEL:
        raise DamageError(f"{name}: it leads to labels outside -1 to {fmt.MAX_LABEL}")
    return label_map


class LabelNames:
    """Which label an identity has by its name, as in ``labels.txt``; an empty name is none."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._labels: dict[str, int] = {}
        self._twice: dict[str, int] = {}
        self.add(enumerate(names))

    def add(self, names: Iterable[tuple[int, str]]) -> None:
        """Take more labels and their names."""
        for label, name in names:
            if name and self._labels.setdefault(name, label) != label:
                self._twice.setdefault(name, label)

    def label(self, name: str) -> int | None:
        """The label of the identity ``name``; None: there is none.

        Raises:
            PackError: two identities have that name.
        """
        if name in self._twice:
            raise PackError(
                f"two identities are called {name!r}, labels {self._labels[name]} and "
                f"{self._twice[name]}: the name is ambiguous"
            )
        return self._labels.get(name)


def map_names(label_map: np.ndarray | None, names: Mapping[int, str]) -> dict[int, str]:
    """The names of identities under the labels that ``label_map`` gives."""
    if label_map is None:
        return dict(names)
    labels = apply_label_map(label_map, np.fromiter(names, np.int64, len(names))).tolist()
    named = zip(labels, names.values(), strict=True)
    return {label: name for label, name in named if label != fmt.NO_IDENTITY}
