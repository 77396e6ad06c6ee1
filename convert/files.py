"""Image files below a folder: found without leaving it, listed in flat arrays, read one by one."""

from __future__ import annotations

import errno
import os
import stat
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import xxhash

from facepack import images, system
from facepack.convert.names import Names, little_endian
from facepack.convert.source import Entry, OwnPart, Refusal, Source
from facepack.convert.source_file import cannot_read, read_errors
from facepack.errors import SourceError
from facepack.images import IMAGE_SUFFIXES
from facepack.store.format import NO_IDENTITY
from facepack.store.record import SourceRecord

_SUFFIXES = tuple(suffix.encode() for suffix in IMAGE_SUFFIXES)
# What systems put beside images: macOS into zips, Synology, QNAP and Windows onto disks.
_CLUTTER = frozenset((b"__MACOSX", b"@eaDir", b"#recycle", b"@Recycle", b"$RECYCLE.BIN"))
CLUTTER_NAMES = "hidden, or put beside images by a system (._x.jpg, __MACOSX, @eaDir)"
"""What :func:`is_clutter` tells, in the words of notices."""

# What a list holds in place of a size, for a file that cannot be read.
MISSING, OUTSIDE, IRREGULAR = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD
_LARGEST = 0xFFFFFFFC  # stands for every larger size as well: no such file is ever read
_REASONS = {
    MISSING: ("the file is missing", "fetch it again, or go on without it"),
    OUTSIDE: (
        "it lies outside the folder of images, or is a link that leads there",
        "copy the file into the folder",
    ),
    IRREGULAR: ("it is a folder, pipe, socket or device", "replace it by a file"),
}
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_FOLDERS = 4096  # whose whereabouts are remembered; lists go through folders one by one


def text(name: bytes) -> str:
    """A file's name as text that UTF-8 can hold; bytes that are none become ``\\xff``."""
    return name.decode("utf-8", "backslashreplace")


def is_image(name: bytes) -> bool:
    """Whether a file of this name claims to be an image: not hidden, with an image's suffix."""
    return not name.startswith(b".") and has_image_suffix(name)


def has_image_suffix(name: bytes) -> bool:
    """Whether a file's name, hidden or not, ends as those of images do."""
    return name.lower().endswith(_SUFFIXES)


def is_clutter(name: bytes) -> bool:
    """Whether a file or folder of this name is hidden, or what systems put beside images.

    So are macOS's ``._0.jpg`` and ``__MACOSX``, Synology's ``@eaDir``, and bins for what was
    deleted: what looks like an image there is none, a preview, or not wanted any more.
    """
    return name in _CLUTTER or (name.startswith(b".") and name not in (b".", b".."))


def lies_in_clutter(path: bytes) -> bool:
    """Whether any part of ``path`` is clutter."""
    return any(map(is_clutter, path.split(b"/")))


def require_folder(path: Path) -> None:
    """Make sure that ``path`` is a folder.

    Raises:
        SourceError: it is none, or cannot be looked at.
    """
    with read_errors(path):
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    if not is_folder:
        raise SourceError(f"{path}: is no folder; pass the folder that holds the images")


