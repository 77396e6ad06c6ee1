"""Lists of images as text, a line an image: the images that a list names, and reading them."""

from __future__ import annotations

import codecs
import os
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile, islice
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from facepack.convert.files import (
    MISSING,
    OUTSIDE,
    FileRefusedError,
    FolderReader,
    Root,
    identity_texts,
    known_sizes,
    text,
)
from facepack.convert.formats.tree.align import align_face
from facepack.convert.list_lines import (
    FORMS,
    Columns,
    LineError,
    ListedImage,
    ListForm,
    find_form,
)
from facepack.convert.names import Names, later_occurrences, little_endian
from facepack.convert.source import Entry, Group, OwnPart, RecordNames, Refusal, shard_stem
from facepack.convert.source_file import file_name, read_errors, require_file
from facepack.errors import DecodeError, SourceError
from facepack.reading import read_text
from facepack.store.format import NO_IDENTITY, read_labels_text
from facepack.store.record import SourceRecord

_LONGEST = 1 << 16  # bytes of a line
_PROBES = 1000  # lines from which the kind of a list is told
_CORRECT = "correct the line, or go on without it"


def tell_form(
    file: Path, kinds: Collection[str], columns: Columns | None = None
) -> tuple[ListForm, int]:
    """Of what form most of the first lines of ``file`` are, and how many come before its images.

    Raises:
        SourceError: they are none of ``kinds``, or as many are of one as of another, or the list
            has no such columns.
    """
    found = list(islice(_lines(file), _PROBES))
    lines = list(dropwhile(lambda line: not line, (line for line, _ in found)))
    first = next(iter(lines), b"")
    try:
        form = find_form(lines, kinds, columns)
    except LineError as error:
        raise SourceError(f"{file}: the first line is {text(first[:80])!r}: {error}") from None
    if form is None and b"\r" in first:
        raise SourceError(
            f"{file}: its lines end in CR alone, as those of old Macintoshes: save it with LF"
        )
    if form is None:
        raise SourceError(
            f"{file}: the first line is {text(first[:80])!r}; expected "
            f"{' or '.join(FORMS[kind] for kind in kinds)}: pass another list, or correct it; "
            "--path-column and --label-column name the columns of a CSV"
        )
    return form, len(found) - len(lines) + 1 if form.has_header else 0


def _lines(file: Path) -> Iterator[tuple[bytes, int]]:
    """The lines of ``file`` as :func:`_bare` has them, and where the next one begins.

    Empty lines that end the file are left out; others are lines like any.
    """
    require_file(file)
    end = 0
    empty: list[int] = []
    with read_errors(file), file.open("rb") as lines:
        while raw := lines.readline(_LONGEST):
            if len(raw) == _LONGEST:
                raise SourceError(
                    f"{file}: byte {end}: a line of more than {_LONGEST} bytes: this is no "
                    "list of images; pass one that has a line an image"
                )
            line = _bare(raw, first=not end)
            end += len(raw)
            if not line:
                empty.append(end)
                continue
            yield from ((b"", offset) for offset in empty)
            empty.clear()
            yield line, end


def _bare(raw: bytes, *, first: bool) -> bytes:
    """A line without its end; of the first one, without the mark that editors put before UTF-8."""
    return (raw.removeprefix(codecs.BOM_UTF8) if first else raw).rstrip(b"\r\n\t ")


