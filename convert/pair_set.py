"""A verification set of any source, read whole: what the sinks of pairs write."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facepack.checks import ImageCheck
from facepack.convert.source import Refusal, Source
from facepack.errors import DecodeError, SourceError
from facepack.images import SUFFIXES
from facepack.lmdbfile import Buffer


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
                raise _unusable(part.refuse(record, str(error))) from error
            images.append(image)
            suffixes.append(SUFFIXES[header.format])
    pairs = source.tables(np.arange(len(source)))["pairs"]
    return PairSet(
        images=images,
        suffixes=suffixes,
        uses=pairs[:, :2].astype(np.int64).ravel(),
        issame=pairs[:, 2].astype(bool),
    )


def _unusable(refusal: Refusal) -> SourceError:
    name = refusal.ordinal if refusal.key is None else refusal.key
    return SourceError(
        f"{refusal.file}: image {name}: {refusal.reason}; {refusal.remedy}, or pack the set, which "
        "leaves out the pairs of this image, and convert the pack"
    )
