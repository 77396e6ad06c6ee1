"""``facepack reindex``."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("pack", type=click.Path(path_type=Path))
@click.option(
    "--partial", is_flag=True, help="Accept missing shards: make a pack of those that are there."
)
@click.option("--json", "as_json", is_flag=True, help="Print the new manifest as JSON.")
def reindex(pack: Path, partial: bool, as_json: bool) -> None:
    """Rebuild a pack's index files from its shards.

    Checks the .mdb files, then rebuilds the .kv files, plan.json, labels.txt, quarantine.jsonl and
    pack.json from them.
    """
    from facepack.care.reindex import reindex as run

    manifest = run(pack, partial=partial)
    if as_json:
        click.echo(json.dumps(manifest, indent=1, sort_keys=True))
    else:
        click.echo(f"{pack}: {len(manifest['shards'])} shards, {manifest['records']:,} records")
