"""``facepack pairs2…``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from facepack.command_options import PATH
from facepack.convert.command_line import ROOT, SourceCommand


class ListCommand(SourceCommand):
    """A list of pairs as a source."""

    options = (
        ROOT,
        click.option(
            "--landmarks",
            type=PATH,
            help="A list of five landmarks an image; faces are warped to 112×112 by them.",
        ),
    )

    def image_folders(self, paths: list[Path], given: dict[str, Any]) -> list[Path]:
        """Where the images are, if that is a folder."""
        where = given["root"] or paths[0].parent
        return [where] if where.is_dir() else []
