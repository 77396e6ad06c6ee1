"""``facepack rec2…``."""

from __future__ import annotations

import click

from facepack.convert.command_line import SourceCommand

ONLY_INDEXED = click.option(
    "--only-indexed", is_flag=True, help="Leave out images of a .rec that its .idx does not list."
)


class RecCommand(SourceCommand):
    """A ``.rec`` as a source."""

    options = (ONLY_INDEXED,)
