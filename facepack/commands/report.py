"""``facepack report``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("pack", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--quick", is_flag=True, help="Look at a sample of the images; leave duplicates out.")
@click.option(
    "--identities", type=int, default=8, show_default=True, help="How many rows of images to show."
)
@click.option("--images", type=int, default=8, show_default=True, help="How many images in a row.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the images shown.")
def report(pack: Path, out: Path, quick: bool, identities: int, images: int, seed: int) -> None:
    """Write a page about a pack.

    One HTML file holds counts, histograms, sizes, a sample, duplicates, quarantined records and
    shards; it needs no other and no network. Every image is read once, unless it is to be --quick.
    """
    import facepack
    from facepack.view.report import ReportOptions, write_report
    from facepack.view.sample import SampleOptions

    options = ReportOptions(
        sample=SampleOptions(identities=identities, images=images, seed=seed), quick=quick
    )
    with facepack.open(pack) as opened:
        write_report(opened, out, options=options)
    click.echo(f"{out}", err=True)
