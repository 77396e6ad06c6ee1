"""Where results may be written: outside of packs; and folders that are made for them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from facepack import system
from facepack.errors import PackError
from facepack.reading import read_json
from facepack.store.files import write_error
from facepack.store.format import MANIFEST, PLAN

_STATED = {"format", "kind", "order", "seed", "source", "shards"}  # by manifests and plans alike


def nearest(folder: Path) -> Path:
    """The folder, or the nearest thing above it that is there."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if os.path.lexists(place))


def require_outside_packs(path: Path, shown: Path | None = None, *, itself: bool = True) -> None:
    """Make sure that ``path`` lies in no pack: a pack's folder holds nothing but its own files.

    With ``itself`` it may be no pack either; without, a pack that is there may lie anywhere.

    Raises:
        PackError: it lies in one.
    """
    whole = Path(os.path.realpath(path))
    if not itself and _holds_pack(whole):
        return
    for folder in filter(_holds_pack, (whole, *whole.parents)):
        lies = "is a pack" if folder == whole else f"lies in the pack {folder}"
        raise PackError(
            f"{shown or path} {lies}, whose folder is for its own files alone: choose another "
            "target"
        )


def _holds_pack(folder: Path) -> bool:
    """Whether a folder holds a pack, or its beginning: others have files of these names, too."""
    for name in (MANIFEST, PLAN):
        with suppress(OSError, ValueError):  # what cannot be looked at is none
            stated = read_json(folder / name)
            if isinstance(stated, dict) and stated.keys() >= _STATED:
                return True
    return False


def require_writable(folder: Path, shown: Path | None = None, *, itself: bool = True) -> None:
    """Make sure that files can be written in ``folder``, which may have to be made, by looking.

    Raises:
        PackError: they cannot, or may not.
    """
    require_outside_packs(folder, shown, itself=itself)
    place = nearest(folder)
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        code = errno.EROFS if system.is_read_only(place) else errno.EACCES
        code = code if place.is_dir() else errno.ENOTDIR
        raise write_error(shown or folder, OSError(code, os.strerror(code)))


@contextmanager
def made_folder(folder: Path, shown: Path | None = None, *, itself: bool = True) -> Iterator[None]:
    """Within it ``folder`` is there; if it was made for this and nothing is in it, it goes again.

    A full disk, or what is found wrong before anything is written, so leaves nothing behind.

    Raises:
        PackError: it lies in a pack.
        OSError: it cannot be made.
    """
    require_outside_packs(folder, shown, itself=itself)
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for place in new:
            with suppress(OSError):  # of one that holds anything
                place.rmdir()
