"""Zips as a source: of identity folders, as WebFace260M's, of WebDataset samples, or of a list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from facepack.convert.formats.zip.archive import Archive, read_archive
from facepack.convert.formats.zip.crypto import initial_keys
from facepack.convert.formats.zip.lists import find_listed
from facepack.convert.formats.zip.names import LABEL, LIST, OTHER, REFUSED
from facepack.convert.formats.zip.part import ZipPart
from facepack.convert.formats.zip.samples import ZipSamples, find_samples
from facepack.convert.identity_folder import OPTION, ImageFolders, find_identities
from facepack.convert.inputs import files_below, require_once
from facepack.convert.names import Names
from facepack.convert.passed_over import PassedOver
from facepack.convert.samples import NO_LABEL, names_beside
from facepack.convert.source import Group, Refusal, Source, shard_stem
from facepack.convert.source_file import file_name
from facepack.convert.workers import run_early
from facepack.errors import SourceError
from facepack.store.format import NO_IDENTITY
from facepack.wording import count_of


class ZipSource(Source):
    """The images of zips, in the order of their directories.

    If any zip has labels of samples (``KEY.cls``, or ``KEY.json`` with a label),
    :mod:`facepack.convert.formats.zip.samples` says whose they are. Else a list that lies in them
    labels the images (:mod:`facepack.convert.formats.zip.lists`), unless a level is given; else
    :mod:`facepack.convert.identity_folder` says which folder of an image's path is its identity,
    of all the zips together. Identities are numbered by name, sorted by UTF-8 bytes over all the
    zips. Each zip is a group, so that no shard holds images of two. Nothing is unpacked to disk.

    Args:
        paths: zips, or folders of which all zips are taken, by name.
        password: of all encrypted members.
        identity_level: of the folders that are identities; None chooses.
        labelled: whether images have identities; else all are taken, whatever they lie in or
            beside, and have none.

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
        labelled: bool = True,
    ) -> None:
        self._keys = None if password is None else initial_keys(password)
        files = list(zip_files(paths))
        require_once(files)
        passed, labels, lists = PassedOver(), PassedOver(), PassedOver()
        has_password = password is not None
        archives = []
        for archive, found in run_early(_look_at, [(path, has_password) for path in files]):
            archives.append(archive)
            for kind, code in ((passed, OTHER), (labels, LABEL), (lists, LIST)):
                kind.add_all(found[code])
        if not any(len(archive.entry_offsets) for archive in archives):
            kinds = (passed, labels, lists)
            members = "; ".join(notice for kind in kinds for notice in kind.notices())
            raise SourceError(
                f"{', '.join(map(str, paths))}: no image by its name in "
                f"{count_of(len(archives), 'zip')}{members and f' ({members})'}: members "
                "need names like identity/image.jpg, or labels KEY.cls beside KEY.jpg; unpack zips "
                "of a .rec, of .bin files or of other archives, and convert what they hold "
                "(rec2lmdb, bin2lmdb, …)"
            )
        for archive in archives:
            self._try_password(archive)
        samples = find_samples(archives, self._keys) if labelled else None
        listed = None
        if samples is None:
            passed.add_all(labels)
            if labelled and identity_level is None:
                listed = find_listed(archives, self._keys)
        if listed is None:
            passed.add_all(lists)
        # how many members are no images by their names, and so in no pack
        self.passed_over = passed.total() + (0 if samples is None else samples.objects)
        self._bounds = np.cumsum([0, *(len(archive.entry_offsets) for archive in archives)])
        notices: list[str] = []
        if not labelled:
            self._identities = Names()
            none = [np.full_like(archive.labels, NO_IDENTITY) for archive in archives]
            self._label_by_members("unlabelled", archives, none)
        elif samples is not None:
            notices = self._label_by_sample(archives, paths, samples, identity_level)
        elif listed is not None:
            self._identities = listed.names
            self._label_by_members("list", archives, listed.labels)
            notices = listed.notices
        else:
            notices = self._label_by_folder(archives, paths, identity_level)
        self.notices = [*notices, *passed.notices(), *_notices(archives, has_password=has_password)]

    def _label_by_folder(
        self, archives: list[Archive], paths: Sequence[Path], identity_level: int | None
    ) -> list[str]:
        """Take the folders of images for their identities; returns notices."""
        found = find_identities(list(map(_image_folders, archives)), identity_level)
        self._identities = Names.of(found.names.tolist())
        self._level: int | None = found.level
        self._described: dict[str, Any] = found.describe(usual=-1)
        self._archives = [
            _labelled(archive, labels)
            for archive, labels in zip(archives, found.labels, strict=True)
        ]
        self.classes = len(self._identities)
        if not self.classes:
            raise SourceError(
                f"{', '.join(map(str, paths))}: none of {count_of(len(self), 'image')} in "
                f"{count_of(len(archives), 'zip')} "
                "lies in the folder of an identity; members need names like identity/image.jpg, or "
                "labels KEY.cls beside KEY.jpg"
            )
        return [*found.notices, *_shared_identities(found.labels)]

    def _label_by_sample(
        self,
        archives: list[Archive],
        paths: Sequence[Path],
        samples: ZipSamples,
        identity_level: int | None,
    ) -> list[str]:
        """Take the labels of samples; returns notices."""
        if identity_level is not None:
            raise SourceError(
                f"{archives[0].zip.path}: labels are those of samples (.cls or .json), not of "
                f"folders: leave {OPTION} out"
            )
        self._identities = names_beside(paths) if samples.texts is None else samples.texts
        self._label_by_members("samples", archives, samples.labels, samples.suffixes)
        return samples.notices

    def _label_by_members(
        self,
        layout: str,
        archives: list[Archive],
        labels: list[np.ndarray],
        suffixes: list[np.ndarray] | None = None,
    ) -> None:
        """Take ``labels``, of the images of each archive, which members say."""
        self._level = None
        self._archives = [
            replace(
                archive,
                labels=own,
                suffixes=None if suffixes is None else suffixes[number],
                folders=Names(),
            )
            for number, (archive, own) in enumerate(zip(archives, labels, strict=True))
        ]
        joined = np.concatenate(labels).astype("<i4").tobytes()
        self._described = {
            "layout": layout,
            "labels_xxh3_128": xxhash.xxh3_128_hexdigest(joined),
            "names_xxh3_128": self._identities.digest().hex(),
        }
        self.classes = len(self._identities) or None

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def describe(self) -> dict[str, Any]:
        """Names, sizes, and hashes of the directories: of all names, sizes, CRCs and offsets.

        And the level of the identities, unless all images lie right in their folders; or hashes of
        the labels of samples or lists, and of the names of these.
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
        plain = replace(archive, labels=np.zeros_like(archive.labels))  # whatever their names are
        part = plain.part(0, stop, first=0, level=None, identities=Names(), keys=self._keys)
        if all(isinstance(record, Refusal) for record in part.read(keep)):
            raise SourceError(
                f"{archive.zip.path}: wrong password: it does not decrypt the first encrypted "
                "images; give the right one with --password-file FILE, or type it at the prompt "
                "(--password)"
            )


def _look_at(path: Path, has_password: bool) -> tuple[Archive, dict[int, PassedOver]]:
    """A zip's directory, and by code the members that are no images, for :func:`read_archive`."""
    passed = {code: PassedOver() for code in (OTHER, LABEL, LIST)}
    return read_archive(path, passed, has_password=has_password), passed


