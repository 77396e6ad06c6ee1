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


def require_writable(path: Path) -> None:
    """Say at once, not after hours, that :func:`write_output` will not be able to write there.

    Raises:
        PackError: no file can be made in its folder, or the folder not be made; says why.
    """
    if path.exists() and not path.is_file():
        return
    try:
        with TemporaryFile(dir=next(folder for folder in path.parents if folder.exists())):
            pass
    except OSError as error:
        raise _unwritable(path, error) from error


def write_output(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, replacing what was there once all of it is written.

    A device or a pipe is written to as it is.

    Raises:
        PackError: it cannot be written; says why.
    """
    try:
        if path.exists() and not path.is_file():
            # A pipe that nobody reads is an error, where opening it would wait for a reader.
            descriptor = os.open(path, os.O_WRONLY | system.NO_WAIT)
            system.wait_again(descriptor)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = path.with_name(f".{path.name[:100]}.part-{secrets.token_hex(4)}")
        with replacing(path, hidden, durable=False) as part:
            part.write_bytes(data)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> PackError:
    return PackError(f"cannot write {path}: {error.strerror or error}; choose another file")
