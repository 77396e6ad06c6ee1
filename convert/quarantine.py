"""Records that were refused, in a target of plain files: what is left when they are set aside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from facepack.convert.source import Refusal, Source
from facepack.errors import SourceError
from facepack.store import format as fmt
from facepack.store.files import write_file


def read_refused(lines: bytes) -> Iterator[dict[str, Any]]:
    """The entries of a ``quarantine.jsonl``."""
    return map(json.loads, lines.splitlines())


def nothing_usable(out: Path, refused: Iterable[dict[str, Any]]) -> SourceError:
    """The error of a conversion into ``out`` that had to refuse every record."""
    first = Refusal(**next(iter(refused)))
    return SourceError(f"{out}: no record at all can be used; the first is {first}")


def write_tables(
    source: Source, out: Path, refused: Iterable[dict[str, Any]]
) -> tuple[dict[str, int], int | None]:
    """Write the tables of an evaluation set as ``out/NAME.npy``.

    Positions in them count the records that are not among ``refused``.

    Returns:
        The bytes of each file, and the pairs of a verification set.
    """
    if not source.table_names:
        return {}, None
    tables = source.tables(_positions(len(source), (entry["ordinal"] for entry in refused)))
    sizes = {}
    for name, table in tables.items():
        file = f"{name}.npy"
        _, sizes[file] = write_file(out / file, [fmt.npy_bytes(table)])
    return sizes, len(tables["pairs"]) if "pairs" in tables else None


def _positions(count: int, refused: Iterable[int]) -> np.ndarray:
    """The position of each of ``count`` records among those not refused; -1 for the others.

    int64 (count,), as :meth:`~facepack.convert.source.Source.tables` takes it.
    """
    kept = np.ones(count, bool)
    kept[list(refused)] = False
    return np.where(kept, np.cumsum(kept) - 1, -1)
