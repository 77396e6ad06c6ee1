"""``facepack merge``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from facepack.command_options import PATH
from facepack.commands.joining import join, joining_options


@click.command()
@click.argument("packs", type=PATH, nargs=-1, required=True, metavar="PACK...")
@click.argument("out", type=PATH)
@click.option("--by-name", is_flag=True, help="Give identities of the same name the same label.")
@joining_options
@click.option("--json", "as_json", is_flag=True, help="Print the new manifest as JSON.")
def merge(packs: tuple[Path, ...], out: Path, by_name: bool, **how: Any) -> None:
    """Join several packs into one.

    OUT becomes a pack of all their shards, which are hard-linked, not rewritten (copied if OUT is
    on another file system, or with --copy). The first pack keeps its labels; those of each further
    pack are numbered on from there.
    """
    from facepack.care.merge import plan_merge
    from facepack.convert.formats.pack.held import notes_on_shared

    join([plan_merge(packs, out, by_name=by_name)], notes=partial(notes_on_shared, packs), **how)
