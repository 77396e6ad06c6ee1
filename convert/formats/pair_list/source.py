"""A list of pairs over images that lie elsewhere: a folder, an archive or a pack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from facepack.convert.files import MISSING, FileList, FilesPart, Root, text
from facepack.convert.formats.pair_list.by_name import find_by_name
from facepack.convert.formats.pair_list.landmarks import Landmarks
from facepack.convert.formats.pair_list.pair_list import read_pair_list
from facepack.convert.formats.pairs.pair_set import (
    Held,
    HeldPart,
    PairSource,
    held_sizes,
)
from facepack.convert.formats.tree.align import align_face
from facepack.convert.image_tree import images_below
from facepack.convert.passed_over import PassedOver
from facepack.convert.registry import SOURCES
from facepack.convert.source import Entry, OwnPart, Part, Refusal, Source
from facepack.convert.source_file import file_name, require_file
from facepack.errors import DecodeError, SourceError
from facepack.store.format import NO_IDENTITY
from facepack.store.home import is_pack
from facepack.store.record import SourceRecord
from facepack.store.sets import split_set

_FOLDS = 10
_MISSING = "no image of this name is there, or several are"
_FETCH = "fetch it, or name the folder that the list speaks of with --root"


class ListSource(PairSource):
    """The distinct images that a list of pairs names, in the order of their first use.

    Lists are those of :mod:`facepack.convert.formats.pair_list.pair_list`; a name is looked for as
    :mod:`facepack.convert.formats.pair_list.by_name` says. Names that no image bears are refused
    records, and their pairs are left out. Folds are the list's; they are kept where they are not
    the ten in order that the field cuts anyway.

    Files of a folder are read as they are wanted; images of an archive or a pack are held in
    memory: 13,000 of LFW's take some 100 MB.

    Args:
        root: the folder, zip, tar or pack that holds the images; default is the list's own folder.
        landmarks: a list of five landmarks an image (see :class:`Landmarks`), by which faces are
            warped to 112×112 pixels; images without any are refused.

    Raises:
        SourceError: the list cannot be read, is none, or none of its images is there.
    """

    kind = "pairs"

    def __init__(
        self, path: Path, *, root: Path | None = None, landmarks: Path | None = None
    ) -> None:
        require_file(path)
        listed = read_pair_list(path)
        super().__init__(path.name, listed.issame)
        self.name = path.stem
        self.folds = _folds_beyond_ten(listed.folds)
        self._list = file_name(path)
        self._where = path.parent if root is None else root
        self._landmarks = None if landmarks is None else Landmarks(landmarks)
        sides = zip(listed.first, listed.second, strict=True)
        numbers: dict[str, int] = {}
        self.uses[:] = [numbers.setdefault(name, len(numbers)) for pair in sides for name in pair]
        self._wanted = list(numbers)
        self._images = self._find()
        if not self.sizes().any():
            raise SourceError(
                f"{path}: none of its {len(self)} images is in {self._where}, first "
                f"{self._wanted[0]}: name the folder, archive or pack that holds them with --root"
            )

    def _find(self) -> FileList | list[Held]:
        """The wanted images: files of a folder, or what is held of those of an archive or pack."""
        kind = None
        options = {}
        if is_pack(split_set(self._where)[0]):
            kind = "lmdb"
        elif self._where.is_file():
            kind = "zip" if self._where.suffix.lower() == ".zip" else "tar"
            options = {"labelled": False}  # whatever folders its images lie in
        if kind is not None:
            source = SOURCES[kind].open([self._where], options)
            self.channels = source.channels
            return self._take(source)
        root = Root(self._where)
        files = dict(sorted(images_below(root, PassedOver())))
        names = list(files)
        found = find_by_name(self._wanted, list(map(text, names)))
        images = FileList(self._where)
        for position, wanted in zip(found.tolist(), self._wanted, strict=True):
            name = wanted.encode() if position < 0 else names[position]
            images.append(name, MISSING if position < 0 else files[name])
        return images

    def _take(self, source: Source) -> list[Held]:
        """The images of ``source`` that bear the wanted names, read in its order."""
        parts = [source.part(start, stop) for _, start, stop in source.groups()]
        names = [entry.name or "" for part in parts for entry in part.entries()]
        found = find_by_name(self._wanted, names)
        chosen = np.zeros(len(names), bool)
        chosen[found[found >= 0]] = True
        images: dict[int, Held] = {}
        for part in parts:
            for record in part.read(chosen[part.start : part.stop]):
                held = record if isinstance(record, Refusal) else bytes(record.image)
                images[record.ordinal] = held
        missing = Refusal(0, self._list, None, None, _MISSING, _FETCH)
        return [images.get(position, missing) for position in found.tolist()]

    def __len__(self) -> int:
        return len(self._wanted)

    def describe(self) -> dict[str, Any]:
        """Name of the list, hashes of its pairs and folds, and of the images or their sizes."""
        digest = xxhash.xxh3_128("\n".join(self._wanted).encode())
        digest.update(self.uses.astype("<i8").tobytes())
        if self.folds is not None:
            digest.update(self.folds.astype("<i8").tobytes())
        for image in [] if isinstance(self._images, FileList) else self._images:
            content = b"" if isinstance(image, Refusal) else image
            digest.update(xxhash.xxh3_128_digest(content))
        digest.update(self.sizes().astype("<u4").tobytes())
        self._digest = digest.hexdigest()
        own = {"kind": self.kind, "list": self._list, "images": len(self)}
        if self._landmarks is not None:
            own["landmarks_xxh3_128"] = self._landmarks.digest
        return {**own, **super().describe()}

    def sizes(self) -> np.ndarray:
        """Bytes of each image: uint32 (n,), 0 for those that are not there."""
        if isinstance(self._images, FileList):
            return self._images.sizes()
        return held_sizes(self._images)

    def part(self, start: int, stop: int) -> Part:
        """The distinct images ``[start, stop)``."""
        names = self._wanted[start:stop]
        images: FilesPart | HeldPart
        if isinstance(self._images, FileList):
            images = self._images.part(start, stop)
        else:
            images = HeldPart(start, self._list, self._images[start:stop], names, names)
        return ListedPart(start, self._list, names, images, self._landmarks)


class ListedPart(OwnPart):
    """Some images of a list of pairs; they have no identity, and bear the names of the list.

    They are aligned by ``landmarks``, if there are any.
    """

    remedy = "mend it, or do without"

    def __init__(
        self,
        start: int,
        file: str,
        names: Sequence[str],
        images: FilesPart | HeldPart,
        landmarks: Landmarks | None,
    ) -> None:
        self.start, self.stop = start, start + len(names)
        self._file, self._names, self._images = file, names, images
        self._landmarks = landmarks

    def read(self, keep: np.ndarray | None = None) -> Iterator[SourceRecord | Refusal]:
        """The images, aligned where there are landmarks."""
        for record in self._images.read(keep):
            if isinstance(record, Refusal):
                yield record
                continue
            name = self._names[record.ordinal - self.start]
            image = record.image
            if self._landmarks is not None:
                try:
                    image = align_face(image, self._landmarks.of(name))
                except DecodeError as error:
                    yield self.refuse(record, str(error))
                    continue
            yield SourceRecord(record.ordinal, image, NO_IDENTITY, name)

    def entries(self) -> Iterator[Entry]:
        """The name in the list."""
        return (Entry(NO_IDENTITY, name) for name in self._names)

    def _refuse(self, row: int, name: str | None, reason: str, remedy: str) -> Refusal:
        return Refusal(self.start + row, self._file, None, self._names[row], reason, remedy)


def _folds_beyond_ten(folds: np.ndarray | None) -> np.ndarray | None:
    """``folds``, unless they are ten of one size, in order."""
    if folds is None or np.array_equal(folds, np.repeat(np.arange(_FOLDS), len(folds) // _FOLDS)):
        return None
    return folds