class Listing:
    """The images that a list names; every line is one, in the order of the list.

    Of each, where its line ends and its bytes are held; lines are read again with the images. A
    line that is malformed, names a missing file or leads out of the folder is a refused record.

    Paths are relative to ``root``; ``kinds`` are the lines that it may have, some of
    :data:`~facepack.convert.list_lines.KINDS`.

    Raises:
        SourceError: it is no list of those kinds, names no image, or none that is there.
    """

    def __init__(
        self, file: Path, root: Root, kinds: Collection[str], columns: Columns | None = None
    ) -> None:
        self.file = file
        self.root = root
        self.form, self._skipped = tell_form(file, kinds, columns)  # what lines it has
        self._begin = 0  # byte behind the header
        self.keys = array("q")  # idx of each well-formed line of an im2rec list
        self.names: dict[bytes, int] = {}  # of the identities, as they come, where labels are names
        self._labels = array("i")  # of each line, where labels are names: numbers of these
        self.unaligned = 0  # how many images of those there are have yet to be aligned
        self.with_landmarks = 0  # how many of these have landmarks
        self._ends = array("q")
        self._sizes = array("I")
        # Hash of each line's path; the number of a line that is malformed, or is a face, of which
        # an image may have several.
        self._paths = array("q")
        digest = xxhash.xxh3_128()
        for number, (line, end) in enumerate(_lines(file)):
            if number < self._skipped:
                self._begin = end
                continue
            digest.update(line + b"\n")
            self._ends.append(end)
            self._sizes.append(self._look(line))
        self._again = later_occurrences(np.array(self._paths, np.int64).view(np.uint64))
        del self._paths
        self.digest = digest.hexdigest()
        status = file.stat()
        self._state = status.st_size, status.st_mtime_ns
        if not (self.sizes() > 0).any():
            raise SourceError(
                f"{file}: none of the {len(self)} files that it names is in {root.path}; pass the "
                "folder that its paths are relative to (--root of a .lst, SRC of an image folder)"
            )

    def _look(self, line: bytes) -> int:
        try:
            image = self.form.read(line)
        except LineError:  # refused, with its line, when it is read
            self._paths.append(len(self._paths))
            if self.form.named:
                self._labels.append(NO_IDENTITY)
            return MISSING
        if not isinstance(image.label, int):
            self._labels.append(self.names.setdefault(image.label, len(self.names)))
        faces = self.form.kind == "face2rec2"
        self._paths.append(len(self._paths) if faces else hash(image.path))
        if "key" in image.extra:
            self.keys.append(int(image.extra["key"]))
        name = self.root.locate(image.path)
        if name is None:
            return OUTSIDE
        self.unaligned += image.unaligned
        self.with_landmarks += image.unaligned and "landmark_1" in image.extra
        return self.root.size(name)

    def __len__(self) -> int:
        return len(self._ends)

    def sizes(self) -> np.ndarray:
        """Bytes of each file: uint32 (n,), 0 for those that cannot be read."""
        return known_sizes(np.array(self._sizes, np.uint32))

    def describe(self) -> dict[str, Any]:
        """Name and kind of the list, image count, and hashes of its lines and the files' sizes."""
        described = {
            "list": file_name(self.file),
            "lines": self.form.kind,
            "images": len(self),
            "lines_xxh3_128": self.digest,
            "sizes_xxh3_128": xxhash.xxh3_128_hexdigest(little_endian(self._sizes)),
        }
        if self.form.has_header:
            described["columns"] = self._columns()
        return described | ({"identities": len(self.names)} if self.form.named else {})

    def _columns(self) -> list[str]:
        assert self.form.table is not None
        return list(self.form.table.names)

    def notices(self) -> list[str]:
        """What was found, of what could have been read otherwise."""
        notices = []
        if self.form.has_header:
            path, label = map(repr, self._columns())
            notices.append(
                f"{file_name(self.file)}: paths are the column {path}, labels {label}: "
                "--path-column and --label-column take others"
            )
        if self.form.named:
            notices.append(f"{file_name(self.file)}: labels are names of identities")
        if len(self._again):
            first = int(self._again.min())
            (entry,) = self.part(first, first + 1).entries()
            notices.append(
                f"{file_name(self.file)}: lines whose image an earlier line names: "
                f"{len(self._again):,}, first {entry.name!r} of line {first + 1 + self._skipped}: "
                "each is packed under the label of its own line"
            )
        return notices

    def label_by_names(self, numbers: Mapping[bytes, int]) -> None:
        """Give every line the number of its identity's name, of all lists together."""
        of_name = np.array([numbers[name] for name in self.names] + [NO_IDENTITY], np.int32)
        # A line without a name is -1, which takes the last.
        self._labels = array("i", of_name[np.array(self._labels, np.int32)].tobytes())

    def group(self, first: int) -> Group:
        """The list as a group of which ``first`` is the first ordinal."""
        return Group(shard_stem(self.file.stem), first, first + len(self))

    def part(
        self,
        start: int,
        stop: int,
        *,
        first: int = 0,
        keyed: bool = False,
        align: bool = False,
        identities: Path | Names | None = None,
    ) -> ListingPart:
        """The lines ``[start, stop)`` as records ``first + start`` and so on.

        The options are those of :class:`ListingPart`.
        """
        begin = self._ends[start - 1] if start else self._begin
        labels = self._labels[start:stop] if self.form.named else None
        names: Mapping[int, str] = {}
        if isinstance(identities, Names):
            names = identity_texts(identities, np.array(labels or (), np.int32))
            identities = None
        return ListingPart(
            start=first + start,
            root=self.root,
            file=self.file,
            state=self._state,
            form=self.form,
            line=start + 1 + self._skipped,
            bounds=array("q", [begin, *self._ends[start:stop]]),
            sizes=self._sizes[start:stop],
            labels=labels,
            names=names,
            keyed=keyed,
            align=align,
            identities=identities,
        )


