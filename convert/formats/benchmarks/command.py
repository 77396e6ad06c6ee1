"""``facepack megaface2…``."""

from __future__ import annotations

import click

from facepack.command_options import PATH
from facepack.convert.command_line import SourceCommand


class MegaFaceCommand(SourceCommand):
    """MegaFace and FaceScrub as a source."""

    options = (
        click.option("--noises", type=PATH, multiple=True, help="A noise list; may be repeated."),
    )
