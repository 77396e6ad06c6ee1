"""``facepack parquet2…`` and ``…2parquet``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from facepack.convert.command_line import LABEL_COLUMN, SinkCommand, SourceCommand

if TYPE_CHECKING:
    from facepack.convert.source import Source


class ParquetCommand(SourceCommand):
    """Parquet files and Arrow folders as a source."""

    options = (
        click.option(
            "--image-column",
            multiple=True,
            metavar="NAME",
            help="Column of the images, found by default; of a set of pairs, given twice.",
        ),
        LABEL_COLUMN,
    )


class ParquetSinkCommand(SinkCommand):
    """Parquet files as a sink."""

    def writes_alone(self, source: Source) -> bool:
        """So it is with pairs."""
        return source.content == "pairs"
