"""WebDataset samples in zips: images whose labels are members beside them.

The rule is that of tars (:mod:`facepack.convert.samples`), but for one thing. A zip is read
anywhere, and programs that zip a folder take its files in no order: members of a sample need not
follow each other, as long as no name is there twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facepack.convert.archive_lists import LIST_NAMES
from facepack.convert.formats.zip.archive import Archive
from facepack.convert.formats.zip.crypto import Keys
from facepack.convert.formats.zip.directory import find_directory, walk
from facepack.convert.formats.zip.names import LABEL, REFUSED, FolderIndex, with_slashes
from facepack.convert.formats.zip.part import ZipPart
from facepack.convert.names import Names
from facepack.convert.samples import (
    LONGEST_CLS,
    LONGEST_JSON,
    Label,
    Samples,
    read_class,
    read_object,
    sample_key,
)
from facepack.convert.source import Refusal
from facepack.convert.source_file import SourceFile, require_file

_GLANCE = 1 << 16  # bytes of a directory, some 700 members


def may_hold_labels(path: Path) -> bool:
    """Whether a member at the beginning or end of the directory has a name that labels have.

    Those of samples lie beside their images there, or before or behind all of them; so do lists.

    Raises:
        SourceError: the zip cannot be read.
    """
    require_file(path)
    with SourceFile(path) as file:
        directory = find_directory(file)
        size = min(_GLANCE, directory.size)
        starts = (directory.start, directory.start + directory.size - size)
        ends = b"".join(file.read(size, start) for start in starts).lower()
    return any(name in ends for name in (b".cls", b".json", *LIST_NAMES))


class ZipSamples(NamedTuple):
    """What the images of zips are labelled."""

    labels: list[np.ndarray]  # of each zip, int32 (n,), those below -1 as in REASONS
    # of each zip, uint8 (n,), how many of its name's an image is not called by
    suffixes: list[np.ndarray]
    texts: Names | None  # what the labels number, where they are texts
    objects: int  # how many labels a .json holds, perhaps among other things
    notices: list[str]  # for the user


def find_samples(archives: Sequence[Archive], keys: Keys | None) -> ZipSamples | None:
    """The labels of the images of ``archives``; None if they are no samples."""
    if not any(archive.has_labels for archive in archives):
        return None
    samples = Samples()
    orders = []
    objects = 0
    for archive in archives:
        names, labels = _gather(archive, keys)
        orders.append(_add(names, labels, samples))
        objects += sum(names[row].lower().endswith(b".json") for row in labels)
    labels_of_all, suffixes, texts = samples.finish()
    if not samples.found:
        return None
    found = ZipSamples([], [], texts, objects, samples.notices())
    bounds = np.cumsum([0, *map(len, orders)]).tolist()
    for order, (start, stop) in zip(orders, pairwise(bounds), strict=True):
        back = np.argsort(order)  # from the order of samples to that of the directory
        found.labels.append(labels_of_all[start:stop][back])
        found.suffixes.append(suffixes[start:stop][back])
    return found


def _gather(archive: Archive, keys: Keys | None) -> tuple[list[bytes], dict[int, Label | None]]:
    """The names of images and labels, in the order of the directory; and by row what labels say."""
    names: list[bytes] = []
    labels: dict[int, Label | None] = {}
    index = FolderIndex()
    with SourceFile(archive.zip.path, archive.zip.size) as file:
        for members in walk(file, archive.zip.directory, lambda _: None):
            codes = index.number(members.names, members.flags.tolist())
            read = []  # rows of names, and which members these are
            for k in np.flatnonzero((codes >= REFUSED) | (codes == LABEL)).tolist():
                name = with_slashes(members.names[k], int(members.flags[k]))
                if codes[k] == LABEL:
                    is_class = name.lower().endswith(b".cls")
                    if members.size[k] <= (LONGEST_CLS if is_class else LONGEST_JSON):
                        read.append((len(names), k))
                    elif not is_class:
                        continue
                    labels[len(names)] = None
                names.append(name)
            if read:
                rows, which = zip(*read, strict=True)
                contents = read_contents(archive, members.entry_offsets[list(which)], keys)
                for row, content in zip(rows, contents, strict=True):
                    is_class = names[row].lower().endswith(b".cls")
                    labels[row] = read_class(content) if is_class else read_object(content)
    return names, labels


def read_contents(
    archive: Archive, entry_offsets: np.ndarray, keys: Keys | None
) -> Iterator[bytes]:
    """What the members with these entries hold; nothing where they cannot be read."""
    part = ZipPart(
        zip=archive.zip,
        start=0,
        entry_offsets=entry_offsets,
        labels=np.zeros(len(entry_offsets), np.int32),
        suffixes=None,
        level=None,
        identities={},
        keys=keys,
    )
    for record in part.read():
        yield b"" if isinstance(record, Refusal) else bytes(record.image)


def _add(names: list[bytes], labels: dict[int, Label | None], samples: Samples) -> np.ndarray:
    """Hand a zip's members to ``samples``; returns the order of its images there: int64 (n,)."""
    rows = list(range(len(names)))
    if len(set(names)) == len(names):
        rows.sort(key=lambda row: sample_key(names[row]))
    image = np.cumsum([row not in labels for row in range(len(names))], dtype=np.int64) - 1
    order = []
    for row in rows:
        if row not in labels:
            samples.add_image(names[row])
            order.append(image[row])
        elif names[row].lower().endswith(b".cls"):
            samples.add_class(names[row], labels[row])
        else:
            samples.add_object(names[row], labels[row])
    samples.end_archive()
    return np.array(order, np.int64)
