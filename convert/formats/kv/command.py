"""``facepack kv2…``."""

from __future__ import annotations

import click

from facepack.convert.command_line import SourceCommand


class KvCommand(SourceCommand):
    """LMDB databases of trainers as a source."""

    options = (
        click.option(
            "--offset-labels/--keep-labels",
            default=True,
            show_default=True,
            help="Of several databases, number each one's labels after the last one's.",
        ),
    )
