"""The command ``facepack models``."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
def models(*, as_json: bool) -> None:
    """List the backbones.

    Parameters in millions; multiply-accumulates (MACs) of an image in units of 10^9, counted over
    convolutions, linear layers and attention; the embedding's default length; and the side of an
    input image in pixels.
    """
    from facepack.terminal import printable, table_lines
    from facepack.train.backbones import names
    from facepack.train.models.cost import model_cost

    costs = [model_cost(name) for name in names()]
    if as_json:
        click.echo(json.dumps([cost.as_dict() for cost in costs], indent=2))
        return
    rows = [
        (
            cost.name,
            f"{cost.parameters / 1e6:,.2f}",
            f"{cost.macs / 1e9:,.2f}",
            str(cost.features),
            "×".join(map(str, reversed(cost.image_size))),
        )
        for cost in costs
    ]
    for line in table_lines(("backbone", "parameters/M", "MACs/G", "embedding", "input"), rows):
        click.echo(printable(line))
