"""A folder of image files as a source: a tree of identities, an indexed folder, a pair folder."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from facepack.convert.files import FilesSource, Root, text
from facepack.convert.formats.pairs.folder_sink import IMAGES, LABELS
from facepack.convert.formats.pairs.pair_folder import PairFolder
from facepack.convert.formats.tree.listing import (
    Listing,
    ListingPart,
    keys_are_unique,
    number_names,
    read_identities,
)
from facepack.convert.identity_folder import OPTION
from facepack.convert.image_tree import TreeFiles, images_below
from facepack.convert.list_lines import KINDS, Columns
from facepack.convert.names import Names
from facepack.convert.passed_over import PassedOver
from facepack.convert.paths import INDEX
from facepack.convert.source import Source, SourceView
from facepack.convert.source_file import file_name
from facepack.errors import SourceError
from facepack.store import format as fmt

_PADDLE = "label.txt"  # what Paddle calls the list of a folder's labels
_STRETCH = 65_536  # lines of a list that are looked at together


class ImgSource(SourceView):
    """The image files of a folder, in one of three layouts.

    *A tree* ``identity/image.jpg``, as :class:`facepack.convert.image_tree.TreeFiles` lists it.

    *An indexed folder*: ``index`` names a list of its files, of any kind in
    :mod:`facepack.convert.list_lines`; default is ``index.kv`` in the folder, as
    conversions to trees leave it, or Paddle's ``label.txt``, unless a level is given. Labels and
    order are the list's, files that it does not name are left out. Names of identities, and with
    them the width of a head, are taken from ``labels.txt`` beside ``index.kv``, if it is there.

    *A pair folder*: ``imgs/0.jpg``, ``imgs/1.jpg``, … and ``pair_label.npy``; pair i is images 2i
    and 2i + 1. Each distinct image is taken once, in the order of their first use.

    Args:
        identity_level: of the folders of a tree that are identities; None chooses.
        path_column: of an ``index`` that is a CSV, the name of the column that has the paths;
            found by default.
        label_column: of such a one, the name of the column that has the labels.

    Raises:
        SourceError: the folder cannot be read, holds no image, or is none of those; or
            ``identity_level`` is given for what is no tree, or columns for what is no CSV.
    """

    def __init__(
        self,
        path: Path,
        *,
        index: Path | None = None,
        identity_level: int | None = None,
        path_column: str | None = None,
        label_column: str | None = None,
    ) -> None:
        columns = Columns(path_column, label_column)
        root = Root(path)
        if index is None and (path / INDEX).exists():
            index = path / INDEX
        if columns != Columns() and index is None:
            raise SourceError(
                f"{path}: --path-column and --label-column are of a CSV: name it with --index"
            )
        layout: Source
        paddle = None
        if index is None and identity_level is None and (path / _PADDLE).is_file():
            with suppress(SourceError):  # of other text by that name
                paddle = _IndexedFolder(root, path / _PADDLE, ("paddle",))
        if index is not None:
            layout = _IndexedFolder(root, index, columns=columns)
        elif paddle is not None:
            layout = paddle
            paddle.notices.insert(
                0, f"{path}: labels are those of {_PADDLE}; with {OPTION} they are those of folders"
            )
        elif (path / LABELS).exists() and (path / IMAGES).is_dir():
            layout = PairFolder(root)
        else:
            layout = _Tree(path, identity_level)
        if identity_level is not None and not isinstance(layout, _Tree):
            raise SourceError(
                f"{path}: labels come from {index or path / LABELS}, not from folders: leave "
                f"{OPTION} out"
            )
        layout.name = file_name(path.absolute())
        super().__init__(layout)

    def describe(self) -> dict[str, Any]:
        """Name of the folder, image count, and hashes of names, sizes, labels; of pairs, of all."""
        described = {"kind": self.kind, "folder": self.inner.name, "images": len(self)}
        return described | self.inner.describe()


class _Tree(FilesSource):
    kind = "img"

    def __init__(self, path: Path, identity_level: int | None) -> None:
        tree = TreeFiles(path, identity_level)
        self._files, self._identities = tree.files, tree.identity_names()
        self._described = tree.identities.describe(usual=1)
        self.classes = len(self._identities)
        self.notices = tree.notices

    def describe(self) -> dict[str, Any]:
        described = {"identities": self.classes, "files_xxh3_128": self._files.digest()}
        return described | self._described


class _IndexedFolder(Source):
    kind = "img"

    def __init__(
        self,
        root: Root,
        index: Path,
        kinds: Collection[str] = KINDS,
        columns: Columns | None = None,
    ) -> None:
        self._listing = Listing(index, root, kinds, columns)
        self._keyed = keys_are_unique([self._listing])
        beside = index.with_name(fmt.LABELS)
        self._names = number_names([self._listing])
        self._identities = None
        if self._names is not None:
            self.classes = len(self._names)
        elif index.name == INDEX and beside.exists():
            self._identities = beside
            self.classes = len(read_identities(beside))
        self.notices = self._listing.notices()
        passed = self._passed_over(root, f"images that are not in {index.name}")
        self.notices += [f"{root.path}: {notice}" for notice in passed.notices()]

    def _passed_over(self, root: Root, kind: str) -> PassedOver:
        """The images of the folder that the list does not name."""
        total = len(self)
        parts = (self.part(k, min(k + _STRETCH, total)) for k in range(0, total, _STRETCH))
        names = (entry.name or "" for part in parts for entry in part.entries())
        listed = np.fromiter(map(_hash, names), np.uint64, total)
        found = Names.of(name for name, _ in images_below(root, PassedOver()))
        hashes = np.fromiter((_hash(text(name)) for name in found), np.uint64, len(found))
        passed = PassedOver()
        for row in np.flatnonzero(~np.isin(hashes, listed)).tolist():
            passed.add(kind, text(found[row]))
        return passed

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
        identities = self._identities if self._names is None else self._names
        return self._listing.part(start, stop, keyed=self._keyed, identities=identities)


def _hash(name: str) -> int:
    return int(xxhash.xxh3_64_intdigest(name.encode()))
