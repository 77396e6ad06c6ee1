"""Lines of lists of images, and what each says.

Four kinds, told apart by their columns:

==============  ===================================================================================
``im2rec``      ``idx TAB label [TAB label …] TAB path``, as MXNet's im2rec writes them
``face2rec2``   ``aligned TAB path TAB label [TAB 4 numbers of a box [TAB 10 of landmarks]]``, as
                InsightFace reads them: five x, then five y
``paddle``      ``path TAB label``, as Paddle's recognition training reads them
``kv``          ``path label``, split at the last space, as image trees are indexed here
==============  ===================================================================================

Blanks around the fields between tabs belong to none of them: im2rec takes them away as well.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from facepack.convert.files import text
from facepack.store.format import MAX_LABEL, NO_IDENTITY

_LABEL = re.compile(rb"-?[0-9]{1,12}(?:\.0*)?")
_NUMBER = re.compile(rb"[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?")
_IDX = re.compile(rb"[0-9]{1,18}")


class ListedImage(NamedTuple):
    """What a line says of an image.

    Attributes:
        path: as it is written.
        label: the identity.
        extra: the other numbers of the line, by name.
        unaligned: whether the line says that the face has yet to be aligned.
    """

    path: bytes
    label: int
    extra: dict[str, float | int]
    unaligned: bool = False

    def landmarks(self) -> np.ndarray | None:
        """(5, 2) x and y; None where the line has none."""
        if "landmark_1" not in self.extra:
            return None
        return np.array([self.extra[f"landmark_{k}"] for k in range(1, 11)]).reshape(2, 5).T


class LineError(Exception):
    """A line is not of its list's kind; says what it should have."""


def _label(field: bytes) -> int:
    label = int(field.partition(b".")[0]) if _LABEL.fullmatch(field) else None
    if label is None or not NO_IDENTITY <= label <= MAX_LABEL:
        raise LineError(
            f"label {text(field[:40])!r}: allowed are whole numbers, 0 to {MAX_LABEL}, and -1 for "
            "no identity"
        )
    return label


def _number(field: bytes) -> float:
    number = float(field) if _NUMBER.fullmatch(field) else math.nan
    if not math.isfinite(number):
        raise LineError(f"{text(field[:40])!r} is no number")
    return number


def read_kv(line: bytes) -> ListedImage:
    """Read ``path label``; the path may hold spaces."""
    path, space, label = line.rpartition(b" ")
    if not space or not path:
        raise LineError("expected a path, a space and a label")
    return ListedImage(path, _label(label), {})


def _fields(line: bytes) -> list[bytes]:
    return [field.strip() for field in line.split(b"\t")]


def read_paddle(line: bytes) -> ListedImage:
    """Read ``path TAB label``."""
    fields = _fields(line)
    if len(fields) != 2 or not fields[0]:
        raise LineError("expected a path and a label, with a tab between")
    return ListedImage(fields[0], _label(fields[1]), {})


def read_im2rec(line: bytes) -> ListedImage:
    """Read ``idx TAB label … TAB path``.

    The first label is the identity, the others are ``label_1``, …; ``idx`` is ``key``.
    """
    fields = _fields(line)
    if len(fields) < 3 or not _IDX.fullmatch(fields[0]) or not fields[-1]:
        raise LineError("expected a number, one or more labels and a path, with tabs between")
    extra: dict[str, float | int] = {"key": int(fields[0])}
    for number, field in enumerate(fields[2:-1], start=1):
        extra[f"label_{number}"] = _number(field)
    return ListedImage(fields[-1], _label(fields[1]), extra)


def read_face2rec2(line: bytes) -> ListedImage:
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
    return ListedImage(fields[1], _label(fields[2]), extra, unaligned=fields[0] == b"0")


LINES: Mapping[str, Callable[[bytes], ListedImage]] = {
    "im2rec": read_im2rec,
    "face2rec2": read_face2rec2,
    "paddle": read_paddle,
    "kv": read_kv,
}
FORMS = {
    "im2rec": "idx TAB label TAB path",
    "face2rec2": "aligned TAB path TAB label",
    "paddle": "path TAB label",
    "kv": "path label",
}


def fits(kind: str, line: bytes) -> bool:
    """Whether ``line`` can be of ``kind``, a number being no path, and a tab in no path."""
    try:
        path = LINES[kind](line).path
    except LineError:
        return False
    return not _NUMBER.fullmatch(path) and b"\t" not in path


def most_fitting(lines: Iterable[bytes], kinds: Collection[str]) -> str | None:
    """Which of ``kinds`` most of ``lines`` are; None if none, or as many of one as of another."""
    votes: Counter[str] = Counter()
    for line in lines:
        fitting = [kind for kind in kinds if fits(kind, line)]
        if len(fitting) == 1:
            votes[fitting[0]] += 1
    ranked = votes.most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]
