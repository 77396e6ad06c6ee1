"""What commands have in common that make packs of other packs' shards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from facepack.command_options import DRY_RUN, OVERWRITE, RESUME, with_options
from facepack.terminal import NOTHING_WRITTEN, printable
from facepack.wording import count_of

if TYPE_CHECKING:
    from facepack.care.joined import JoinedPack

joining_options = with_options(
    (
        click.option("--copy", is_flag=True, help="Copy the shards even where links are possible."),
        RESUME,
        OVERWRITE,
        DRY_RUN,
    )
)
"""Adds the options that :func:`join` takes."""


def join(
    packs: Sequence[JoinedPack],
    *,
    parts: Sequence[str] = (),
    notes: Callable[[], Iterable[str]] = tuple,
    as_json: bool,
    dry_run: bool,
    **how: bool,
) -> None:
    """Write packs, or look what that would do, and print it; JSON of several by their ``parts``."""
    from facepack.care.joined import preview_packs, write_packs

    previews = preview_packs(packs, **how) if dry_run else []
    manifests = [] if dry_run else write_packs(packs, **how)
    for note in notes():
        click.echo(f"note: {printable(note)}", err=True)
    if as_json:
        told = manifests or list(map(vars, previews))
        named: Any = dict(zip(parts, told, strict=True)) if parts else told[0]
        click.echo(json.dumps(named, indent=1, sort_keys=True))
        return
    for preview in previews:
        click.echo("\n".join(map(printable, preview.lines())))
    if dry_run:
        click.echo(NOTHING_WRITTEN)
    for pack, made in zip(packs, manifests, strict=False):
        click.echo(
            f"{pack.out}: {count_of(made['records'], 'record')}, "
            f"{count_of(made['identities'], 'identity', 'identities')} of "
            f"{count_of(made['classes'], 'class', 'classes')}, "
            f"{count_of(len(made['shards']), 'shard')}"
        )
