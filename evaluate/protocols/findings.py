"""How protocols tell what they found: shares with intervals, hardest pairs, what is undefined."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from facepack.evaluate.results.result import Figure, HardKind, HardPair
from facepack.evaluate.scores.intervals import bootstrap_interval, count_by_identity
from facepack.evaluate.scores.operating_point import far_text, unmeasurable

HARDEST = 50
"""Pairs that a result names of each kind: those that a page can show."""


def share_figure(hits: np.ndarray, whose: np.ndarray) -> Figure:
    """The share of hits, bool (n,), with its interval over the people ``whose`` (n,) they are."""
    if not len(hits):
        return Figure(value=None)
    interval = bootstrap_interval(*count_by_identity(hits, whose))
    return Figure(value=float(hits.mean()), interval=interval)


def hard_pairs(
    kind: HardKind,
    key: Callable[[int], str],
    first: np.ndarray,
    second: np.ndarray,
    scores: np.ndarray,
) -> list[HardPair]:
    """Pairs of positions (k,) and (k,), of which ``key`` tells the image, and their scores (k,)."""
    rows = zip(first.tolist(), second.tolist(), scores.tolist(), strict=True)
    return [HardPair(kind=kind, first=key(a), second=key(b), score=score) for a, b, score in rows]


def hardest_rows(scores: np.ndarray, same: np.ndarray) -> Iterator[tuple[HardKind, np.ndarray]]:
    """The rows of the different pairs of the highest scores, then of the same of the lowest.

    Of scores (P,), and bool (P,) for pairs of one person; ties are in the order of the rows.
    """
    kinds: tuple[tuple[HardKind, np.ndarray, int], ...] = (
        ("false accept", ~same, -1),
        ("false reject", same, 1),
    )
    for kind, of, sign in kinds:
        rows = np.flatnonzero(of)
        keys = sign * scores[rows]
        if len(rows) > HARDEST:  # a list may have 15 million; those that tie with the last stay
            near = keys <= np.partition(keys, HARDEST)[HARDEST]
            rows, keys = rows[near], keys[near]
        yield kind, rows[np.argsort(keys, kind="stable")[:HARDEST]]


def tar_notices(fars: Sequence[float], mates: int, impostors: int, who: str) -> list[str]:
    """What to say of pairs of one ``who`` and of two that leave TAR undefined, or unmeasured."""
    if not mates or not impostors:
        return [f"{mates:,} pairs of one {who} and {impostors:,} of two: TAR is undefined"]
    return unmeasured_notice(fars, impostors)


def unmeasured_notice(fars: Sequence[float], impostors: int, what: str = "impostors") -> list[str]:
    """What to say of FARs that so many impostors cannot measure; nothing where they can."""
    if low := unmeasurable(fars, impostors):
        return [
            f"{impostors:,} {what} cannot measure a FAR below {1 / impostors:.1e}: TAR at "
            f"{', '.join(map(far_text, low))} is that without a single false accept"
        ]
    return []
