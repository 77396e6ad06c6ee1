"""``facepack select``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from facepack.command_options import PATH
from facepack.commands.joining import join, joining_options


@click.command()
@click.argument("pack", type=PATH)
@click.argument("out", type=PATH)
@click.option(
    "--exclude", type=PATH, metavar="LIST", required=True, help="Records that are left out."
)
@joining_options
@click.option("--json", "as_json", is_flag=True, help="Print the new manifest as JSON.")
def select(pack: Path, out: Path, exclude: Path, **how: Any) -> None:
    """Make a pack of all records but those of a list.

    OUT becomes a pack of the same shards, which are hard-linked, not rewritten (copied if OUT is on
    another file system, or with --copy). Labels and classes stay, so that a model fits both. LIST
    is a list of facepack noise, or text with a key or a position on each line.
    """
    from facepack.care.select import plan_exclude
    from facepack.store.pack import open as open_pack
    from facepack.store.record_list import read_record_list

    with open_pack(pack) as opened:
        positions = read_record_list(exclude, opened)
    join([plan_exclude(pack, out, positions)], **how)
