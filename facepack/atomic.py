"""The one way in which a file comes to be: there whole, or not at all."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from facepack.system import sync_folder


@contextmanager
def replacing(path: Path, part: Path | None = None, *, durable: bool = True) -> Iterator[Path]:
    """Yield the name of a file beside ``path``, which takes its place at the end.

    The caller makes the file, and syncs it if it must survive a power cut. After an error it is
    removed, and what was at ``path`` stays; what a kill leaves matches
    :data:`facepack.store.format.PART`.

    ``part`` is the name to use; None chooses one that is free. To be ``durable`` is to sync the
    folder, too, so that the renaming survives a power cut.
    """
    if part is None:
        part = path.with_name(f"{path.name}.part-{secrets.token_hex(4)}")
    try:
        yield part
        part.replace(path)
        if durable:
            sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):  # the error that is on its way says more
            part.unlink(missing_ok=True)
        raise
