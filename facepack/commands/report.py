"""``facepack report``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("pack", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--quick", is_flag=True, help="Read only a sample of the images; skip duplicates.")
@click.option(
    "--identities", type=int, default=8, show_default=True, help="How many rows of images to show."
)
@click.option("--images", type=int, default=8, show_default=True, help="How many images in a row.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the images shown.")
def report(pack: Path, out: Path, quick: bool, identities: int, images: int, seed: int) -> None:
    """Write a page about a pack.

    A single HTML file with counts, histograms, sizes, a sample, duplicates, quarantined records and
    shards; it needs no other file and no network. Every image is read once, except with --quick.
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
