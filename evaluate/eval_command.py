"""``facepack eval``: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("eval")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET…")
@click.option(
    "--model",
    required=True,
    type=click.Path(path_type=Path),
    metavar="RUN_OR_FILE",
    help="A run's folder, or a file with a backbone's state_dict.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where sets are looked for by name: FACEPACK_HOME, or else the current folder, if unset.",
)
@click.option("--backbone", metavar="NAME", help="What a file is of; else its tensors tell.")
@click.option("--device", metavar="NAME", help="Such as cuda:0 or cpu; a GPU if there is one.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    metavar="N",
    help="Images a forward pass.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects, shares of one.")
def eval_(
    targets: tuple[str, ...],
    model: Path,
    data: Path | None,
    backbone: str | None,
    device: str | None,
    batch_size: int,
    as_json: bool,
) -> None:
    """Evaluate a model on verification sets.

    TARGET is a set's name (lfw, cfp_fp, agedb_30, calfw, cplfw, cfp_ff, vgg2_fp or any other), or
    the path of one: a pack, a .bin, or a folder of imgs/ and pair_label.npy. The table is in
    percent: accuracy ± standard deviation over ten folds, TAR at three FARs, AUC and EER; norm is
    the mean length of the embeddings, image plus mirror image.
    """
    from facepack.evaluate.models import load_model
    from facepack.evaluate.pairs import find_pair_set, load_pair_set
    from facepack.evaluate.table import table_header, table_row
    from facepack.evaluate.verification import evaluate_pairs
    from facepack.progress import Progress
    from facepack.train.build import enter_device

    for target in targets:
        find_pair_set(target, data)  # a mistyped name must not cost the sets before it
    network = load_model(model, backbone=backbone).to(enter_device(device))
    results: list[dict[str, object]] = []
    for target in targets:
        pair_set = load_pair_set(target, data)
        with Progress(len(pair_set.images), unit="images", label=target) as progress:
            result = evaluate_pairs(
                network, pair_set, batch_size=batch_size, on_batch=progress.update
            )
        for notice in result.notices:
            click.echo(f"{target}: {notice}", err=True)
        if not as_json:
            if not results:
                click.echo(table_header(targets))
            click.echo(table_row(result, targets))
        results.append(result.as_dict())
    if as_json:
        click.echo(json.dumps(results, indent=2))
