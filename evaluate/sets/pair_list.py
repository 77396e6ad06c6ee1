"""Lists of pairs of one's own: CSV or text, with folds and groups where a column tells them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from facepack.errors import EvaluationError
from facepack.reading import read_text

_TRUTHS = {
    **dict.fromkeys(("1", "true", "yes", "t", "y"), True),
    **dict.fromkeys(("0", "-1", "false", "no", "f", "n"), False),
}
_SAME = ("same", "issame", "is_same", "label", "match", "truth")
_FOLD = ("fold", "split")
_SHOWN = 80  # characters of a malformed line

Row = tuple[int, list[str]]
"""Number of a line, and its fields."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PairList:
    """Pairs by name.

    Attributes:
        first: (P,) names of images.
        second: (P,) names of others.
        issame: bool (P,).
        folds: int64 (P,), from 0 in the order in which they come; None where no column tells them.
        columns: name → (P,) texts: all other columns, groups of pairs; an empty text is none.
    """

    first: list[str]
    second: list[str]
    issame: np.ndarray
    folds: np.ndarray | None = None
    columns: dict[str, list[str]] = field(default_factory=dict)


def read_pair_list(path: Path) -> PairList:
    """Read a list of pairs.

    A line is ``first,second,same`` and perhaps ``,fold`` and ``,group``, with commas, semicolons,
    tabs or blanks between. ``same`` is 1 or 0, true or false, yes or no. A header names
    columns in any order: one of them ``same``, perhaps ``fold``; of the others the first two are
    the images, and the rest are groups. LFW's own ``pairs.txt`` is read as well.

    Raises:
        EvaluationError: it cannot be read, is empty, or a line is anything else.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise EvaluationError(f"{path}: cannot be read: {reason}") from error
    try:
        rows = _split(lines)
    except csv.Error as error:
        raise EvaluationError(f"{path} is no list of pairs: {error}: correct it") from error
    if not rows:
        raise EvaluationError(f"{path}: the list is empty; a line is first,second,same")
    head = rows[0][1]
    if len(head) <= 2 and all(map(_is_count, head)):
        return _read_lfw(path, [int(number) for number in head], rows[1:])
    if len(head) < 3:
        raise _malformed(path, rows[0], "first,second,same")
    if head[2].lower() in _TRUTHS:
        names = ["first", "second", "same", "fold", "group"][: len(head)]
        if len(head) > len(names):
            raise _malformed(path, rows[0], "a header, as there are more than five columns")
    else:
        names, rows = [name.strip() for name in head], rows[1:]
    return _read_columns(path, names, rows)


def _split(lines: Sequence[str]) -> list[Row]:
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    sample = numbered[0][1] if numbered else ""
    delimiter = next((sign for sign in "\t,;" if sign in sample), None)
    if delimiter is None:
        return [(number, line.split()) for number, line in numbered]
    return [
        (number, [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))])
        for number, line in numbered
    ]


def _read_columns(path: Path, names: list[str], rows: list[Row]) -> PairList:
    lower = [name.lower() for name in names]
    same, fold = (
        next((lower.index(name) for name in known if name in lower), None)
        for known in (_SAME, _FOLD)
    )
    images = [place for place in range(len(names)) if place not in (same, fold)][:2]
    if same is None or len(images) < 2 or len(set(lower)) < len(lower):
        raise EvaluationError(
            f"{path} has the columns {', '.join(names)[:_SHOWN]}; two of images, one called 'same' "
            "and no name twice are needed"
        )
    for row in rows:
        if len(row[1]) != len(names) or not all(row[1][place] for place in images):
            raise _malformed(path, row, ", ".join(names))
        if row[1][same].lower() not in _TRUTHS:
            raise _malformed(path, row, "1 or 0, true or false, yes or no")
    columns = {name: [row[place] for _, row in rows] for place, name in enumerate(names)}
    if not rows:
        raise EvaluationError(f"{path}: a header and no pairs")
    others = set(range(len(names))) - {same, fold, *images}
    return PairList(
        first=columns[names[images[0]]],
        second=columns[names[images[1]]],
        issame=np.array([_TRUTHS[truth.lower()] for truth in columns[names[same]]]),
        folds=None if fold is None else _numbered(columns[names[fold]]),
        columns={names[place]: columns[names[place]] for place in sorted(others)},
    )


def _numbered(texts: list[str]) -> np.ndarray:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int64)


def _read_lfw(path: Path, head: list[int], rows: list[Row]) -> PairList:
    """``pairs.txt`` of LFW: of each fold so many ``name n m``, then as many ``name n name m``."""
    each = head[-1]
    folds = head[0] if len(head) == 2 else 1
    first: list[str] = []
    second: list[str] = []
    issame = []
    for number, fields in rows:
        match fields:
            case [name, one, other] if _is_count(one) and _is_count(other):
                names, shots = (name, name), (one, other)
            case [name, one, another, other] if _is_count(one) and _is_count(other):
                names, shots = (name, another), (one, other)
            case _:
                expected = "NAME NUMBER NUMBER, or NAME NUMBER NAME NUMBER"
                raise _malformed(path, (number, fields), expected)
        for side, name, shot in zip((first, second), names, shots, strict=True):
            side.append(f"{name}/{name}_{int(shot):04d}.jpg")
        issame.append(len(fields) == 3)
    if len(rows) != 2 * each * folds:
        raise EvaluationError(
            f"{path}: its first line tells of {2 * each * folds} pairs, and it has {len(rows)}: "
            "fetch it again, or correct that line"
        )
    numbers = np.arange(len(rows)) // (2 * each)
    return PairList(
        first=first,
        second=second,
        issame=np.array(issame),
        folds=numbers if folds > 1 else None,
    )


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _malformed(path: Path, row: Row, expected: str) -> EvaluationError:
    return EvaluationError(
        f"{path}: line {row[0]} is {' '.join(row[1])[:_SHOWN]!r}; expected {expected}: correct it"
    )
