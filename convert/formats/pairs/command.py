"""``facepack bin2…`` and ``…2bin``."""

from __future__ import annotations

from pathlib import Path

from facepack.convert.command_line import SinkCommand, SourceCommand

_SUFFIX = ".bin"


class BinSourceCommand(SourceCommand):
    """Verification sets as a source: of a folder, each by itself."""

    def conversions(
        self, paths: list[Path], out: Path, suffix: str
    ) -> list[tuple[list[Path], Path]]:
        """The set, or ``OUT/NAME`` for each set of a folder."""
        (path,) = paths
        if not path.is_dir():
            return [(paths, out)]
        from facepack.convert.formats.pairs.pickles import SUFFIXES, set_name
        from facepack.errors import SourceError

        files = [file for file in sorted(path.glob("[!.]*")) if file.name.endswith(SUFFIXES)]
        if not files:
            raise SourceError(f"{path}: the folder holds no .bin; pass a .bin or a folder of them")
        return [([file], out / f"{set_name(file)}{suffix}") for file in files]


class BinSinkCommand(SinkCommand):
    """A ``.bin`` as a sink."""

    suffix = _SUFFIX
