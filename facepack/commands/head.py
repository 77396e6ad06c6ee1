"""``facepack head``."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from facepack.view.record_list import ListedRecord

_COLUMNS = ("key", "identity", "name", "label", "pixels", "bytes")
_TOGETHER = 1_000  # lines whose columns are aligned


@click.command()
@click.argument("pack", type=click.Path(path_type=Path))
@click.option(
    "-n",
    "count",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    help="How many records; 0 lists all.",
)
@click.option("--identity", metavar="NAME|LABEL", help="Of this identity alone.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line.")
def head(pack: Path, count: int, identity: str | None, as_json: bool) -> None:
    """List records of a pack.

    Of each its key, the names of its identity and of itself in the source, its label, width ×
    height, and the bytes of the image, in the order of positions. PACK may be PACK:SET.
    """
    import facepack
    from facepack.terminal import printable, table_lines
    from facepack.view.record_list import find_identity, list_records

    with facepack.open(pack) as opened:
        positions = range(len(opened)) if identity is None else find_identity(opened, identity)
        records = list_records(opened, positions[: count or None])
        if as_json:
            for record in records:
                click.echo(json.dumps(vars(record)))
            return
        shown = 0
        while rows := list(islice(records, _TOGETHER)):
            lines = table_lines(_COLUMNS, [_cells(row) for row in rows], left=3)
            for line in lines[1:] if shown else lines:
                click.echo(printable(line))
            shown += len(rows)
        total = len(positions)
    if shown < total:
        click.echo(f"{shown:,} of {total:,} records; -n lists more", err=True)


def _cells(record: ListedRecord) -> tuple[str, ...]:
    from facepack.terminal import printable

    return (
        record.key,
        printable(record.identity or ""),
        printable(record.name or ""),
        str(record.label),
        "?" if record.width is None else f"{record.width}×{record.height}",
        f"{record.bytes:,}",
    )
