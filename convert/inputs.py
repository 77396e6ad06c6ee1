"""The files that a source is given: each once, and each with shards of its own name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from facepack.errors import SourceError


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
