"""How the ranks of a run end together: what one of them meets, all are told before they go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import torch

from facepack.errors import FacepackError, TrainingError
from facepack.train.ranks.group import Ranks


class OtherRankError(TrainingError):
    """Another rank failed, and says so itself: carries its words."""


def tell(
    ranks: Ranks, numbers: Sequence[int] = (), *, error: Exception | None = None
) -> list[list[int]]:
    """Collective: give the other ranks ``numbers``, or word of an ``error``.

    Returns:
        The numbers of each rank, in order, if none has failed.

    Raises:
        Exception: ``error`` itself, on the first rank that has one.
        OtherRankError: on all other ranks then.
    """
    if ranks.world == 1:
        if error is not None:
            raise error
        return [list(numbers)]
    own = torch.tensor([[int(error is not None), *numbers]], dtype=torch.int64)
    told = ranks.all_gather(own).tolist()
    failed = [rank for rank, (has_failed, *_) in enumerate(told) if has_failed]
    if not failed:
        return [row[1:] for row in told]
    words = ranks.gather_objects(None if error is None else _words(error))[failed[0]]
    if error is not None and failed[0] == ranks.rank:
        raise error
    raise OtherRankError(f"rank {failed[0]} of {ranks.world} failed: {words}") from error


@contextmanager
def together(ranks: Ranks) -> Iterator[None]:
    """Collective: what fails in the block on one rank fails on all, after it, as in :func:`tell`.

    The block must hold nothing collective: a rank that fails earlier would leave the others in it.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        if ranks.world == 1:
            raise
        error = caught
    tell(ranks, error=error)


def fail_together(ranks: Ranks, text: str) -> NoReturn:
    """Raise what every rank has found: in words on the first alone.

    Raises:
        TrainingError: on the first.
        OtherRankError: on the others.
    """
    raise TrainingError(text) if ranks.is_first else OtherRankError(text)


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, FacepackError) else f"{type(error).__name__}: {error}"
