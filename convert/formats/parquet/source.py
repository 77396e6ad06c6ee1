"""Parquet files and Arrow folders as a source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from facepack.convert.formats.parquet.pairs import ParquetPairs
from facepack.convert.formats.parquet.rows import ParquetRows
from facepack.convert.source import SourceView


class ParquetSource(SourceView):
    """A training set, or a verification set where two images are a pair.

    The arguments and errors are those of
    :class:`~facepack.convert.formats.parquet.rows.ParquetRows`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        image_column: Sequence[str] = (),
        label_column: str | None = None,
    ) -> None:
        rows = ParquetRows(paths, image_column=image_column, label_column=label_column)
        super().__init__(ParquetPairs(rows) if rows.columns.pairs else rows)
