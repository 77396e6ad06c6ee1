"""One zip as the coordinator knows it: where each image is listed, its size, its identity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from facepack import images
from facepack.convert.files import CLUTTER_NAMES, identity_texts
from facepack.convert.formats.zip.crypto import Keys
from facepack.convert.formats.zip.directory import Members, find_directory, walk
from facepack.convert.formats.zip.names import (
    CLUTTER,
    LABEL,
    LIST,
    OTHER,
    REFUSED,
    FolderIndex,
    name_text,
)
from facepack.convert.formats.zip.part import AES, DEFLATED, ENCRYPTED, STORED, KnownZip, ZipPart
from facepack.convert.names import Names, later_occurrences
from facepack.convert.passed_over import PassedOver
from facepack.convert.source_file import SourceFile, require_file
from facepack.errors import SourceError

_STRONG = 0x40 | 0x2000  # PKWARE's strong encryption, of members or of the directory
_TRIED = 3  # encrypted members that a password is tried on: the first may be damaged
_NO_IMAGES = "members that are no images by their names"
_PASSED_OVER = {
    OTHER: _NO_IMAGES,
    CLUTTER: f"members, {CLUTTER_NAMES},",
    LABEL: _NO_IMAGES,
    LIST: _NO_IMAGES,
}
_MOST_BYTES = np.iinfo(np.uint32).max


@dataclass(frozen=True, kw_only=True)
class Archive:
    """The images of one zip; twelve bytes each."""

    zip: KnownZip  # the file and its directory
    digest: str  # xxh3_128 of the directory
    entries: int  # how many entries it has, images or not
    entry_offsets: np.ndarray  # uint32 or uint64 (n,), byte of each image's entry in the directory
    sizes: np.ndarray  # uint32 (n,), bytes of each image, 0 for more than are taken
    # int32 (n,), as ZipPart has them; its folder's number, or REFUSED, as long as they are not
    # known
    labels: np.ndarray
    folders: Names  # paths of these folders, in the order of their numbers
    has_labels: bool  # whether a member may be the label of a sample
    has_lists: bool  # whether a member may be a list of images
    encrypted: list[int]  # numbers of the first few encrypted images
    suffixes: np.ndarray | None = None  # uint8 (n,), as ZipPart has them; None in a zip of folders

    def part(
        self,
        start: int,
        stop: int,
        *,
        first: int,
        level: int | None,
        identities: Names,
        keys: Keys | None,
    ) -> ZipPart:
        """The images ``[start, stop)`` of this zip; ``first`` is the ordinal of its first one."""
        labels = self.labels[start:stop]
        return ZipPart(
            zip=self.zip,
            start=first + start,
            entry_offsets=self.entry_offsets[start:stop],
            labels=labels,
            suffixes=None if self.suffixes is None else self.suffixes[start:stop],
            level=level,
            identities=identity_texts(identities, labels),
            keys=keys,
        )


def read_archive(path: Path, passed: Mapping[int, PassedOver], *, has_password: bool) -> Archive:
    """Read the directory of a zip; labels are numbers of this zip's own folders.

    Members that are no images are counted, directories aside: in what ``passed`` has for
    :data:`~facepack.convert.formats.zip.names.LABEL` and ``LIST``, if they may be such, else in
    what it has for ``OTHER``.

    Raises:
        SourceError: the zip cannot be read or is damaged, or its images are encrypted and there is
            no password, or no password would help.
    """
    index = FolderIndex()
    digest = xxhash.xxh3_128()
    columns = [_Columns.empty()]
    encrypted: list[int] = []
    entries = count = 0
    has_labels = has_lists = False
    require_file(path)
    with SourceFile(path) as file:
        directory = find_directory(file)
        for members in walk(file, directory, digest.update):
            codes = index.number(members.names, members.flags.tolist())
            for code, kind in _PASSED_OVER.items():
                for row in np.flatnonzero(codes == code).tolist():
                    passed.get(code, passed[OTHER]).add(kind, _name(members, row))
            has_labels |= bool((codes == LABEL).any())
            has_lists |= bool((codes == LIST).any())
            rows = np.flatnonzero(codes >= REFUSED)
            secret = rows[(members.flags[rows] & ENCRYPTED) != 0]
            if len(secret):
                _check_encryption(path, members, secret, has_password)
                tried = secret[_can_be_tried(members, secret)][: _TRIED - len(encrypted)]
                encrypted += (count + np.searchsorted(rows, tried)).tolist()
            columns.append(_Columns.of(members, rows, codes))
            entries += len(members)
            count += len(rows)
        zip = KnownZip(path=path, size=file.size, directory=directory)
    labels = np.concatenate([column.labels for column in columns])
    labels[later_occurrences(np.concatenate([column.hashes for column in columns]))] = REFUSED
    return Archive(
        zip=zip,
        digest=digest.hexdigest(),
        entries=entries,
        entry_offsets=np.concatenate([column.entry_offsets for column in columns]),
        sizes=np.concatenate([column.sizes for column in columns]),
        labels=labels,
        folders=Names.of(index.numbers),
        has_labels=has_labels,
        has_lists=has_lists,
        encrypted=encrypted,
    )


class _Columns(NamedTuple):
    """What is kept of the images among some members, and the hashes of their names."""

    entry_offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    hashes: np.ndarray

    @classmethod
    def empty(cls) -> _Columns:
        types = (np.uint32, np.uint32, np.int32, np.uint64)
        return cls(*(np.empty(0, kind) for kind in types))

    @classmethod
    def of(cls, members: Members, rows: np.ndarray, codes: np.ndarray) -> _Columns:
        entry_offsets, sizes = members.entry_offsets[rows], members.size[rows]
        sizes[sizes > images.MAX_BYTES] = 0
        names = members.names if len(rows) == len(members) else [members.names[i] for i in rows]
        return cls(
            # A directory of more than 4 GiB takes wider offsets; the columns widen as they join.
            entry_offsets.astype(
                np.uint32 if int(entry_offsets.max(initial=0)) <= _MOST_BYTES else np.uint64
            ),
            np.minimum(sizes, _MOST_BYTES).astype(np.uint32),
            codes[rows],
            np.fromiter(map(xxhash.xxh3_64_intdigest, names), np.uint64, len(names)),
        )


def _name(members: Members, row: int) -> str:
    return name_text(members.names[row], int(members.flags[row]))


def _check_encryption(path: Path, members: Members, rows: np.ndarray, has_password: bool) -> None:
    """Refuse a zip whose encrypted members ``rows`` cannot be read, whatever the password."""
    strong = rows[(members.method[rows] == AES) | ((members.flags[rows] & _STRONG) != 0)]
    name = _name(members, strong[0] if len(strong) else rows[0])
    if len(strong):
        raise SourceError(
            f"{path}: {name} is encrypted with AES or another strong cipher; only the classic one, "
            "ZipCrypto, is read: unpack the zip with 7-Zip and convert the folder (facepack "
            "img2lmdb)"
        )
    if not has_password:
        raise SourceError(
            f"{path}: {name} is encrypted; give the password with --password-file FILE, or type "
            "it at the prompt (--password)"
        )


def _can_be_tried(members: Members, rows: np.ndarray) -> np.ndarray:
    """Which of ``rows`` a password can be tried on: they hold something, of a size to be read."""
    method, size, packed = members.method[rows], members.size[rows], members.packed[rows]
    readable = (method == STORED) | (method == DEFLATED)
    return readable & (size > 0) & (np.maximum(size, packed) <= images.MAX_BYTES)
