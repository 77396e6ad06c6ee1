"""``facepack get``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from facepack.errors import ConfigError


@click.command()
@click.argument("pack", type=click.Path(path_type=Path))
@click.argument("key")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write the image to this file."
)
@click.option("--name", "by_name", is_flag=True, help="KEY is the record's name in the source.")
@click.option(
    "--info", is_flag=True, help="Print what is known about the record instead of the image."
)
@click.option("--json", "as_json", is_flag=True, help="Print that as JSON.")
def get(
    pack: Path, key: str, output: Path | None, by_name: bool, info: bool, as_json: bool
) -> None:
    """Get one image out of a pack.

    KEY is shard/key (train-000/0000000012, or train-000/12) or a position (12). The encoded image
    goes to stdout, byte for byte, unless -o names a file. --info prints its label, names, ordinal
    in the source and size, and whether it is still what was packed.
    """
    import facepack
    from facepack.store.output import write_output
    from facepack.terminal import printable
    from facepack.view.record_info import describe_record, find_record
    from facepack.view.summary import SWAPPED

    with facepack.open(pack) as opened:
        position = find_record(opened, key, by_name=by_name)
        if opened.channels != "rgb":
            click.echo(f"note: channels {opened.channels}: {SWAPPED}", err=True)
        if output is not None:
            write_output(output, opened[position].image)
        if info or as_json:
            facts = vars(describe_record(opened, position))
            if as_json:
                click.echo(json.dumps(facts, indent=1))
                return
            for name, value in facts.items():
                click.echo(printable(f"{name.replace('_', ' '):<16} {_words(value)}"))
        elif output is None:
            if sys.stdout.isatty():
                raise ConfigError(
                    "the image would be written to a terminal: name a file with -o, send it on "
                    "through a pipe, or look at what is known of it with --info"
                )
            click.echo(opened[position].image, nl=False)


def _words(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, dict):
        return ", ".join(f"{name} {number:g}" for name, number in value.items()) or "–"
    return str(value)
