"""``facepack verify``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from facepack.care.verify import Report


@click.command()
@click.argument("packs", metavar="PACK…", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--deep", is_flag=True, help="Check every record's checksum, even in unchanged files."
)
@click.option("--decode", is_flag=True, help="Also decode every image.")
@click.option(
    "--untrusted", is_flag=True, help="Check a pack from an untrusted source before opening it."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON; of several packs, a list."
)
@click.pass_context
def verify(
    ctx: click.Context,
    packs: tuple[Path, ...],
    deep: bool,
    decode: bool,
    untrusted: bool,
    as_json: bool,
) -> None:
    """Check every byte of packs.

    Compares every file with its digest, and indexes, labels and manifest with each other. In a
    shard that differs from its digest, walks the B+tree and checks each record's checksum; --deep
    checks the records of all shards. Exits with status 3 if anything is damaged, and names the
    shard and the key. Of several packs each is checked, whatever the others are; the status is that
    of the worst: 3 if any is damaged, else 1 if one cannot be checked.

    --decode finds images that were already damaged when they were packed, such as a truncated JPEG
    that was closed with an end marker; facepack salvage --decode leaves them out.

    --untrusted treats the pack as possibly malicious: links, pipes, forged counts and trees, and
    oversized images are found without handing a file to LMDB's engine. It includes --deep. Once it
    passes, the pack is safe to open, as long as nobody else can write to its files.
    """
    from facepack.care.untrusted import verify_untrusted
    from facepack.care.verify import verify as run
    from facepack.errors import FacepackError
    from facepack.terminal import printable

    results: list[dict[str, Any]] = []
    status = 0
    for pack in packs:
        try:
            if untrusted:
                report = verify_untrusted(pack, decode=decode)
            else:
                report = run(pack, deep=deep, decode=decode)
        except FacepackError as error:
            if len(packs) == 1:
                raise
            status = max(status, error.exit_code)
            results.append({"pack": str(pack), "ok": False, "error": str(error)})
            click.echo(f"facepack verify: {printable(str(error))}", err=True)
            continue
        status = max(status, 3 if report.damage else 0)
        results.append({"pack": str(pack), **report.as_json()})
        if not as_json:
            _print(pack, report, decode=decode)
    if as_json:
        click.echo(json.dumps(results if len(packs) > 1 else results[0], indent=1))
    ctx.exit(status)


def _print(pack: Path, report: Report, *, decode: bool) -> None:
    """What was found, on stdout; what can be done, on stderr."""
    from facepack.terminal import printable
    from facepack.wording import count_of

    name = printable(str(pack))
    if not report.damage:
        click.echo(
            f"{name}: {count_of(report.records, 'record')}, {report.file_bytes:,} bytes: all good"
        )
        return
    for damage in report.damage:
        click.echo(printable(f"{pack}: {damage}"))
    salvage = "salvage --decode" if decode else "salvage"
    click.echo(
        f"{name}: {count_of(len(report.damage), 'fault')}; copy what is intact into a new pack "
        f"with: facepack {salvage} {name} OUT",
        err=True,
    )
