"""Lists in plain text, a row a line with blanks or tabs between, as benchmarks come with."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from facepack.errors import EvaluationError
from facepack.reading import read_text

_SHOWN = 80  # characters of a malformed line


class NamedPairs(NamedTuple):
    """Pairs by name: ``first`` and ``second`` (P,), and ``issame`` bool (P,)."""

    first: list[str]
    second: list[str]
    issame: np.ndarray


def read_rows(path: Path, columns: tuple[int, ...], expected: str) -> list[list[str]]:
    """The fields of each line that is not empty.

    Args:
        path: the text.
        columns: how many fields a line may have; the same number in all.
        expected: says in errors what a line holds.

    Raises:
        EvaluationError: it cannot be read, is empty, or a line has another number of fields.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise EvaluationError(f"{path}: cannot be read: {reason}") from error
    rows: list[list[str]] = []
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) not in columns or (rows and len(fields) != len(rows[0])):
            raise EvaluationError(
                f"{path}: line {number} is {line[:_SHOWN]!r}; expected {expected}, in every line: "
                "correct the list"
            )
        rows.append(fields)
    if not rows:
        raise EvaluationError(f"{path}: the list is empty; expected {expected}, a line each")
    return rows


def read_pairs(path: Path) -> NamedPairs:
    """A list of pairs: ``first second 0-or-1``, or SLLFW's own form.

    That has one image ``person/file`` a line; lines 2i and 2i + 1 are a pair, of one person where
    the folders are the same.

    Raises:
        EvaluationError: it cannot be read, or is neither.
    """
    rows = read_rows(path, (3, 1), "two names and 1 for the same person, 0 for two")
    if len(rows[0]) == 1:
        return _alternating(path, [row[0] for row in rows])
    for number, (_, _, flag) in enumerate(rows, start=1):
        if flag not in ("0", "1"):
            raise EvaluationError(
                f"{path}: row {number} ends with {flag[:_SHOWN]!r}; expected 1 for the same "
                "person, 0 for two: correct the list"
            )
    return NamedPairs(
        [row[0] for row in rows],
        [row[1] for row in rows],
        np.array([row[2] == "1" for row in rows]),
    )


def _alternating(path: Path, names: list[str]) -> NamedPairs:
    lone = next((name for name in names if "/" not in name), None)
    if len(names) % 2 or lone is not None:
        what = f"{lone[:_SHOWN]!r} is in no folder" if lone else f"{len(names)} lines"
        raise EvaluationError(
            f"{path}: {what}; a list of one image a line has two lines a pair, of person/file: "
            "correct it, or write a pair a line: two names and 1 or 0"
        )
    first, second = names[::2], names[1::2]
    persons = [[name.rpartition("/")[0] for name in side] for side in (first, second)]
    return NamedPairs(first, second, np.array(persons[0]) == np.array(persons[1]))