class Root:
    """A folder, or a link to one, that files are taken from; and whether names and links stay in.

    Raises:
        SourceError: it is no folder.
    """

    def __init__(self, path: Path) -> None:
        require_folder(path)
        self.path = path
        # its path with links resolved, and a slash
        self.real = _below(os.path.realpath(os.fsencode(path)))
        self._prefixes = tuple({_below(os.fsencode(path.absolute())), self.real})
        self._holds_folder = lru_cache(_FOLDERS)(self.holds)

    def __reduce__(self) -> tuple[type[Root], tuple[Path]]:
        return Root, (self.path,)

    def locate(self, name: bytes) -> bytes | None:
        """The path of ``name`` relative to the folder; None if it leads out of it.

        An absolute name must begin with the folder's own path, as given or with links resolved.
        """
        if name.startswith(b"/"):
            prefix = next((p for p in self._prefixes if name.startswith(p)), None)
            if prefix is None:
                return None
            name = name[len(prefix) :]
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        if not parts or b".." in parts or b"\0" in name:
            return None
        return b"/".join(parts)

    def holds(self, name: bytes) -> bool:
        """Whether what ``name`` (relative) is or links to lies below the folder."""
        return os.path.realpath(self.real + name).startswith(self.real)

    def size(self, name: bytes) -> int:
        """Bytes of the file ``name`` (relative), or :data:`MISSING`, :data:`OUTSIDE` or so.

        Raises:
            SourceError: the system does not tell.
        """
        path = self.real + name
        folder = name.rpartition(b"/")[0]
        try:
            status = os.lstat(path)
            if folder and not self._holds_folder(folder):
                return OUTSIDE
            if stat.S_ISLNK(status.st_mode):
                if not self.holds(name):
                    return OUTSIDE
                status = os.stat(path)  # noqa: PTH116 (a path of bytes)
        except OSError as error:
            if error.errno in _ABSENT:
                return MISSING
            raise cannot_read(text(path), error) from error
        return status_size(status)

    def scan(self, name: bytes = b"") -> Iterator[os.DirEntry[bytes]]:
        """What is in the folder ``name`` (relative; empty for the whole), in no order.

        Raises:
            SourceError: it cannot be read.
        """
        path = self.real + name
        with read_errors(text(path)), os.scandir(path) as entries:
            yield from entries


def status_size(status: os.stat_result) -> int:
    """Bytes of a file, as lists hold them; :data:`IRREGULAR` if it is none."""
    return min(status.st_size, _LARGEST) if stat.S_ISREG(status.st_mode) else IRREGULAR


def _below(folder: bytes) -> bytes:
    return folder.rstrip(b"/") + b"/"


class FileList:
    """Files below ``folder``: names, sizes, labels, in flat memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = Names()
        self._sizes = array("I")
        self._labels = array("i")

    def __len__(self) -> int:
        return len(self.names)

    def append(self, name: bytes, size: int, label: int = NO_IDENTITY) -> None:
        """Append a file; ``size`` is what :meth:`Root.size` says."""
        self.names.append(name)
        self._sizes.append(size)
        self._labels.append(label)

    def sizes(self) -> np.ndarray:
        """Bytes of each file: uint32 (n,), 0 for those that cannot be read."""
        return known_sizes(np.array(self._sizes, np.uint32))

    def labels(self) -> np.ndarray:
        """Label of each: int32 (n,)."""
        return np.array(self._labels, np.int32)

    def digest(self) -> str:
        """XXH3-128 of names, sizes and labels, in hexadecimal."""
        digest = xxhash.xxh3_128(self.names.digest())
        digest.update(little_endian(self._sizes))
        digest.update(little_endian(self._labels))
        return digest.hexdigest()

    def part(
        self,
        start: int,
        stop: int,
        identities: Names | None = None,
        *,
        of: type[FilesPart] | None = None,
    ) -> FilesPart:
        """The files ``[start, stop)``; ``identities`` are the names of all, by label."""
        labels = self._labels[start:stop]
        return (of or FilesPart)(
            start=start,
            folder=self.folder,
            names=self.names.cut(start, stop),
            sizes=self._sizes[start:stop],
            labels=labels,
            identities=identity_texts(identities or Names(), np.array(labels, np.int32)),
        )


def identity_texts(names: Names, labels: np.ndarray) -> dict[int, str]:
    """The names of the identities among ``labels``, by label, as far as they have any."""
    known = np.unique(labels[(labels >= 0) & (labels < len(names))]).tolist()
    return {label: name for label in known if (name := text(names[label]))}


def known_sizes(sizes: np.ndarray) -> np.ndarray:
    """``sizes`` with 0 for files that cannot be read."""
    return np.where(sizes > _LARGEST, np.uint32(0), sizes)


class FileRefusedError(Exception):
    """A file is not to be read: why, and what the user can do."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


