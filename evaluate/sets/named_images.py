"""Images by name: those of a pack, or below a folder, that lists of benchmarks speak of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

import facepack
from facepack.convert.files import Root, text
from facepack.convert.formats.pair_list.by_name import find_by_name
from facepack.convert.image_tree import images_below
from facepack.convert.passed_over import PassedOver
from facepack.errors import EvaluationError, FacepackError
from facepack.images import read_header
from facepack.loading.source import ChosenImages, ImageSource
from facepack.reading import IMAGE, read_bytes
from facepack.store.format import NO_IDENTITY
from facepack.store.home import is_pack
from facepack.store.pack import Pack
from facepack.store.sets import split_set


class FolderImages:
    """Image files below a folder, as a source for the loader; nobody's, as far as it knows.

    The files' sizes, where given, tell the images of today from others.

    Raises:
        EvaluationError: none of them has the header of an image.
    """

    channels = "rgb"

    def __init__(self, root: Root, names: Sequence[str], sizes: Sequence[int] = ()) -> None:
        self.path = root.path
        self._names = names
        digest = xxhash.xxh3_128("\n".join(names).encode())
        digest.update(np.array(sizes, "<i8").tobytes())
        self.content_id = digest.hexdigest()
        self.labels = np.full(len(names), NO_IDENTITY, np.int64)
        self.image_size: tuple[int, int] | None = self._first_size()

    def __len__(self) -> int:
        return len(self._names)

    def key(self, position: int) -> str:
        """The image's path below the folder."""
        return self._names[position]

    @contextmanager
    def views(self, positions: Sequence[int] | np.ndarray) -> Iterator[list[memoryview]]:
        """The encoded images at ``positions``, in that order; for any thread.

        Raises:
            EvaluationError: a file cannot be read.
        """
        yield [self._read(int(position)) for position in positions]

    def _read(self, position: int) -> memoryview:
        file = self.path / self._names[position]
        try:
            return memoryview(read_bytes(file, IMAGE))
        except OSError as error:
            raise EvaluationError(f"{file} cannot be read: {error.strerror}") from error

    def _first_size(self) -> tuple[int, int]:
        """(height, width) of the first image that has a header; the loader compares all."""
        reasons = []
        for position in range(len(self)):
            try:
                header = read_header(self._read(position))
            except FacepackError as error:
                reasons.append(f"{self.key(position)}: {error}")
            else:
                return header.height, header.width
        raise EvaluationError(
            f"{self.path}: none of {len(self)} images can be read"
            + (f", first {reasons[0]}" if reasons else "")
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class NamedImages:
    """Images, and what lists call them."""

    path: Path  # of the pack or folder
    source: ImageSource  # the images
    # (n,) of the images, as the pack's source had them or as paths below the folder; empty for one
    # without a name
    names: Sequence[str]

    def find(self, wanted: Iterable[str]) -> np.ndarray:
        """The position of each wanted name: int64, -1 where there is none.

        As :mod:`facepack.convert.formats.pair_list.by_name` finds them; what no image of a pack is
        called is looked up as a key, ``shard/0000000012``.
        """
        names = list(wanted)
        places = find_by_name(names, self.names)
        if isinstance(self.source, Pack):
            for lost in np.flatnonzero(places < 0).tolist():
                with suppress(KeyError):
                    places[lost] = self.source.position(names[lost])
        return places

    def below(self, folder: str) -> np.ndarray:
        """Positions of the images in ``folder`` and its folders, by name: int64 (k,).

        It may lie in another folder, whose name is of no interest.
        """
        inside = [
            (name, position)
            for position, name in enumerate(self.names)
            if f"/{folder}/" in f"/{name}"
        ]
        return np.array([position for _, position in sorted(inside)], np.int64)

    def choose(self, positions: np.ndarray) -> ChosenImages:
        """The images at ``positions``, without listing all of them anew."""
        return ChosenImages(self.source, positions)


def open_named_images(path: Path, *, keys_suffice: bool = False) -> NamedImages:
    """Open the pack, or the folder of images, at ``path``.

    ``keys_suffice`` takes a pack without names as well: its images have keys.

    Raises:
        EvaluationError: it is neither, holds no image, or is a pack whose source named none.
        PackError: the pack cannot be opened.
        SourceError: the folder cannot be read.
    """
    if is_pack(split_set(path)[0]):
        pack = facepack.open(path)
        names = [name or "" for name in pack.source_names()]
        if not (any(names) or keys_suffice):
            raise EvaluationError(
                f"{path}: its source had no names for the images, by which a list finds them: give "
                "the folder of images, or a pack of it"
            )
        return NamedImages(path=path, source=pack, names=names)
    root = Root(path)
    found = sorted(name for name, _ in images_below(root, PassedOver()))
    if not found:
        raise EvaluationError(f"{path} holds no images: give the folder that the list speaks of")
    names = [text(name) for name in found]
    return NamedImages(path=path, source=FolderImages(root, names), names=names)


def missing_notice(what: str, wanted: Sequence[str], positions: np.ndarray) -> list[str]:
    """What to say of wanted names (n,) that :meth:`NamedImages.find` did not find; else nothing."""
    lost = np.flatnonzero(positions < 0)
    if not len(lost):
        return []
    return [
        f"{len(lost):,} of {len(wanted):,} {what} are missing, first "
        f"{wanted[int(lost[0])]}: what needs them is left out, so that results do not compare with "
        "published ones"
    ]
