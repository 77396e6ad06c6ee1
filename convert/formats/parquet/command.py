"""``facepack parquet2…``."""

from __future__ import annotations

from pathlib import Path

import click

from facepack.convert.command_line import SourceCommand


class ParquetCommand(SourceCommand):
    """Parquet files and Arrow folders as a source."""

    options = (
        click.option(
            "--image-column",
            multiple=True,
            metavar="NAME",
            help="Column of the images, found by default; of a set of pairs, given twice.",
        ),
        click.option(
            "--label-column",
            metavar="NAME",
            help="Column of the labels, or of whether a pair shows one person; found by default.",
        ),
    )

    def own_files(self, path: Path) -> list[Path] | None:
        """The file; a folder holds more than its images."""
        return [path] if path.is_file() else None
