"""Groups of images, by sex, race, age or anything: a column of a table that names images."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facepack.errors import EvaluationError
from facepack.reading import read_text

_SHOWN = 80  # characters of a malformed line
_DELIMITERS = ",;\t"


class Groups(NamedTuple):
    """``names`` of the groups, sorted, and ``of`` (n,) int64: each image's group, -1 for none.

    ``unknown`` are names in the table that no image and no identity has.
    """

    names: list[str]
    of: np.ndarray
    unknown: Sequence[str] = ()


def read_column(spec: Path) -> dict[str, str]:
    """Name of an image or identity → its group, of the column that ``FILE[:COLUMN]`` says.

    The table is CSV (commas, semicolons or tabs) with a header, and its first column names an image
    or an identity; or a text of lines ``NAME GROUP`` without one. An empty cell is no group.

    Raises:
        EvaluationError: it cannot be read, has no such column, or names something twice.
    """
    path, column = _split(spec)
    try:
        content = read_text(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise EvaluationError(f"{path}: cannot be read: {reason}") from error
    rows = _rows(path, content, column)
    found: dict[str, str] = {}
    for number, (name, group) in rows:
        if found.setdefault(name, group) != group:
            raise EvaluationError(
                f"{path}: line {number} puts {name[:_SHOWN]!r} into {group[:_SHOWN]!r}, a line "
                f"before into {found[name][:_SHOWN]!r}: name each image or identity once"
            )
    return {name: group for name, group in found.items() if group}


def _split(spec: Path) -> tuple[Path, str | None]:
    path, colon, column = str(spec).rpartition(":")
    return (spec, None) if spec.is_file() or not colon else (Path(path), column)


def _rows(path: Path, content: str, column: str | None) -> list[tuple[int, tuple[str, str]]]:
    """Line number, name and group."""
    rows: list[tuple[int, tuple[str, str]]] = []
    header = content.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=header.count)
    if delimiter not in header:
        for number, line in enumerate(content.splitlines(), start=1):
            fields = line.split()
            if len(fields) not in (0, 2) or column is not None:
                raise EvaluationError(
                    f"{path}: line {number} is {line[:_SHOWN]!r}; expected NAME GROUP, or CSV with "
                    "a header: correct it"
                )
            if fields:
                rows.append((number, (fields[0], fields[1])))
        return rows
    try:
        table = list(csv.reader(io.StringIO(content), delimiter=delimiter))
    except csv.Error as error:
        raise EvaluationError(f"{path} is no table of groups: {error}: correct it") from error
    names = [name.strip() for name in table[0]]
    if column is None and len(names) != 2:
        raise EvaluationError(
            f"{path} has the columns {', '.join(names[1:])}: choose one as {path}:COLUMN"
        )
    if column is not None and column not in names[1:]:
        raise EvaluationError(
            f"{path} has no column {column!r}; behind the names it has {', '.join(names[1:])}"
        )
    place = 1 if column is None else names.index(column, 1)
    for number, fields in enumerate(table[1:], start=2):
        if not fields:
            continue
        if len(fields) != len(names):
            raise EvaluationError(
                f"{path}: line {number} has {len(fields)} cells, the header {len(names)}: correct "
                "it"
            )
        rows.append((number, (fields[0].strip(), fields[place].strip())))
    return rows


def group_images(
    column: dict[str, str],
    *,
    keys: Callable[[int], str],
    labels: np.ndarray,
    identity_names: Sequence[str] | None,
    source_names: Sequence[str | None] | None = None,
) -> Groups:
    """The group of each image: what is said of it, else what is said of its identity.

    Args:
        keys: tells an image's key by its position.
        labels: (n,) of the images, -1 for no identity.
        identity_names: by label; an identity may be named by its label as well.
        source_names: (n,) other names of the images.

    Raises:
        EvaluationError: none of the images is in a group.
    """
    by_label = {}
    unknown = dict.fromkeys(column)
    for label in np.unique(labels[labels >= 0]).tolist():
        called = [identity_names[label]] if identity_names else []
        called.append(str(label))
        by_label[label] = next((column[name] for name in called if name in column), None)
        for name in called:
            unknown.pop(name, None)
    names = sorted(set(column.values()))
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(names)}
    of = np.full(len(labels), -1, np.int64)
    for position, label in enumerate(labels.tolist()):
        source = source_names[position] if source_names is not None else None
        own = keys(position), source or ""
        group = column.get(own[0]) or column.get(own[1]) or by_label.get(label)
        of[position] = numbers.get(group, -1)
        for name in own:
            unknown.pop(name, None)
    if not (of >= 0).any():
        raise EvaluationError(
            f"none of {len(labels):,} images is in a group: the table names {len(column):,}, first "
            f"{next(iter(column), '')[:_SHOWN]!r}; images are called like {keys(0)!r}, and "
            "identities by name or label"
        )
    return Groups(names, of, list(unknown))
