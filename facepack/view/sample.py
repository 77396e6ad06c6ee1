"""Choosing what to look at: a few identities with a few images each, or a few pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from facepack.errors import ConfigError
from facepack.hashing import derive_seed, hash64
from facepack.settings import Range, Settings
from facepack.store.pack import Pack
from facepack.view.summary import label_counts

_Rows = Annotated[int, Range(low=1, high=10_000)]


@dataclass(frozen=True, kw_only=True)
class SampleOptions(Settings):
    """What to choose."""

    identities: _Rows = 8  # how many rows: identities, or rows of pairs
    images: _Rows = 8  # how many images in a row
    seed: int = 0  # of the choice; the same seed chooses the same
    labels: tuple[int, ...] | None = None  # these identities instead of some chosen by the seed

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels is not None and not self.labels:
            raise ConfigError("labels is empty: name at least one, or leave it out")


@dataclass(frozen=True, kw_only=True)
class SampleRow:
    """Images to be shown side by side."""

    title: str  # what they have in common
    positions: tuple[int, ...]  # of the images; those of a row of pairs belong together two by two
    # of pairs, whether they show the same person; None where they are no pairs
    same: bool | None = None


def sample_rows(pack: Pack, options: SampleOptions) -> list[SampleRow]:
    """Choose identities and images of ``pack``, or pairs where it is a set of pairs.

    Raises:
        ConfigError: a label that no record has.
    """
    if not len(pack):
        return []
    pairs = pack.pairs
    if pairs is not None:
        return _pair_rows(pairs, options)
    counts = label_counts(pack.labels)
    if options.labels is not None:
        labels = options.labels
        for label in labels:
            if not (0 <= label < len(counts) and counts[label]):
                raise ConfigError(
                    f"label {label}: no record of {pack.path} has it; they have "
                    f"{np.count_nonzero(counts):,} labels below {len(counts):,}"
                )
    else:
        present = np.flatnonzero(counts)
        labels = tuple(
            _choose_few(present, options.identities, derive_seed(options.seed, 0)).tolist()
        )
    if not labels:
        return _rows_without_identity(len(pack), options)
    names = pack.identity_names or []
    rows = []
    for label in labels:
        members = np.flatnonzero(pack.labels == label)
        shown = _choose_few(members, options.images, derive_seed(options.seed, 1))
        parts = [f"label {label}"]
        if label < len(names) and names[label]:
            parts.append(names[label])
        parts.append(f"{len(members):,} image{'s' if len(members) > 1 else ''}")
        rows.append(SampleRow(title=" · ".join(parts), positions=tuple(shown.tolist())))
    return rows


def _choose_few(values: np.ndarray, count: int, seed: int) -> np.ndarray:
    """``count`` of ``values`` by their hashes, in their own order."""
    if len(values) <= count:
        return values
    chosen = np.argpartition(hash64(seed, values), count)[:count]
    return values[np.sort(chosen)]


def _pair_rows(pairs: np.ndarray, options: SampleOptions) -> list[SampleRow]:
    """Rows of the same person and of different people by turns, as long as there are any."""
    in_row = max(1, options.images // 2)
    rows: dict[bool, list[SampleRow]] = {}
    for same, title in ((True, "the same person"), (False, "different people")):
        found = np.flatnonzero((pairs[:, 2] != 0) == same)
        wanted = (options.identities + 1) // 2 if same else options.identities // 2
        chosen = _choose_few(found, wanted * in_row, derive_seed(options.seed, 2))
        cuts: Sequence[np.ndarray] = [
            chosen[start : start + in_row] for start in range(0, len(chosen), in_row)
        ]
        rows[same] = [
            SampleRow(
                title=f"{title} · pair{'s' if len(cut) > 1 else ''} "
                + ", ".join(f"{pair}" for pair in cut.tolist()),
                positions=tuple(pairs[cut, :2].ravel().tolist()),
                same=same,
            )
            for cut in cuts
        ]
    alternating = []
    for k in range(options.identities):
        alternating += [*rows[True][k : k + 1], *rows[False][k : k + 1]]
    return alternating


def _rows_without_identity(count: int, options: SampleOptions) -> list[SampleRow]:
    total = options.identities * options.images
    chosen = _choose_few(np.arange(count), total, derive_seed(options.seed, 3)).tolist()
    return [
        SampleRow(title="no identity", positions=tuple(chosen[start : start + options.images]))
        for start in range(0, len(chosen), options.images)
    ]
