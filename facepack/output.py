"""Single files that a command was asked to write: there whole, or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from facepack import system
from facepack.atomic import replacing
from facepack.errors import PackError


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
        hidden = path.with_name(f".{path.name[:100]}.part-{secrets.token_hex(4)}")
        with replacing(path, hidden, durable=False) as part:
            part.write_bytes(data)
    except OSError as error:
        raise PackError(
            f"cannot write {path}: {error.strerror or error}; choose another file"
        ) from error
