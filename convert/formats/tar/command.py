"""``facepack tar2…``."""

from __future__ import annotations

import click

from facepack.convert.command_line import IDENTITY_LEVEL, SourceCommand
from facepack.convert.formats.rec.command import ONLY_INDEXED


class TarCommand(SourceCommand):
    """Tars as a source."""

    options = (
        click.option("--member", help="Take only this member, a .rec or .bin."),
        ONLY_INDEXED,
        IDENTITY_LEVEL,
    )
