"""``facepack reindex``."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("pack", type=click.Path(path_type=Path))
@click.option("--partial", is_flag=True, help="Make a pack of what is there, with shards missing.")
@click.option("--json", "as_json", is_flag=True, help="Print the new manifest as JSON.")
def reindex(pack: Path, partial: bool, as_json: bool) -> None:
    """Rebuild a pack's index files from its shards.

    The .kv files, plan.json, labels.txt, quarantine.jsonl and pack.json are made anew from the
    .mdb files, which are checked first.
    """
    from facepack.care.reindex import reindex as run

    manifest = run(pack, partial=partial)
    if as_json:
        click.echo(json.dumps(manifest, indent=1, sort_keys=True))
    else:
        click.echo(f"{pack}: {len(manifest['shards'])} shards, {manifest['records']:,} records")
