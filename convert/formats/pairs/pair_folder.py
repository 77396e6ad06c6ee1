"""A verification set as a folder of files: ``imgs/0.jpg …`` and ``pair_label.npy``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from facepack.convert.files import (
    FileList,
    FileRefusedError,
    FilesPart,
    FilesSource,
    FolderReader,
    Root,
    is_image,
    text,
)
from facepack.convert.formats.pairs.folder_sink import IMAGES, LABELS
from facepack.convert.formats.pairs.pair_set import PairSource
from facepack.convert.source_file import require_file
from facepack.errors import SourceError
from facepack.reading import parse_npy, read_bytes
from facepack.store.record import Buffer


class PairPart(FilesPart):
    """Distinct images of a pair folder: their names, 0 to 2P - 1, are numbers and name nobody."""

    def _shown(self, name: bytes) -> str | None:
        return None


class PairFolder(FilesSource, PairSource):
    """The distinct images of a pair folder, in the order of their first use, and its pairs.

    Pair i is images 2i and 2i + 1 of ``imgs``, whatever their suffix; ``pair_label.npy`` holds P
    flags, 1 for the same person.

    Raises:
        SourceError: an image is missing, cannot be read or is there twice, or the flags are none.
    """

    kind = "img"
    parts = PairPart

    def __init__(self, root: Root) -> None:
        super().__init__(str(root.path), _read_flags(root.path / LABELS))
        names = _numbered_images(root, 2 * len(self.issame))
        self._files = FileList(root.path)
        sizes = list(map(root.size, names))
        for number in self._find_first_uses(_read_images(root.path, names, sizes)):
            self._files.append(names[number], sizes[number])

    def names(self) -> list[str]:
        """The file of each distinct image, as ``imgs/0.jpg``: that of its first use."""
        return list(map(text, self._files.names))


def _read_images(root: Path, names: list[bytes], sizes: list[int]) -> Iterator[Buffer]:
    with FolderReader(root) as reader:
        for name, size in zip(names, sizes, strict=True):
            try:
                yield reader.read(name, size)
            except FileRefusedError as error:
                raise SourceError(f"{root / text(name)}: {error.reason}; {error.remedy}") from error


def _read_flags(path: Path) -> np.ndarray:
    """(P,) bool of ``pair_label.npy``, which may hold booleans, or numbers 0 and 1."""
    require_file(path)
    try:
        flags = parse_npy(read_bytes(path))
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{path}: cannot be read: {error}; write it again with numpy.save, as booleans"
        ) from error
    good = flags.ndim == 1 and flags.dtype.kind in "biuf"
    if not good or not len(flags) or not np.isin(flags, (0, 1)).all():
        raise SourceError(
            f"{path}: holds {flags.dtype} {flags.shape}; expected one flag a pair, booleans or 0 "
            "and 1: write it again with numpy.save"
        )
    return flags.astype(bool)


def _numbered_images(root: Root, count: int) -> list[bytes]:
    """The files ``imgs/0.*`` to ``imgs/(count - 1).*``, in that order."""
    folder = IMAGES.encode()
    names: dict[int, bytes] = {}
    for entry in root.scan(folder):
        stem = entry.name.rpartition(b".")[0]
        if not is_image(entry.name) or not stem.isdigit():
            continue
        number = int(stem)
        if number in names:
            raise SourceError(
                f"{root.path}: {text(names[number])} and {text(entry.name)} have the same number: "
                "remove one"
            )
        names[number] = folder + b"/" + entry.name
    absent = [number for number in range(count) if number not in names]
    if absent or len(names) > count:
        raise SourceError(
            f"{root.path}: {LABELS} has {count // 2} pairs, so that images 0 to {count - 1} "
            f"are needed; {IMAGES} has {len(names)}"
            + (f" and lacks {absent[0]}" if absent else "")
            + ": fetch the set again"
        )
    return [names[number] for number in range(count)]
