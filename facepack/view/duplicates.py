"""Images that are in a pack more than once, byte for byte.

Twice within one identity is a waste; under two identities it is label noise, of one person who was
given two numbers or of a photograph filed under the wrong name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facepack.store import format as fmt
from facepack.store.files import write_file
from facepack.store.pack import Pack
from facepack.store.pack import open as open_pack
from facepack.view.survey import hash_images

_CHUNK = 1 << 20  # hashes compared at a time
_VIEWS = 64  # images whose views are held at a time


WITHIN, ACROSS, UNLABELED = "within", "across", "unlabeled"
_WORDS = {
    WITHIN: "within an identity",
    ACROSS: "across identities",
    UNLABELED: "without identity",
}


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Groups of positions that hold the same image, in two flat arrays.

    A sequence of arrays: each group's positions ascend, and groups come by their first position.
    """

    positions: np.ndarray  # int64 (m,), the groups one behind the other
    starts: np.ndarray  # int64 (groups + 1,), where in positions each group begins

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(f"group {index} of {len(self)}")
        group: np.ndarray = self.positions[self.starts[index] : self.starts[index + 1]]
        return group

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self.__getitem__, range(len(self)))

    @property
    def surplus(self) -> int:
        """How many images could go so that one of each group stays."""
        return len(self.positions) - len(self)


def find_duplicates(pack: Pack, *, hashes: np.ndarray | None = None) -> Duplicates:
    """Find all groups of byte-identical images.

    Every image is hashed once, if its hash is not known from a survey; those whose 64-bit hashes
    agree are compared byte by byte. Takes 16 bytes of memory a record, and what is found.

    Raises:
        DamageError: a record is missing.
    """
    if hashes is None:
        hashes = hash_images(pack)
    candidates = _find_repeated(hashes)
    order = np.argsort(hashes[candidates], kind="stable")  # within a hash, positions ascend
    candidates = candidates[order]
    bounds = np.flatnonzero(np.diff(hashes[candidates])) + 1
    groups: list[np.ndarray] = []
    for same_hash in np.split(candidates, bounds):
        groups += _group_by_bytes(pack, same_hash)
    groups.sort(key=lambda group: int(group[0]))
    sizes = np.fromiter(map(len, groups), np.int64, len(groups))
    return Duplicates(
        positions=np.concatenate([np.empty(0, np.int64), *groups]),
        starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
    )


def _find_repeated(hashes: np.ndarray) -> np.ndarray:
    """The indices, ascending, of values that occur more than once; sorts a copy, not indices."""
    ordered = np.sort(hashes)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if not len(repeated):
        return np.empty(0, np.int64)
    found = []
    for start in range(0, len(hashes), _CHUNK):
        chunk = hashes[start : start + _CHUNK]
        nearest = np.searchsorted(repeated, chunk).clip(max=len(repeated) - 1)
        found.append(np.flatnonzero(repeated[nearest] == chunk) + start)
    return np.concatenate(found)


def _group_by_bytes(pack: Pack, positions: np.ndarray) -> list[np.ndarray]:
    """Sort images of equal hash by their bytes; those that are alone are dropped."""
    kinds: dict[bytes, list[int]] = {}
    for start in range(0, len(positions), _VIEWS):
        chunk = positions[start : start + _VIEWS]
        with pack.views(chunk) as views:
            for position, view in zip(chunk.tolist(), views, strict=True):
                kinds.setdefault(bytes(view), []).append(position)
    return [np.asarray(members, np.int64) for members in kinds.values() if len(members) > 1]


def duplicate_scope(labels: np.ndarray) -> str:
    """Where the images of a group lie, by their labels.

    ``within`` one identity, ``across`` two or more, or ``unlabeled``: some have no identity, and
    the others have one at most.
    """
    known = np.unique(labels[labels >= 0])
    if len(known) > 1:
        return ACROSS
    return WITHIN if len(known) == 1 and (labels >= 0).all() else UNLABELED


def duplicate_lines(pack: Pack, duplicates: Duplicates) -> Iterator[str]:
    """The lines of ``duplicates.jsonl``: ``{"keys", "labels", "scope"}`` for each group."""
    for group in duplicates:
        labels = pack.labels[group]
        entry = {
            "keys": [pack.key(position) for position in group.tolist()],
            "labels": labels.tolist(),
            "scope": duplicate_scope(labels),
        }
        yield json.dumps(entry, sort_keys=True) + "\n"


def list_duplicates(path: Path) -> str:
    """Find the duplicates of the pack in ``path`` and list them in its ``duplicates.jsonl``.

    A pack without any gets no such file, and loses one that is out of date.

    Returns:
        What was found, in words.

    Raises:
        PackError: no finished pack is there, or the list cannot be written.
        DamageError: a record is missing.
    """
    with open_pack(path) as pack:
        found = find_duplicates(pack)
        if not len(found):
            (path / fmt.DUPLICATES).unlink(missing_ok=True)
            return "no image is in the pack twice"
        write_file(path / fmt.DUPLICATES, (line.encode() for line in duplicate_lines(pack, found)))
        counts = Counter(duplicate_scope(pack.labels[group]) for group in found)
    where = ", ".join(f"{counts[kind]:,} {words}" for kind, words in _WORDS.items() if counts[kind])
    noun = "group" if len(found) == 1 else "groups"
    return f"{len(found):,} {noun} of identical images ({where}): see {path / fmt.DUPLICATES}"
