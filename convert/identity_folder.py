"""Which folder of an image's path is its identity: the one rule for trees, zips and tars.

Folders are counted from the top: those of ``faces/001/frontal/0.jpg`` have the levels 1, 2 and 3,
or, from the image up, -3, -2 and -1. Unless a level is chosen, folders that hold all images of the
source are passed over, and the next one is the identity; where that leaves none, because all images
lie in one folder, that folder is. So ``WebFace260M/0_0_0000000/0_0.jpg``, ``001/frontal/0.jpg`` and
a folder of one person come out right. What can be read in two ways is refused until a level is
chosen, or a note says what was taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import NamedTuple

import numpy as np

from facepack.convert.files import text
from facepack.errors import SourceError
from facepack.wording import count_of

OPTION = "--identity-level"
LONGEST = 255  # bytes of a folder's name that every file system takes; a longer one is no identity

_FEW = 5  # no data set has so few people, but a person may be seen from so many sides

# Names of folders that stand for a part of a data set, or for all of it; of people hardly ever.
_PARTS = frozenset(
    b"train training val valid validation dev eval test testing images image imgs img".split()
)


class ImageFolders(NamedTuple):
    """The folders in which the images of one file, or of a tree, lie."""

    file: str  # what messages call the file or tree
    # each folder once, with a slash behind every part, none longer than LONGEST; empty for images
    # in no folder
    paths: Iterable[bytes]
    # how many images lie in each, not counting those in folders below it
    images: Sequence[int] | np.ndarray


@dataclass(frozen=True, kw_only=True)
class Identities:
    """The identities of a source, numbered by name."""

    names: np.ndarray  # bytes (c,), in the order of their bytes
    # of each file, the number of each folder's identity: int32 (k,), -1 for none
    labels: list[np.ndarray]
    level: int  # of the folders that are identities
    depths: frozenset[int]  # the levels of all folders that hold images
    notices: list[str]  # for the user

    def describe(self, *, usual: int) -> dict[str, int]:
        """The level, for the plan, if ``usual`` would have given any image another identity."""
        differ = any(_folder_index(d, self.level) != _folder_index(d, usual) for d in self.depths)
        return {"identity_level": self.level} if differ else {}


def folder_at(path: bytes, level: int) -> bytes | None:
    """The folder at ``level`` of ``path``, which ends with a slash; None if there is none."""
    parts = path.split(b"/")
    index = _folder_index(len(parts) - 1, level)
    return None if index is None else parts[index]


def why_none(level: int) -> tuple[str, str]:
    """Why an image whose folders do not reach to ``level`` is refused, and what to do."""
    return (
        f"it lies in no folder of level {level}, whose name would be its identity",
        f"move it, or choose another level ({OPTION})",
    )


def find_identities(files: Sequence[ImageFolders], level: int | None = None) -> Identities:
    """Number the identities of a source by their names, sorted by bytes over all ``files``.

    Folders of one name are one identity, wherever they are. ``level`` is that of the folders that
    are identities; None chooses.

    Raises:
        SourceError: no level can be chosen without doubt, or no image has the one that is given.
    """
    chosen = _choose(files) if level is None else level
    found = [[folder_at(path, chosen) or b"" for path in file.paths] for file in files]
    # An image in no such folder has the empty name, which comes first.
    names, number = np.unique(
        np.concatenate([np.array([b"", *folders], bytes) for folders in found]), return_inverse=True
    )
    bounds = np.cumsum([0, *(len(folders) + 1 for folders in found)])
    numbers = (number.reshape(-1) - 1).astype(np.int32)
    identities = Identities(
        names=names[1:],
        labels=[numbers[start + 1 : stop] for start, stop in pairwise(bounds.tolist())],
        level=chosen,
        depths=frozenset(path.count(b"/") for file in files for path in file.paths if path),
        notices=[],
    )
    if level is not None and identities.depths and not len(identities.names):
        raise SourceError(
            f"{_source(files)}: no image has a folder of level {level}; the deepest lie in folders "
            f"of level {max(identities.depths)}: choose another {OPTION}, or leave it out"
        )
    if level is None:
        identities.notices.extend(_look_over(files, identities))
    elif strayed := _count_strayed(files, chosen):
        identities.notices.append(
            f"{count_of(strayed, 'name of folders occurs', 'names of folders occur')} at several "
            "places: each name is taken for one identity"
        )
    return identities


def _folder_index(depth: int, level: int) -> int | None:
    """Where the folder of ``level`` is among the ``depth`` folders of a path."""
    index = level - 1 if level > 0 else depth + level
    return index if 0 <= index < depth else None


class _Span(NamedTuple):
    """The folders that all images of some files lie in, and whether some lie right there."""

    common: bytes
    levels: frozenset[int]  # at which the identities of these files alone could be


def _span(paths: Iterable[bytes]) -> _Span | None:
    """None where no image is in a folder."""
    inside = [path for path in paths if path]
    if not inside:
        return None
    common = _common(min(inside), max(inside))  # these two differ the earliest
    depth = common.count(b"/")
    here = common in inside
    below = any(path != common for path in inside)
    return _Span(common, frozenset([depth] * here + [depth + 1] * below))


def _common(first: bytes, second: bytes) -> bytes:
    """The folders that two paths begin with."""
    pairs = zip(first.split(b"/")[:-1], second.split(b"/")[:-1], strict=False)
    return b"".join(name + b"/" for name, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _choose(files: Sequence[ImageFolders]) -> int:
    whole = _span(path for file in files for path in file.paths)
    if whole is None:
        return 1
    if len(whole.levels) > 1:
        low, high = sorted(whole.levels)
        raise SourceError(
            f"{_source(files)}: all images are in the folder {text(whole.common)!r}, some right in "
            f"it and some in folders below: say which is an identity, this folder ({OPTION} {low}) "
            f"or each of those below it ({OPTION} {high}, which leaves out the images above them)"
        )
    (level,) = whole.levels
    for file in files if len(files) > 1 else []:
        alone = _span(file.paths)
        if alone is not None and level not in alone.levels:
            other = max(alone.levels)
            raise SourceError(
                f"{file.file}: all its images are in the folder {text(alone.common)!r}, those of "
                f"the other files are not: this may be a person or hold several. {OPTION} {level} "
                f"takes {_shown(file, level)} for an identity, {OPTION} {other} takes "
                f"{_shown(file, other)}, and {OPTION} -1 the folder that each image lies in"
            )
    return level


def _look_over(files: Sequence[ImageFolders], identities: Identities) -> list[str]:
    """Refuse what are parts of a data set and no people; note images that lie deeper.

    Raises:
        SourceError: the chosen folders are such parts by their names.
    """
    level = identities.level
    names = identities.names.tolist()
    parts = {name for name in names if name.lower() in _PARTS}
    deeper, examples = 0, []
    for file in files if max(identities.depths, default=0) > level else []:
        below = [
            (path, int(images))
            for path, images in zip(file.paths, file.images, strict=True)
            if path.count(b"/") > level
        ]
        deeper += sum(images for _, images in below)
        examples += sorted(path for path, _ in below)[:1]
        examples += sorted(path for path, _ in below if folder_at(path, level) in parts)[:1]
    split = [path for path in examples if folder_at(path, level) in parts]
    if split or (parts and len(parts) == len(names)):
        listed = ", ".join(repr(text(name)) for name in sorted(parts))
        raise SourceError(
            f"{_source(files)}: a folder called {listed} is rather a part of a data set than a "
            "person: "
            + (
                f"{OPTION} {level + 1} takes the folders below for identities, as in "
                f"{text(min(split))} (one name in several parts is one identity), {OPTION} {level} "
                "these themselves; or pass the folder of one part"
                if split
                else f"{OPTION} {level} takes it for an identity all the same; labels of images in "
                "one folder come from a list (facepack img2lmdb --index LIST)"
            )
        )
    if not examples:
        return _note_passed(files, identities)
    first = min(examples)
    total = sum(int(np.sum(file.images)) for file in files)
    return [
        f"identities are the folders of level {level}, as {text(folder_at(first, level) or b'')!r} "
        f"in {text(first)}; {deeper:,} of {total:,} images lie deeper, as in "
        f"{text(folder_at(first, level + 1) or b'')!r} of level {level + 1}: "
        f"{OPTION} {level + 1} takes that for an identity, {OPTION} -1 the folder that each image "
        "lies in"
    ]


def _note_passed(files: Sequence[ImageFolders], identities: Identities) -> list[str]:
    """Of few folders below one: they may as well be the views of one person."""
    count, above = len(identities.names), identities.level - 1
    if not above or not 1 < count <= _FEW:
        return []
    passed = next(path for file in files for path in file.paths if path)
    return [
        f"all images are in the folder {text(folder_at(passed, above) or b'')!r}, and the {count} "
        f"folders below it are the identities, as {text(identities.names[0])!r}; if they are views "
        f"of one person, {OPTION} {above} takes the folder above for the identity"
    ]


def _count_strayed(files: Sequence[ImageFolders], level: int) -> int:
    """How many names folders of ``level`` share that lie in different folders."""
    whole = {
        b"/".join(path.split(b"/")[: index + 1])
        for file in files
        for path in file.paths
        if (index := _folder_index(path.count(b"/"), level)) is not None
    }
    counts = Counter(path.rpartition(b"/")[2] for path in whole)
    return sum(count > 1 for count in counts.values())


def _shown(file: ImageFolders, level: int) -> str:
    named = (name for path in file.paths if (name := folder_at(path, level)))
    return repr(text(next(named, b"")))


def _source(files: Sequence[ImageFolders]) -> str:
    return files[0].file + (" …" if len(files) > 1 else "")
