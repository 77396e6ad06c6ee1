"""Lists in plain text, a row a line with blanks or tabs between, as benchmarks come with."""

from __future__ import annotations

from pathlib import Path

from facepack.errors import EvaluationError
from facepack.reading import read_text

_SHOWN = 80  # characters of a malformed line


def read_rows(path: Path, columns: tuple[int, ...], expected: str) -> list[list[str]]:
    """The fields of each line that is not empty: as many in all as one of ``columns`` says.

    Errors say what a line is ``expected`` to hold.

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
