"""Lists in zips that label the images there: the rule is that of tars.

Of lists that lie in zips, and how they are followed, see
:mod:`facepack.convert.archive_lists`. Names are compared as they are stored.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from facepack.convert.archive_lists import Lists, path_hash
from facepack.convert.formats.zip.archive import Archive
from facepack.convert.formats.zip.crypto import Keys
from facepack.convert.formats.zip.directory import walk
from facepack.convert.formats.zip.names import LIST, REFUSED, FolderIndex, with_slashes
from facepack.convert.formats.zip.samples import read_contents
from facepack.convert.names import Names
from facepack.convert.source_file import SourceFile


class ZipLists(NamedTuple):
    """What lists in zips say of the images."""

    # of each zip, int32 (n,), those below -1 as in facepack.convert.archive_lists
    labels: list[np.ndarray]
    names: Names  # of identities, by label, where labels are names
    notices: list[str]  # for the user


def find_listed(archives: Sequence[Archive], keys: Keys | None) -> ZipLists | None:
    """The labels that lists give the images of ``archives``; None if no list is to be followed.

    Raises:
        SourceError: labels of some lists are names, of others numbers.
    """
    if not any(archive.has_lists for archive in archives):
        return None
    lists = Lists()
    hashes = array("Q")
    folders: set[bytes] = set()
    for number, archive in enumerate(archives):
        _gather(archive, number, keys, lists, hashes, folders)
    counts = [len(archive.entry_offsets) for archive in archives]
    found, names, notices = lists.label(
        np.array(hashes, np.uint64),
        np.repeat(np.arange(len(archives)), counts),
        alone=len(folders) < 2,
    )
    if found is None:
        return None
    return ZipLists(np.split(found, np.cumsum(counts)[:-1]), names, notices)


def _gather(
    archive: Archive,
    number: int,
    keys: Keys | None,
    lists: Lists,
    hashes: array[int],
    folders: set[bytes],
) -> None:
    """Read the lists of the archive of that ``number``, and where its images lie."""
    index = FolderIndex()
    with SourceFile(archive.zip.path, archive.zip.size) as file:
        for members in walk(file, archive.zip.directory, lambda _: None):
            codes = index.number(members.names, members.flags.tolist())
            for k in np.flatnonzero((codes >= REFUSED) | (codes == LIST)).tolist():
                name = with_slashes(members.names[k], int(members.flags[k]))
                if codes[k] == LIST:
                    lists.add(
                        name, number, read_contents(archive, members.entry_offsets[[k]], keys)
                    )
                else:
                    hashes.append(path_hash(name))
                    folders.add(name[: name.rfind(b"/") + 1])
