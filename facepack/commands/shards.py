"""``facepack shards``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


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
        click.echo(json.dumps(listing, indent=1))
    else:
        _print(listing)


def _print(listing: dict[str, list[dict[str, Any]]]) -> None:
    from facepack.terminal import table_lines

    def figures(row: dict[str, Any]) -> tuple[str, str, str]:
        return row["name"], f"{row['records']:,}", f"{row['identities']:,}"

    rows = map(figures, listing["shards"])
    click.echo("\n".join(table_lines(("shard", "records", "identities"), rows)))
    if listing["sets"]:
        click.echo()
        sets = [(*figures(row), str(row["shards"])) for row in listing["sets"]]
        lines = table_lines(("set", "records", "identities", "shards"), sets)
        for line, about in zip(lines, ["", *map(_about_set, listing["sets"])], strict=True):
            click.echo(f"{line}  {about}".rstrip())


def _about_set(row: dict[str, Any]) -> str:
    about = " ".join(row["patterns"])
    if missing := row["missing"]:
        about += f"   without {len(missing)} zips ({', '.join(missing[:3])} …)"
    if row["error"] is not None:
        about += f"   cannot be used: {row['error']}"
    return about
