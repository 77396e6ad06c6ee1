"""MegaFace's challenge 1, FaceScrub's probes among a million distractors, as a source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from facepack.convert.files import OUTSIDE, FileList, FilesSource, Root, require_folder, text
from facepack.convert.formats.pack.tables import arrange
from facepack.convert.names import Names
from facepack.convert.source import Group
from facepack.convert.source_file import file_name, read_errors, require_file
from facepack.errors import SourceError
from facepack.reading import parse_json, read_bytes
from facepack.store.format import NO_IDENTITY

SETS = ("facescrub", "megaface")  # by their numbers in the table ``sets``
_FOLDERS = (".", "templatelists", "devkit/templatelists")  # where lists are looked for
_KIT_LIST = re.compile(r"\w+_features_list\.json(?:_(\d+)_(\d+))?")


class MegaFaceSource(FilesSource):
    """FaceScrub's and MegaFace's images, in the order of their lists, noisy ones marked.

    The folder holds ``facescrub_images/`` and ``megaface_images/``, and one list for each: that of
    InsightFace's package, ``facescrub_lst`` or ``megaface_lst`` (a path a line, ``person/file`` or
    ``a1/a2/file``), else that of the development kit, ``facescrub_features_list.json`` or
    ``megaface_features_list.json_<size>_<set>``, in the folder or its ``templatelists``. Of several
    lists the plainest name is taken, and of the kit's the largest size.

    FaceScrub's persons (``id`` in the kit's list, else the folder) are numbered by name, sorted by
    UTF-8 bytes; distractors have no identity, label -1. Noisy images are packed like all others:
    the protocol needs their positions.

    Args:
        noises: lists of noisy images; default are ``facescrub_noises.txt`` and
            ``megaface_noises.txt`` in the folder, where they are there. A line is a file name of
            FaceScrub or ``a1/a2/file`` of MegaFace, a column before it and a tab are passed over,
            and so are lines that begin with ``#``. Files are told by their stems, in any case,
            blanks being ``_``: FaceScrub circulates as PNG and JPEG, spelt either way.

    Raises:
        SourceError: a list is missing or malformed, or names no image that is there.
    """

    kind = "megaface"
    content = "megaface"
    table_names = ("sets", "noisy")

    def __init__(self, path: Path, *, noises: tuple[Path, ...] = ()) -> None:
        require_folder(path)
        self.name = file_name(path.absolute())
        self.notices: list[str] = []
        self._files = FileList(path)
        self._identities: Names = Names()
        self._bounds = [0]
        for which in SETS:
            self._add(path, which)
        self._noisy = self._find_noisy(path, noises)

    def _add(self, path: Path, which: str) -> None:
        """List the images of one of the sets."""
        file = self._choose_list(path, which)
        images = list(_read_list(file, which))
        root = Root(path / f"{which}_images")
        persons = sorted({image.person for image in images if image.person is not None})
        labels = {person: label for label, person in enumerate(persons)}
        for person in persons:
            self._identities.append(person)
        for image in images:
            name = root.locate(image.path)
            size = OUTSIDE if name is None else root.size(name)
            label = NO_IDENTITY if image.person is None else labels[image.person]
            self._files.append(f"{which}_images/".encode() + (name or image.path), size, label)
        if not self._files.sizes()[self._bounds[-1] :].any():
            raise SourceError(
                f"{file}: none of the {len(images)} images that it names is in {root.path}; fetch "
                "the images that belong to the list, or another list"
            )
        self._bounds.append(len(self._files))

    def _choose_list(self, path: Path, which: str) -> Path:
        for folder in _FOLDERS:
            lists = sorted((path / folder).glob(f"{which}_lst*"))
            lists += sorted((path / folder).glob(f"{which}_features_list.json*"), key=_by_size)
            if len(lists) > 1:
                others = ", ".join(other.name for other in lists[1:])
                self.notices.append(f"{lists[0]} lists the images of {which}, not {others}")
            if lists:
                return lists[0]
        raise SourceError(
            f"{path}: holds neither {which}_lst nor {which}_features_list.json; fetch the list "
            "into the folder"
        )

    def _find_noisy(self, path: Path, noises: tuple[Path, ...]) -> np.ndarray:
        """(n,) bool: whether each image is in one of the lists of noisy ones."""
        if not noises:
            found = (path / f"{which}_noises.txt" for which in SETS)
            noises = tuple(file for file in found if file.exists())
        if not noises:
            self.notices.append(f"{path}: there are no lists of noisy images: none is marked")
        distractor = np.arange(len(self)) >= self._bounds[1]
        marks, notices = mark_noisy(self._files.names, distractor, noises)
        self.notices += notices
        return marks

    def describe(self) -> dict[str, Any]:
        """Name of the folder, image counts, hashes of names, sizes, labels and of the marks."""
        return {
            "kind": self.kind,
            "folder": self.name,
            "images": np.diff(self._bounds).tolist(),
            "files_xxh3_128": self._files.digest(),
            "noisy_xxh3_128": xxhash.xxh3_128_hexdigest(self._noisy.tobytes()),
        }

    def groups(self) -> list[Group]:
        """FaceScrub and MegaFace."""
        bounds = zip(self._bounds[:-1], self._bounds[1:], strict=True)
        return [Group(which, *ends) for which, ends in zip(SETS, bounds, strict=True)]

    def tables(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Of each record, in the order of the pack, what set it is of and whether it is noisy.

        ``sets`` is uint8 (n,), 0 FaceScrub, 1 MegaFace; ``noisy`` bool (n,).
        """
        sets = np.repeat(np.arange(len(SETS), dtype=np.uint8), np.diff(self._bounds))
        return {"sets": arrange(sets, positions), "noisy": arrange(self._noisy, positions)}


