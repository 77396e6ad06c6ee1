"""``facepack select``."""

from __future__ import annotations

import json
from pathlib import Path

import click

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("pack", type=_PATH)
@click.argument("out", type=_PATH)
@click.option(
    "--exclude", type=_PATH, metavar="LIST", required=True, help="Records that are left out."
)
@click.option("--copy", is_flag=True, help="Copy the shards even where links are possible.")
@click.option("--resume", is_flag=True, help="Complete what an interrupted run left.")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier run wrote.")
@click.option(
    "--dry-run", is_flag=True, help="Say what would be done and what it would take; write nothing."
)
@click.option("--json", "as_json", is_flag=True, help="Print the new manifest as JSON.")
def select(
    pack: Path,
    out: Path,
    exclude: Path,
    copy: bool,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a pack of all records but those of a list.

    OUT becomes a pack of the same shards, which are hard-linked, not rewritten (copied if OUT is on
    another file system, or with --copy). Labels and classes stay, so that a model fits both. LIST
    is a list of facepack noise, or text with a key or a position on each line.
    """
    from facepack.care.joined import preview_packs, write_packs
    from facepack.care.select import plan_exclude
    from facepack.commands.split import describe
    from facepack.store.pack import open as open_pack
    from facepack.store.record_list import read_record_list
    from facepack.terminal import printable

    with open_pack(pack) as opened:
        positions = read_record_list(exclude, opened)
    selection = plan_exclude(pack, out, positions)
    how = {"copy": copy, "overwrite": overwrite, "resume": resume}
    previews = preview_packs([selection], **how) if dry_run else []
    manifests = [] if dry_run else write_packs([selection], **how)
    if as_json:
        (told,) = manifests or map(vars, previews)
        click.echo(json.dumps(told, indent=1, sort_keys=True))
    elif dry_run:
        click.echo("\n".join(map(printable, previews[0].lines())))
    else:
        click.echo(describe(out, manifests[0]))
