"""``facepack shards``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from facepack.view.listing import Listing, SetRow


@click.command()
@click.argument("pack", type=click.Path(path_type=Path))
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option("--add", metavar="NAME", help="Name the set of shards that match PATTERNs.")
@click.option("--remove", metavar="NAME", help="Remove a set; its shards are not touched.")
@click.option("--json", "as_json", is_flag=True, help="Print sets and shards as JSON.")
def shards(
    pack: Path, patterns: tuple[str, ...], add: str | None, remove: str | None, as_json: bool
) -> None:
    """List, add and remove shard sets of a pack.

    A set is a named subset of the shards, for `facepack train --shards`. PATTERN is a shard's name
    or a shell pattern such as '0_*'. Packs of WebFace zips have the sets webface4m, webface8m,
    webface12m and webface42m by default.
    """
    import facepack
    from facepack.store.sets import add_set, remove_set
    from facepack.view.listing import list_shards

    if (add is None) == bool(patterns):
        raise click.UsageError("--add NAME goes with the PATTERNs of its shards, and they with it")
    with facepack.open(pack) as opened:
        if add is not None:
            add_set(opened.path, opened.shard_names, add, patterns)
        if remove is not None:
            remove_set(opened.path, opened.shard_names, remove)
        listing = list_shards(opened)
    if as_json:
        click.echo(json.dumps(listing.as_json(), indent=1))
    else:
        _print(listing)


def _print(listing: Listing) -> None:
    rows = [(row.name, f"{row.records:,}", f"{row.identities:,}") for row in listing.shards]
    _table(("shard", "records", "identities"), rows)
    if listing.sets:
        click.echo()
        heads = ("set", "records", "identities", "shards", "")
        _table(heads, [_set_cells(row) for row in listing.sets])


def _set_cells(row: SetRow) -> tuple[str, ...]:
    about = " ".join(row.patterns)
    if row.missing:
        about += f"   without {len(row.missing)} zips ({', '.join(row.missing[:3])} …)"
    if row.error is not None:
        about += f"   cannot be used: {row.error}"
    return row.name, f"{row.records:,}", f"{row.identities:,}", str(row.shards), about


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Left-aligned names, right-aligned figures, free text in a fifth column."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        cells = [
            cell.rjust(width) if 1 <= k <= 3 else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())
