"""``facepack salvage``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from facepack.terminal import NOTHING_WRITTEN


@click.command()
@click.argument("pack", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--decode", is_flag=True, help="Also leave out images that do not decode.")
@click.option("--overwrite", is_flag=True, help="Replace the pack that OUT holds.")
@click.option("--dry-run", is_flag=True, help="Say what could be salvaged; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def salvage(
    pack: Path, out: Path, decode: bool, overwrite: bool, dry_run: bool, as_json: bool
) -> None:
    """Copy what is good out of a damaged pack.

    PACK may lack any file except its shards, and those may be damaged anywhere: records whose
    checksums match are found wherever they lie. OUT becomes a sound pack. Lost records are listed
    in its quarantine.jsonl by shard and key; records that could not be proven intact are reported.

    --decode also leaves out images that were already damaged when they were packed.
    """
    from facepack.care.salvage import salvage as run

    result = run(pack, out, decode=decode, overwrite=overwrite, dry_run=dry_run)
    for notice in result.notices:
        click.echo(f"facepack salvage: {notice}", err=True)
    if as_json:
        click.echo(json.dumps(vars(result), indent=1))
        return
    for shard in result.shards:
        if shard["lost"]:
            click.echo(f"{pack}: {shard['name']}: {shard['lost']:,} of {shard['found']:,} lost")
    for doubt in result.doubtful:
        click.echo(f"{pack}: {doubt['shard']}/{doubt['key']}: {doubt['reason']}")
    click.echo(
        f"{out}: {result.salvaged:,} of {result.found:,} records salvaged "
        f"({len(result.doubtful):,} of them in doubt), {result.lost:,} lost"
    )
    if dry_run:
        click.echo(NOTHING_WRITTEN)
