"""``facepack embed``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from facepack.command_options import DRY_RUN, PATH, RESUME, with_options
from facepack.evaluate.command import DATA_OPTION, FORWARD_OPTIONS, MODEL_OPTION, tell_preview
from facepack.evaluate.commands.on_ranks import on_ranks

if TYPE_CHECKING:
    from facepack.evaluate.embedding.embed_into import Embedded
    from facepack.evaluate.faces.bad_images import OnBadImage
    from facepack.evaluate.faces.faces import Faces


@click.command()
@click.argument("target")
@MODEL_OPTION
@with_options(FORWARD_OPTIONS)
@click.option(
    "--out",
    type=PATH,
    required=True,
    help="Folder for embeddings.npy, norms.npy, keys.npy, meta.json; or a .safetensors.",
)
@DATA_OPTION
@click.option("--no-flip", is_flag=True, help="Leave the mirror image's embedding out of the sum.")
@RESUME
@click.option("--overwrite", is_flag=True, help="Replace what --out holds.")
@DRY_RUN
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
@click.pass_context
def embed(
    ctx: click.Context,
    *,
    target: str,
    model: Path,
    backbone: str | None,
    channels: str | None,
    torchscript: bool,
    device: str | None,
    batch_size: int,
    on_bad_image: OnBadImage,
    out: Path,
    data: Path | None,
    no_flip: bool,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Embed images into a file.

    TARGET is a pack, a shard set (PACK:SET) or a folder of images; or a protocol with its
    arguments, in quotes, for the images that it evaluates. Of each image the embedding and that of
    its mirror image are added, in float32 and not normalised. The file can be evaluated in the
    model's place: facepack eval … --embeddings OUT.

    On several GPUs: torchrun --nproc-per-node N -m facepack embed, with the same options. A batch
    holds the same images however many processes there are.
    """
    if resume and overwrite:
        raise click.UsageError("--resume goes on with what --overwrite removes: give one")
    from facepack.evaluate.embedding.embed_into import EmbedOptions, embed_into
    from facepack.evaluate.embedding.preview import preview_embedding
    from facepack.evaluate.models import open_model
    from facepack.train.ranks.agreement import together

    with on_ranks(ctx, device, target) as work:
        with together(work.ranks):
            opened = open_model(
                model, backbone=backbone, channels=channels, torchscript=torchscript
            )
            faces = _open_faces(target, data, say=work.ranks.is_first)
        how: dict[str, Any] = {
            "stated": {"model": model.name, "model_xxh3_128": opened.checksum}
            | ({} if channels is None else {"channels": channels}),
            "device": work.device,
            "options": EmbedOptions(
                flip=not no_flip,
                batch_size=batch_size,
                on_bad_image=on_bad_image,
                resume=resume,
                overwrite=overwrite,
            ),
        }
        network = opened.network.to(work.device)
        if dry_run:
            with together(work.ranks):
                preview = preview_embedding(out, network, faces, **how)
            if work.ranks.is_first:
                tell_preview(preview, as_json)
            return
        result = embed_into(out, network, faces, ranks=work.ranks, progress=work.progress, **how)
    if work.ranks.is_first:
        _tell(result, as_json)


def _open_faces(target: str, data: Path | None, say: bool) -> Faces:
    from facepack.evaluate.registry import find_target, split_words
    from facepack.evaluate.sets.sources import open_faces
    from facepack.terminal import printable

    if split_words(target)[0]:
        return find_target(target, data)().faces
    faces, notices = open_faces(target, data)
    for notice in notices if say else []:
        click.echo(printable(f"note: {notice}"), err=True)
    return faces


def _tell(result: Embedded, as_json: bool) -> None:
    from dataclasses import asdict

    from facepack.terminal import printable

    for notice in result.notices():
        click.echo(printable(notice), err=True)
    if as_json:
        click.echo(json.dumps(asdict(result)))
        return
    were = "" if result.new == result.images else f" ({result.new:,} of them new)"
    click.echo(printable(f"{result.out}: {result.images:,} × {result.features}{were}"))
