"""Lists of images as text, a line an image: the images that a list names, and reading them."""

from __future__ import annotations

import codecs
import os
from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
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
    known_sizes,
    text,
)
from facepack.convert.formats.tree.align import align_face
from facepack.convert.formats.tree.list_lines import (
    FORMS,
    LINES,
    LineError,
    ListedImage,
    most_fitting,
)
from facepack.convert.names import little_endian
from facepack.convert.source import Entry, Group, OwnPart, Refusal, shard_stem
from facepack.convert.source_file import file_name, read_errors, require_file
from facepack.errors import DecodeError, SourceError
from facepack.reading import read_text
from facepack.store.format import NO_IDENTITY, read_labels_text
from facepack.store.record import SourceRecord

_LONGEST = 1 << 16  # bytes of a line
_PROBES = 1000  # lines from which the kind of a list is told
_CORRECT = "correct the line, or go on without it"


def tell_kind(file: Path, kinds: Collection[str]) -> str:
    """Which of ``kinds`` most of the first lines of ``file`` are.

    Raises:
        SourceError: they are none of them, or as many are of one as of another.
    """
    lines = [line for line, _ in islice(_lines(file), _PROBES)]
    kind = most_fitting(lines, kinds)
    if kind is None:
        first = next(filter(None, lines), b"")
        raise SourceError(
            f"{file}: the first line is {text(first[:80])!r}; expected "
            f"{' or '.join(FORMS[kind] for kind in kinds)}: pass another list, or correct it"
        )
    return kind


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

    Args:
        file: the list.
        root: the folder that paths are relative to.
        kinds: what lines it may have: some of :data:`LINES`.

    Attributes:
        keys: ``idx`` of each well-formed line of an im2rec list.
        unaligned: how many images of those there are have yet to be aligned.
        with_landmarks: how many of these have landmarks.

    Raises:
        SourceError: it is no list of those kinds, names no image, or none that is there.
    """

    def __init__(self, file: Path, root: Root, kinds: Collection[str]) -> None:
        self.file = file
        self.root = root
        self.kind = tell_kind(file, kinds)
        self.keys = array("q")
        self.unaligned = self.with_landmarks = 0
        self._ends = array("q")
        self._sizes = array("I")
        digest = xxhash.xxh3_128()
        for line, end in _lines(file):
            digest.update(line + b"\n")
            self._ends.append(end)
            self._sizes.append(self._look(line))
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
            image = LINES[self.kind](line)
        except LineError:  # refused, with its line, when it is read
            return MISSING
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
        return {
            "list": file_name(self.file),
            "lines": self.kind,
            "images": len(self),
            "lines_xxh3_128": self.digest,
            "sizes_xxh3_128": xxhash.xxh3_128_hexdigest(little_endian(self._sizes)),
        }

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
        identities: Path | None = None,
    ) -> ListingPart:
        """The lines ``[start, stop)`` as records ``first + start`` and so on.

        The options are those of :class:`ListingPart`.
        """
        begin = self._ends[start - 1] if start else 0
        return ListingPart(
            start=first + start,
            root=self.root,
            file=self.file,
            state=self._state,
            kind=self.kind,
            line=start + 1,
            bounds=array("q", [begin, *self._ends[start:stop]]),
            sizes=self._sizes[start:stop],
            keyed=keyed,
            align=align,
            identities=identities,
        )


@dataclass(eq=False, kw_only=True)
class ListingPart(OwnPart):
    """Some lines of a list, and the images that they name.

    Attributes:
        root: the folder of the images.
        file: the list.
        state: its bytes and its time of change when it was read.
        kind: what lines it has.
        line: number of the first line, from 1.
        bounds: (n + 1,) where each line begins, and where the last ends.
        sizes: (n,) bytes of each image, or why it cannot be read.
        keyed: whether ``key`` is no other image's.
        align: whether to align faces that are not and have landmarks.
        identities: a file of identities' names, a line a label, as packs have it; None: nameless.
    """

    remedy = "fetch the image again, or go on without it"
    start: int
    root: Root
    file: Path
    state: tuple[int, int]
    kind: str
    line: int
    bounds: array[int]
    sizes: array[int]
    keyed: bool
    align: bool
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
        read = LINES[self.kind]
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
        return SourceRecord(self.start + row, data, image.label, text(name), extra or None)

    def entries(self) -> Iterator[Entry]:
        """Label and path of each; -1 and None where the line is malformed."""
        for image in self._images():
            if isinstance(image, LineError):
                yield Entry(NO_IDENTITY, None)
            else:
                name = self.root.locate(image.path)
                yield Entry(image.label, None if name is None else text(name))

    def _refuse(self, row: int, name: str | None, reason: str, remedy: str) -> Refusal:
        reason = f"line {self.line + row}: {reason}"
        file = file_name(self.file)
        return Refusal(self.start + row, file, self.bounds[row], name, reason, remedy)

    def identity_names(self) -> dict[int, str]:
        """Names of the identities of these lines, where they have any."""
        if self.identities is None:
            return {}
        names = read_identities(self.identities)
        labels = {entry.label for entry in self.entries()}
        known = sorted(label for label in labels if 0 <= label < len(names))
        return {label: names[label] for label in known if names[label]}


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
