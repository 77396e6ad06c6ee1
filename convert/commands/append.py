"""``facepack append``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from facepack.command_options import DRY_RUN, PATH, RESUME, with_options
from facepack.convert.command_line import parameter_names, take
from facepack.convert.commands.convert import LOOK, target_options
from facepack.convert.formats.pack.command import PackSinkCommand
from facepack.convert.registry import SOURCES
from facepack.terminal import NOTHING_WRITTEN, printable
from facepack.wording import count_of

if TYPE_CHECKING:
    from facepack.convert.result import Result
    from facepack.store.preview import Preview

_OWN_OPTIONS = {name: source.command.options for name, source in SOURCES.items()}
_PACK = PackSinkCommand()
_OPTIONS = (
    click.argument("pack", type=PATH),
    click.argument("src", type=PATH, nargs=-1, required=True),
    click.option(
        "--source",
        type=click.Choice(list(SOURCES)),
        required=True,
        help="What SRC is, as in the conversions SOURCE2lmdb.",
    ),
    *dict.fromkeys(option for options in _OWN_OPTIONS.values() for option in options),
    *_PACK.options,
    *LOOK,
    click.option("--seed", type=int, default=0, show_default=True, help="Of the shuffled order."),
    click.option(
        "--workers", type=click.IntRange(1), help="Processes; by default as many as CPUs."
    ),
    click.option("--dask", metavar="ADDRESS", help="Let a Dask cluster do the work."),
    click.option(
        "--delete-source",
        is_flag=True,
        help="Delete each zip or .rec once the pack has been read again and holds it.",
    ),
    RESUME,
    click.option("--discard", is_flag=True, help="Remove what an interrupted run left first."),
    DRY_RUN,
    click.option("--json", "as_json", is_flag=True, help="Print the results as a JSON list."),
)


@click.command()
@with_options(_OPTIONS)
@click.pass_context
def append(
    ctx: click.Context, pack: Path, src: tuple[Path, ...], as_json: bool, **options: Any
) -> None:
    """Add a source to a pack as new shards.

    Shards that are there are not touched. Identities that the pack has by name keep their label;
    others are numbered on. Of several zips (or of a folder of them) each is appended by itself, in
    the order of their names; those of WebDataset samples together. The pack stays whole whatever
    happens.
    """
    from facepack.convert.result import Result

    _refuse_options_of_others(ctx, options)
    results = []
    for result in _append_each(pack, list(src), **options):
        results.append(result)
        for notice in result.notices:
            click.echo(f"note: {printable(notice)}", err=True)
        if as_json:
            continue
        if isinstance(result, Result):
            has = "is" if result.packed == 1 else "are"
            done = f"{has} in it already" if result.held else "appended"
            click.echo(
                f"{pack}: {count_of(result.packed, 'image')} {done}, "
                f"{result.quarantined:,} set aside, "
                f"{count_of(result.identities, 'identity', 'identities')} of "
                f"{count_of(result.classes, 'class', 'classes')} in all, "
                f"{result.seconds:.1f} s"
            )
        else:
            click.echo("\n".join(map(printable, result.lines())))
    if as_json:
        click.echo(json.dumps([vars(result) for result in results], indent=1))
    elif options["dry_run"]:
        click.echo(NOTHING_WRITTEN)


def _refuse_options_of_others(ctx: click.Context, options: dict[str, Any]) -> None:
    """Take the options of other sources away, and say so where one was given."""
    sources: dict[str, list[str]] = {}
    for source, others in _OWN_OPTIONS.items():
        for name in parameter_names(others):
            sources.setdefault(name, []).append(source)
    for name, takers in sources.items():
        if options["source"] not in takers and name in options:
            if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE:
                raise click.UsageError(
                    f"--{name.replace('_', '-')} is for --source {' or '.join(takers)}"
                )
            del options[name]


def _append_each(
    pack: Path,
    paths: list[Path],
    *,
    source: str,
    delete_source: bool,
    discard: bool,
    seed: int,
    **options: Any,
) -> Iterator[Result | Preview]:
    from facepack.convert.formats.pack import append as machinery
    from facepack.convert.formats.pack import delete_source as deletion
    from facepack.convert.formats.pack.sink import PackOptions

    if delete_source and options["resume"]:
        for gone in deletion.deleted_before(pack, source, paths):
            click.echo(f"note: {gone}: deleted by an earlier run, {pack} holds it", err=True)
            paths.remove(gone)
    command = SOURCES[source].command
    arguments = command.arguments(take(command.options, options))
    own = take(_PACK.options, options)
    separate = machinery.separate_sources(source, paths)
    if options["dry_run"] and len(separate) > 1:
        text = "each source is told as if it were the first to be appended, and so is its room"
        click.echo(f"note: {text}", err=True)
    for each in separate:
        files = deletion.source_files(source, each) if delete_source else {}
        opened = SOURCES[source].open(each, arguments)
        common = target_options(opened, dict(options))
        settings = PackOptions(**common, **_PACK.arguments(own, seed))
        result = machinery.append(pack, opened, settings, discard=discard)
        if delete_source and not options["dry_run"]:
            result.notices.append(deletion.delete_source(pack, opened, files))
        yield result
        discard = False
    for notice in [] if options["dry_run"] else _PACK.look_over(pack, own):
        click.echo(f"note: {notice}", err=True)
