"""``facepack zip2…``: the password of encrypted zips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from facepack.command_options import PATH
from facepack.convert.command_line import IDENTITY_LEVEL, SourceCommand


class ZipCommand(SourceCommand):
    """Zips as a source."""

    options = (
        click.option("--password-file", type=PATH, help="First line is the zips' password."),
        click.option("--password", "ask", is_flag=True, help="Ask for the zips' password."),
        IDENTITY_LEVEL,
    )

    def arguments(self, own: dict[str, Any]) -> dict[str, Any]:
        """The password, of a file or asked for, and the level."""
        return own | {"password": _password(own.pop("password_file"), own.pop("ask"))}

    def separate(self, paths: list[Path]) -> list[list[Path]] | None:
        """Each zip is one, but not where labels are members: they are those of all the zips.

        Raises:
            SourceError: a folder has no zip in it.
        """
        from facepack.convert.formats.zip.samples import may_hold_labels
        from facepack.convert.formats.zip.source import zip_files

        files = list(zip_files(paths))
        together = len(files) > 1 and any(map(may_hold_labels, files))
        return None if together else [[file] for file in files]

    def own_files(self, path: Path) -> list[Path]:
        """The zip, or those of a folder."""
        from facepack.convert.formats.zip.source import zip_files

        return list(zip_files([path]))


def _password(file: Path | None, ask: bool) -> bytes | None:
    if file is not None:
        from facepack.errors import SourceError
        from facepack.reading import read_bytes

        try:
            password = read_bytes(file).partition(b"\n")[0].rstrip(b"\r")
        except OSError as error:
            raise SourceError(f"{file}: cannot be read: {error.strerror}") from error
        if not password:
            raise SourceError(f"{file}: its first line is empty; write the password there")
        return password
    return click.prompt("Password", hide_input=True, err=True).encode() if ask else None
