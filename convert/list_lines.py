"""Lines of lists of images, and what each says.

Five kinds, told apart by their columns:

==============  ===================================================================================
``im2rec``      ``idx TAB label [TAB label …] TAB path``, as MXNet's im2rec writes them
``face2rec2``   ``aligned TAB path TAB label [TAB 4 numbers of a box [TAB 10 of landmarks]]``, as
                InsightFace reads them: five x, then five y
``paddle``      ``path TAB label``, as Paddle's recognition training reads them
``kv``          ``path label``, split at the last space, as image trees are indexed here
``csv``         commas, semicolons or tabs between cells, which may be quoted; the first line names
                columns, or every line is ``path,label``
==============  ===================================================================================

Blanks around fields belong to none of them: im2rec takes them away as well. Labels are whole
numbers; where most are none, they are names of identities. Paths may have backslashes between
folders.
"""

from __future__ import annotations

import codecs
import csv
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from facepack.convert.files import has_image_suffix, text
from facepack.convert.identity_folder import LONGEST
from facepack.convert.label_names import LABEL_NAMES
from facepack.store.format import MAX_LABEL, NO_IDENTITY

_LABEL = re.compile(rb"-?[0-9]{1,12}(?:\.0*)?")
_NUMBER = re.compile(rb"[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?")
_NO_NAME = re.compile(rb"%b|nan|[+-]?inf" % _NUMBER.pattern, re.IGNORECASE)
_IDX = re.compile(rb"[0-9]{1,18}")
_CONTROL = re.compile(rb"[\0-\x1f\x7f]")
_BLANKS = b" \t"

# Columns by which a header is known, lower case; of several, the first that is there.
_PATHS = (
    *("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path"),
    *("image_name", "image_file", "imagepath", "imagename", "img", "img_path", "img_name"),
    *("image_id", "name", "id"),
)
_LABELS = (*LABEL_NAMES, "id", "name")


class ListedImage(NamedTuple):
    """What a line says of an image."""

    path: bytes  # with slashes between folders
    label: int | bytes  # the identity: its number, or in a list of names its name
    extra: dict[str, float | int]  # the other numbers of the line, by name
    unaligned: bool = False  # whether the line says that the face has yet to be aligned

    def landmarks(self) -> np.ndarray | None:
        """(5, 2) x and y; None where the line has none."""
        if "landmark_1" not in self.extra:
            return None
        return np.array([self.extra[f"landmark_{k}"] for k in range(1, 11)]).reshape(2, 5).T


class LineError(Exception):
    """A line is not of its list's kind; says what it should have."""


ReadLabel = Callable[[bytes], int | bytes]


def read_number(field: bytes) -> int:
    """A label that is a number."""
    label = int(field.partition(b".")[0]) if _LABEL.fullmatch(field) else None
    if label is None or not NO_IDENTITY <= label <= MAX_LABEL:
        raise LineError(
            f"label {text(field[:40])!r}: allowed are whole numbers, 0 to {MAX_LABEL}, and -1 for "
            "no identity"
        )
    return label


def read_name(field: bytes) -> bytes:
    """A label that is the name of an identity."""
    if not field or len(field) > LONGEST or _CONTROL.search(field):
        raise LineError(
            f"label {text(field[:40])!r}: a name of an identity has 1 to {LONGEST} bytes, and no "
            "control characters"
        )
    return field


def path_with_slashes(field: bytes) -> bytes:
    """A path with slashes for backslashes, as Windows writes it; other encodings than UTF-8 may
    have them within a letter."""
    if b"\\" in field and b"/" not in field:
        try:
            field.decode()
        except UnicodeDecodeError:
            return field
        return field.replace(b"\\", b"/")
    return field


def _number(field: bytes) -> float:
    number = float(field) if _NUMBER.fullmatch(field) else math.nan
    if not math.isfinite(number):
        raise LineError(f"{text(field[:40])!r} is no number")
    return number


def read_kv(line: bytes, label: ReadLabel = read_number) -> ListedImage:
    """Read ``path label``; the path may hold spaces."""
    path, space, last = line.rpartition(b" ")
    path = path.rstrip(_BLANKS)
    if not space or not path:
        raise LineError("expected a path, a space and a label")
    return ListedImage(path_with_slashes(path), label(last), {})


