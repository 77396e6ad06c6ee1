"""``facepack report``."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("pack", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path), required=False)
@click.option("--quick", is_flag=True, help="Read only a sample of the images; skip duplicates.")
@click.option(
    "--identities", type=int, default=8, show_default=True, help="How many rows of images to show."
)
@click.option("--images", type=int, default=8, show_default=True, help="How many images in a row.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the images shown.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print its figures as JSON; OUT can be left out."
)
def report(
    pack: Path,
    out: Path | None,
    quick: bool,
    identities: int,
    images: int,
    seed: int,
    as_json: bool,
) -> None:
    """Write a page about a pack.

    A single HTML file with counts, histograms, sizes, a sample, duplicates, quarantined records and
    shards; it needs no other file and no network. Every image is read once, except with --quick.
    """
    import facepack
    from facepack.view.report import ReportOptions, gather_report, write_report
    from facepack.view.sample import SampleOptions

    if out is None and not as_json:
        raise click.UsageError("Missing argument 'OUT': the page, or --json for its figures alone")
    options = ReportOptions(
        sample=SampleOptions(identities=identities, images=images, seed=seed), quick=quick
    )
    with facepack.open(pack) as opened:
        if out is None:
            gathered = gather_report(opened, options=options)
        else:
            gathered = write_report(opened, out, options=options)
    if as_json:
        click.echo(json.dumps(gathered.as_json(), indent=1))
    else:
        click.echo(f"{out}", err=True)
