"""Images that are members of a tar, with labels from WebDataset samples or from their folders.

In a WebDataset the members that share their name up to its first dot are one sample and follow
each other: ``key.jpg``, and the label as text in ``key.cls`` or as ``{"label": n}`` in
``key.json``. In a tree, ``…/identity/image.jpg``, the folder is the identity. Which of the two
archives are shows when all was looked at: they are samples if any image has such a label.

Names stay in the archive: what memory holds of an image are 23 bytes.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import xxhash

from facepack import format as fmt
from facepack import images
from facepack.convert.files import is_image, text
from facepack.convert.names import Names
from facepack.convert.source import Entry, Group, Refusal
from facepack.convert.tar_headers import BLOCK, Member, read_member
from facepack.convert.tar_stream import Files, Stream, opened
from facepack.errors import SourceError
from facepack.shard import SourceRecord

_UNLABELLED, _BAD_LABEL = -2, -3
_LARGEST = 0xFFFFFFFF  # stands for every larger size as well: no such image is ever read
_LONGEST_CLS = 64  # bytes
_LONGEST_JSON = 1 << 20
_CLS = re.compile(rb"\s*(-1|\d{1,8})\s*")
TOO_LARGE = "set the environment variable FACEPACK_MAX_IMAGE_BYTES to more, or go on without it"
_LEAVE_OUT = "fetch the archive again, or go on without this image"


class Archive(NamedTuple):
    """A tar among the files: what its shards are called, its first file, where it begins."""

    stem: str
    file: str
    begin: int


class Rows(NamedTuple):
    """Images: where their data begin, their bytes, blocks of headers before them, labels."""

    offsets: np.ndarray
    sizes: np.ndarray
    headers: np.ndarray
    labels: np.ndarray

    def take(self, rows: slice | np.ndarray) -> Rows:
        """Some of them."""
        return Rows(*(column[rows] for column in self))


class ImageMembers:
    """Gathers the images of archives as their members go by."""

    def __init__(self) -> None:
        self._offsets = array("q")
        self._sizes = array("I")
        self._headers = array("H")
        self._labels = array("i")  # of samples
        self._identities = array("i")  # numbers in order of appearance, -1 in no folder
        self._compound = array("B")  # whether the suffix has a further dot, as in key.seg.png
        self._numbers: dict[bytes, int] = {}
        self._homes = array("Q")  # of each identity, a hash of the first path of its folder
        self._strayed: set[int] = set()  # identities whose name several folders have
        self._folder: bytes | None = None
        self._identity = -1
        self._sample: bytes | None = None
        self._first = 0  # row of the sample
        self._label: int | None = None
        self._stray = 0  # labels of samples without an image
        self._digest = xxhash.xxh3_128()

    def __len__(self) -> int:
        return len(self._offsets)

    def begin_archive(self) -> None:
        """The next member is the first of an archive: no sample goes on in it."""
        self._end_sample()
        self._sample = None

    def add(self, member: Member, stream: Stream) -> bool:
        """Take a file, if it is an image or the label of one; its data may be read thereby."""
        name = member.name
        cut = name.rfind(b"/") + 1
        dot = name.find(b".", cut)
        if dot > cut and name[:dot] != self._sample:
            self._end_sample()
            self._sample = name[:dot]
        if is_image(name[cut:]):
            if name[:cut] != self._folder:
                self._enter(name[:cut])
            self._offsets.append(member.data)
            self._sizes.append(min(member.size, _LARGEST))
            self._headers.append((member.data - member.begin) // BLOCK)
            self._labels.append(_UNLABELLED)
            self._identities.append(self._identity)
            self._compound.append(name.find(b".", dot + 1) >= 0)
            self._digest.update(b"%d %b\n" % (member.size, name))
            return True
        suffix = name[dot:].lower() if dot > cut else b""
        if suffix == b".cls":
            content = stream.read(member.size) if member.size <= _LONGEST_CLS else b""
            match = _CLS.fullmatch(content)
            self._label = int(match[1]) if match else _BAD_LABEL
        elif suffix == b".json" and self._label is None and member.size <= _LONGEST_JSON:
            self._label = _json_label(stream.read(member.size))
        else:
            return False
        return True

    def finish(self, archives: list[tuple[Archive, int]], names: Names) -> ImageSet:
        """What was gathered.

        Args:
            archives: each with its first row.
            names: of the identities of samples, by label, as far as they are known.
        """
        self._end_sample()
        rows = Rows(
            np.frombuffer(self._offsets, np.int64),
            np.frombuffer(self._sizes, np.uint32),
            np.frombuffer(self._headers, np.uint16),
            np.frombuffer(self._labels, np.int32),
        )
        bounds = np.array([first for _, first in archives] + [len(self)])
        listing = self._digest.hexdigest()
        notices: list[str] = []
        if self._stray:
            notices.append(
                f"{self._stray:,} labels (.cls, or .json with a label) have no image beside them "
                "and were passed over: members of a sample must follow each other"
            )
        samples = bool((rows.labels != _UNLABELLED).any())
        if samples:
            single = np.frombuffer(self._compound, np.uint8) == 0
            if not single.all():
                notices.append(
                    f"{np.count_nonzero(~single):,} members such as key.seg.png, whose suffix has "
                    "two dots, were passed over"
                )
                rows = rows.take(single)
                bounds = np.concatenate([[0], np.cumsum(single)])[bounds]
        else:
            names = Names()
            ordered = sorted(self._numbers)
            for name in ordered:
                names.append(name)
            # One place more, so that -1 (no folder) finds itself.
            ranks = np.full(len(ordered) + 1, _UNLABELLED, np.int32)
            ranks[[self._numbers[name] for name in ordered]] = np.arange(len(ordered))
            rows = rows._replace(labels=ranks[np.frombuffer(self._identities, np.int32)])
            if self._strayed:
                notices.append(
                    f"{len(self._strayed):,} names of folders occur at several places: each name "
                    "is taken for one identity"
                )
        return ImageSet(archives, bounds, rows, names, samples, listing, notices)

    def _enter(self, folder: bytes) -> None:
        self._folder = folder
        name = folder.rstrip(b"/").rpartition(b"/")[2]
        if name in (b"", b".", b".."):
            self._identity = -1
            return
        home = xxhash.xxh3_64_intdigest(folder)
        self._identity = number = self._numbers.setdefault(name, len(self._numbers))
        if number == len(self._homes):
            self._homes.append(home)
        elif self._homes[number] != home:
            self._strayed.add(number)

    def _end_sample(self) -> None:
        if self._label is not None:
            self._stray += self._first == len(self._labels)
            for row in range(self._first, len(self._labels)):
                self._labels[row] = self._label
        self._first, self._label = len(self._labels), None


class ImageSet:
    """The images of archives, as :class:`facepack.convert.source.Source` wants them.

    Args:
        archives: the archives, in order, each with its first member's row.
        bounds: the first row of each archive, and how many rows there are.
        rows: all images.
        names: of the identities, by label, as far as they are known.
        samples: whether labels come from samples, else from folders.
        listing: a hash of names and sizes.
        notices: for the user.
    """

    content = "train"
    table_names = ()

    def __init__(
        self,
        archives: list[tuple[Archive, int]],
        bounds: np.ndarray,
        rows: Rows,
        names: Names,
        samples: bool,
        listing: str,
        notices: list[str],
    ) -> None:
        self._archives = [archive for archive, _ in archives]
        self._bounds = bounds
        self._rows = rows
        self._names = names
        self._samples = samples
        self._listing = listing
        self.notices = notices
        self.classes = len(names) or None

    def __len__(self) -> int:
        return len(self._rows.offsets)

    def describe(self) -> dict[str, Any]:
        """Whether the images are samples or a tree, and hashes of all names, sizes, labels."""
        labels = xxhash.xxh3_128_hexdigest(self._rows.labels.astype("<i4").tobytes())
        return {
            "layout": "samples" if self._samples else "tree",
            "listing_xxh3_128": self._listing,
            "labels_xxh3_128": labels,
            "names_xxh3_128": self._names.digest().hex(),
        }

    def groups(self) -> list[Group]:
        """One for each archive that holds an image."""
        bounds = self._bounds.tolist()
        runs = zip(self._archives, bounds[:-1], bounds[1:], strict=True)
        return [Group(archive.stem, start, stop) for archive, start, stop in runs if stop > start]

    def sizes(self) -> np.ndarray:
        """Bytes of each image, 0 for those that are too large to be read."""
        return np.where(self._rows.sizes > images.MAX_BYTES, np.uint32(0), self._rows.sizes)

    def part(self, files: Files, shared: Stream | None, start: int, stop: int) -> TarImagePart:
        """The images ``[start, stop)``; ``shared`` is the stream to read from, if there is one."""
        rows = self._rows.take(slice(start, stop))
        archive = self._archives[int(np.searchsorted(self._bounds, start, side="right")) - 1]
        if shared is None and stop > start:
            last = stop - start - 1
            begin = int(rows.offsets[0]) - BLOCK * int(rows.headers[0])
            files = files.between(begin, int(rows.offsets[last]) + int(rows.sizes[last]))
        known = (rows.labels >= 0) & (rows.labels < len(self._names))
        present = np.unique(rows.labels[known]).tolist()
        names = {label: name for label in present if (name := text(self._names[label]))}
        return TarImagePart(files, shared, start, rows, archive, self._samples, names)

    def tables(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """None: these are images with labels."""
        return {}


class TarImagePart:
    """Some images of an archive.

    Args:
        files: those of the archive.
        shared: the stream to read from; None opens one.
        start: ordinal of the first image.
        rows: the images.
        archive: the tar that they are members of.
        samples: whether names are those of samples, without suffix.
        identity_names: names of the identities among them, by label.
    """

    def __init__(
        self,
        files: Files,
        shared: Stream | None,
        start: int,
        rows: Rows,
        archive: Archive,
        samples: bool,
        identity_names: dict[int, str],
    ) -> None:
        self.start, self.stop = start, start + len(rows.offsets)
        self._files = files
        self._shared = shared
        self._rows = rows
        self._archive = archive
        self._samples = samples
        self._identity_names = identity_names

    def read(self, keep: np.ndarray | None = None) -> Iterator[SourceRecord | Refusal]:
        """Read the images, from one end of the archive to the other.

        Raises:
            SourceError: the archive cannot be read on, or is no longer the one looked at.
        """
        with opened(self._files, self._shared) as stream:
            for place in range(len(self._rows.offsets)):
                if keep is None or keep[place]:
                    yield self._read_one(stream, place)

    def entries(self) -> Iterator[Entry]:
        """Label and name of each; only headers are read."""
        with opened(self._files, self._shared) as stream:
            for place in range(len(self._rows.offsets)):
                label = max(int(self._rows.labels[place]), fmt.NO_IDENTITY)
                yield Entry(label, self._name(self._header(stream, place)))

    def refuse(self, record: SourceRecord, reason: str) -> Refusal:
        """The refusal of an image that was read but cannot be packed."""
        return self._refuse(record.ordinal - self.start, record.name, reason, _LEAVE_OUT)

    def identity_names(self) -> dict[int, str]:
        """The folders' names, of a tree; those of ``labels.txt``, of samples."""
        return self._identity_names

    def _read_one(self, stream: Stream, place: int) -> SourceRecord | Refusal:
        member = self._header(stream, place)
        name = self._name(member)
        label = int(self._rows.labels[place])
        if label < fmt.NO_IDENTITY:
            return self._refuse(place, name, *self._no_label(label))
        if member.size > images.MAX_BYTES:
            return self._refuse(
                place,
                name,
                f"{member.size:,} bytes; at most {images.MAX_BYTES:,} are taken",
                TOO_LARGE,
            )
        return SourceRecord(self.start + place, stream.read(member.size), label, name)

    def _header(self, stream: Stream, place: int) -> Member:
        offset, size = int(self._rows.offsets[place]), int(self._rows.sizes[place])
        stream.seek(offset - BLOCK * int(self._rows.headers[place]))
        member = read_member(stream)
        if member is None or (member.data, min(member.size, _LARGEST)) != (offset, size):
            raise SourceError(
                f"{self._archive.file} changed while it was read; once it is whole again, run with "
                "--resume"
            )
        return member

    def _name(self, member: Member) -> str:
        name = member.name
        if self._samples:
            name = name[: name.find(b".", name.rfind(b"/") + 1)]
        return text(name.removeprefix(b"./"))

    def _no_label(self, label: int) -> tuple[str, str]:
        if not self._samples:
            return (
                "it lies in no folder, whose name would be its identity",
                "put it into a folder that has the identity's name",
            )
        if label == _BAD_LABEL:
            return "its .cls holds no class, a whole number up to 99999999", "correct the .cls"
        return "its sample has neither a .cls nor a label in a .json", "add one of them"

    def _refuse(self, place: int, name: str | None, reason: str, remedy: str) -> Refusal:
        begin = int(self._rows.offsets[place]) - BLOCK * int(self._rows.headers[place])
        offset = begin - self._archive.begin
        return Refusal(self.start + place, self._archive.file, offset, name, reason, remedy)


def _json_label(content: bytes) -> int | None:
    """The ``label`` of a JSON object, if it has one that can be a class."""
    try:
        label = json.loads(content)["label"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if isinstance(label, bool) or not isinstance(label, int):
        return None
    return label if fmt.NO_IDENTITY <= label <= fmt.MAX_LABEL else None
