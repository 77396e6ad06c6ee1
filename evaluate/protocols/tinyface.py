"""``facepack eval tinyface``: low-resolution probes in a gallery with distractors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facepack.evaluate.command import find_images, protocol_command

if TYPE_CHECKING:
    from facepack.evaluate.protocol import Protocol


@protocol_command("tinyface")
@click.argument("target", metavar="PACK_OR_FOLDER")
@click.option(
    "--lists",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where MATLAB's lists or CVLface's metadata.pt are, if not in TARGET.",
)
def command(target: str, *, lists: Path | None, data: Path | None) -> Callable[[], Protocol]:
    """Identify low-resolution probes among mates and distractors: TinyFace.

    TARGET holds the aligned images in folders Probe, Gallery_Match and Gallery_Distractor, or is a
    pack of them. The lists probe_img_ID_pairs.mat and gallery_match_img_ID_pairs.mat, or
    metadata.pt, tell probes and mates where they are there; without, an image IDENTITY_….jpg shows
    that identity. Figures are the shares of probes found at rank 1, 5 and 20.
    """
    path = find_images(target, data)

    def open_target() -> Protocol:
        from facepack.evaluate.protocols.closed_set import TinyFace
        from facepack.evaluate.sets.named_images import open_named_images
        from facepack.evaluate.sets.tinyface_set import open_tinyface

        return TinyFace(open_tinyface(open_named_images(path), lists), target=target)

    return open_target
