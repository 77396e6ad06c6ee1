"""Verification sets: what their sources have in common, and what the sinks of pairs write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xxhash

from facepack.convert.delivery import refuse
from facepack.convert.formats.pack.tables import lost_rows, require_pairs
from facepack.convert.source import Entry, OwnPart, Refusal, Source
from facepack.errors import DecodeError, SourceError
from facepack.images import SUFFIXES
from facepack.store.checks import ImageCheck
from facepack.store.format import NO_IDENTITY
from facepack.store.record import Buffer, SourceRecord


@dataclass(frozen=True, kw_only=True, eq=False)
class PairSet:
    """Distinct images, and how pairs are made of them."""

    images: list[Buffer]  # encoded, each once
    suffixes: list[str]  # of each image's format, as .jpg
    names: list[str | None]  # of each image in the source
    uses: np.ndarray  # int64 (2P,); pair i are the images uses[2 * i] and uses[2 * i + 1]
    issame: np.ndarray  # bool (P,), whether both images of a pair show one person

    def counts(self) -> dict[str, int]:
        """How many images and pairs were written, as a result has it."""
        return {"packed": len(self.uses), "pairs": len(self.issame)}


class PairSource(Source):
    """A verification set: its distinct images, in the order of their first use, and its pairs.

    Verification sets repeat images (lfw.bin has 7,701 different ones among 12,000); each is stored,
    and embedded, once. ``issame`` (P,) says whether both images of a pair show one person.
    """

    content = "pairs"
    table_names = ("pairs",)
    # (P,) the fold of each pair; None for ten in order, as the field cuts them
    folds: np.ndarray | None = None

    def __init__(self, name: str, issame: np.ndarray) -> None:
        self._name = name
        self.issame = issame  # bool (P,)
        # int64 (2P,), the distinct image that each image of the set is
        self.uses = np.zeros(2 * len(issame), np.int64)
        self.notices: list[str] = []

    def _find_first_uses(self, images: Iterable[Buffer]) -> list[int]:
        """Note which of the 2P ``images`` are the same; returns the number of each first one."""
        distinct: dict[bytes, int] = {}
        first: list[int] = []
        digest = xxhash.xxh3_128()
        for number, image in enumerate(images):
            own = xxhash.xxh3_128_digest(image)
            digest.update(own)
            use = self.uses[number] = distinct.setdefault(own, len(first))
            if use == len(first):
                first.append(number)
        self._digest = digest.hexdigest()
        return first

    def describe(self) -> dict[str, Any]:
        """Number of pairs, and a hash of all images and one of the flags."""
        return {
            "pairs": len(self.issame),
            "content_xxh3_128": self._digest,
            "issame_xxh3_128": xxhash.xxh3_128_hexdigest(self.issame.tobytes()),
        }

    def tables(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """``pairs``: unsigned integers (P', 3), positions of both images and 1 for one person.

        Of a set with folds of its own they are (P', 4), the last the fold.

        Pairs of refused images are left out, with a notice.

        Raises:
            NothingChosenError: no pair is left.
        """
        uses = positions[self.uses]
        columns = [uses[0::2], uses[1::2], self.issame]
        pairs = np.stack(columns if self.folds is None else [*columns, self.folds], axis=1)
        usable = pairs.min(axis=1, initial=0) >= 0
        kept = int(np.count_nonzero(usable))
        require_pairs(kept, len(usable))
        if kept < len(usable):
            lost = lost_rows("pairs", len(usable) - kept, len(usable))
            self.notices.append(f"{self._name}: {lost}")
        largest = max(len(positions) - 1, 1 if self.folds is None else int(self.folds.max()))
        narrow = np.min_scalar_type(max(largest, 1)).newbyteorder("<")
        return {"pairs": pairs[usable].astype(narrow)}


Held = Buffer | Refusal  # an image in memory; or, under the ordinal 0 and no key, why there is none


class HeldPart(OwnPart):
    """Some distinct images of a verification set that lie in memory; they have no identity.

    Args:
        start: ordinal of the first.
        file: what refusals call the set.
        images: what is held of each.
        keys: what refusals call each.
        names: of the records; None where they have none.
    """

    remedy = "fetch the set again; the pairs of this image are left out"

    def __init__(
        self,
        start: int,
        file: str,
        images: Sequence[Held],
        keys: Sequence[str],
        names: Sequence[str | None],
    ) -> None:
        self.start, self.stop = start, start + len(images)
        self._file, self._images, self._keys, self._names = file, images, keys, names

    def read(self, keep: np.ndarray | None = None) -> Iterator[SourceRecord | Refusal]:
        """The images."""
        for row, (image, name) in enumerate(zip(self._images, self._names, strict=True)):
            if keep is not None and not keep[row]:
                continue
            if isinstance(image, Refusal):
                yield replace(image, ordinal=self.start + row, key=self._keys[row])
            else:
                yield SourceRecord(self.start + row, image, NO_IDENTITY, name)

    def entries(self) -> Iterator[Entry]:
        """The name of each."""
        return (Entry(NO_IDENTITY, name) for name in self._names)

    def _refuse(self, row: int, name: str | None, reason: str, remedy: str) -> Refusal:
        return Refusal(self.start + row, self._file, None, self._keys[row], reason, remedy)


def held_sizes(images: Sequence[Held]) -> np.ndarray:
    """Bytes of each image, 0 where there is none: uint32 (n,)."""
    sizes = (0 if isinstance(image, Refusal) else len(image) for image in images)
    return np.fromiter(sizes, np.uint32, len(images))


def read_pair_set(source: Source, check: ImageCheck) -> PairSet:
    """Read the images and pairs of ``source``.

    Pairs keep their order, and so do their folds. An image that cannot be used is an error: in what
    is written from a pair set, pairs are numbered, and there is no room for a gap.

    Raises:
        SourceError: the source is no verification set, or an image of it cannot be used.
    """
    if source.content != "pairs":
        raise SourceError(
            f"the source holds no pairs (but {source.content}), and pairs are what is written: "
            "choose img or rec as the target"
        )
    images: list[Buffer] = []
    suffixes: list[str] = []
    names: list[str | None] = []
    for _, start, stop in source.groups():
        part = source.part(start, stop)
        for record in part.read():
            if isinstance(record, Refusal):
                raise _unusable(record)
            try:
                image, header = check.look(record.image)
            except DecodeError as error:
                raise _unusable(refuse(part, record, error)) from error
            images.append(image)
            suffixes.append(SUFFIXES[header.format])
            names.append(record.name)
    pairs = source.tables(np.arange(len(source)))["pairs"]
    if pairs.shape[1] == 4:
        source.notices.append(
            "the set's own folds are not written: whoever reads pairs without folds cuts ten in "
            "order; a pack keeps them"
        )
    return PairSet(
        images=images,
        suffixes=suffixes,
        names=names,
        uses=pairs[:, :2].astype(np.int64).ravel(),
        issame=pairs[:, 2].astype(bool),
    )


def _unusable(refusal: Refusal) -> SourceError:
    name = refusal.ordinal if refusal.key is None else refusal.key
    return SourceError(
        f"{refusal.file}: image {name}: {refusal.reason}; {refusal.remedy}, or pack the set, which "
        "leaves out the pairs of this image, and convert the pack"
    )
