"""Single files that a command was asked to write: there whole, or not at all.

Folders that are not there yet are made, as those of packs and runs are.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from tempfile import TemporaryFile

from facepack import system
from facepack.atomic import replacing
from facepack.errors import PackError
from facepack.store.places import made_folder, require_outside_packs


def require_writable(path: Path) -> None:
    """Say at once, not after hours, that :func:`write_output` will not be able to write there.

    Raises:
        PackError: no file can be made in its folder, or the folder not be made; or it lies in a
            pack.
    """
    if path.exists() and not path.is_file():
        return
    require_outside_packs(path)
    try:
        with TemporaryFile(dir=next(folder for folder in path.parents if folder.exists())):
            pass
    except OSError as error:
        raise _unwritable(path, error) from error


def write_output(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, replacing what was there once all of it is written.

    A device or a pipe is written to as it is.

    Raises:
        PackError: it cannot be written, or lies in a pack; says why.
    """
    try:
        if path.exists() and not path.is_file():
            # A pipe that nobody reads is an error, where opening it would wait for a reader.
            descriptor = os.open(path, os.O_WRONLY | system.NO_WAIT)
            system.wait_again(descriptor)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            return
        require_outside_packs(path)
        hidden = path.with_name(f".{path.name[:100]}.part-{secrets.token_hex(4)}")
        with made_folder(path.parent), replacing(path, hidden, durable=False) as part:
            part.write_bytes(data)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> PackError:
    return PackError(f"cannot write {path}: {error.strerror or error}; choose another file")
