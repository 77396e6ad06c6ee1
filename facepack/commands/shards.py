"""``facepack shards``."""

from __future__ import annotations

import json
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
    from facepack.terminal import table_lines

    rows = [(row.name, f"{row.records:,}", f"{row.identities:,}") for row in listing.shards]
    click.echo("\n".join(table_lines(("shard", "records", "identities"), rows)))
    if listing.sets:
        click.echo()
        sets = [
            (row.name, f"{row.records:,}", f"{row.identities:,}", str(row.shards))
            for row in listing.sets
        ]
        lines = table_lines(("set", "records", "identities", "shards"), sets)
        for line, about in zip(lines, ["", *map(_about_set, listing.sets)], strict=True):
            click.echo(f"{line}  {about}".rstrip())


def _about_set(row: SetRow) -> str:
    about = " ".join(row.patterns)
    if row.missing:
        about += f"   without {len(row.missing)} zips ({', '.join(row.missing[:3])} …)"
    if row.error is not None:
        about += f"   cannot be used: {row.error}"
    return about
