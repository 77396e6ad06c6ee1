"""Lists of pairs: CSV or text, with folds and groups where a column tells them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from facepack.convert.files import has_image_suffix
from facepack.convert.list_lines import path_with_slashes
from facepack.errors import SourceError
from facepack.reading import read_text

_TRUTHS = {
    **dict.fromkeys(("1", "true", "yes", "t", "y"), True),
    **dict.fromkeys(("0", "-1", "false", "no", "f", "n"), False),
}
_SAME = ("same", "issame", "is_same", "label", "match", "truth")
_FOLD = ("fold", "split")
_KAGGLE = ["name", "imagenum1"]  # how the header begins
_SHOWN = 80  # characters of a malformed line

Row = tuple[int, list[str]]  # number of a line, and its fields


@dataclass(frozen=True, kw_only=True, eq=False)
class PairList:
    """Pairs by name."""

    first: list[str]  # (P,) names of images, with slashes between folders
    second: list[str]  # (P,) names of others
    issame: np.ndarray  # bool (P,)
    # int64 (P,), from 0 in the order in which they come; None where no column tells them
    folds: np.ndarray | None = None
    # name → (P,) texts: all other columns, groups of pairs; an empty text is none
    columns: dict[str, list[str]] = field(default_factory=dict)


def read_pair_list(path: Path) -> PairList:
    """Read a list of pairs.

    A line is ``first,second,same`` and perhaps ``,fold`` and ``,group``, with commas, semicolons,
    tabs or blanks between. ``same`` is 1 or 0, true or false, yes or no. A header names
    columns in any order: one of them ``same``, perhaps ``fold``; of the others the first two are
    the images (those that end as images do, where two or more do), and the rest are groups. LFW's
    own ``pairs.txt`` is read as well, also without its first line (RFW's) or with names of columns
    in its place (LFW's on Kaggle), and lists of one image a line, lines 2i and 2i + 1 a pair:
    ``image flag`` (CPLFW's, CALFW's; 0 for two people) or ``person/file`` (SLLFW's; of one person
    where the folders are the same). Backslashes in the names of images are slashes, as in lists of
    images.

    Raises:
        SourceError: it cannot be read, is empty, or a line is anything else.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SourceError(f"{path}: cannot be read: {reason}") from error
    try:
        rows = _split(lines)
    except csv.Error as error:
        raise SourceError(f"{path} is no list of pairs: {error}: correct it") from error
    if not rows:
        raise SourceError(f"{path}: the list is empty; a line is first,second,same")
    head = rows[0][1]
    if len(head) <= 2 and all(map(_is_count, head)):
        return _read_lfw(path, [int(number) for number in head], rows[1:])
    if _is_of_shots(head):
        return _read_shots(path, rows)
    if [name.lower() for name in head[:2]] == _KAGGLE and rows[1:]:
        return _read_shots(path, rows[1:])
    if len(head) < 3:
        return _read_alternating(path, rows)
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
    images = [place for place in range(len(names)) if place not in (same, fold)]
    if rows and len(rows[0][1]) == len(names):  # numbers of pairs may come first
        suffixed = [place for place in images if has_image_suffix(rows[0][1][place].encode())]
        images = suffixed if len(suffixed) >= 2 else images
    images = images[:2]
    if same is None or len(images) < 2 or len(set(lower)) < len(lower):
        raise SourceError(
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
        raise SourceError(f"{path}: a header and no pairs")
    others = set(range(len(names))) - {same, fold, *images}
    return PairList(
        first=list(map(image_name, columns[names[images[0]]])),
        second=list(map(image_name, columns[names[images[1]]])),
        issame=np.array([_TRUTHS[truth.lower()] for truth in columns[names[same]]]),
        folds=None if fold is None else _numbered(columns[names[fold]]),
        columns={names[place]: columns[names[place]] for place in sorted(others) if names[place]},
    )


def _numbered(texts: list[str]) -> np.ndarray:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int64)


def _read_lfw(path: Path, head: list[int], rows: list[Row]) -> PairList:
    """``pairs.txt`` of LFW: of each fold so many pairs of one person, then as many of two."""
    each = head[-1]
    folds = head[0] if len(head) == 2 else 1
    pairs = _read_shots(path, rows)
    if not len(rows) == 2 * each * folds > 0:
        raise SourceError(
            f"{path}: its first line tells of {2 * each * folds} pairs, and it has {len(rows)}: "
            "fetch it again, or correct that line"
        )
    numbers = np.arange(len(rows)) // (2 * each)
    return replace(pairs, folds=numbers if folds > 1 else None)


def _is_of_shots(fields: list[str]) -> bool:
    """Whether a line is ``name n m``, or ``name n name m``."""
    match fields:
        case [name, one, other] | [name, one, _, other]:
            return _is_count(one) and _is_count(other) and not _is_count(name)
    return False


def _read_shots(path: Path, rows: list[Row]) -> PairList:
    """Pairs as LFW calls them: ``name n m`` of one person, ``name n name m`` of two."""
    first: list[str] = []
    second: list[str] = []
    issame = []
    for number, fields in rows:
        match [cell for cell in fields if cell]:  # the last is empty in Kaggle's
            case [name, one, other] if _is_count(one) and _is_count(other):
                names, shots = (name, name), (one, other)
            case [name, one, another, other] if _is_count(one) and _is_count(other):
                names, shots = (name, another), (one, other)
            case _:
                expected = "NAME NUMBER NUMBER, or NAME NUMBER NAME NUMBER"
                raise _malformed(path, (number, fields), expected)
        for side, name, shot in zip((first, second), names, shots, strict=True):
            side.append(f"{name}/{name}_{int(shot):04d}.jpg")
        issame.append(names[0] == names[1])
    return PairList(first=first, second=second, issame=np.array(issame))


def _read_alternating(path: Path, rows: list[Row]) -> PairList:
    """An image a line, and perhaps whether the pair is of one person; two lines are a pair."""
    width = len(rows[0][1])
    names = [image_name(row[1][0]) for row in rows]
    expected = "an image, and 0 or more in all lines or in none; or first,second,same"
    for row, name in zip(rows, names, strict=True):
        if len(row[1]) != width or (width == 2 and not _is_count(row[1][1])):
            raise _malformed(path, row, expected)
        if width == 1 and "/" not in name:
            raise _malformed(path, row, "person/file, as no flag says who is the same person")
    if len(rows) % 2:
        raise SourceError(f"{path}: {len(rows)} lines of one image make no pairs: fetch it again")
    first, second = names[::2], names[1::2]
    if width == 2:
        flags = [row[1][1].strip("0") != "" for row in rows]
        for row, flag, other in zip(rows[1::2], flags[::2], flags[1::2], strict=True):
            if flag != other:
                raise _malformed(path, row, "the flag of the line before it, which is its pair's")
        issame = np.array(flags[::2])
    else:
        people = [[name.rpartition("/")[0] for name in side] for side in (first, second)]
        issame = np.array(people[0]) == np.array(people[1])
    return PairList(first=first, second=second, issame=issame)


def image_name(field: str) -> str:
    """What a list calls an image, with slashes for the backslashes of Windows."""
    return path_with_slashes(field.encode()).decode()


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _malformed(path: Path, row: Row, expected: str) -> SourceError:
    return SourceError(
        f"{path}: line {row[0]} is {' '.join(row[1])[:_SHOWN]!r}; expected {expected}: correct it"
    )
