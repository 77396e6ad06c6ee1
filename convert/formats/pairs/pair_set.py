"""A verification set of any source, read whole: what the sinks of pairs write."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facepack.convert.delivery import refuse
from facepack.convert.formats.pack.tables import lost_rows, require_pairs
from facepack.convert.result import Result
from facepack.convert.source import Refusal, Source
from facepack.errors import DecodeError, SourceError
from facepack.images import SUFFIXES
from facepack.store.checks import ImageCheck
from facepack.store.record import Buffer


@dataclass(frozen=True, kw_only=True, eq=False)
class PairSet:
    """Distinct images, and how pairs are made of them.

    Attributes:
        images: encoded, each once.
        suffixes: of each image's format, as ``.jpg``.
        uses: int64 (2P,); pair i are the images ``uses[2 * i]`` and ``uses[2 * i + 1]``.
        issame: bool (P,), whether both images of a pair show one person.
    """

    images: list[Buffer]
    suffixes: list[str]
    uses: np.ndarray
    issame: np.ndarray


def pair_table(
    positions: np.ndarray, uses: np.ndarray, issame: np.ndarray, name: str
) -> tuple[np.ndarray, list[str]]:
    """The table ``pairs`` of a set whose images were packed, and a notice of pairs that are lost.

    Args:
        positions: (n,) of each distinct image in the pack, -1 for those that were refused.
        uses: (2P,) distinct image of each place in the set.
        issame: (P,) whether both images of a pair show one person.
        name: what the notice calls the set.

    Returns:
        Unsigned integers (P', 3): positions of both images and 1 for the same person.

    Raises:
        NothingChosenError: no pair is left.
    """
    pairs = np.stack([positions[uses[0::2]], positions[uses[1::2]], issame], axis=1)
    whole = pairs.min(axis=1, initial=0) >= 0
    notices = []
    require_pairs(int(np.count_nonzero(whole)), len(whole))
    if not whole.all():
        lost = lost_rows("pairs", int(np.count_nonzero(~whole)), len(whole))
        notices.append(f"{name}: {lost}")
    narrow = np.min_scalar_type(max(len(positions) - 1, 1)).newbyteorder("<")
    return pairs[whole].astype(narrow), notices


def read_pair_set(source: Source, check: ImageCheck) -> PairSet:
    """Read the images and pairs of ``source``.

    Pairs keep their order, and so do their folds. An image that cannot be used is an error: in what
    is written from a pair set, pairs are numbered, and there is no room for a gap.

    Args:
        source: of content ``pairs``.
        check: what each image must pass.

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
    pairs = source.tables(np.arange(len(source)))["pairs"]
    return PairSet(
        images=images,
        suffixes=suffixes,
        uses=pairs[:, :2].astype(np.int64).ravel(),
        issame=pairs[:, 2].astype(bool),
    )


def pair_result(
    source: Source,
    out: Path,
    began: float,
    pairs: PairSet,
    *,
    payload_bytes: int,
    file_bytes: int,
) -> Result:
    """The result of a conversion that wrote ``pairs``; the other arguments are as in Result."""
    return Result(
        out=str(out),
        found=len(pairs.uses),
        packed=len(pairs.uses),
        quarantined=0,
        identities=0,
        classes=0,
        pairs=len(pairs.issame),
        shards=0,
        payload_bytes=payload_bytes,
        file_bytes=file_bytes,
        seconds=round(time.monotonic() - began, 3),
        notices=source.notices,
    )


def _unusable(refusal: Refusal) -> SourceError:
    name = refusal.ordinal if refusal.key is None else refusal.key
    return SourceError(
        f"{refusal.file}: image {name}: {refusal.reason}; {refusal.remedy}, or pack the set, which "
        "leaves out the pairs of this image, and convert the pack"
    )
