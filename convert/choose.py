"""Some records of a source: by identity, by images an identity, by chance, by list."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from facepack.convert.source import Group, PartView, Source, SourceView
from facepack.convert.spans import parts_of
from facepack.errors import ConfigError, NothingChosenError, SourceError
from facepack.hashing import hash64
from facepack.reading import read_text
from facepack.wording import count_of


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which records are taken; conditions are applied in the order of the attributes."""

    # names of records that are left out, and names of identities, which end in /
    exclude: frozenset[str] = frozenset()
    # "100", the 100 lowest labels; "100:200", labels from 100 to 199; or a file with a name or a
    # label of an identity a line. Where a name of the source is a number, numbers are names
    identities: str | None = None
    # below 1 the share, from 1 the number of images that are taken by chance
    sample: float | None = None
    min_images: int | None = None  # identities with fewer images are left out
    fewer_than: int | None = None  # identities with this many images or more are left out
    max_images: int | None = None  # of an identity, so many images are taken by chance
    seed: int = 0  # of chance

    def __post_init__(self) -> None:
        if self.sample is not None and not (
            0 < self.sample < 1
            or (math.isfinite(self.sample) and self.sample >= 1 and self.sample % 1 == 0)
        ):
            raise ConfigError(
                f"--sample {self.sample}: allowed are a share below 1 or a whole number of images"
            )

    def __str__(self) -> str:
        words = [
            f"{name.replace('_', ' ')}: {len(value) if name == 'exclude' else value}"
            for name, value in vars(self).items()
            if name != "seed" and value is not None and value != frozenset()
        ]
        return ", ".join(words)

    @property
    def is_by_identity(self) -> bool:
        """Whether it depends on who the images show."""
        conditions = (self.identities, self.min_images, self.fewer_than, self.max_images)
        return any(condition is not None for condition in conditions)

    @property
    def is_everything(self) -> bool:
        """Whether nothing is left out."""
        return replace(self, seed=0) == Choice()


def read_exclude_list(path: Path) -> frozenset[str]:
    """The names of a noise list: one a line, ``#`` begins a comment, tabs may stand before it.

    Raises:
        SourceError: the file cannot be read as text.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SourceError(f"{path}: cannot be read: {reason}; check the file") from error
    lines = (line.strip().rsplit("\t", 1)[-1] for line in text.splitlines())
    return frozenset(line for line in lines if line and not line.startswith("#"))


def choose(source: Source, choice: Choice) -> Source:
    """The records of ``source`` that ``choice`` takes, labels numbered anew without gaps.

    Raises:
        NothingChosenError: nothing is left, or no pair of a verification set; or none of the images
            has an identity that it could go by.
        SourceError: a part of the source cannot be read.
        ConfigError: a condition cannot be understood.
    """
    if choice.is_everything:
        return source
    labels, excluded, named = _look(source, choice.exclude)
    if choice.is_by_identity and not (labels >= 0).any():
        raise NothingChosenError(
            f"none of the {len(source):,} images has an identity, by which they would be chosen "
            f"({choice}): leave that out"
        )
    keep = ~excluded
    if choice.exclude:
        source.notices.append(
            f"{count_of(int(excluded.sum()), 'image is', 'images are')} left out by the "
            f"list of {count_of(len(choice.exclude), 'name')}"
            + (
                ""
                if named
                else ": images have no names in this source (keys of a .rec are none), so that "
                "only lines that name an identity and end in / count"
            )
        )
    if choice.identities is not None:
        keep &= np.isin(labels, _identities(source, labels, choice.identities))
    if choice.sample is not None:
        if choice.sample > (left := np.count_nonzero(keep)):
            source.notices.append(
                f"--sample {int(choice.sample)}: there are {left:,} images to draw from, and all "
                "are taken"
            )
        keep &= _sampled(keep, choice.sample, choice.seed)
    if choice.min_images is not None or choice.fewer_than is not None:
        images = _images_of(labels, keep)
        keep &= (images >= (choice.min_images or 0)) | (labels < 0)
        if choice.fewer_than is not None:
            keep &= (images < choice.fewer_than) & (labels >= 0)
    if choice.max_images is not None:
        keep &= _capped(labels, keep, choice.max_images, choice.seed)
    if not keep.any():
        raise NothingChosenError(
            f"none of the {len(source):,} images is left by the choice ({choice}): choose more "
            "loosely"
        )
    chosen = Chosen(source, np.flatnonzero(keep), labels, choice)
    if source.content == "pairs":
        notices = list(source.notices)
        chosen.tables(np.arange(len(chosen)))  # refuses if no pair is left, before all the work
        source.notices[:] = notices  # what it said is said again when the tables are written
    return chosen


def _look(source: Source, exclude: frozenset[str]) -> tuple[np.ndarray, np.ndarray, bool]:
    """The label of each record, int32 (n,); whether it is excluded, bool (n,); if any has a name.

    Names are looked at for a list alone.
    """
    named = False
    labels = np.empty(len(source), np.int32)
    excluded = np.zeros(len(source), bool)
    for part in parts_of(source):
        here = slice(part.start, part.stop)
        entries = list(part.entries())
        labels[here] = [entry.label for entry in entries]
        if exclude:
            named |= any(entry.name is not None for entry in entries)
            identities = part.identity_names()
            excluded[here] = [
                entry.name in exclude
                or (entry.label in identities and f"{identities[entry.label]}/" in exclude)
                for entry in entries
            ]
    return labels, excluded, named


def _identities(source: Source, labels: np.ndarray, wanted: str) -> np.ndarray:
    """The labels that ``--identities`` means."""
    present = np.unique(labels[labels >= 0])
    if match := re.fullmatch(r"(\d{0,9}):(\d{0,9})", wanted):
        low, high = (int(bound) if bound else None for bound in match.groups())
        if high is not None and high - 1 > present[-1]:
            source.notices.append(
                f"--identities {wanted}: the labels of the source end at {present[-1]}"
            )
        above = present[present >= (low or 0)]
        return above if high is None else above[above < high]
    if re.fullmatch(r"\d{1,9}", wanted):
        if int(wanted) > len(present):
            source.notices.append(
                f"--identities {wanted}: the source has {len(present):,}, and all are taken"
            )
        return present[: int(wanted)]
    if not os.path.lexists(wanted):  # that of a Path raises where the name is too long
        raise ConfigError(
            f"--identities {wanted}: allowed are a number such as 100, a range such as 100:200, or "
            "a file that lists identities; there is no such file"
        )
    lines = read_exclude_list(Path(wanted))
    named: dict[str, int] = {}
    for part in parts_of(source):
        named.update((name, label) for label, name in part.identity_names().items())
    if not any(name.isdecimal() for name in named):
        named |= {str(label): label for label in present.tolist()}
    there = set(present.tolist())
    found = {line: named[line] for line in lines if named.get(line) in there}
    missing = sorted(lines - found.keys())
    if missing:
        source.notices.append(
            f"{len(missing):,} of {len(lines):,} identities listed in {wanted} are not in the "
            f"source, first {missing[0]!r}"
        )
    return np.asarray(list(found.values()), np.int64)


def _chance(seed: int, count: int) -> np.ndarray:
    return hash64(seed, np.arange(count))


def _sampled(keep: np.ndarray, sample: float, seed: int) -> np.ndarray:
    chance = _chance(seed, len(keep))
    if sample < 1:
        return chance < np.uint64(sample * 2.0**64)
    chosen = np.zeros(len(keep), bool)
    candidates = np.flatnonzero(keep)
    chosen[candidates[np.argsort(chance[candidates], kind="stable")[: int(sample)]]] = True
    return chosen


def _images_of(labels: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """How many kept images the identity of each record has: (n,)."""
    # Labels are not counted by themselves: one of 2^31 would take the memory of as many.
    present, identity = np.unique(labels, return_inverse=True)
    return np.bincount(identity[keep], minlength=len(present))[identity]


def _capped(labels: np.ndarray, keep: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many of each identity's records; all of those without identity."""
    candidates = np.flatnonzero(keep & (labels >= 0))
    chance = _chance(seed, len(labels))[candidates]
    order = candidates[np.lexsort((chance, labels[candidates]))]
    firsts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(firsts, np.diff(np.append(firsts, len(order))))
    chosen = labels < 0
    chosen[order[rank < most]] = True
    return chosen