def zip_files(paths: Sequence[Path]) -> Iterator[Path]:
    """The zips themselves, and those of folders, as :func:`files_below` has them.

    Raises:
        SourceError: a folder has none.
    """
    return files_below(paths, _is_zip, "has no .zip in it; pass zips, or the folder that has them")


def _is_zip(file: Path) -> bool:
    return file.name.lower().endswith(".zip") and not file.is_dir()


def _image_folders(archive: Archive) -> ImageFolders:
    known = archive.labels[archive.labels != REFUSED]
    images = np.bincount(known, minlength=len(archive.folders))
    return ImageFolders(file_name(archive.zip.path), archive.folders, images)


def _labelled(archive: Archive, labels: np.ndarray) -> Archive:
    """``archive`` with ``labels``, of its folders, for their numbers."""
    # REFUSED, which is -1, takes the element that is appended.
    of_folder = np.append(np.where(labels < 0, np.int32(NO_LABEL), labels), np.int32(NO_LABEL))
    return replace(archive, labels=of_folder[archive.labels], folders=Names())


def _notices(archives: list[Archive], *, has_password: bool) -> list[str]:
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
    if has_password and not any(archive.encrypted for archive in archives):
        notices.append("a password was given, but no image is encrypted")
    return notices


def _shared_identities(labels_of_each: list[np.ndarray]) -> list[str]:
    of_each = [np.unique(labels[labels >= 0]) for labels in labels_of_each]
    counts = np.unique(np.concatenate(of_each), return_counts=True)[1]
    if shared := int((counts > 1).sum()):
        return [
            f"identities in more than one zip: {shared}; folders of one name are taken for one "
            "person"
        ]
    return []
