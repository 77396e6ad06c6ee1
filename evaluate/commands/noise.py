"""``facepack noise``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facepack.command_options import DRY_RUN, FILE, PATH
from facepack.evaluate.command import (
    BATCH_SIZE_OPTION,
    DATA_OPTION,
    ON_BAD_IMAGE_OPTION,
    tell_preview,
)
from facepack.evaluate.commands.on_ranks import on_ranks

if TYPE_CHECKING:
    from facepack.evaluate.faces.bad_images import OnBadImage
    from facepack.evaluate.noise.compared import Compared
    from facepack.evaluate.noise.find import Noise


@click.command()
@click.argument("pack")
@click.option(
    "--model",
    required=True,
    type=PATH,
    metavar="RUN",
    help="The run that was trained on it: its folder, or a checkpoint.pt.",
)
@click.option("--out", type=PATH, required=True, help="Folder for scores, lists and embeddings.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.007,
    show_default=True,
    help="Faces whose largest probability is below it are of no class.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Probability of another class, without the margin, from which a label is called wrong.",
)
@click.option(
    "--plot",
    type=FILE,
    metavar="OUT",
    help="Draw how the scores are distributed (.png, .svg, .pdf).",
)
@click.option(
    "--page",
    type=FILE,
    metavar="OUT.html",
    help="Write a page to judge the worst images by eye, on which they can be marked.",
)
@click.option(
    "--neighbours",
    is_flag=True,
    help="List identities that look like one person, and identities that look like two.",
)
@click.option(
    "--against",
    metavar="PACK",
    help="List people of PACK who are in this pack or folder of images too, a test set for one.",
)
@click.option("--device", metavar="NAME", help="Such as cuda:0 or cpu; a GPU if there is one.")
@BATCH_SIZE_OPTION
@ON_BAD_IMAGE_OPTION
@DATA_OPTION
@click.option("--resume", is_flag=True, help="Go on with the embeddings that are in --out.")
@click.option("--overwrite", is_flag=True, help="Replace what --out holds.")
@DRY_RUN
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
@click.pass_context
def noise(
    ctx: click.Context,
    *,
    pack: str,
    model: Path,
    out: Path,
    threshold: float,
    confidence: float,
    plot: Path | None,
    page: Path | None,
    neighbours: bool,
    against: str | None,
    device: str | None,
    batch_size: int,
    on_bad_image: OnBadImage,
    data: Path | None,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Find images that are not what their labels say.

    Every image of PACK, a training pack or tree, is scored by the classifier of a run that was
    trained on it, or on a pack of the same label map. Faces of no class are listed in
    OUT/noise.txt, .csv and .json; images that another class is surer of than --confidence in
    OUT/wrong_labels.txt, .csv and .json; all scores are in OUT/scores.npy. facepack select
    --exclude takes either list. --neighbours writes OUT/alike and OUT/mixed, --against OUT/against,
    as .csv and .json. With --resume, another --threshold costs no forward pass.

    On several GPUs: torchrun --nproc-per-node N -m facepack noise, with the same options.
    """
    if resume and overwrite:
        raise click.UsageError("--resume goes on with what --overwrite removes: give one")
    from facepack.evaluate.noise.classifier import open_classifier
    from facepack.evaluate.noise.compared import (
        AGAINST,
        ALIKE,
        MIXED,
        compare_against,
        compare_neighbours,
        remove_compared,
        write_compared,
    )
    from facepack.evaluate.noise.figures import require_writable_plot, score_plots
    from facepack.evaluate.noise.find import NoiseOptions, look_for_noise
    from facepack.evaluate.noise.page import write_noise_page
    from facepack.evaluate.noise.preview import preview_noise
    from facepack.evaluate.sets.labelled import open_labelled
    from facepack.evaluate.sets.sources import open_faces
    from facepack.store.output import require_writable
    from facepack.train.ranks.agreement import together
    from facepack.view.plot import write_plots

    options = NoiseOptions(
        threshold=threshold,
        confidence=confidence,
        batch_size=batch_size,
        on_bad_image=on_bad_image,
        resume=resume,
        overwrite=overwrite,
    )
    with on_ranks(ctx, device, pack) as work:
        with together(work.ranks):
            require_writable_plot(plot)
            if page is not None:
                require_writable(page)
            images = open_labelled(pack, data)
            classifier = open_classifier(model)
            others = None if against is None else open_faces(against, data)[0]
            if dry_run:
                preview = preview_noise(
                    out,
                    images,
                    classifier,
                    others,
                    device=work.device,
                    options=options,
                    tables=[
                        *([ALIKE, MIXED] if neighbours else []),
                        *([AGAINST] if against else []),
                    ],
                    files=[str(path) for path in (plot, page) if path is not None],
                )
        if dry_run:
            if work.ranks.is_first:
                tell_preview(preview, as_json)
            return
        found = look_for_noise(
            out,
            images,
            classifier,
            device=work.device,
            options=options,
            ranks=work.ranks,
            progress=work.progress,
        )
    if found is None:
        return
    if plot is not None:
        write_plots(score_plots(found.scores, found.images.labels), plot)
    if overwrite:
        remove_compared(out)
    compared = compare_neighbours(found, work.device) if neighbours else []
    if others is not None:
        folder = out / AGAINST
        compared.append(compare_against(found, folder, others, classifier, work.device, options))
    write_compared(out, compared, {"pack": Path(pack).name, "model": classifier.name})
    if page is not None:
        write_noise_page(page, found, classifier.name, compared)
    _tell(out, found, compared, as_json)


def _tell(out: Path, found: Noise, compared: list[Compared], as_json: bool) -> None:
    from facepack.evaluate.noise.find import EMBEDDINGS
    from facepack.terminal import printable

    for part, notices in [
        (EMBEDDINGS, found.notices),
        *((each.name, each.notices) for each in compared),
    ]:
        for notice in notices:
            click.echo(printable(f"{out / part}: {notice}"), err=True)
    counts = found.summary()
    if as_json:
        click.echo(json.dumps({"out": str(out), **counts}))
        return
    of_none, of_other = found.lists
    click.echo(printable(f"{out}: {counts['images']:,} images"))
    click.echo(f"  {counts['noise']:>9,}  of no class: {of_none.rule}")
    click.echo(f"  {counts['wrong_labels']:>9,}  of another class: {of_other.rule}")
    if counts["without_score"]:
        click.echo(f"  {counts['without_score']:>9,}  without a score, as without an embedding")
    click.echo(f"  {counts['argmax_is_not_label']:>9,}  whose argmax is not the label, in all")
