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
@click.option(
    "--dry-run", is_flag=True, help="Say what would be done and what it would take; write nothing."
)
@click.option("--json", "as_json", is_flag=True, help="Print the new manifest as JSON.")
def merge(
    packs: tuple[Path, ...],
    out: Path,
    by_name: bool,
    copy: bool,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Join several packs into one.

    OUT becomes a pack of all their shards, which are hard-linked, not rewritten (copied if OUT is
    on another file system, or with --copy). The first pack keeps its labels; those of each further
    pack are numbered on from there.
    """
    from facepack.care.joined import preview_packs, write_packs
    from facepack.care.merge import plan_merge
    from facepack.commands.split import describe
    from facepack.convert.formats.pack.held import notes_on_shared

    joined = plan_merge(packs, out, by_name=by_name)
    how = {"copy": copy, "overwrite": overwrite, "resume": resume}
    previews = preview_packs([joined], **how) if dry_run else []
    manifests = [] if dry_run else write_packs([joined], **how)
    for note in notes_on_shared(packs):
        click.echo(f"note: {printable(note)}", err=True)
    if as_json:
        (told,) = manifests or map(vars, previews)
        click.echo(json.dumps(told, indent=1, sort_keys=True))
    elif dry_run:
        click.echo("\n".join(map(printable, previews[0].lines())))
    else:
        click.echo(describe(out, manifests[0]))