def _fields(line: bytes) -> list[bytes]:
    return [field.strip() for field in line.split(b"\t")]


def read_paddle(line: bytes, label: ReadLabel = read_number) -> ListedImage:
    """Read ``path TAB label``."""
    fields = _fields(line)
    if len(fields) != 2 or not fields[0]:
        raise LineError("expected a path and a label, with a tab between")
    return ListedImage(path_with_slashes(fields[0]), label(fields[1]), {})


def read_im2rec(line: bytes, label: ReadLabel = read_number) -> ListedImage:
    """Read ``idx TAB label … TAB path``.

    The first label is the identity, the others are ``label_1``, …; ``idx`` is ``key``.
    """
    fields = _fields(line)
    if len(fields) < 3 or not _IDX.fullmatch(fields[0]) or not fields[-1]:
        raise LineError("expected a number, one or more labels and a path, with tabs between")
    extra: dict[str, float | int] = {"key": int(fields[0])}
    for number, field in enumerate(fields[2:-1], start=1):
        extra[f"label_{number}"] = _number(field)
    return ListedImage(path_with_slashes(fields[-1]), label(fields[1]), extra)


def read_face2rec2(line: bytes, label: ReadLabel = read_number) -> ListedImage:
    """Read ``aligned TAB path TAB label [TAB box [TAB landmarks]]``.

    The rest is kept as ``aligned``, ``box_1`` … ``box_4``, ``landmark_1`` … ``landmark_10``.
    """
    fields = _fields(line)
    if len(fields) not in (3, 7, 17) or fields[0] not in (b"0", b"1") or not fields[1]:
        raise LineError(
            "expected 0 or 1, a path and a label, 4 numbers more for a box and 10 for landmarks, "
            "with tabs between"
        )
    extra: dict[str, float | int] = {"aligned": int(fields[0])}
    for number, field in enumerate(fields[3:]):
        name = f"box_{number + 1}" if number < 4 else f"landmark_{number - 3}"
        extra[name] = _number(field)
    return ListedImage(
        path_with_slashes(fields[1]), label(fields[2]), extra, unaligned=fields[0] == b"0"
    )


class Table(NamedTuple):
    """How lines of a ``csv`` are read."""

    delimiter: str  # what lies between cells
    width: int  # cells of a line
    path: int  # which of them is the path, from 0
    label: int  # which is the label
    names: tuple[str, ...] = ()  # of these two columns; empty where there is no header

    def read(self, line: bytes, label: ReadLabel = read_number) -> ListedImage:
        """Read a line; what other cells hold is left out."""
        cells = _cells(line, self.delimiter)
        if len(cells) != self.width or not cells[self.path]:
            raise LineError(f"expected {self.width} cells, with {self.delimiter!r} between")
        return ListedImage(path_with_slashes(cells[self.path]), label(cells[self.label]), {})


def _cells(line: bytes, delimiter: str) -> list[bytes]:
    rows = [line.decode("utf-8", "surrogateescape"), ""]
    reader = csv.reader(rows, delimiter=delimiter, skipinitialspace=True)
    try:
        cells = next(reader)
    except csv.Error as error:
        raise LineError(f"no line of a CSV: {error}") from None
    if reader.line_num > 1:  # it would go on in the next line
        raise LineError("a quote is not closed; cells of several lines are not read")
    return [cell.strip().encode("utf-8", "surrogateescape") for cell in cells]


@dataclass(frozen=True)
class Columns:
    """Columns of a ``csv`` that the user named; None where they are to be found."""

    path: str | None = None
    label: str | None = None


def find_table(first: bytes, columns: Columns) -> Table | None:
    """How a list whose first line this is can be read as a ``csv``; None if it is none.

    Raises:
        LineError: it has not the columns that the user named.
    """
    delimiter = next((sign for sign in "\t;," if sign.encode() in first), None)
    cells: list[bytes] = []
    if delimiter is not None:
        with suppress(LineError):  # the line may be malformed, and others be of another kind
            cells = _cells(first, delimiter)
    header = [text(cell) for cell in cells]
    lower = [name.lower() for name in header]
    for wanted in (columns.path, columns.label):
        if wanted is not None and wanted not in header:
            raise LineError(f"no column is called {wanted!r}")
    if delimiter is None or not cells:
        return None
    path = header.index(columns.path) if columns.path else _find(_PATHS, lower, None)
    label = header.index(columns.label) if columns.label else _find(_LABELS, lower, path)
    if columns.path is None and path == label:
        path = _find(_PATHS, lower, label)
    if path is not None and label is not None and path != label:
        names = header[path], header[label]
        return Table(delimiter, len(cells), path, label, names)
    if columns != Columns():
        raise LineError("which column is the path, and which the label, is not told")
    if len(cells) == 2 and delimiter != "\t" and has_image_suffix(cells[0]):
        return Table(delimiter, 2, 0, 1)
    return None


