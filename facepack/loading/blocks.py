"""The order ``blocks``: what a pack larger than memory is read in, at the speed of its disk.

A pure function of (seed, epoch, shape) like every order: nothing is stored, any entry of any epoch
is found directly, and so are the runs that a window reads.
"""

from __future__ import annotations

import numpy as np

from facepack.hashing import derive_seed, hash64
from facepack.loading.order import BlockShape, Permutation

# Separate the uses of one seed; order.py has 1 and 2.
_SHIFT = 3
_RUNS = 4
_INSIDE = 5


class Blocks:
    """The order ``blocks``: runs of consecutive records, shuffled in windows, one for each epoch.

    The pack is turned by a drawn number of records, as a ring, and cut into runs; the runs are
    permuted over the whole pack; so many of them at a time are a window, whose records are
    permuted. The records left behind the last full run belong to the last window. The turn draws
    other runs, and other left-over records, in each epoch. All is computed: a window is found
    directly, and reads only its own runs.
    """

    def __init__(self, seed: int, epoch: int, records: int, shape: BlockShape) -> None:
        self.records = records
        self._run = shape.run
        self._full = records // shape.run  # runs
        self._windows = max(1, -(-self._full // shape.window))
        # Windows of equal size but for one run: a short last one would be badly shuffled.
        self._least, self._larger = divmod(self._full, self._windows)
        self._shift = hash64(derive_seed(seed, _SHIFT, epoch), 0) % records
        self._order = Permutation(self._full, seed, _RUNS, epoch)
        self._key = derive_seed(seed, _INSIDE, epoch)

    @property
    def windows(self) -> int:
        """Windows in the epoch."""
        return self._windows

    def window_of(self, entry: int) -> int:
        """The window that holds an entry of the epoch."""
        slot = min(entry // self._run, max(self._full - 1, 0))
        boundary = self._larger * (self._least + 1)
        if slot < boundary:
            return slot // (self._least + 1)
        return self._larger + (slot - boundary) // max(self._least, 1)

    def at(self, entries: np.ndarray) -> np.ndarray:
        """Return the positions of the records that come at ``entries`` (0 ≤ entry < records)."""
        entries = entries.astype(np.int64)
        positions = np.empty_like(entries)
        waiting = np.ones(len(entries), bool)
        while waiting.any():
            window = self.window_of(int(entries[waiting.argmax()]))
            start, stop = self._entries(window)
            here = (entries >= start) & (entries < stop)
            inside = Permutation(stop - start, self._key, window).at(entries[here] - start)
            slots, within = np.divmod(start + inside, self._run)
            full = slots < self._full
            slots[full] = self._order.at(slots[full])
            positions[here] = (slots * self._run + within + self._shift) % self.records
            waiting &= ~here
        return positions

    def stretches(self, window: int) -> np.ndarray:
        """Where a window's records lie: int64 (n, 2), in the order of the pack."""
        first, last = self._slots(window)
        starts = self._order.at(np.arange(first, last)) * self._run
        lengths = np.full(len(starts), self._run)
        if window == self._windows - 1 and self.records % self._run:
            starts = np.append(starts, self._full * self._run)
            lengths = np.append(lengths, self.records % self._run)
        starts = (starts + self._shift) % self.records
        stops = starts + lengths
        wrapped = stops > self.records  # over the ring's seam: two stretches
        starts = np.concatenate([starts, np.zeros(wrapped.sum(), np.int64)])
        stops = np.concatenate([np.minimum(stops, self.records), stops[wrapped] - self.records])
        ordered = np.argsort(starts)
        return np.stack([starts[ordered], stops[ordered]], axis=1)

    def _slots(self, window: int) -> tuple[int, int]:
        """The window's slots among the permuted runs."""
        first = window * self._least + min(window, self._larger)
        return first, first + self._least + (window < self._larger)

    def _entries(self, window: int) -> tuple[int, int]:
        """The window's entries of the epoch."""
        first, last = self._slots(window)
        return first * self._run, (
            self.records if window == self._windows - 1 else last * self._run
        )
