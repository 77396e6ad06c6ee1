"""``facepack verify``."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("pack", type=click.Path(path_type=Path))
@click.option(
    "--deep", is_flag=True, help="Check every record's checksum, even in unchanged files."
)
@click.option("--decode", is_flag=True, help="Also decode every image.")
@click.option(
    "--untrusted", is_flag=True, help="Check a pack from an untrusted source before opening it."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def verify(
    ctx: click.Context, pack: Path, deep: bool, decode: bool, untrusted: bool, as_json: bool
) -> None:
    """Check every byte of a pack.

    Compares every file with its digest, and indexes, labels and manifest with each other. In a
    shard that differs from its digest, walks the B+tree and checks each record's checksum; --deep
    checks the records of all shards. Exits with status 3 if anything is damaged, and names the
    shard and the key.

    --decode finds images that were already damaged when they were packed, such as a truncated JPEG
    that was closed with an end marker; facepack salvage --decode leaves them out.

    --untrusted treats the pack as possibly malicious: links, pipes, forged counts and trees, and
    oversized images are found without handing a file to LMDB's engine. It includes --deep. Once it
    passes, the pack is safe to open, as long as nobody else can write to its files.
    """
    from facepack.care.untrusted import verify_untrusted
    from facepack.care.verify import verify as run
    from facepack.terminal import printable

    if untrusted:
        report = verify_untrusted(pack, decode=decode)
    else:
        report = run(pack, deep=deep, decode=decode)
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=1))
    elif not report.damage:
        click.echo(f"{pack}: {report.records:,} records, {report.file_bytes:,} bytes: all good")
    else:
        for damage in report.damage:
            click.echo(printable(f"{pack}: {damage}"))
        salvage = "salvage --decode" if decode else "salvage"
        click.echo(
            f"{pack}: {len(report.damage)} faults; copy what is intact into a new pack with: "
            f"facepack {salvage} {pack} OUT",
            err=True,
        )
    if report.damage:
        ctx.exit(3)
