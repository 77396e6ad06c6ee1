"""Text for terminals and pipes: what the output cannot show, or should not, is replaced."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence

_PLAIN = str.maketrans({"×": "x", "–": "-", "−": "-", "…": "...", "·": "-"})
_DRAWN = "▏█×–…·"
_WIDTH = 100  # where the output is no terminal
NOTHING_WRITTEN = "nothing was written (--dry-run)"
"""Ends what a command says under ``--dry-run``, of however many data sets."""


def can_draw() -> bool:
    """Whether stdout can show block characters and typographic signs."""
    try:
        _DRAWN.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def terminal_width() -> int:
    """Columns of the terminal; 100 where stdout is none."""
    return shutil.get_terminal_size((_WIDTH, 24)).columns


def printable(text: str) -> str:
    """``text`` as stdout can show it, on one line, without control characters.

    Names in a pack may come from strangers, and a terminal obeys control characters.
    """
    text = "".join(c if c.isprintable() else _escaped(c) for c in text)
    if can_draw():
        return text
    encoding = sys.stdout.encoding or "ascii"
    return text.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def table_lines(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1
) -> list[str]:
    """A table as lines of text: the first ``left`` columns flush left, the others flush right."""
    cells = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(columns))]
    return [
        "  ".join(
            cell.ljust(width) if k < left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
