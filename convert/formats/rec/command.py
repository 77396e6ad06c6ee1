"""``facepack rec2…``."""

from __future__ import annotations

from pathlib import Path

import click

from facepack.convert.command_line import SourceCommand

ONLY_INDEXED = click.option(
    "--only-indexed", is_flag=True, help="Leave out images of a .rec that its .idx does not list."
)


class RecCommand(SourceCommand):
    """A ``.rec`` as a source."""

    options = (ONLY_INDEXED,)

    def own_files(self, path: Path) -> list[Path]:
        """The ``.rec``, and the ``.idx`` if there is one."""
        rec = path / "train.rec" if path.is_dir() else path
        return [rec, *filter(Path.exists, [rec.with_suffix(".idx")])]
