"""The files that a source is given: each once, and each with shards of its own name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from facepack.convert.files import lies_in_clutter
from facepack.errors import SourceError


def files_below(paths: Iterable[Path], wanted: Callable[[Path], bool], none: str) -> Iterator[Path]:
    """The files themselves; those ``wanted`` of a folder by name, in whatever lower folder.

    Hidden ones are passed over, and what systems put there: macOS leaves ``._0_0.zip`` beside
    ``0_0.zip``.

    Raises:
        SourceError: a folder has ``none``.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = [
            file
            for file in path.rglob("*")
            if wanted(file) and not lies_in_clutter(os.fsencode(file.relative_to(path)))
        ]
        if not found:
            raise SourceError(f"{path}: {none}")
        yield from sorted(found, key=lambda file: (os.fsencode(file.name), os.fsencode(file)))


def require_once(paths: Iterable[Path]) -> None:
    """Make sure that no file is given twice: its images would be packed twice.

    Raises:
        SourceError: one is.
    """
    seen: set[str] = set()
    for path in paths:
        real = os.path.realpath(path)
        if real in seen:
            raise SourceError(f"{path}: is given twice; pass each file once")
        seen.add(real)


def unused_stem(stem: str, taken: set[str]) -> str:
    """``stem``, or ``stem_2``, ``stem_3``, …, whichever is not yet taken; then it is."""
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    taken.add(name)
    return name
