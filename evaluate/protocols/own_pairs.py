"""Pairs of one's own: ten folds or those of the list, and results by group."""

from __future__ import annotations

from collections import Counter

import numpy as np

from facepack.convert.formats.pair_list.pair_list import PairList
from facepack.errors import EvaluationError
from facepack.evaluate.protocols.listed_pairs import locate_pairs
from facepack.evaluate.protocols.verification import PairVerification
from facepack.evaluate.sets.named_images import NamedImages


class OwnPairs(PairVerification):
    """Verification of a user's own list of pairs by name.

    ``group`` is the column whose texts are groups; None takes the only one, if there is one alone.

    Raises:
        EvaluationError: of no pair both images are there, or there is no such column, or several
            and none is named.
    """

    def __init__(
        self, images: NamedImages, listed: PairList, *, target: str, group: str | None = None
    ) -> None:
        self.target = target
        found = locate_pairs(images, listed, target=target)
        self.faces = found.faces
        self._pairs, self._issame = found.pairs, listed.issame[found.kept]
        self._folds = None if listed.folds is None else listed.folds[found.kept]
        self._notices = [*found.notices, *_oddities(found.pairs, self._issame)]
        texts = _column(listed, group, target)
        if texts is not None:
            kept = np.array(texts)[found.kept]
            self._groups = {name: kept == name for name in sorted(set(texts) - {""})}
            if alone := np.count_nonzero(kept == ""):
                self._notices.append(f"{alone:,} pairs are in no group: counted among all alone")


def _column(listed: PairList, name: str | None, target: str) -> list[str] | None:
    if name is None and len(listed.columns) > 1:
        raise EvaluationError(
            f"{target} has several columns of groups: choose one with --group "
            f"{' or '.join(listed.columns)}"
        )
    if name is not None and name not in listed.columns:
        raise EvaluationError(
            f"{target} has no column {name!r}; of groups it has "
            f"{', '.join(listed.columns) or 'none'}"
        )
    return next(iter(listed.columns.values()), None) if name is None else listed.columns[name]


def _oddities(pairs: np.ndarray, issame: np.ndarray) -> list[str]:
    """What a list of pairs should not hold, and is counted as it stands."""
    notices = []
    if itself := np.count_nonzero(pairs[:, 0] == pairs[:, 1]):
        notices.append(f"{itself:,} pairs are of an image with itself")
    rows = zip(np.sort(pairs, axis=1).tolist(), issame.tolist(), strict=True)
    truths = Counter((first, second, same) for (first, second), same in rows)
    if again := sum(count - 1 for count in truths.values()):
        notices.append(f"{again:,} pairs are listed again: each counts as often as it is listed")
    both = sum((first, second, not same) in truths for first, second, same in truths) // 2
    if both:
        notices.append(f"{both:,} pairs are listed as same and as different ones: correct the list")
    return notices
