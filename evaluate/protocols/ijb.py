"""``facepack eval ijb``: IJB-B and IJB-C, 1:1 and 1:N."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from facepack.evaluate.command import find_images, protocol_command

if TYPE_CHECKING:
    from facepack.evaluate.protocol import Protocol


@protocol_command("ijb")
@click.argument("target", metavar="PACK_OR_FOLDER")
@click.option(
    "--roc",
    type=click.Choice(["exact", "published"]),
    default="exact",
    show_default=True,
    help="How TAR is read: the largest whose FAR is at most the one asked for, or the nearest "
    "point of scikit-learn's thinned curve.",
)
@click.option(
    "--flip/--no-flip", default=True, show_default=True, help="Add the mirror image's embedding."
)
@click.option(
    "--detector/--no-detector",
    default=True,
    show_default=True,
    help="Weight an image by its detector score.",
)
@click.option(
    "--norm/--no-norm",
    default=True,
    show_default=True,
    help="Weight an image by the length of its embedding.",
)
def command(
    target: str,
    *,
    roc: Literal["exact", "published"],
    flip: bool,
    detector: bool,
    norm: bool,
    data: Path | None,
) -> Callable[[], Protocol]:
    """Verify and identify templates: IJB-B and IJB-C.

    TARGET is a pack that `facepack ijb2lmdb` made, or the folder that holds loose_crop and meta.
    Images are aligned by their five landmarks on the way to the model. Verification gives TAR at
    FAR 1e-6 to 1e-1 with intervals over identities; identification, where the lists of 1:N are
    there, TPIR at FPIR 0.01 and 0.1 and rank 1, 5 and 10, each gallery alone and together.
    """
    path = find_images(target, data)

    def open_target() -> Protocol:
        from facepack.evaluate.protocols.templates import IjbProtocol
        from facepack.evaluate.sets.ijb_set import open_ijb

        return IjbProtocol(open_ijb(path, target), roc=roc, flip=flip, detector=detector, norm=norm)

    return open_target
