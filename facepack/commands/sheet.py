"""``facepack sheet``."""

from __future__ import annotations

from pathlib import Path

import click

from facepack.errors import ConfigError


@click.command()
@click.argument("pack", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--identities", type=int, default=8, show_default=True, help="How many rows of images."
)
@click.option("--images", type=int, default=8, show_default=True, help="How many images in a row.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is chosen.")
@click.option("--labels", help="Show these identities, by label: 3,17,40.")
@click.option(
    "--size", type=int, default=112, show_default=True, help="Pixels across of each image."
)
def sheet(
    pack: Path, out: Path, identities: int, images: int, seed: int, labels: str | None, size: int
) -> None:
    """Draw a contact sheet of a pack.

    Each row shows an identity: its label, its name and some of its images with their keys. A set of
    pairs shows pairs instead. The suffix of OUT chooses the image format: .png, .jpg, …. An image
    that does not decode is drawn as a crossed box with the reason.
    """
    import facepack
    from facepack.view.sample import SampleOptions
    from facepack.view.sheet import write_sheet

    options = SampleOptions(identities=identities, images=images, seed=seed, labels=_labels(labels))
    with facepack.open(pack) as opened:
        write_sheet(opened, out, options=options, size=size)
    click.echo(f"{out}", err=True)


def _labels(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--labels {text!r}: write numbers with commas, such as 3,17") from error
