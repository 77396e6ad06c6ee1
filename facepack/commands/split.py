"""``facepack split``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("pack", type=_PATH)
@click.argument("head", type=_PATH)
@click.argument("tail", type=_PATH)
@click.option(
    "--min-images",
    type=click.IntRange(min=1),
    default=9,
    show_default=True,
    help="Fewest images of an identity in HEAD.",
)
@click.option(
    "--exclude",
    type=_PATH,
    metavar="LIST",
    help="Leave the records of this list out first (see facepack select).",
)
@click.option("--copy", is_flag=True, help="Copy the shards even where links are possible.")
@click.option("--resume", is_flag=True, help="Complete what an interrupted run left.")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier run wrote.")
@click.option(
    "--dry-run", is_flag=True, help="Say what would be done and what it would take; write nothing."
)
@click.option("--json", "as_json", is_flag=True, help="Print both manifests as JSON.")
def split(
    pack: Path,
    head: Path,
    tail: Path,
    min_images: int,
    exclude: Path | None,
    copy: bool,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Part a pack into identities with many images and with few.

    HEAD and TAIL become packs of the same shards, which are hard-linked, not rewritten (copied on
    another file system, or with --copy). Each numbers its identities from 0, in their order.
    """
    from facepack.care.joined import preview_packs, write_packs
    from facepack.care.select import plan_split
    from facepack.store.pack import open as open_pack
    from facepack.store.record_list import read_record_list
    from facepack.terminal import printable

    positions = None
    if exclude is not None:
        with open_pack(pack) as opened:
            positions = read_record_list(exclude, opened)
    halves = plan_split(pack, head, tail, min_images=min_images, exclude=positions)
    how = {"copy": copy, "overwrite": overwrite, "resume": resume}
    previews = preview_packs(halves, **how) if dry_run else []
    manifests = [] if dry_run else write_packs(halves, **how)
    if as_json:
        both = dict(zip(("head", "tail"), manifests or map(vars, previews), strict=True))
        click.echo(json.dumps(both, indent=1, sort_keys=True))
    elif dry_run:
        for preview in previews:
            click.echo("\n".join(map(printable, preview.lines())))
    else:
        for out, manifest in zip((head, tail), manifests, strict=True):
            click.echo(describe(out, manifest))


def describe(out: Path, manifest: dict[str, Any]) -> str:
    """A line about a pack that was selected."""
    return (
        f"{out}: {manifest['records']:,} records, {manifest['identities']:,} identities of "
        f"{manifest['classes']:,} classes, {len(manifest['shards'])} shards"
    )
