"""Git LFS: telling a file from the pointer that stands for it.

A repository that was cloned or downloaded without Git LFS holds, in place of each large file, a
text of some 130 bytes: a line with the version of the specification, the content's SHA-256 and its
size (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md).
"""

from __future__ import annotations

from pathlib import Path

from facepack.errors import FacepackError
from facepack.reading import open_regular

REMEDY = "run `git lfs pull` where it was cloned, or download the file itself"

_FIRST = b"version https://git-lfs.github.com/spec/v1"


def is_pointer(data: bytes | bytearray | memoryview) -> bool:
    """Whether a file that holds ``data``, or begins so, is a pointer."""
    return bytes(data[: len(_FIRST)]) == _FIRST


def require_content(path: Path, error: type[FacepackError]) -> None:
    """Make sure that ``path`` is no pointer. A file that cannot be read passes: who reads it tells.

    Raises:
        error: it is one.
    """
    try:
        with open_regular(path) as file:
            head = file.read(len(_FIRST))
    except OSError:
        return
    if is_pointer(head):
        raise error(f"{path}: is a pointer of Git LFS, not the file itself: {REMEDY}")
