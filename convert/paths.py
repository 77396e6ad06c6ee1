"""Names from a source as paths in a target: never outside it, never over something else."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from facepack.images import IMAGE_SUFFIXES
from facepack.store import format as fmt

INDEX = "index.kv"  # of a tree
ASIDE = "_renamed"  # the folder of files whose own names cannot be used
_TAKEN = re.compile(
    "|".join(map(re.escape, (ASIDE, INDEX, fmt.LABELS, fmt.QUARANTINE))) + r"|.*\.npy",
    re.IGNORECASE | re.DOTALL,
)
_LONGEST = 255  # bytes of a component that every file system takes
_LONGEST_PATH = 1024  # of a whole path below a target


def is_safe_path(name: str) -> bool:
    """Whether ``name`` is a relative path that stays below its root on every system.

    Components are not empty, do not begin with a dot, and hold no control character, backslash or
    colon.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return False
    return size <= _LONGEST_PATH and all(
        part
        and not part.startswith(".")
        and not any(ord(letter) < 32 or letter in "\\:\x7f" for letter in part)
        and part == part.rstrip(" .")
        and len(part.encode()) <= _LONGEST
        for part in name.split("/")
    )


def image_path(name: str | None, label: int, number: int, suffix: str) -> str:
    """Where a tree keeps an image.

    Args:
        name: the source's name: a relative path is kept as it is, a plain name goes below its
            label. What is not safe, or would take the place of a file that stands beside the
            images, goes to ``_renamed``, by its number.
        label: -1 for none.
        number: what names the image where the source does not.
        suffix: of its format, for names without one.
    """
    if name is None:
        return f"{label}/{number}{suffix}"
    if PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES:
        name += suffix
    if not is_safe_path(name) or _TAKEN.fullmatch(name.split("/")[0]):
        return f"{ASIDE}/{number}{suffix}"
    return name if "/" in name else f"{label}/{name}"