@dataclass(eq=False, kw_only=True)
class ListingPart(OwnPart):
    """Some lines of a list, and the images that they name."""

    remedy = "fetch the image again, or go on without it"
    start: int
    root: Root  # the folder of the images
    file: Path  # the list
    state: tuple[int, int]  # its bytes and its time of change when it was read
    form: ListForm  # what lines it has
    line: int  # number of the first line, from 1
    bounds: array[int]  # (n + 1,) where each line begins, and where the last ends
    sizes: array[int]  # (n,) bytes of each image, or why it cannot be read
    # (n,) label of each line, -1 where it is malformed; None where lines say them
    labels: array[int] | None
    names: Mapping[int, str]  # of these identities, by label
    keyed: bool  # whether key is no other image's
    align: bool  # whether to align faces that are not and have landmarks
    # a file of identities' names, a line a label, as packs have it; None: nameless
    identities: Path | None

    def __post_init__(self) -> None:
        self.stop = self.start + len(self.sizes)

    def _images(self) -> Iterator[ListedImage | LineError]:
        """What each line says, or what is wrong with it."""
        begin = self.bounds[0]
        with read_errors(self.file), self.file.open("rb") as file:
            status = os.fstat(file.fileno())
            file.seek(begin)
            block = file.read(self.bounds[-1] - begin)
        if (status.st_size, status.st_mtime_ns) != self.state:
            raise SourceError(
                f"{self.file}: the list changed since the conversion began; start anew with "
                "--overwrite"
            )
        read = self.form.read
        for row in range(len(self.sizes)):
            at = self.bounds[row]
            line = block[at - begin : self.bounds[row + 1] - begin]
            try:
                yield read(_bare(line, first=not at))
            except LineError as error:
                yield error

    def read(self, keep: np.ndarray | None = None) -> Iterator[SourceRecord | Refusal]:
        """Read the images one by one; each is called by its path below the folder.

        Raises:
            SourceError: the list changed, or a file is gone or has another size than when it was
                listed.
        """
        with FolderReader(self.root.path) as reader:
            for row, image in enumerate(self._images()):
                if keep is None or keep[row]:
                    yield self._record(row, image, reader)

    def _record(
        self, row: int, image: ListedImage | LineError, reader: FolderReader
    ) -> SourceRecord | Refusal:
        if isinstance(image, LineError):
            return self._refuse(row, None, str(image), _CORRECT)
        name = self.root.locate(image.path)
        path = text(image.path)
        if name is None:
            remedy = "correct the line, or copy the file into the folder"
            return self._refuse(row, path, "the path leads out of the folder of images", remedy)
        extra = dict(image.extra)
        if not self.keyed:
            extra.pop("key", None)
        try:
            data = reader.read(name, self.sizes[row])
            landmarks = image.landmarks() if self.align and image.unaligned else None
            if landmarks is not None:
                data = align_face(data, landmarks)
                extra = {"aligned": 1}  # box and landmarks are those of another picture
        except FileRefusedError as error:
            return self._refuse(row, path, error.reason, error.remedy)
        except DecodeError as error:
            return self._refuse(row, path, str(error), self.remedy)
        return SourceRecord(
            self.start + row, data, self._label(row, image), text(name), extra or None
        )

    def _label(self, row: int, image: ListedImage) -> int:
        if self.labels is not None:
            return self.labels[row]
        assert isinstance(image.label, int)
        return image.label

    def entries(self) -> Iterator[Entry]:
        """Label and path of each; -1 and None where the line is malformed."""
        for row, image in enumerate(self._images()):
            if isinstance(image, LineError):
                yield Entry(NO_IDENTITY, None)
            else:
                name = self.root.locate(image.path)
                yield Entry(self._label(row, image), None if name is None else text(name))

    def record_names(self) -> RecordNames:
        """Labels and paths, from the lines."""
        labels, names = zip(*self.entries(), strict=True)
        ordinals = np.arange(self.start, self.start + len(labels))
        return RecordNames(np.array(labels, np.int64), names, ordinals)

    def _refuse(self, row: int, name: str | None, reason: str, remedy: str) -> Refusal:
        reason = f"line {self.line + row}: {reason}"
        file = file_name(self.file)
        return Refusal(self.start + row, file, self.bounds[row], name, reason, remedy)

    def identity_names(self) -> Mapping[int, str]:
        """Names of the identities of these lines, where they have any."""
        if self.identities is None:
            return self.names
        names = read_identities(self.identities)
        labels = {entry.label for entry in self.entries()}
        known = sorted(label for label in labels if 0 <= label < len(names))
        return {label: names[label] for label in known if names[label]}


def number_names(listings: Sequence[Listing]) -> Names | None:
    """Number the identities of lists whose labels are names, by these, sorted by their bytes.

    Returns:
        The names, by label; None where labels are numbers.

    Raises:
        SourceError: some lists have names, and others numbers.
    """
    named = [listing for listing in listings if listing.form.named]
    if not named:
        return None
    if len(named) < len(listings):
        numbered = next(listing for listing in listings if not listing.form.named)
        raise SourceError(
            f"{numbered.file}: its labels are numbers, those of {named[0].file} are names: convert "
            "them one by one, and merge the packs"
        )
    names = sorted({name for listing in named for name in listing.names})
    numbers = {name: number for number, name in enumerate(names)}
    for listing in named:
        listing.label_by_names(numbers)
    return Names.of(names)


def keys_are_unique(listings: Sequence[Listing]) -> bool:
    """Whether no two lines of all these lists have the same ``idx``."""
    keys = np.sort(np.concatenate([np.array(listing.keys, np.int64) for listing in listings]))
    return not (np.diff(keys) == 0).any()


def read_identities(path: Path) -> list[str]:
    """Names of identities by label, from a pack's ``labels.txt``.

    Raises:
        SourceError: the file cannot be read, or is not UTF-8.
    """
    with read_errors(path):
        try:
            names = read_labels_text(read_text(path))
        except ValueError as error:
            raise SourceError(f"{path}: {error}; correct the file, or remove it") from error
    return names
