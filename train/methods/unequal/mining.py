"""Bags of tail identities, and the hard ones among them: those that look like one another.

What a bag holds is a pure function of seed and number, so that nothing of it need be kept. The
distances of a bag are the only large thing in memory: 1,200 identities take 12 MB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facepack.errors import TrainingError
from facepack.hashing import derive_seed, hash64

_FOR_IDENTITIES, _FOR_IMAGES = 0, 1
_FIRST_PAIRS = 8  # for each identity that is wanted, looked at first


@dataclass(frozen=True)
class Bags:
    """The bags of identities of a tail, one after the other without end.

    In each pass over the tail every identity is in one bag, but those that are left over behind the
    last whole one; the next pass has another order, and draws other images.

    Raises:
        TrainingError: fewer than two identities can be in a bag.
    """

    labels: np.ndarray  # of the tail's records: int64 (n,); -1 is no identity
    identities: int  # in a bag; fewer where the tail has fewer
    images: int  # of each identity
    repeat: bool  # identities with fewer are in, their images repeated; else they are left out
    seed: int  # of the order and of the images

    def __post_init__(self) -> None:
        order = np.argsort(self.labels, kind="stable")
        order = order[np.searchsorted(self.labels[order], 0) :]  # behind those without identity
        starts = np.flatnonzero(np.diff(self.labels[order], prepend=-1))
        counts = np.diff(np.append(starts, len(order)))
        usable = counts >= (1 if self.repeat else self.images)
        object.__setattr__(self, "_order", order)
        object.__setattr__(self, "_starts", starts[usable])
        object.__setattr__(self, "_counts", counts[usable])
        if usable.sum() < 2:
            raise TrainingError(
                f"the tail has {usable.sum()} identities with at least {self.images} images, and "
                "at least 2 are needed to tell apart: lower images_per_identity, or take those "
                "with fewer by repeat_images = true"
            )

    @property
    def usable(self) -> int:
        """How many identities are in bags."""
        return len(self._starts)  # type: ignore[attr-defined]

    @property
    def size(self) -> int:
        """Identities in a bag."""
        return min(self.identities, self.usable)

    def positions(self, number: int) -> np.ndarray:
        """Where the images of bag ``number`` lie: int64 (size, images), positions in the tail."""
        turn, place = divmod(number, self.usable // self.size)
        key = derive_seed(self.seed, _FOR_IDENTITIES, turn)
        order = np.argsort(hash64(key, np.arange(self.usable)), kind="stable")
        chosen = order[place * self.size : (place + 1) * self.size]
        return np.stack([self._draw(turn, identity) for identity in chosen.tolist()])

    def _draw(self, turn: int, identity: int) -> np.ndarray:
        """So many images of an identity, different ones as far as it has them."""
        start = self._starts[identity]  # type: ignore[attr-defined]
        count = int(self._counts[identity])  # type: ignore[attr-defined]
        key = derive_seed(self.seed, _FOR_IMAGES, turn, identity)
        order = np.argsort(hash64(key, np.arange(count)), kind="stable")
        drawn = order[np.arange(self.images) % count]
        return self._order[start + drawn]  # type: ignore[attr-defined]


def hardest_identities(embeddings: np.ndarray, count: int) -> np.ndarray:
    """The identities of the closest pairs of centres, in the order of their pairs.

    A centre is the mean of an identity's unit embeddings, which is not made unit length again: its
    length says how alike the images are, as in the released code. Pairs are taken by ascending
    squared distance, each adding those of its two identities that are new, until there are
    ``count``, at most I; of a pair that would add one too many, the second is left out.

    Of embeddings (I, K, F) float32, of norm 1; int64 (count,), indices into the first axis.
    """
    centres = embeddings.astype(np.float64).mean(1)
    squares = (centres**2).sum(1)
    first, second = np.triu_indices(len(centres), 1)
    distances = (squares[:, None] + squares - 2.0 * centres @ centres.T)[first, second]
    near = _FIRST_PAIRS * count
    while True:
        order = _nearest(distances, near)
        flat = np.stack([first[order], second[order]], 1).ravel()
        # Each identity stands where it comes first.
        identities, places = np.unique(flat, return_index=True)
        if len(identities) >= count or len(order) == len(distances):
            return identities[np.argsort(places)][:count].astype(np.int64)
        near *= 4


def choose_identities(embeddings: np.ndarray, count: int) -> np.ndarray:
    """The hardest identities of a bag, of which some images may be missing.

    As :func:`hardest_identities`; the embeddings of missing images are NaN. Identities with one are
    not compared; they come last, and only where the others are too few.
    """
    whole = np.flatnonzero(~np.isnan(embeddings).any((1, 2)))
    hard = whole[hardest_identities(embeddings[whole], min(count, len(whole)))]
    others = np.setdiff1d(np.arange(len(embeddings)), hard)
    return np.concatenate([hard, others])[:count]


def _nearest(distances: np.ndarray, count: int) -> np.ndarray:
    """The indices of the smallest, and of all that equal the last, as a stable sort has them.

    To sort all pairs of a bag takes longer than everything else.
    """
    if count >= len(distances):
        return np.argsort(distances, kind="stable")
    last = np.partition(distances, count - 1)[count - 1]
    candidates = np.flatnonzero(distances <= last)
    return candidates[np.argsort(distances[candidates], kind="stable")]
