"""The command ``facepack export``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from facepack.command_options import BACKBONE, MODEL_CHANNELS, PATH


@click.command()
@click.argument("model", type=PATH, metavar="RUN_OR_MODEL")
@click.argument("out", type=PATH, metavar="OUT.{safetensors,onnx}")
@BACKBONE
@MODEL_CHANNELS
@click.option("--pack", type=PATH, help="Compare on images of this pack, too.")
@click.option(
    "--images",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    metavar="N",
    help="Images of each kind to compare on.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=1e-4,
    show_default=True,
    metavar="SHARE",
    help="Largest difference, as a share of the largest value of an embedding.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def export(
    model: Path,
    out: Path,
    *,
    backbone: str | None,
    channels: str | None,
    pack: Path | None,
    images: int,
    tolerance: float,
    as_json: bool,
) -> None:
    """Write a model as safetensors or ONNX.

    RUN_OR_MODEL is a run's folder, or a file with a backbone's state_dict. What is written is read
    back (ONNX: run by onnxruntime) and its embeddings are compared with the model's, on random
    pixels and on images of --pack; beyond --tolerance nothing is written and the exit status is 1.
    The file says which backbone it is and which input it takes, (x - 127.5) / 127.5: RGB, but for
    safetensors of a model that takes BGR.
    """
    import facepack
    from facepack.evaluate.models import load_model
    from facepack.train.models.export import check_format, export_model

    check_format(out)  # before the model is read
    network = load_model(model, backbone=backbone, channels=channels)
    if pack is None:
        result = export_model(network, out, images=images, tolerance=tolerance)
    else:
        with facepack.open(pack) as opened:
            result = export_model(network, out, images=images, pack=opened, tolerance=tolerance)
    if as_json:
        click.echo(json.dumps(result.as_dict(), indent=2))
        return
    height, width = network.image_size
    click.echo(
        f"{out}: {network.name}, {network.embedding_size} features, input {width}x{height} "
        f"{result.metadata['color']}; {result.bytes:,} bytes"
    )
    for parity in result.parity:
        click.echo(
            f"{parity.images}: largest difference {parity.max_difference:.3g} "
            f"({parity.relative_difference:.2g} of the largest value), lowest cosine "
            f"{parity.min_cosine:.9f}"
        )
