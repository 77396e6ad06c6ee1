"""Images by identity: an index of a pack's labels, and seeded pairs of images from it.

F2C (Wang et al., "An Efficient Training Approach for Very Large Scale Face Recognition", CVPR
2022, section 3) calls what draws them its identity loader.
"""

from __future__ import annotations

import numpy as np

from facepack.errors import ConfigError
from facepack.hashing import derive_seed, hash64
from facepack.loading.order import Permutation

# Separate the uses of one seed; order.py has 1 and 2, blocks.py 3 to 5.
_IDENTITIES = 7
_FIRST = 8
_SECOND = 9
_KEYS = 10

# Labels that are sorted at once: their memory is all that building needs beside the index.
_PIECE = 1 << 20
_PIECE_BITS = np.uint64(20)


class IdentityIndex:
    """The positions of each identity, of a pack of any order: its labels, sorted by counting.

    It is made from the labels, integers (N,), of which negative ones are no identity, each time a
    loader with pairs is made, and kept in memory only: 4 bytes an image (8 from 2³² images on) and
    16 an identity.

    Raises:
        ConfigError: no label is an identity.
    """

    def __init__(self, labels: np.ndarray) -> None:
        counts = _count(labels)
        self.labels = np.flatnonzero(counts)  # int64, of identities that have an image, ascending
        self.identities = len(self.labels)  # how many
        if not self.identities:
            raise ConfigError(
                f"pairs need identities, and none of the {len(labels)} images has one (label -1)"
            )
        ends = np.cumsum(counts)
        self._starts = np.append(0, ends[self.labels])
        kind = np.uint32 if len(labels) <= 1 << 32 else np.int64
        self._positions = np.empty(ends[-1], kind)
        self._fill(labels, ends - counts)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        return self._positions.nbytes + self._starts.nbytes + self.labels.nbytes

    def counts(self, ranks: np.ndarray) -> np.ndarray:
        """How many images identities have: int64, for places in :attr:`labels`."""
        return self._starts[ranks + 1] - self._starts[ranks]

    def position(self, ranks: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Positions (int64) of the images with numbers ``images``, in the order of the pack."""
        return self._positions[self._starts[ranks] + images].astype(np.int64)

    def _fill(self, labels: np.ndarray, free: np.ndarray) -> None:
        """Put every position where its label's next one belongs: ``free``, which moves on."""
        mask = np.uint64((1 << int(_PIECE_BITS)) - 1)
        for start in range(0, len(labels), _PIECE):
            piece = labels[start : start + _PIECE]
            offsets = np.flatnonzero(piece >= 0).astype(np.uint64)
            # Label and offset in one number: sorting those is several times faster than argsort.
            both = (piece[offsets].astype(np.uint64) << _PIECE_BITS) | offsets
            both.sort()
            sorted_labels = (both >> _PIECE_BITS).astype(np.int64)
            firsts = np.flatnonzero(np.diff(sorted_labels, prepend=-1))
            lengths = np.diff(firsts, append=len(both))
            own = sorted_labels[firsts]
            places = np.arange(len(both)) + np.repeat(free[own] - firsts, lengths)
            self._positions[places] = (both & mask).astype(np.int64) + start
            free[own] += lengths


def _count(labels: np.ndarray) -> np.ndarray:
    """How many images each label has, int64 (greatest label + 1,)."""
    counts = np.zeros(int(labels.max(initial=-1)) + 1, np.int64)
    for start in range(0, len(labels), _PIECE):
        piece = labels[start : start + _PIECE]
        counts += np.bincount(piece[piece >= 0], minlength=len(counts))
    return counts


class Pairs:
    """Pairs of images of one identity, one after the other without end.

    Entry e belongs to identity epoch e // identities, in which every identity comes once, in an
    order of its own. Which two of its images come, and in which order, is drawn by (seed, identity
    epoch, identity): two different ones, all such pairs alike; the same twice where there is one.
    """

    def __init__(self, index: IdentityIndex, seed: int) -> None:
        self._index = index
        self._seed = seed

    def at(self, entries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pairs at ``entries``: positions, and keys to draw flips and changes by.

        Both are int64 (n, 2). The keys of both images of a pair differ, also where it is one image
        twice, and those of an image differ from epoch to epoch.
        """
        epochs, places = np.divmod(entries, self._index.identities)
        positions = np.empty((len(entries), 2), np.int64)
        keys = np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            positions[here] = self._draw(epoch, places[here])
            for which in range(2):
                key = derive_seed(self._seed, _KEYS, epoch, which)
                keys[here, which] = hash64(key, positions[here, which]).view(np.int64)
        return positions, keys

    def _draw(self, epoch: int, places: np.ndarray) -> np.ndarray:
        index = self._index
        order = Permutation(index.identities, self._seed, _IDENTITIES, epoch)
        ranks = order.at(places)
        labels = index.labels[ranks]
        counts = index.counts(ranks).astype(np.uint64)
        first = hash64(derive_seed(self._seed, _FIRST, epoch), labels) % counts
        others = np.maximum(counts, np.uint64(2)) - np.uint64(1)
        step = hash64(derive_seed(self._seed, _SECOND, epoch), labels) % others + np.uint64(1)
        second = (first + step) % counts
        return np.stack(
            [index.position(ranks, image.astype(np.int64)) for image in (first, second)], axis=1
        )
