"""An image tree: every image below a folder, under the identity that its path says."""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from facepack.convert.file_target import require_finished
from facepack.convert.files import (
    CLUTTER_NAMES,
    FileList,
    Root,
    has_image_suffix,
    is_clutter,
    status_size,
    text,
)
from facepack.convert.identity_folder import Identities, ImageFolders, find_identities
from facepack.convert.names import Names
from facepack.convert.passed_over import PassedOver
from facepack.convert.source_file import cannot_read, read_errors
from facepack.errors import SourceError

_OTHERS = "files that are no images by their names"
_CLUTTER = f"images and folders, {CLUTTER_NAMES},"
_SHALLOW = "images that lie in no folder of an identity"
_LINKS = "links to folders, which lead outside or lie too deep,"


class TreeFiles:
    """The images of a tree, ordered by identity and then by path.

    Identities that have images are numbered by name, sorted by UTF-8 bytes; which folder is one,
    :mod:`facepack.convert.identity_folder` says. Files are told to be images by their suffix.
    Links are followed where they stay in the tree, links to folders at its top only.

    Raises:
        SourceError: the folder cannot be read, no image is in the folder of an identity, or it is
            in doubt which folders these are.
    """

    def __init__(self, path: Path, identity_level: int | None = None) -> None:
        root = Root(path)
        passed = PassedOver()
        found = _Found()
        for name, size in images_below(root, passed):
            found.append(name, size)
        folders = ImageFolders(str(path), found.numbers, found.counts())
        # their names, and the level of their folders
        self.identities: Identities = find_identities([folders], identity_level)
        labels = self.identities.labels[0][found.folders]
        self.files = FileList(path)  # paths below the folder, sizes and labels
        order = np.argsort(labels, kind="stable")
        bounds = np.searchsorted(labels[order], np.arange(len(self.identities.names) + 1))
        for label, (start, stop) in enumerate(pairwise(bounds.tolist())):
            rows = order[start:stop].tolist()
            for name, size in sorted((found.names[row], found.sizes[row]) for row in rows):
                self.files.append(name, size, label)
        if shallow := [text(found.names[row]) for row in np.flatnonzero(labels < 0).tolist()]:
            passed.add(_SHALLOW, min(shallow), len(shallow))
        # for the user: what was passed over
        self.notices = [
            *self.identities.notices,
            *(f"{path}: {notice}" for notice in passed.notices()),
        ]
        if not len(self.files):
            raise SourceError(
                f"{path} holds no images in folders: an image tree is identity/image.jpg (or "
                ".jpeg, .png); labels of images in one folder come from a list (facepack img2lmdb "
                "--index LIST)"
            )

    def identity_names(self) -> Names:
        """The names of the identities, by label."""
        return Names.of(self.identities.names.tolist())


class _Found:
    """Images as they are found, and the folders they lie in, numbered as these come."""

    def __init__(self) -> None:
        self.names = Names()
        self.sizes = array("I")
        self.folders = array("i")
        self.numbers: dict[bytes, int] = {}

    def append(self, name: bytes, size: int) -> None:
        folder = name[: name.rfind(b"/") + 1]
        self.names.append(name)
        self.sizes.append(size)
        self.folders.append(self.numbers.setdefault(folder, len(self.numbers)))

    def counts(self) -> np.ndarray:
        return np.bincount(np.array(self.folders, np.int32), minlength=len(self.numbers))


def images_below(root: Root, passed: PassedOver) -> Iterator[tuple[bytes, int]]:
    """Path and size of every image below ``root``, in no order; counts what it passes over."""
    require_finished(root.path)
    folders = [b""]
    while folders:
        folder = folders.pop()
        for entry in root.scan(folder):
            name = folder + entry.name
            is_image = has_image_suffix(entry.name)
            if is_clutter(entry.name):
                if is_image or entry.is_dir(follow_symlinks=False):
                    passed.add(_CLUTTER, text(name))
            elif entry.is_dir(follow_symlinks=False):
                folders.append(name + b"/")
            elif _is_folder(entry):  # a link to one
                if folder or not root.holds(name):
                    passed.add(_LINKS, text(name))
                else:
                    folders.append(name + b"/")
            elif is_image:
                yield name, _size(root, name, entry)
            else:
                passed.add(_OTHERS, text(name))


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    """Whether it is a folder, or a link to one; a link that leads in a circle is none."""
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise cannot_read(text(entry.path), error) from error


def _size(root: Root, name: bytes, entry: os.DirEntry[bytes]) -> int:
    if entry.is_symlink():
        return root.size(name)
    with read_errors(text(entry.path)):
        status = entry.stat(follow_symlinks=False)
    return status_size(status)
