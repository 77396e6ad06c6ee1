"""``facepack inspect``."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("pack", type=click.Path(path_type=Path))
@click.option("--sizes", is_flag=True, help="Count the sizes of images; reads all their headers.")
@click.option("--all", "all_shards", is_flag=True, help="List every shard of a long pack.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
def inspect(pack: Path, sizes: bool, all_shards: bool, as_json: bool) -> None:
    """Show what a pack holds.

    Counts of records, identities and classes, a histogram of images per identity, sizes of images
    and files, the pairs of an evaluation set, and each shard: all from the manifest and the
    key-label index.
    """
    import facepack
    from facepack.view.summary import summarize
    from facepack.view.summary_text import summary_lines
    from facepack.view.survey import survey

    with facepack.open(pack) as opened:
        figures = summarize(opened)
        found = survey(opened) if sizes else None
    if as_json:
        content = figures.as_json()
        if found is not None:
            content["image_survey"] = found.as_json()
        click.echo(json.dumps(content, indent=1))
        return
    for line in summary_lines(figures, sizes=found, all_shards=all_shards):
        click.echo(line)
