"""A folder of image files as a source: a tree of identities, an indexed folder, a pair folder."""

from __future__ import annotations

import errno
import os
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash

from facepack import format as fmt
from facepack.convert.files import (
    FileList,
    FilesPart,
    Root,
    cannot_read,
    is_image,
    status_size,
    text,
)
from facepack.convert.list_lines import LINES
from facepack.convert.listing import (
    Listing,
    ListingPart,
    keys_are_unique,
    read_identities,
)
from facepack.convert.names import Names
from facepack.convert.pair_folder import PairFolder
from facepack.convert.paths import INDEX
from facepack.convert.source import Group, Part, file_name, shard_stem
from facepack.convert.to_pair_folder import IMAGES, LABELS
from facepack.errors import SourceError

_STRETCH = 65_536  # lines of a list that are looked at together


class ImgSource:
    """The image files of a folder, in one of three layouts.

    *A tree* ``identity/image.jpg``: the folder at the top is the identity, however deep below it
    the image lies (``identity/sub/image.jpg``). Identities that have images are numbered by name,
    sorted by UTF-8 bytes over the whole tree; the images of one come in the order of their paths.

    *An indexed folder*: ``index`` names a list of its files, with lines ``path label``, those of
    im2rec or of face2rec2 (:mod:`facepack.convert.listing`); default is ``index.kv`` in the folder,
    as conversions to trees leave it. Labels and order are the list's, files that it does not name
    are left out. Names of identities, and with them the width of a head, are taken from
    ``labels.txt`` beside ``index.kv``, if it is there.

    *A pair folder*: ``imgs/0.jpg``, ``imgs/1.jpg``, … and ``pair_label.npy``; pair i is images 2i
    and 2i + 1. Each distinct image is taken once, in the order of their first use.

    Files are told to be images by their suffix; hidden ones are passed over. Links are followed
    where they stay in the folder, links to folders at its top only.

    Args:
        path: the folder.
        index: the list of its files.

    Raises:
        SourceError: the folder cannot be read, holds no image, or is none of those.
    """

    kind = "img"
    parallel = True

    def __init__(self, path: Path, *, index: Path | None = None) -> None:
        root = Root(path)
        self._name = file_name(path.absolute())
        if index is None and (path / INDEX).exists():
            index = path / INDEX
        self._layout: _Layout
        if index is not None:
            self._layout = _IndexedFolder(root, index)
        elif (path / LABELS).exists() and (path / IMAGES).is_dir():
            self._layout = PairFolder(root)
        else:
            self._layout = _Tree(root)
        self.content = self._layout.content
        self.classes = self._layout.classes
        self.table_names = self._layout.table_names
        self.notices = self._layout.notices

    def __len__(self) -> int:
        return len(self._layout)

    def describe(self) -> dict[str, Any]:
        """Name of the folder, image count, and hashes of names, sizes, labels; of pairs, of all."""
        described = {"kind": self.kind, "folder": self._name, "images": len(self)}
        return described | self._layout.describe()

    def groups(self) -> list[Group]:
        """One."""
        return [Group(shard_stem(self._name), 0, len(self))]

    def sizes(self) -> np.ndarray:
        """Bytes of each file."""
        return self._layout.sizes()

    def part(self, start: int, stop: int) -> Part:
        """The images ``[start, stop)``."""
        return self._layout.part(start, stop)

    def tables(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """``pairs`` of a pair folder, as those of a ``.bin``; else none."""
        return self._layout.tables(positions)


class _Layout(Protocol):
    """One of the three."""

    content: str
    classes: int | None
    table_names: tuple[str, ...]
    notices: list[str]

    def __len__(self) -> int: ...
    def describe(self) -> dict[str, Any]: ...
    def sizes(self) -> np.ndarray: ...
    def part(self, start: int, stop: int) -> Part: ...
    def tables(self, positions: np.ndarray) -> dict[str, np.ndarray]: ...


class _Tree:
    content = "train"
    classes: int | None
    table_names: tuple[str, ...] = ()

    def __init__(self, root: Root) -> None:
        self._files = FileList(root.path)
        self._identities = Names()
        passed: Counter[str] = Counter()
        for identity in sorted(_top_folders(root, passed)):
            found = sorted(_images_below(root, identity, passed))
            for name, size in found:
                self._files.append(name, size, len(self._identities))
            if found:
                self._identities.append(identity)
        if not len(self._files):
            raise SourceError(
                f"{root.path} holds no images in folders: an image tree is identity/image.jpg (or "
                ".jpeg, .png); for images that lie in one folder pass a list of their labels "
                "(--index)"
            )
        self.classes = len(self._identities)
        self.notices = [
            f"{root.path}: {passed[kind]} {note}" for kind, note in _NOTES.items() if passed[kind]
        ]

    def __len__(self) -> int:
        return len(self._files)

    def describe(self) -> dict[str, Any]:
        return {"identities": self.classes, "files_xxh3_128": self._files.digest()}

    def sizes(self) -> np.ndarray:
        return self._files.sizes()

    def part(self, start: int, stop: int) -> FilesPart:
        return self._files.part(start, stop, self._identities)

    def tables(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        return {}


_OTHERS, _LOOSE, _LINKS = "others", "loose", "links"
_NOTES = {
    _OTHERS: "files that are no images by their names were passed over",
    _LOOSE: "images that lie in no folder have no identity and were passed over",
    _LINKS: "links to folders were passed over: they lead outside, or lie too deep",
}


def _top_folders(root: Root, passed: Counter[str]) -> Iterator[bytes]:
    for entry in root.scan():
        if entry.name.startswith(b"."):
            continue
        if not _is_folder(entry):
            passed[_LOOSE if is_image(entry.name) else _OTHERS] += 1
        elif entry.is_symlink() and not root.holds(entry.name):
            passed[_LINKS] += 1
        else:
            yield entry.name


def _images_below(root: Root, top: bytes, passed: Counter[str]) -> Iterator[tuple[bytes, int]]:
    """Path and size of every image below the folder ``top``."""
    folders = [top]
    while folders:
        folder = folders.pop()
        for entry in root.scan(folder):
            name = folder + b"/" + entry.name
            if entry.name.startswith(b"."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(name)
            elif is_image(entry.name):
                yield name, _size(root, name, entry)
            else:
                passed[_LINKS if _is_folder(entry) else _OTHERS] += 1


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
    try:
        return status_size(entry.stat(follow_symlinks=False))
    except OSError as error:
        raise cannot_read(text(entry.path), error) from error


class _IndexedFolder:
    content = "train"
    table_names: tuple[str, ...] = ()

    def __init__(self, root: Root, index: Path) -> None:
        self._listing = Listing(index, root, tuple(LINES))
        self._keyed = keys_are_unique([self._listing])
        names = index.with_name(fmt.LABELS)
        self._identities = names if index.name == INDEX and names.exists() else None
        self.classes = len(read_identities(names)) if self._identities is not None else None
        self.notices: list[str] = []
        left_out = self._count_left_out(root)
        if left_out:
            self.notices.append(
                f"{root.path}: {left_out} images are not in {index.name} and were passed over"
            )

    def _count_left_out(self, root: Root) -> int:
        """How many images of the folder the list does not name."""
        total = len(self)
        parts = (self.part(k, min(k + _STRETCH, total)) for k in range(0, total, _STRETCH))
        names = (entry.name or "" for part in parts for entry in part.entries())
        listed = np.fromiter(map(_hash, names), np.uint64, total)
        found = array("Q", map(_hash, map(text, _all_images(root))))
        return int(np.count_nonzero(~np.isin(np.array(found, np.uint64), listed)))

    def __len__(self) -> int:
        return len(self._listing)

    def describe(self) -> dict[str, Any]:
        described = self._listing.describe()
        if self._identities is not None:
            names = "\n".join(read_identities(self._identities)).encode()
            described["identity_names_xxh3_128"] = xxhash.xxh3_128_hexdigest(names)
        return described

    def sizes(self) -> np.ndarray:
        return self._listing.sizes()

    def part(self, start: int, stop: int) -> ListingPart:
        return self._listing.part(start, stop, keyed=self._keyed, identities=self._identities)

    def tables(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        return {}


def _hash(name: str) -> int:
    return int(xxhash.xxh3_64_intdigest(name.encode()))


def _all_images(root: Root) -> Iterator[bytes]:
    """Every image of the folder, in folders or not."""
    yield from (
        entry.name for entry in root.scan() if is_image(entry.name) and not _is_folder(entry)
    )
    for top in _top_folders(root, Counter()):
        yield from (name for name, _ in _images_below(root, top, Counter()))
