"""What the names of a zip's members say: which are images, and of whom."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence

import numpy as np

from facepack.convert.archive_lists import is_list
from facepack.convert.files import FileRefusedError, is_image, lies_in_clutter
from facepack.convert.identity_folder import LONGEST

UTF8_FLAG = 0x800
"""The flag of a member whose name is UTF-8; else it is code page 437 (APPNOTE, appendix D)."""

LIST, LABEL, CLUTTER, FOLDER, OTHER, REFUSED = range(-6, 0)
"""What stands in place of a folder's number: what may be a list of images, a ``.cls`` or ``.json``,
which may be the label of a sample, what is hidden or a system's own, a directory, no image by its
name, an image refused."""

_UNSAFE = re.compile(rb"[\\\0]|\A/|\A[A-Za-z]:|(?:\A|/)\.{0,2}(?:/|\Z)")
_ODD = (b"\\", b"\0", b"/.")  # what makes a name unsafe or hidden, whatever its folder


class NameRefusedError(FileRefusedError, ValueError):
    """A name that tells no identity, or leads out of a folder."""


def name_text(name: bytes, flags: int) -> str:
    """A member's name as text; bytes that are not the UTF-8 they claim become ``\\xff``.

    Backslashes are slashes, as for :func:`folder_of`.
    """
    if b"/" not in name:
        name = with_slashes(name, flags)
    if name.isascii():
        return name.decode("ascii")
    if flags & UTF8_FLAG:
        return name.decode("utf-8", "backslashreplace")
    return name.decode("cp437")


def name_texts(names: Sequence[bytes], flags: np.ndarray) -> list[str]:
    """The :func:`name_text` of each member, in less time where none of them holds anything odd."""
    together = b"\0".join(names)
    plain = together.isascii() and b"\\" not in together
    if plain and together.count(b"\0") == len(names) - 1:
        return together.decode("ascii").split("\0")
    return list(map(name_text, names, flags.tolist()))


def with_slashes(name: bytes, flags: int) -> bytes:
    """``name`` with slashes for backslashes, which older .NET writes between folders.

    A backslash is left as it is in a name that has slashes, and in one of another encoding, where
    it may be half of a letter.
    """
    if b"/" in name or not (name.isascii() or flags & UTF8_FLAG):
        return name
    return name.replace(b"\\", b"/")


def folder_of(name: bytes, flags: int) -> bytes:
    """The folders that an image lies in, as UTF-8, with a slash behind each.

    Raises:
        NameRefusedError: the name is unsafe, or has none.
    """
    name = with_slashes(name, flags)
    if _UNSAFE.search(name):
        raise NameRefusedError(
            "its name is absolute, or has a backslash, an empty part, '.', '..' or a NUL",
            "zip the images again with names such as identity/image.jpg",
        )
    if b"/" not in name:
        raise NameRefusedError(
            "it lies in no folder, whose name would be its identity",
            "zip it again in a folder that has the identity's name",
        )
    folder = name[: name.rfind(b"/") + 1]
    if not name.isascii():
        try:
            name.decode("utf-8" if flags & UTF8_FLAG else "cp437")
        except UnicodeDecodeError as error:
            raise NameRefusedError(
                "its name is said to be UTF-8 and is not", "rename the member"
            ) from error
        folder = name_text(folder, flags).encode()
    longest = max(map(len, folder.split(b"/")))
    if longest > LONGEST:
        raise NameRefusedError(
            f"its folder's name has {longest} bytes; at most {LONGEST} are taken",
            "give the folder a shorter name",
        )
    return folder


class FolderIndex:
    """Numbers the folders of the images of one zip as they come."""

    def __init__(self) -> None:
        self.numbers: dict[bytes, int] = {}  # the number of each, by its path as folder_of has it

    def number(self, names: Sequence[bytes], flags: Sequence[int]) -> np.ndarray:
        """The number of each member's folder, or one of the codes above: int32 (n,)."""
        codes = array("i")
        append = codes.append
        # Nearly every name is in the folder, and has the suffix, of the one before. Where none of
        # them all holds anything odd, it then has that one's code.
        together = b"".join(names)
        odd = not together.isascii() or any(text in together for text in _ODD)
        last_folder, last_suffix, code = None, None, OTHER
        for name, flag in zip(names, flags, strict=True):
            folder, suffix = name[: name.rfind(b"/") + 1], name[-4:]
            if folder != last_folder or suffix != last_suffix or odd:
                code = self._code(name, flag)
                # A suffix of more letters is not seen whole; a name in no folder may be hidden.
                last_folder = folder if folder and suffix[:1] == b"." else None
                last_suffix = suffix
            append(code)
        return np.array(codes, np.int32)

    def _code(self, name: bytes, flags: int) -> int:
        path = with_slashes(name, flags)
        cut = path.rfind(b"/") + 1
        if cut and cut == len(path):
            return FOLDER
        if lies_in_clutter(path):
            return CLUTTER
        if not is_image(path[cut:]):
            if path[cut:].lower().endswith((b".cls", b".json")):
                return LABEL
            return LIST if is_list(path[cut:]) else OTHER
        try:
            return self.numbers.setdefault(folder_of(name, flags), len(self.numbers))
        except NameRefusedError:
            return REFUSED
