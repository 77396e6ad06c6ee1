"""``facepack split``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from facepack.command_options import PATH
from facepack.commands.joining import join, joining_options


@click.command()
@click.argument("pack", type=PATH)
@click.argument("head", type=PATH)
@click.argument("tail", type=PATH)
@click.option(
    "--min-images",
    type=click.IntRange(min=1),
    default=9,
    show_default=True,
    help="Fewest images of an identity in HEAD.",
)
@click.option(
    "--exclude",
    type=PATH,
    metavar="LIST",
    help="Leave the records of this list out first (see facepack select).",
)
@joining_options
@click.option("--json", "as_json", is_flag=True, help="Print both manifests as JSON.")
def split(
    pack: Path,
    head: Path,
    tail: Path,
    min_images: int,
    exclude: Path | None,
    **how: Any,
) -> None:
    """Part a pack into identities with many images and with few.

    HEAD and TAIL become packs of the same shards, which are hard-linked, not rewritten (copied on
    another file system, or with --copy). Each numbers its identities from 0, in their order.
    """
    from facepack.care.select import plan_split
    from facepack.store.pack import open as open_pack
    from facepack.store.record_list import read_record_list

    positions = None
    if exclude is not None:
        with open_pack(pack) as opened:
            positions = read_record_list(exclude, opened)
    halves = plan_split(pack, head, tail, min_images=min_images, exclude=positions)
    join(halves, parts=("head", "tail"), **how)
