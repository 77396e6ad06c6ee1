"""``facepack img2…``, ``lst2…`` and ``…2img``: image files are read and written in folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from facepack.command_options import PATH
from facepack.convert.command_line import (
    IDENTITY_LEVEL,
    LABEL_COLUMN,
    ROOT,
    SinkCommand,
    SourceCommand,
)

if TYPE_CHECKING:
    from facepack.convert.source import Source


_COLUMNS = (
    click.option(
        "--path-column",
        metavar="NAME",
        help="Column of a CSV list that has the paths; found by default.",
    ),
    LABEL_COLUMN,
)


class ImgCommand(SourceCommand):
    """A folder of images as a source."""

    options = (
        click.option(
            "--index", type=PATH, help="A kv, .lst, label.txt or CSV that gives the labels."
        ),
        IDENTITY_LEVEL,
        *_COLUMNS,
    )

    def image_folders(self, paths: list[Path], given: dict[str, Any]) -> list[Path]:
        """The folder."""
        return paths


class LstCommand(SourceCommand):
    """Lists of images as a source."""

    options = (
        ROOT,
        click.option("--align", is_flag=True, help="Warp faces to 112×112 by their landmarks."),
        *_COLUMNS,
    )

    def image_folders(self, paths: list[Path], given: dict[str, Any]) -> list[Path]:
        """Where the images are that overwriting could remove: no list names others beside them."""
        if not given["overwrite"]:
            return []
        return [given["root"]] if given["root"] else [path.parent for path in paths]


class TreeCommand(SinkCommand):
    """An image tree, or a folder of pairs, as a sink."""

    options = (
        click.option(
            "--naming",
            type=click.Choice(["source", "number"]),
            default="source",
            show_default=True,
            help="Files keep the source's names, or are <label>/<n>.jpg.",
        ),
    )
    writes_images = True

    def writes_alone(self, source: Source) -> bool:
        """So it is with pairs."""
        return source.content == "pairs"
