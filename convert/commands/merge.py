"""``facepack merge``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from facepack.terminal import printable

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("packs", type=_PATH, nargs=-1, required=True, metavar="PACK...")
@click.argument("out", type=_PATH)
@click.option("--by-name", is_flag=True, help="Give identities of the same name the same label.")
@click.option("--copy", is_flag=True, help="Copy the shards even where links are possible.")
@click.option("--resume", is_flag=True, help="Complete what an interrupted run left.")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier run wrote.")
@click.option("--json", "as_json", is_flag=True, help="Print the new manifest as JSON.")
def merge(
    packs: tuple[Path, ...],
    out: Path,
    by_name: bool,
    copy: bool,
    resume: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Join several packs into one.

    OUT becomes a pack of all their shards, which are hard-linked, not rewritten (copied if OUT is
    on another file system, or with --copy). The first pack keeps its labels; those of each further
    pack are numbered on from there.
    """
    from facepack.care.merge import merge as run
    from facepack.convert.formats.pack.held import notes_on_shared

    manifest = run(packs, out, by_name=by_name, copy=copy, resume=resume, overwrite=overwrite)
    for note in notes_on_shared(packs):
        click.echo(f"note: {printable(note)}", err=True)
    if as_json:
        click.echo(json.dumps(manifest, indent=1, sort_keys=True))
    else:
        click.echo(
            f"{out}: {manifest['records']:,} records, {manifest['identities']:,} identities of "
            f"{manifest['classes']:,} classes, {len(manifest['shards'])} shards"
        )
