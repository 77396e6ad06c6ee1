"""Images that are members of a tar, with labels from samples, a list, or their folders.

Which of these shows when all was looked at: labels of WebDataset samples
(:mod:`facepack.convert.samples`) go before a list
(:mod:`facepack.convert.archive_lists`), and that before folders, of which
:mod:`facepack.convert.identity_folder` says which one is the identity.

Names stay in the archive: what memory holds of an image are 23 bytes, and 8 more until it is known
that there is no list.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np
import xxhash

from facepack import images
from facepack.convert import archive_lists
from facepack.convert.archive_lists import Lists, is_list, path_hash
from facepack.convert.files import (
    identity_texts,
    is_clutter,
    is_image,
    lies_in_clutter,
    text,
)
from facepack.convert.formats.tar.headers import (
    BLOCK,
    TIMED,
    Member,
    Members,
    are_times,
    read_member,
    usual_names,
)
from facepack.convert.formats.tar.stream import Files, Piece, Stream, opened
from facepack.convert.identity_folder import (
    LONGEST,
    OPTION,
    Identities,
    ImageFolders,
    find_identities,
)
from facepack.convert.names import Names
from facepack.convert.samples import (
    LONGEST_CLS,
    LONGEST_JSON,
    NO_LABEL,
    REASONS,
    Samples,
    read_class,
    read_object,
)
from facepack.convert.source import Entry, Group, PartInRuns, Refusal, Source
from facepack.errors import SourceError
from facepack.store import format as fmt
from facepack.store.record import RecordRun, SourceRecord

_LIST_BLOCK = 1 << 20  # bytes of a list, or of an index, that are parsed at once
_LARGEST = 0xFFFFFFFF  # stands for every larger size as well: no such image is ever read
_SHALLOW = NO_LABEL - 1
_SUFFIXES = frozenset(suffix.encode() for suffix in images.IMAGE_SUFFIXES)
_DIGITS = 8  # of a class
_TOGETHER = 1 << 20  # bytes that are read at once, about
_REASONS = {
    "samples": REASONS,
    "list": archive_lists.REASONS,
    "tree": {
        NO_LABEL: (
            "it lies in no folder, whose name would be its identity, and no KEY.cls or KEY.json "
            "beside it has its label",
            "put its label, a number or a name, into a KEY.cls, or the image into a folder that "
            "has the identity's name",
        ),
        _SHALLOW: (
            "none of its folders is of the level that identities are taken from",
            f"move it, or choose another level ({OPTION})",
        ),
    },
}
TOO_LARGE = "set the environment variable FACEPACK_MAX_IMAGE_BYTES to more, or go on without it"


class Archive(NamedTuple):
    """A tar among the files: what its shards are called, its first file, where it begins."""

    stem: str
    file: str
    begin: int


class Rows(NamedTuple):
    """Images: where their data begin, their bytes, blocks of headers before them, labels.

    And how many suffixes of its name a record is not called by: none in a tree.
    """

    offsets: np.ndarray
    sizes: np.ndarray
    headers: np.ndarray
    labels: np.ndarray
    suffixes: np.ndarray

    def take(self, rows: slice | np.ndarray) -> Rows:
        """Some of them."""
        return Rows(*(column[rows] for column in self))


class ImageMembers:
    """Gathers the images of archives as their members go by."""

    def __init__(self) -> None:
        self.first = b""  # the name of the first image; empty as long as there is none
        self._offsets = array("q")
        self._sizes = array("I")
        self._headers = array("H")
        self._samples = Samples()
        self._lists = Lists()
        self._paths: array[int] | None = array("Q")  # hashes of names, where no sample is known
        self._archives = array("q")  # the first row of each
        self._folders = array("i")  # number of each one's folder
        self._numbers: dict[bytes, int] = {}  # of folders, in order of appearance
        self._folder: bytes | None = None
        self._number = 0
        self._in_clutter = False
        self._listings = bytearray()  # hashes of names and sizes, of each archive

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def has_list(self) -> bool:
        """Whether there is a list of images."""
        return bool(self._lists.first)

    def begin_archive(self) -> None:
        """The next member is the first of an archive."""
        self._archives.append(len(self))
        self._digest = xxhash.xxh3_128()

    def end_archive(self) -> None:
        """No sample goes on in the next archive."""
        self._samples.end_archive()
        self._listings += self._digest.digest()
        del self._digest  # which cannot be sent to another process

    def extend(self, other: ImageMembers, begin: int) -> None:
        """Take the images that another gathered of the next archives, where there is no list.

        Its stream begins at byte ``begin`` of this one's.
        """
        self._archives.extend([len(self) + row for row in other._archives])
        offsets = np.array(other._offsets, np.int64) + begin
        numbers = self._numbers
        of_folder = [numbers.setdefault(path, len(numbers)) for path in other._numbers]
        folders = np.array(of_folder, np.int32)[np.array(other._folders, np.int32)]
        self.first = self.first or other.first
        self._offsets.frombytes(offsets.tobytes())
        self._sizes.extend(other._sizes)
        self._headers.extend(other._headers)
        self._folders.frombytes(folders.tobytes())
        self._samples.extend(other._samples)
        self._paths = None
        self._listings += other._listings

    def add(self, member: Member, stream: Stream) -> bool:
        """Take a file, if it is an image or the label of one; its data may be read thereby."""
        name = member.name
        cut = name.rfind(b"/") + 1
        base = name[cut:]
        self._enter(name[:cut])
        if self._in_clutter or is_clutter(base):
            return False
        if is_image(base):
            self.first = self.first or name
            self._offsets.append(member.data)
            self._sizes.append(min(member.size, _LARGEST))
            self._headers.append((member.data - member.begin) // BLOCK)
            self._folders.append(self._number_folder())
            self._samples.add_image(name)
            if self._paths is not None:
                self._paths.append(path_hash(name))
            self._digest.update(b"%d %b\n" % (member.size, name))
            return True
        suffix = base[-5:].lower()
        if suffix.endswith(b".cls"):
            content = stream.read(member.size) if member.size <= LONGEST_CLS else b""
            self._samples.add_class(name, read_class(content))
            self._paths = None
        elif is_list(base):
            return self._lists.add(name, len(self._archives) - 1, in_blocks(stream, member.size))
        elif suffix == b".json" and member.size <= LONGEST_JSON:
            self._samples.add_object(name, read_object(stream.read(member.size)))
        else:
            return False
        return True

    def is_open(self, header: bytes) -> bool:
        """Whether the member of this header goes on with the last sample, as far as it tells."""
        return self._samples.is_open(header)

    def add_pairs(self, members: Members, first: int, data: bytes, begin: int) -> int:
        """Take usual samples: an image and its ``.cls``, in either order.

        The next one of ``members`` is the ``first``; all lie in ``data``, which begins at ``begin``
        in the stream.

        Returns:
            How many members were taken: those of all usual samples up to the first other member,
            but the last one, for that may go on behind it.
        """
        names = members.names
        if not self.first or first == len(names) or self._samples.is_open(names[first]):
            return 0
        # Where the last folder was clutter, that of the next member is looked at as a new one.
        folder = b"" if self._in_clutter else self._folder or b""
        cut = len(folder)
        rows, stems, labels, folders = [], [], [], []
        before = None
        for k in range(first, len(names) - 1, 2):
            name, other = names[k], names[k + 1]
            if not name.startswith(folder) or b"/" in name[cut:]:
                cut = name.rfind(b"/") + 1
                folder = name[:cut]
                if lies_in_clutter(folder):
                    break
            dot = name.find(b".", cut)
            stem = name[:dot]
            row, class_row = (k, k + 1) if other.endswith(b".cls") else (k + 1, k)
            if (
                dot <= cut
                or stem == before
                or other[:dot] != stem
                or names[row][dot:] not in _SUFFIXES
                or names[class_row][dot:] != b".cls"
                or members.sizes[class_row] > LONGEST_CLS
            ):
                break
            at = members.headers[class_row] + BLOCK
            content = data[at : at + members.sizes[class_row]].strip()
            if not content.isdigit() or len(content) > _DIGITS:
                break
            before = stem
            rows.append(row)
            stems.append(stem)
            labels.append(int(content))
            folders.append(folder)
        for taken in (rows, stems, labels, folders):
            del taken[-1:]  # whose sample may go on
        if not rows:
            return 0
        self._samples.add_pairs(stems, labels)
        self._paths = None
        sizes = [members.sizes[row] for row in rows]
        self._offsets.extend([begin + members.headers[row] + BLOCK for row in rows])
        self._sizes.extend([min(size, _LARGEST) for size in sizes])
        lengths = (members.headers[row] - members.begins[row] for row in rows)
        self._headers.extend([length // BLOCK + 1 for length in lengths])
        for folder, group in groupby(folders):
            self._enter(folder)
            self._folders.extend([self._number_folder()] * len([*group]))
        lines = zip(sizes, (names[row] for row in rows), strict=True)
        self._digest.update(b"".join([b"%d %b\n" % line for line in lines]))
        return 2 * len(rows)

    def _enter(self, folder: bytes) -> None:
        """The next member lies in this folder."""
        if folder != self._folder:
            self._folder = folder
            self._in_clutter = lies_in_clutter(folder)
            self._number = -1

    def _number_folder(self) -> int:
        """The number of the folder, in which there is an image."""
        if self._number < 0:
            path = _path(self._folder or b"")
            self._number = self._numbers.setdefault(path, len(self._numbers))
        return self._number

    def finish(
        self,
        archives: list[tuple[Archive, int]],
        names: Names | None,
        identity_level: int | None,
        files: Files,
        shared: Stream | None,
    ) -> ImageSet:
        """What was gathered.

        Args:
            archives: each with its first row.
            names: of the identities of samples, by label, as far as they are known; None: images
                have no identities, whatever they lie in or beside.
            identity_level: of the folders that are identities: lists do not count then. None
                chooses.
            shared: the stream to read from, if there is one; else each part opens its own.

        Raises:
            SourceError: it is in doubt which folders are identities; or a level is given, and the
                images are samples.
        """
        labels, suffixes, texts = self._samples.finish()
        notices = self._samples.notices()
        listed = None
        if (
            names is not None
            and not self._samples.found
            and self._lists.first
            and identity_level is None
        ):
            listed, people, more = self._labels_of_lists()
            notices += more
        bounds = [*(first for _, first in archives), len(self)]
        if names is None:
            layout, names = "unlabelled", Names()
            labels, suffixes = np.full_like(labels, fmt.NO_IDENTITY), suffixes * 0
        elif self._samples.found:
            layout, names = "samples", names if texts is None else texts
            if identity_level is not None:
                raise SourceError(
                    f"{archives[0][0].file}: labels are those of samples (.cls or .json), not of "
                    f"folders: leave {OPTION} out"
                )
        elif listed is not None:
            layout, names, labels, suffixes = "list", people, listed, suffixes * 0
        else:
            labels, found = self._label_by_folder(archives, bounds, identity_level)
            layout, names, suffixes = "tree", Names.of(found.names.tolist()), suffixes * 0
            notices += found.notices
        if self._lists.first and layout in ("samples", "tree"):
            notices.append(
                f"{self._lists.first}: a list of images was passed over: labels are those of "
                + ("the samples" if self._samples.found else "the folders")
            )
        rows = Rows(
            np.frombuffer(self._offsets, np.int64),
            np.frombuffer(self._sizes, np.uint32),
            np.frombuffer(self._headers, np.uint16),
            labels,
            suffixes,
        )
        listing = xxhash.xxh3_128_hexdigest(self._listings)
        starts = np.array(bounds)
        return ImageSet(archives, starts, rows, names, layout, listing, notices, files, shared)

    def _labels_of_lists(self) -> tuple[np.ndarray | None, Names, list[str]]:
        archives = np.repeat(np.arange(len(self._archives)), np.diff([*self._archives, len(self)]))
        paths = np.array(self._paths, np.uint64)
        return self._lists.label(paths, archives, alone=len(self._numbers) < 2)

    def _label_by_folder(
        self, archives: list[tuple[Archive, int]], bounds: list[int], identity_level: int | None
    ) -> tuple[np.ndarray, Identities]:
        """The identity of each image, int32 (n,), those below 0 as in :data:`_REASONS`."""
        numbers = np.frombuffer(self._folders, np.int32)
        paths = list(self._numbers)
        here = [
            np.unique(numbers[start:stop], return_counts=True) for start, stop in pairwise(bounds)
        ]
        found = find_identities(
            [
                ImageFolders(archive.file, [paths[number] for number in folders], counts)
                for (archive, _), (folders, counts) in zip(archives, here, strict=True)
            ],
            identity_level,
        )
        # A folder has the same label in every archive.
        of_folder = np.full(len(paths), NO_LABEL, np.int32)
        for (folders, _), labels in zip(here, found.labels, strict=True):
            of_folder[folders] = np.where(labels < 0, np.int32(_SHALLOW), labels)
        if b"" in self._numbers:
            of_folder[self._numbers[b""]] = NO_LABEL
        return of_folder[numbers], found


def in_blocks(stream: Stream, size: int) -> Iterator[bytes]:
    """The next ``size`` bytes of the stream, as they are wanted."""
    end = stream.position + size
    while (position := stream.position) < end:
        yield stream.read(min(_LIST_BLOCK, end - position))


def _path(folder: bytes) -> bytes:
    """A folder's path with a slash behind each part; empty for one that is no identity's."""
    parts = [part for part in folder.split(b"/") if part not in (b"", b".")]
    if b".." in parts or any(len(part) > LONGEST for part in parts):
        return b""
    return b"".join(part + b"/" for part in parts)


class ImageSet(Source):
    """The images of archives; the arguments not told here are those of :meth:`ImageMembers.finish`.

    Args:
        bounds: the first row of each archive, and how many rows there are.
        names: of the identities, by label, as far as they are known.
        layout: where labels come from: ``samples``, a ``list`` or a ``tree``; or ``unlabelled``.
        listing: a hash of names and sizes.
    """

    kind = "tar"

    def __init__(
        self,
        archives: list[tuple[Archive, int]],
        bounds: np.ndarray,
        rows: Rows,
        names: Names,
        layout: str,
        listing: str,
        notices: list[str],
        files: Files,
        shared: Stream | None,
    ) -> None:
        self._files = files
        self._shared = shared
        self._archives = [archive for archive, _ in archives]
        self._bounds = bounds
        self._rows = rows
        self._names = names
        self._layout = layout
        self._listing = listing
        self.notices = notices
        self.classes = len(names) or None

    def __len__(self) -> int:
        return len(self._rows.offsets)

    def describe(self) -> dict[str, Any]:
        """Where labels come from, and hashes of all names, sizes, labels."""
        labels = xxhash.xxh3_128_hexdigest(self._rows.labels.astype("<i4").tobytes())
        return {
            "layout": self._layout,
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

    def part(self, start: int, stop: int) -> TarImagePart:
        """The images ``[start, stop)``, of one archive."""
        rows = self._rows.take(slice(start, stop))
        archive = self._archives[int(np.searchsorted(self._bounds, start, side="right")) - 1]
        files = self._files
        if self._shared is None and stop > start:
            last = stop - start - 1
            begin = int(rows.offsets[0]) - BLOCK * int(rows.headers[0])
            files = files.between(begin, int(rows.offsets[last]) + int(rows.sizes[last]))
        return TarImagePart(
            files=files,
            shared=self._shared,
            start=start,
            rows=rows,
            archive=archive,
            layout=self._layout,
            identities=identity_texts(self._names, rows.labels),
        )


@dataclass(eq=False, kw_only=True)
class TarImagePart(PartInRuns):
    """Some images of an archive."""

    remedy = "fetch the archive again, or go on without this image"
    files: Files  # those of the archive
    shared: Stream | None  # the stream to read from; None opens one
    start: int
    rows: Rows  # the images
    archive: Archive  # the tar that they are members of
    layout: str  # where labels come from: samples, a list or a tree; or unlabelled
    identities: dict[int, str]  # names of the identities among them, by label

    def __post_init__(self) -> None:
        self.stop = self.start + len(self.rows.offsets)

    def _sweep(
        self, rows: np.ndarray, *, once: bool
    ) -> Iterator[RecordRun | SourceRecord | Refusal]:
        # Read together is what lies within a MiB and has nothing out of the usual.
        few = self.rows.take(rows)
        alone = (
            ((few.headers > 1) & (few.headers != TIMED))
            | (few.labels < fmt.NO_IDENTITY)
            | (few.sizes > min(images.MAX_BYTES, _TOGETHER))
        )
        apart = np.diff(few.offsets // _TOGETHER) > 0
        apart |= alone[1:] | alone[:-1]
        with opened(self.files, self.shared) as stream:
            for some in filter(len, np.split(rows, np.flatnonzero(apart) + 1)):
                if len(some) == 1:
                    yield self._read_one(stream, int(some[0]))
                else:
                    yield from self._read_together(stream, some)

    def _read_together(
        self, stream: Stream, rows: np.ndarray
    ) -> Iterator[RecordRun | SourceRecord | Refusal]:
        few = self.rows.take(rows)
        begin = int(few.offsets[0]) - BLOCK * int(few.headers[0])
        stream.seek(begin)
        data = stream.read_block(int(few.offsets[-1]) + int(few.sizes[-1]) - begin)
        starts = few.offsets - begin
        blocks = np.frombuffer(data, np.uint8, len(data) // BLOCK * BLOCK).reshape(-1, BLOCK)
        names = usual_names(blocks[starts // BLOCK - 1], few.sizes)
        timed = np.flatnonzero(few.headers == TIMED)
        for k in timed[~are_times(blocks, starts[timed] // BLOCK - TIMED)].tolist():
            names[k] = None  # perhaps another name stands there
        unusual = [k for k, name in enumerate(names) if name is None]
        piece = Piece(data, begin, stream)
        first = 0
        for stop in [*unusual, len(rows)]:
            if stop > first:
                yield self._run(rows[first:stop], data, starts[first:stop], names[first:stop])
            if stop < len(rows):
                yield self._read_one(piece, int(rows[stop]))
            first = stop + 1

    def _run(
        self, rows: np.ndarray, data: memoryview, starts: np.ndarray, names: list[bytes | None]
    ) -> RecordRun:
        few = self.rows.take(rows)
        stops = starts + few.sizes
        if 2 * few.sizes.sum() < len(data):  # what lies between images is not kept for them
            pairs = zip(starts.tolist(), stops.tolist(), strict=True)
            data = memoryview(b"".join([data[start:stop] for start, stop in pairs]))
            stops = np.cumsum(few.sizes, dtype=np.int64)
            starts = stops - few.sizes
        suffixes = few.suffixes.tolist()
        return RecordRun(
            ordinals=self.start + rows,
            data=data,
            starts=starts,
            stops=stops,
            labels=few.labels.astype(np.int64),
            names=[_shown(name or b"", count) for name, count in zip(names, suffixes, strict=True)],
            extra={},
        )

    def entries(self) -> Iterator[Entry]:
        """Label and name of each; only headers are read."""
        with opened(self.files, self.shared) as stream:
            for row in range(len(self.rows.offsets)):
                label = max(int(self.rows.labels[row]), fmt.NO_IDENTITY)
                yield Entry(label, self._name(row, self._header(stream, row)))

    def identity_names(self) -> dict[int, str]:
        """Of a tree the folders' names, of a list its labels' where these are names; those of
        ``labels.txt``, of samples."""
        return self.identities

    def _read_one(self, stream: Stream | Piece, row: int) -> SourceRecord | Refusal:
        member = self._header(stream, row)
        name = self._name(row, member)
        label = int(self.rows.labels[row])
        if label < fmt.NO_IDENTITY:
            return self._refuse(row, name, *_REASONS[self.layout][label])
        if member.size > images.MAX_BYTES:
            reason = f"{member.size:,} bytes; at most {images.MAX_BYTES:,} are taken"
            return self._refuse(row, name, reason, TOO_LARGE)
        return SourceRecord(self.start + row, stream.read(member.size), label, name)

    def _header(self, stream: Stream | Piece, row: int) -> Member:
        offset, size = int(self.rows.offsets[row]), int(self.rows.sizes[row])
        stream.seek(offset - BLOCK * int(self.rows.headers[row]))
        member = read_member(stream)
        if member is None or (member.data, min(member.size, _LARGEST)) != (offset, size):
            raise SourceError(
                f"{self.archive.file} changed while it was read; once it is whole again, run with "
                "--resume"
            )
        return member

    def _name(self, row: int, member: Member) -> str:
        return _shown(member.name, int(self.rows.suffixes[row]))

    def _refuse(self, row: int, name: str | None, reason: str, remedy: str) -> Refusal:
        begin = int(self.rows.offsets[row]) - BLOCK * int(self.rows.headers[row])
        offset = begin - self.archive.begin
        return Refusal(self.start + row, self.archive.file, offset, name, reason, remedy)


def _shown(name: bytes, suffixes: int) -> str:
    """What a record is called whose member is: without its last suffixes."""
    name = name.removeprefix(b"./")
    return text(name.rsplit(b".", suffixes)[0] if suffixes else name)
