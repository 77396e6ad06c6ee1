"""What a format adds to its commands: options of its own, and what they must know of its paths.

A format that has any derives a class from :class:`SourceCommand` or :class:`SinkCommand`, in the
file ``command.py`` of its folder, and its row in :mod:`facepack.convert.registry` names that. Such
a file imports nothing heavy at once: help must be quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from facepack.command_options import PATH, Option, with_options

if TYPE_CHECKING:
    from facepack.convert.source import Source


class _Level(click.ParamType):
    """A number of folders from the top, or, below 0, from the image."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        level = click.INT.convert(value, param, ctx)
        if not level:
            self.fail("0 is no level: 1 is the topmost folder, -1 the image's own", param, ctx)
        return int(level)


IDENTITY_LEVEL = click.option(
    "--identity-level",
    type=_Level(),
    help="Folder that is the identity: 1 the topmost of a path, 2 the next; -1 the image's own.",
)

ROOT = click.option(
    "--root",
    type=PATH,
    help="Folder of the images (of pairs a zip, tar or pack as well); the list's by default.",
)

LABEL_COLUMN = click.option(
    "--label-column",
    metavar="NAME",
    help="Column of the labels, or of whether a pair shows one person; found by default.",
)


def parameter_names(options: tuple[Option, ...]) -> list[str]:
    """What ``options`` are called in Python."""
    command = click.command()(with_options(options)(lambda: None))
    return [str(parameter.name) for parameter in command.params]


def take(options: tuple[Option, ...], given: dict[str, Any]) -> dict[str, Any]:
    """Take what was ``given`` for ``options`` out of it."""
    return {name: given.pop(name) for name in parameter_names(options)}


class SourceCommand:
    """A source on the command line."""

    options: ClassVar[tuple[Option, ...]] = ()  # that only this source has, or a few

    def arguments(self, own: dict[str, Any]) -> dict[str, Any]:
        """What the source's class takes, given what was chosen of :attr:`options`."""
        return own

    def paths_read(self, paths: list[Path]) -> list[Path]:
        """What is read if ``paths`` are given, where paths alone do not say it."""
        return paths

    def separate(self, paths: list[Path]) -> list[list[Path]] | None:
        """The paths of each source among ``paths``, where each is appended by itself."""
        return None

    def own_files(self, path: Path) -> list[Path] | None:
        """All files of the source at ``path``; None: it is more than its images, so is kept."""
        return None

    def image_folders(self, paths: list[Path], given: dict[str, Any]) -> list[Path]:
        """Folders in which image files are looked for, so that none may be written there."""
        return []

    def conversions(
        self, paths: list[Path], out: Path, suffix: str
    ) -> list[tuple[list[Path], Path]]:
        """Source and target of each conversion; ``suffix`` is that of a target that is a file."""
        return [(paths, out)]


class SinkCommand:
    """A sink on the command line."""

    options: ClassVar[tuple[Option, ...]] = ()  # that only this sink has
    suffix: ClassVar[str] = ""  # of the target, where that is one file
    # whether it writes image files, which a source might take for its own
    writes_images: ClassVar[bool] = False

    def arguments(self, own: dict[str, Any], seed: int) -> dict[str, Any]:
        """What the sink's options take, given what was chosen of :attr:`options`."""
        return own

    def writes_alone(self, source: Source) -> bool:
        """Whether one process writes this source, though several can write others."""
        return False

    def look_over(self, out: Path, own: dict[str, Any]) -> list[str]:
        """What :attr:`options` ask for when all is written; returns notices."""
        return []
