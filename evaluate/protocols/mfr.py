"""``facepack eval mfr``: all pairs of labelled images, by group and of all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facepack.errors import ConfigError
from facepack.evaluate.command import GROUP_OPTION, protocol_command

if TYPE_CHECKING:
    from facepack.evaluate.protocol import Protocol


@protocol_command("mfr")
@click.argument("target", metavar="PACK_OR_TREE")
@click.option(
    "--track",
    type=click.Choice(["multiracial", "children", "mask"]),
    default="multiracial",
    show_default=True,
    help="Which of the benchmark's tests.",
)
@GROUP_OPTION
@click.option(
    "--far", "fars", type=float, multiple=True, help="TAR at this FAR instead; may be repeated."
)
def command(
    target: str,
    *,
    track: str,
    group: Path | None,
    fars: tuple[float, ...],
    data: Path | None,
) -> Callable[[], Protocol]:
    """Verify all pairs of labelled images: MFR (ICCV 2021) and IFRT, or images of your own.

    TARGET is a pack with identities, a shard set, or a tree of images in folders of identities.
    multiracial tells TAR at FAR 1e-6 of all pairs, and of the pairs within each group; children at
    1e-4; mask at 1e-4 of pairs across the two groups of --group.
    """
    if wrong := [far for far in fars if not 0 < far < 1]:
        raise ConfigError(f"--far {wrong[0]}: a share between 0 and 1, such as 1e-6")
    from facepack.evaluate.sets.labelled import find_labelled

    find_labelled(target, data)

    def open_target() -> Protocol:
        from facepack.evaluate.protocols.all_to_all import AllToAll
        from facepack.evaluate.sets.labelled import open_labelled

        images = open_labelled(target, data)
        groups = None if group is None else images.group(group)
        return AllToAll(target, images.faces, images.labels, track=track, groups=groups, fars=fars)

    return open_target