class Chosen(SourceView):
    """The records of ``source`` at the ordinals ``kept``, int64 (m,), ascending.

    ``labels`` are those of all its records, int32 (n,).
    """

    def __init__(
        self, source: Source, kept: np.ndarray, labels: np.ndarray, choice: Choice
    ) -> None:
        super().__init__(source)
        self._kept = kept
        self._labels = labels
        present = np.unique(labels[kept])
        self._present = present[present >= 0]  # which the new labels are places in
        self._choice = choice
        self.classes = len(self._present)

    def __len__(self) -> int:
        return len(self._kept)

    def describe(self) -> dict[str, Any]:
        """The source's description, the choice, and a hash of the records chosen."""
        choice = vars(self._choice) | {"exclude": len(self._choice.exclude)}
        if self._choice.identities is not None:
            choice["identities"] = Path(self._choice.identities).name
        return {
            **self.inner.describe(),
            "chosen": choice,
            "chosen_images": len(self),
            "chosen_xxh3_128": xxhash.xxh3_128_hexdigest(self._kept.astype("<i8").tobytes()),
        }

    def groups(self) -> list[Group]:
        """Those of the source of which anything is left."""
        groups = []
        for stem, first, last in self.inner.groups():
            start, stop = np.searchsorted(self._kept, [first, last]).tolist()
            if stop > start:
                groups.append(Group(stem, start, stop))
        return groups

    def sizes(self) -> np.ndarray:
        """Of the records chosen."""
        return self.inner.sizes()[self._kept]

    def part(self, start: int, stop: int) -> PartView:
        """The chosen records ``[start, stop)``."""
        kept = self._kept[start:stop]
        inner = self.inner.part(int(kept[0]), int(kept[-1]) + 1)
        present = np.unique(self._labels[kept])
        present = present[present >= 0]
        labels = np.searchsorted(self._present, present)
        return PartView(
            inner,
            start,
            kept - inner.start,
            dict(zip(present.tolist(), labels.tolist(), strict=True)),
        )

    def tables(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """The source's, for the records that are left."""
        everywhere = np.full(len(self.inner), -1, np.int64)
        everywhere[self._kept] = positions
        return self.inner.tables(everywhere)
