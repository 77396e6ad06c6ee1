"""``facepack eval identities``: all pairs of any labelled images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facepack.evaluate.command import GROUP_OPTION, protocol_command

if TYPE_CHECKING:
    from facepack.evaluate.protocol import Protocol


@protocol_command("identities")
@click.argument("target", metavar="PACK_OR_TREE")
@GROUP_OPTION
def command(target: str, *, group: Path | None, data: Path | None) -> Callable[[], Protocol]:
    """Verify and identify all images of labelled ones among each other.

    TARGET is a pack with identities, a shard set, or a tree of images in folders of identities.
    Every pair of images is compared: TAR is exact at FAR 1e-6, 1e-5, … 1e-2, and rank-1 is the
    share of images whose nearest other image is of the same identity. Groups are measured within
    themselves, and the gaps between them told.
    """
    from facepack.evaluate.sets.labelled import find_labelled

    find_labelled(target, data)

    def open_target() -> Protocol:
        from facepack.evaluate.protocols.all_to_all import Identities
        from facepack.evaluate.sets.labelled import open_labelled

        images = open_labelled(target, data)
        groups = None if group is None else images.group(group)
        return Identities(target, images.faces, images.labels, groups=groups)

    return open_target
