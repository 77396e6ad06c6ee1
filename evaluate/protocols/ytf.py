"""``facepack eval ytf``: pairs of templates from lists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facepack.command_options import PATH
from facepack.evaluate.command import find_images, protocol_command

if TYPE_CHECKING:
    from facepack.evaluate.protocol import Protocol

_LIST, _PAIRS = "ytf_list.txt", "pairs_ytf.txt"


@protocol_command("ytf")
@click.argument("target", metavar="PACK_OR_FOLDER")
@click.option(
    "--list",
    "members",
    type=PATH,
    metavar="FILE",
    help=f"Images and their templates. Default: {_LIST} in TARGET.",
)
@click.option(
    "--pairs", type=PATH, metavar="FILE", help=f"Pairs of templates. Default: {_PAIRS} in TARGET."
)
@click.option("--flip/--no-flip", default=True, show_default=True, help="Add mirror images.")
def command(
    target: str, *, members: Path | None, pairs: Path | None, flip: bool, data: Path | None
) -> Callable[[], Protocol]:
    """Verify pairs of videos, each the mean of its frames: YTF, or any lists of F2C's form.

    TARGET is the folder of aligned frames, or a pack of it. Lines are `IMAGE TEMPLATE` and
    `TEMPLATE TEMPLATE 0` or `… 1`. A template is the normalised mean of its embeddings. Beside the
    usual figures stand F2C's accuracy and its deviation, plain and over √10; its script adds no
    mirror images.
    """
    path = find_images(target, data)

    def open_target() -> Protocol:
        from facepack.evaluate.protocols.listed_pairs import open_ytf
        from facepack.evaluate.sets.named_images import open_named_images

        return open_ytf(
            open_named_images(path),
            members or path / _LIST,
            pairs or path / _PAIRS,
            target=target,
            flip=flip,
        )

    return open_target
