"""Zips of identity folders as a source: WebFace260M's, or any other ``identity/image.jpg``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from facepack.convert.files import lies_in_clutter
from facepack.convert.formats.zip.archive import Archive, read_archive
from facepack.convert.formats.zip.crypto import initial_keys
from facepack.convert.formats.zip.names import REFUSED
from facepack.convert.formats.zip.part import ZipPart
from facepack.convert.identity_folder import Identities, ImageFolders, find_identities
from facepack.convert.inputs import require_once
from facepack.convert.names import Names
from facepack.convert.passed_over import PassedOver
from facepack.convert.source import Group, Refusal, Source, shard_stem
from facepack.convert.source_file import file_name
from facepack.errors import SourceError


class ZipSource(Source):
    """The images of zips, in the order of their directories.

    Which folder of an image's path is its identity, :mod:`facepack.convert.identity_folder` says,
    of all the zips together. Identities are numbered by name, sorted by UTF-8 bytes over all the
    zips. Each zip is a group, so that no shard holds images of two. Nothing is unpacked to disk.

    Args:
        paths: zips, or folders of which all zips are taken, by name.
        password: of all encrypted members.
        identity_level: of the folders that are identities; None chooses.

    Attributes:
        passed_over: how many members are no images by their names, and so in no pack.

    Raises:
        SourceError: a zip cannot be read, is damaged, or needs another password; no image of
            them all lies in the folder of an identity, or it is in doubt which folders these are.
    """

    kind = "zip"

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        password: bytes | None = None,
        identity_level: int | None = None,
    ) -> None:
        self._keys = None if password is None else initial_keys(password)
        files = list(zip_files(paths))
        require_once(files)
        passed = PassedOver()
        archives = [read_archive(path, passed, has_password=password is not None) for path in files]
        self.passed_over = passed.total()
        found = find_identities(list(map(_image_folders, archives)), identity_level)
        self._identities, self._level = found.names, found.level
        self._described = found.describe(usual=-1)
        self.notices = [*found.notices, *passed.notices()]
        self.notices += _notices(archives, found, has_password=password is not None)
        self._archives = [
            _labelled(archive, labels)
            for archive, labels in zip(archives, found.labels, strict=True)
        ]
        self.classes = len(self._identities)
        self._bounds = np.cumsum([0, *(len(archive.entry_offsets) for archive in archives)])
        if not self.classes:
            raise SourceError(
                f"{', '.join(map(str, paths))}: none of {len(self)} images in {len(archives)} zips "
                "lies in the folder of an identity; members need names like identity/image.jpg"
            )
        for archive in self._archives:
            self._try_password(archive)

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def describe(self) -> dict[str, Any]:
        """Names, sizes, and hashes of the directories: of all names, sizes, CRCs and offsets.

        And the level of the identities, unless all images lie right in their folders.
        """
        files = [
            {
                "name": file_name(archive.zip.path),
                "bytes": archive.zip.size,
                "entries": archive.entries,
                "images": len(archive.entry_offsets),
                "directory_xxh3_128": archive.digest,
            }
            for archive in self._archives
        ]
        return {"kind": self.kind, "images": len(self), "files": files} | self._described

    def groups(self) -> list[Group]:
        """One for each zip, called like it."""
        bounds = self._bounds.tolist()
        stems = [shard_stem(archive.zip.path.stem) for archive in self._archives]
        return [Group(*group) for group in zip(stems, bounds[:-1], bounds[1:], strict=True)]

    def sizes(self) -> np.ndarray:
        """Bytes of each image; 0 for one that is larger than any that is taken."""
        return np.concatenate([archive.sizes for archive in self._archives])

    def part(self, start: int, stop: int) -> ZipPart:
        """The records ``[start, stop)``, which lie in one zip."""
        number = int(np.searchsorted(self._bounds[:-1], start, side="right")) - 1
        first = int(self._bounds[number])
        return self._archives[number].part(
            start - first,
            stop - first,
            first=first,
            level=self._level,
            identities=self._identities,
            keys=self._keys,
        )

    def _try_password(self, archive: Archive) -> None:
        """Read the first encrypted images: the password is right if one comes out whole.

        The check byte alone lets one wrong password of 256 pass; the CRC does not.
        """
        if not archive.encrypted:
            return
        stop = archive.encrypted[-1] + 1
        keep = np.zeros(stop, bool)
        keep[archive.encrypted] = True
        part = archive.part(
            0, stop, first=0, level=self._level, identities=self._identities, keys=self._keys
        )
        if all(isinstance(record, Refusal) for record in part.read(keep)):
            raise SourceError(
                f"{archive.zip.path}: wrong password: it does not decrypt the first encrypted "
                "images; give the right one with --password-file FILE, or type it at the prompt "
                "(--password)"
            )


def zip_files(paths: Sequence[Path]) -> Iterator[Path]:
    """The zips themselves; those of a folder by name, whatever lower folder they are in.

    Hidden ones are passed over, and what systems put there: macOS leaves ``._0_0.zip`` beside
    ``0_0.zip``.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = [
            file
            for file in path.rglob("*")
            if _is_zip(file) and not lies_in_clutter(os.fsencode(file.relative_to(path)))
        ]
        if not found:
            raise SourceError(f"{path}: has no .zip in it; pass zips, or the folder that has them")
        yield from sorted(found, key=lambda file: (os.fsencode(file.name), os.fsencode(file)))


def _is_zip(file: Path) -> bool:
    return file.name.lower().endswith(".zip") and not file.is_dir()


def _image_folders(archive: Archive) -> ImageFolders:
    known = archive.labels[archive.labels != REFUSED]
    images = np.bincount(known, minlength=len(archive.folders))
    return ImageFolders(file_name(archive.zip.path), archive.folders, images)


def _labelled(archive: Archive, labels: np.ndarray) -> Archive:
    """``archive`` with ``labels``, of its folders, for their numbers."""
    # -1 takes the element that is appended, itself -1.
    return replace(
        archive, labels=np.append(labels, np.int32(REFUSED))[archive.labels], folders=Names()
    )


def _notices(archives: list[Archive], found: Identities, *, has_password: bool) -> list[str]:
    notices = []
    hollow = [archive for archive in archives if not len(archive.entry_offsets)]
    if hollow:
        first = file_name(hollow[0].zip.path)
        notices.append(f"zips without an image by its name: {len(hollow)} ({first} …)")
    for archive in archives:
        before, behind = archive.zip.directory.shift, archive.zip.directory.behind
        if before or behind:
            notices.append(
                f"{file_name(archive.zip.path)}: {before:,} bytes before the zip and {behind:,} "
                "behind it were passed over: if nobody put them there, it is cut short, and this "
                "is a zip that it holds"
            )
    of_each = [np.unique(labels[labels != REFUSED]) for labels in found.labels]
    counts = np.unique(np.concatenate(of_each), return_counts=True)[1]
    shared = int((counts > 1).sum())
    if shared:
        notices.append(
            f"identities in more than one zip: {shared}; folders of one name are taken for one "
            "person"
        )
    if has_password and not any(archive.encrypted for archive in archives):
        notices.append("a password was given, but no image is encrypted")
    return notices