class _Image(NamedTuple):
    """A path, and who it shows."""

    path: bytes
    person: bytes | None


def _read_list(file: Path, which: str) -> Iterator[_Image]:
    """The images of a list, FaceScrub's with their persons."""
    require_file(file)
    with read_errors(file):
        content = read_bytes(file)
    with_persons = which == "facescrub"
    persons: list[bytes] = []
    if _KIT_LIST.fullmatch(file.name):
        paths, persons = parse_kit_list(file, content, with_persons)
    else:
        paths = [line for line in map(bytes.strip, content.splitlines()) if line]
        if with_persons:
            persons = [path.rpartition(b"/")[0].rpartition(b"/")[2] for path in paths]
    if not paths:
        raise SourceError(f"{file}: names no image; fetch it again")
    if not all(persons):
        raise SourceError(
            f"{file}: image {persons.index(b'') + 1} is of no person; expected person/file: fetch "
            "the list again"
        )
    return map(_Image, paths, persons if with_persons else repeat(None))


def parse_kit_list(
    file: Path, content: bytes, with_persons: bool
) -> tuple[list[bytes], list[bytes]]:
    """``path`` and, where there are persons, ``id`` of a list of the development kit.

    Raises:
        SourceError: it is no such list.
    """
    try:
        listed = parse_json(content)
        paths = [path.encode() for path in listed["path"]]
        persons = [str(person).encode() for person in listed["id"]] if with_persons else []
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SourceError(
            f"{file}: is no list of the development kit, which has the keys path and, for "
            f"FaceScrub, id ({type(error).__name__}: {error}): fetch it again"
        ) from error
    if with_persons and len(persons) != len(paths):
        raise SourceError(f"{file}: has {len(paths)} paths and {len(persons)} ids; fetch it again")
    return paths, persons


def _by_size(file: Path) -> tuple[int, int]:
    """Sorts the kit's lists: the largest first, of equal ones the first set."""
    found = _KIT_LIST.fullmatch(file.name)
    size, number = found.groups() if found else (None, None)
    return -int(size or 0), int(number or 0)


def mark_noisy(
    names: Iterable[bytes], distractor: np.ndarray, noises: Iterable[Path]
) -> tuple[np.ndarray, list[str]]:
    """Whether each image is in one of the lists of noisy ones: (n,) bool, and notices.

    ``names`` are paths. Those of the ``distractor`` images, (n,) bool, MegaFace's, are told by two
    folders and the file's stem; FaceScrub's by the stem alone.

    Raises:
        SourceError: a list cannot be read.
    """
    noisy = {key for file in noises for key in read_noises(file)}
    marks = np.zeros(len(distractor), bool)
    met = set()
    for row, (name, of_megaface) in enumerate(zip(names, distractor.tolist(), strict=True)):
        key = _key(name, 3 if of_megaface else 1)
        if key in noisy:
            marks[row] = True
            met.add(key)
    if len(met) == len(noisy):
        return marks, []
    return marks, [
        f"{len(noisy) - len(met)} of {len(noisy)} noisy images are not among those listed, "
        f"first {text(min(noisy - met))}"
    ]


def read_noises(file: Path) -> set[bytes]:
    """What tells the images of a list of noisy ones: ``stem`` or ``a1/a2/stem``, in lower case.

    Raises:
        SourceError: the list cannot be read.
    """
    require_file(file)
    with read_errors(file):
        lines = read_bytes(file).splitlines()
    names = (line.rpartition(b"\t")[2].strip() for line in lines if not line.startswith(b"#"))
    return {_key(name, 3 if name.count(b"/") >= 2 else 1) for name in names if name}


def _key(name: bytes, components: int) -> bytes:
    """The last so many components of ``name``, however spelt and without the suffix."""
    tail = b"/".join(name.split(b"/")[-components:])
    stem, dot, _ = tail.rpartition(b".")
    return (stem if dot else tail).lower().replace(b" ", b"_")
