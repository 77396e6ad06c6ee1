"""Lists in an archive that label its images: Paddle's ``label.txt``, ``.lst`` and ``.csv``.

A list is known by its name, its form by its first lines
(:mod:`facepack.convert.list_lines`); paths in it are relative to the folder that it
lies in. It may come before its images or behind them, so that images and lines are joined by a hash
of the path: 12 bytes a line in memory.
"""

from __future__ import annotations

import codecs
from array import array
from collections.abc import Iterable, Iterator
from itertools import chain, islice

import numpy as np
import xxhash

from facepack.convert.files import text
from facepack.convert.identity_folder import OPTION
from facepack.convert.list_lines import KINDS, LineError, find_form
from facepack.convert.names import Names
from facepack.errors import SourceError
from facepack.wording import count_of

_PADDLE = b"label.txt"
_SUFFIXES = b".lst", b".csv"
LIST_NAMES = _PADDLE, *_SUFFIXES  # of members, or how these end

_LONGEST = 1 << 16  # bytes of a line
_PROBES = 1000  # lines from which the kind is told
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # keeps paths of different archives apart

NOT_LISTED, DISAGREEING = -10, -11  # no reasons of samples
REASONS = {
    NOT_LISTED: (
        "no line of the list in the archives names it",
        "add a line for it, or go on without it",
    ),
    DISAGREEING: ("lines of the list give it different labels", "correct the list"),
}
"""Why an image has no label, and what to do."""


def is_list(base: bytes) -> bool:
    """Whether a member whose name ends with ``base`` can be a list of images."""
    return base == _PADDLE or base.lower().endswith(_SUFFIXES)


def path_hash(name: bytes) -> int:
    """What stands for the path of a member: an unsigned number of 64 bits."""
    if name.startswith(b"./") or b"//" in name or b"/./" in name:
        name = b"/".join(part for part in name.split(b"/") if part not in (b"", b"."))
    return int(xxhash.xxh3_64_intdigest(name))


class Lists:
    """Gathers the lines of the lists that go by."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._labels = array("i")
        self._archives = array("i")  # of each list
        self._ends = array("q")  # of each, in lines
        self.first = ""  # the name of the first list; empty if there is none
        self._paddle = False
        self._malformed = 0
        self._names: dict[bytes, int] = {}  # of identities, as they come
        self._named: set[bool] = set()  # whether labels are names, of any list

    def add(self, name: bytes, archive: int, blocks: Iterable[bytes]) -> bool:
        """Take the list ``name`` of the archive of that number; False if it is none.

        Its content comes in blocks, of which no more are read once they hold no lines.
        """
        lines = _lines(blocks)
        first = list(islice(lines, _PROBES))
        try:
            form = find_form(first, KINDS)
        except LineError:
            form = None
        if form is None:
            return False
        self._named.add(form.named)
        self._archives.append(archive)
        self.first = self.first or text(name)
        self._paddle |= name.endswith(_PADDLE)
        folder = name[: name.rfind(b"/") + 1]
        for line in chain(first[form.has_header :], lines):
            try:
                path, label, *_ = form.read(line)
            except LineError:
                self._malformed += 1
                continue
            if not isinstance(label, int):
                label = self._names.setdefault(label, len(self._names))
            self._hashes.append(path_hash(folder + path))
            self._labels.append(label)
        self._ends.append(len(self._hashes))
        return True

    def label(
        self, images: np.ndarray, archives: np.ndarray, *, alone: bool
    ) -> tuple[np.ndarray | None, Names, list[str]]:
        """The labels that the lists give images.

        If lists lie in several archives, each is one of its own archive's images.

        Args:
            images: uint64 (n,) :func:`path_hash` of each image.
            archives: (n,) the number of its archive.
            alone: whether all lie in one folder, which then tells nothing: where folders do, an
                ``.lst`` beside them is not needed.

        Returns:
            int32 (n,), those below -1 as in :data:`REASONS`, or None if no line names an image or
            lists are not needed; the names of identities, by label, where labels are names; and
            notices.

        Raises:
            SourceError: labels of some lists are names, of others numbers.
        """
        if not (alone or self._paddle):
            return None, Names(), []
        lines = np.array(self._hashes, np.uint64)
        if len(set(self._archives)) > 1:
            own = np.repeat(np.array(self._archives, np.uint64), np.diff(self._ends, prepend=0))
            lines, images = lines ^ own * _SPREAD, images ^ archives.astype(np.uint64) * _SPREAD
        if not np.isin(images, lines).any():
            return None, Names(), []
        if len(self._named) > 1:
            raise SourceError(
                f"{self.first}: labels of some lists in the archives are names, of others numbers: "
                f"convert them one by one, or give {OPTION}, and labels are those of folders"
            )
        labels = np.array(self._labels, np.int32)
        names = sorted(self._names)
        if names:
            numbers = {name: number for number, name in enumerate(names)}
            labels = np.array([numbers[name] for name in self._names], np.int32)[labels]
        order = np.lexsort((labels, lines))
        lines, labels = lines[order], labels[order]
        first, last = (np.searchsorted(lines, images, side) for side in ("left", "right"))
        known = first < last
        found = np.full(len(images), NOT_LISTED, np.int32)
        least, greatest = labels[first[known]], labels[last[known] - 1]
        found[known] = np.where(least == greatest, least, DISAGREEING)
        used = int(np.isin(lines, images).sum())
        return found, Names.of(names), list(self._notices(used))

    def _notices(self, used: int) -> Iterator[str]:
        """What the user should know of lists that are followed, ``used`` lines of which are."""
        if len(self._archives) > 1:
            yield (
                f"labels are those of {len(self._archives)} lists, first {self.first}: equal "
                "labels are one identity"
            )
        else:
            yield f"labels are those of {self.first}; with {OPTION} they are those of folders"
        unused = len(self._hashes) - used
        if unused or self._malformed:
            yield (
                f"{self.first}: {count_of(unused, 'line names', 'lines name')} no image of the "
                f"archives, {self._malformed:,} malformed"
            )


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines that are not empty, as far as they are lines."""
    rest = b""
    begins = True
    for block in blocks:
        *lines, rest = (rest + block.removeprefix(codecs.BOM_UTF8 if begins else b"")).split(b"\n")
        begins = False
        yield from filter(None, map(bytes.strip, lines))
        if len(rest) >= _LONGEST:
            return
    if rest.strip():
        yield rest.strip()
