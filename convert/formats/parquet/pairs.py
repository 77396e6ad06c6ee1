"""Verification sets in Parquet files and Arrow folders.

A row is a pair, with two columns of images; or an image, and two rows that follow each other are a
pair, as CVLface has them: its rows have an ``image``, an ``index`` by which it sorts them, and an
``is_same`` that both rows of a pair repeat.

Source: CVLface ``evaluations/verification_evaluator.py`` (``collection['is_same'][::2]``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from facepack.convert.formats.pairs.pair_set import Held, HeldPart, PairSource, held_sizes
from facepack.convert.formats.parquet.rows import ParquetRows, absent, image_bytes, numbers, picture
from facepack.convert.source import Refusal
from facepack.errors import SourceError
from facepack.store.record import Buffer

_NEITHER = 2  # what is null in a column of 0 and 1


class ParquetPairs(PairSource):
    """The distinct images of a verification set, in the order of their first use, and its pairs.

    They are held in memory, as verification sets are small.

    Raises:
        SourceError: the rows make no pairs, or a file is damaged.
    """

    kind = "parquet"

    def __init__(self, rows: ParquetRows) -> None:
        self._files = rows
        self.name = rows.name
        images: list[Held] = []
        names: list[str | None] = []
        same: list[np.ndarray] = []
        order: list[np.ndarray] = []
        columns = rows.columns
        assert columns.label is not None
        for _, batch in rows.part(0, len(rows)).batches():
            each = [_held(batch, name, rows.name) for name in columns.images]
            for row in zip(*each, strict=True):
                images += [image for image, _ in row]
                names += [name for _, name in row]
            same.append(numbers(batch.column(columns.label), _NEITHER))
            if columns.index is not None:
                order.append(numbers(batch.column(columns.index), 0))
        issame = np.concatenate(same)
        if not np.isin(issame, (0, 1)).all():
            wrong = int(np.flatnonzero(~np.isin(issame, (0, 1)))[0])
            raise SourceError(
                f"{rows.name}: row {wrong}: the column {columns.label!r} must be 1 (one person) or "
                "0 of each pair: name another with --label-column NAME, or take one column of "
                "images, with --image-column NAME, for a training set"
            )
        uses = np.arange(len(images))
        if len(columns.images) == 1:
            if order:
                uses = np.argsort(np.concatenate(order), kind="stable")
            issame = _of_neighbours(issame[uses], rows.name, columns.label)
        super().__init__(rows.name, issame.astype(bool))
        self.notices += rows.notices
        first = [int(uses[k]) for k in self._find_first_uses(_content(images[k]) for k in uses)]
        self._images = [
            image if isinstance(image := images[k], Refusal) else bytes(image) for k in first
        ]
        self._names = [names[k] for k in first]
        self._rows = [f"row {k // len(columns.images)}" for k in first]

    def __len__(self) -> int:
        return len(self._images)

    def describe(self) -> dict[str, Any]:
        """The description of the rows, pairs, and a hash of all images and flags."""
        return {**self._files.describe(), "images": len(self), **super().describe()}

    def sizes(self) -> np.ndarray:
        """Bytes of each distinct image."""
        return held_sizes(self._images)

    def part(self, start: int, stop: int) -> HeldPart:
        """The distinct images ``[start, stop)``; refusals tell the row of their first use."""
        some = slice(start, stop)
        return HeldPart(
            start, self._files.name, self._images[some], self._rows[some], self._names[some]
        )


def _held(batch: Any, column: str, file: str) -> list[tuple[Held, str | None]]:
    """The images of a batch, or why there is none, and their paths."""
    images, paths = picture(batch, column)
    names = [None] * batch.num_rows if paths is None else paths.to_pylist()
    data, starts, stops = image_bytes(images)
    bounds = zip(starts.tolist(), stops.tolist(), names, strict=True)
    return [
        (data[a:b] if b > a else Refusal(0, file, None, None, *absent(name)), name)
        for a, b, name in bounds
    ]


def _content(image: Held) -> Buffer:
    """What tells an image from others; of one that is not there, the reason."""
    return image.reason.encode() if isinstance(image, Refusal) else image


def _of_neighbours(issame: np.ndarray, name: str, label: str) -> np.ndarray:
    """The flag of each pair of rows, which both must have."""
    first, second = issame[: len(issame) // 2 * 2].reshape(-1, 2).T
    if len(issame) % 2 or not np.array_equal(first, second):
        raise SourceError(
            f"{name}: {len(issame):,} images whose flags {label!r} are not alike two by two: "
            "expected the images of each pair one behind the other; if this is a training set, "
            "name the column of its labels with --label-column NAME"
        )
    return first
