"""Tables as CSV that a spreadsheet shows, and does not run.

Names of images and people come from files of others. A text that begins with ``=``, ``+``, ``-``
or ``@`` is a formula to a spreadsheet, which may lead to other files and addresses; with an
apostrophe before it, it is text (OWASP, "CSV Injection"). Numbers stay numbers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with its header line; texts are guarded, None is an empty cell."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(
        [guard_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows
    )
    return lines.getvalue()


def guard_cell(text: str) -> str:
    """``text`` as a cell that is no formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text