def _find(known: Sequence[str], names: Sequence[str], taken: int | None) -> int | None:
    """The first of ``known`` names that a column other than ``taken`` bears."""
    found = (names.index(name) for name in known if name in names)
    return next((place for place in found if place != taken), None)


LINES: Mapping[str, Callable[[bytes, ReadLabel], ListedImage]] = {
    "im2rec": read_im2rec,
    "face2rec2": read_face2rec2,
    "paddle": read_paddle,
    "kv": read_kv,
}
KINDS = (*LINES, "csv")
FORMS = {
    "im2rec": "idx TAB label TAB path",
    "face2rec2": "aligned TAB path TAB label",
    "paddle": "path TAB label",
    "kv": "path label",
    "csv": "path,label below a header",
}


@dataclass(frozen=True, kw_only=True)
class ListForm:
    """How the lines of a list are read."""

    kind: str  # one of KINDS
    named: bool = False  # whether labels are names
    table: Table | None = None  # of a csv

    def read(self, line: bytes) -> ListedImage:
        """What a line says.

        Raises:
            LineError: it is not of this form.
        """
        read = LINES[self.kind] if self.table is None else self.table.read
        return read(line, read_name if self.named else read_number)

    @property
    def has_header(self) -> bool:
        """Whether the first line names columns."""
        return self.table is not None and bool(self.table.names)

    def fits(self, line: bytes) -> bool:
        """Whether ``line`` can be of this form, a number being no path, and a tab in no path.

        Names could be nearly anything: the path then must be an image's, the name no such path, and
        no number.
        """
        try:
            path, label, *_ = self.read(line)
        except LineError:
            return False
        if isinstance(label, bytes) and (
            _NO_NAME.fullmatch(label) or has_image_suffix(label) or not has_image_suffix(path)
        ):
            return False
        return not _NUMBER.fullmatch(path) and b"\t" not in path


def find_form(
    lines: Sequence[bytes], kinds: Collection[str], columns: Columns | None = None
) -> ListForm | None:
    """The form of most of the first ``lines`` of a list; None if none, or several are.

    The first line has something in it. ``columns`` are those that the user named.

    Raises:
        LineError: the first line has no such columns, or is of no list that can be read.
    """
    table = None
    if lines and lines[0].startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise LineError("the list is UTF-16: save it as UTF-8")
    if lines and ("csv" in kinds or columns is not None):
        table = find_table(lines[0], columns or Columns())
    forms = [ListForm(kind=kind) for kind in kinds if kind in LINES]
    if table is not None and table.names:
        lines, forms = lines[1:], []
        if not lines:
            raise LineError("no line follows this header")
    if table is not None:
        forms.append(ListForm(kind="csv", table=table))
    numbered, votes = _most_fitting(lines, forms)
    by_name = [ListForm(kind=form.kind, named=True, table=form.table) for form in forms]
    named, more = _most_fitting(lines, by_name)
    return numbered if votes >= more else named


def _most_fitting(lines: Iterable[bytes], forms: Sequence[ListForm]) -> tuple[ListForm | None, int]:
    """Which of ``forms`` most of ``lines`` are, and how many; None if as many are of another.

    A line may be of several forms that read the same in it, as ``path TAB blank label`` is.
    """
    fitted: dict[ListForm, list[int]] = {}
    for number, line in enumerate(lines):
        fitting = [form for form in forms if form.fits(line)]
        if len({form.read(line)[:2] for form in fitting}) == 1:
            for form in fitting:
                fitted.setdefault(form, []).append(number)
    ranked = sorted(fitted.items(), key=lambda entry: -len(entry[1]))
    if not ranked:
        return None, 0
    best, numbers = ranked[0]
    if any(len(others) == len(numbers) and others != numbers for _, others in ranked):
        return None, 0
    return best, len(numbers)
