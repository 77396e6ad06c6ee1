"""``facepack eval sllfw``: pairs of images from a list."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facepack.command_options import PATH
from facepack.evaluate.command import find_images, protocol_command

if TYPE_CHECKING:
    from facepack.evaluate.protocol import Protocol

_PAIRS = "pair_SLLFW.txt"


@protocol_command("sllfw")
@click.argument("target", metavar="PACK_OR_FOLDER")
@click.option(
    "--pairs", type=PATH, metavar="FILE", help=f"The list of pairs. Default: {_PAIRS} in TARGET."
)
@click.option("--flip/--no-flip", default=True, show_default=True, help="Add mirror images.")
def command(
    target: str, *, pairs: Path | None, flip: bool, data: Path | None
) -> Callable[[], Protocol]:
    """Verify pairs of similar-looking people: SLLFW, or any list of F2C's form.

    TARGET is the folder of aligned images, or a pack of it. A line of the list is `PATH PATH 0` or
    `… 1`, as F2C's lists have it, or one PATH, two lines a pair, as SLLFW's own. Beside the usual
    figures stand F2C's accuracy and its deviation, plain and over √10; its script adds no mirror
    images.
    """
    path = find_images(target, data)

    def open_target() -> Protocol:
        from facepack.evaluate.protocols.listed_pairs import open_sllfw
        from facepack.evaluate.sets.named_images import open_named_images

        return open_sllfw(open_named_images(path), pairs or path / _PAIRS, target=target, flip=flip)

    return open_target
