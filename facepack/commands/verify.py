"""``facepack verify``."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("pack", type=click.Path(path_type=Path))
@click.option("--decode", is_flag=True, help="Also decode every image.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def verify(ctx: click.Context, pack: Path, decode: bool, as_json: bool) -> None:
    """Check every byte of a pack.

    Compares each file with its digest, walks each shard's structure, and checks each record's sum.
    Ends with status 3 where anything is damaged, and names the shard and the key.
    """
    from facepack.verify import verify as run

    report = run(pack, decode=decode)
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=1))
    elif not report.damage:
        click.echo(f"{pack}: {report.records:,} records, {report.file_bytes:,} bytes: all good")
    else:
        for damage in report.damage:
            click.echo(f"{pack}: {damage}")
        click.echo(f"{pack}: {len(report.damage)} damaged places", err=True)
    if report.damage:
        ctx.exit(3)