class FolderReader:
    """Reads files below a folder, which it holds open; use it in a with block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> FolderReader:
        with read_errors(self._folder):
            self._open = system.OpenFolder(self._folder)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def read(self, name: bytes, size: int) -> bytes:
        """The content of the file ``name``, which had ``size`` bytes when it was listed.

        Raises:
            FileRefusedError: it could not be read when it was listed, or is too large.
            SourceError: it is gone or has another size now, or the disk fails.
        """
        if size in _REASONS:
            raise FileRefusedError(*_REASONS[size])
        if size > images.MAX_BYTES:
            raise FileRefusedError(
                f"{size:,} bytes; at most {images.MAX_BYTES:,} are taken",
                "set the environment variable FACEPACK_MAX_IMAGE_BYTES to more, or leave it out",
            )
        try:
            # Without waiting: a pipe that took the file's place has no writer.
            file = self._open.open(name)
            try:
                data = os.read(file, size + 1)
                while len(data) < size and (more := os.read(file, size + 1 - len(data))):
                    data += more
            finally:
                os.close(file)
        except FileNotFoundError:
            raise self._changed(name, "has vanished") from None
        except OSError as error:
            raise cannot_read(self._folder / os.fsdecode(name), error) from error
        if len(data) != size:
            raise self._changed(name, f"no longer has {size:,} bytes")
        return data

    def _changed(self, name: bytes, what: str) -> SourceError:
        return SourceError(
            f"{self._folder / text(name)}: {what} since the conversion began: leave the folder "
            "alone while it is read; restore the file and go on with --resume, or start anew with "
            "--overwrite"
        )


@dataclass(eq=False, kw_only=True)
class FilesPart(OwnPart):
    """Some files of a list."""

    remedy = "fetch the image again, or go on without it"
    start: int
    folder: Path  # what their names are relative to
    names: Names  # (n,) their names
    sizes: array[int]  # (n,) bytes of each, or why it cannot be read
    labels: array[int]  # (n,) label of each
    identities: Mapping[int, str]  # names of identities, by label

    def __post_init__(self) -> None:
        self.stop = self.start + len(self.names)

    def read(self, keep: np.ndarray | None = None) -> Iterator[SourceRecord | Refusal]:
        """Read the files one by one; each is called by its path.

        Raises:
            SourceError: a file is gone or has another size than when it was listed.
        """
        with FolderReader(self.folder) as reader:
            for row, name in enumerate(self.names):
                if keep is None or keep[row]:
                    try:
                        data = reader.read(name, self.sizes[row])
                    except FileRefusedError as error:
                        yield self._refuse(row, None, error.reason, error.remedy)
                    else:
                        shown = self._shown(name)
                        yield SourceRecord(self.start + row, data, self.labels[row], shown)

    def entries(self) -> Iterator[Entry]:
        """Label and path of each."""
        for name, label in zip(self.names, self.labels, strict=True):
            yield Entry(label, self._shown(name))

    def _shown(self, name: bytes) -> str | None:
        return text(name)

    def _refuse(self, row: int, name: str | None, reason: str, remedy: str) -> Refusal:
        return Refusal(self.start + row, text(self.names[row]), None, None, reason, remedy)

    def identity_names(self) -> Mapping[int, str]:
        """Names of the identities, where the source has any."""
        return self.identities


class FilesSource(Source):
    """A source whose records are the files of a list."""

    parts: ClassVar[type[FilesPart]] = FilesPart
    _files: FileList
    _identities: Names | None = None  # names of all, by label

    def __len__(self) -> int:
        return len(self._files)

    def sizes(self) -> np.ndarray:
        """Bytes of each image."""
        return self._files.sizes()

    def part(self, start: int, stop: int) -> FilesPart:
        """The images ``[start, stop)``."""
        return self._files.part(start, stop, self._identities, of=self.parts)
