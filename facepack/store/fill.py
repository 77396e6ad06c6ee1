"""Filling pages: a writer that may choose the order need not waste the end of each page.

Some six records of 5 KB go into a page of 32 KiB, and cutting them in order leaves half a record's
room free, 7–11 % of the file. From a window of the 32 oldest records, a page is made so that it is
nearly full: it takes the two oldest, so that no record waits for long, then for each possible count
k the records nearest to the average that is still needed, and last the pair that fits best.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque

import numpy as np

WINDOW = 32
_FULL = 256  # a page with less than this part of it left is full: no other try is made
_SHIFT = 32  # an entry is cost << 32 | record: integers compare faster than tuples


def fill_pages(costs: np.ndarray, room: int) -> tuple[np.ndarray, list[int]]:
    """Choose an order of records that fills pages of ``room`` usable bytes.

    ``costs`` (n,) are the bytes that each record takes, none more than ``room``.

    Returns:
        The order (an int64 permutation) and the index in it at which each page begins.
    """
    count = len(costs)
    entries = (costs.astype(np.int64) << _SHIFT | np.arange(count)).tolist()
    window: list[int] = []  # sorted: the candidates
    ages: deque[int] = deque()  # the same, oldest first; taken ones linger
    taken = bytearray(count)
    order: list[int] = []
    starts: list[int] = []
    mask = (1 << _SHIFT) - 1
    total = seen = 0

    while window or seen < count:
        for entry in entries[seen : seen + WINDOW - len(window)]:
            insort(window, entry)
            ages.append(entry)
            total += entry >> _SHIFT
            seen += 1
        starts.append(len(order))
        free = room
        for _ in range(2):
            while ages and taken[ages[0] & mask]:
                ages.popleft()
            if ages and ages[0] >> _SHIFT <= free:
                entry = ages.popleft()
                del window[bisect_left(window, entry)]
                order.append(entry & mask)
                cost = entry >> _SHIFT
                total -= cost
                free -= cost
        while window and window[0] >> _SHIFT <= free:
            wanted = free * len(window) // total
            left, chosen = _choose(window, free, wanted)
            if left > room // _FULL:
                left_more, more = _choose(window, free, wanted + 1)
                if left_more < left:
                    left, chosen = left_more, more
            if not chosen:
                chosen = [window[bisect_right(window, free << _SHIFT | mask) - 1]]
                left = free - (chosen[0] >> _SHIFT)
            for entry in chosen:
                del window[bisect_left(window, entry)]
                taken[entry & mask] = 1
                order.append(entry & mask)
            total -= free - left
            free = left
    return np.asarray(order, np.int64), starts


def _choose(window: list[int], free: int, k: int) -> tuple[int, list[int]]:
    """Pick about ``k`` entries of the sorted window that together come close to ``free``.

    Returns:
        The bytes that are left, and the entries; all of them and none where it cannot be done.
    """
    nothing: tuple[int, list[int]] = free, []
    if k < 1 or k > len(window):
        return nothing
    if k == 1:
        at = bisect_right(window, (free + 1) << _SHIFT) - 1
        return (free - (window[at] >> _SHIFT), [window[at]]) if at >= 0 else nothing
    # All but two are taken as near to the mean of what is left to fill as there are: that keeps the
    # sum on course, and leaves a choice of n² / 2 pairs to make up the rest.
    left = window.copy()
    chosen: list[int] = []
    for still in range(k, 2, -1):
        mean = free // still
        at = min(bisect_left(left, mean << _SHIFT), len(left) - 1)
        if at and mean - (left[at - 1] >> _SHIFT) < (left[at] >> _SHIFT) - mean:
            at -= 1
        entry = left.pop(at)
        free -= entry >> _SHIFT
        if free < 0:
            return nothing
        chosen.append(entry)
    # The pair that fits best, in n steps from both ends inward: where a pair is too large, its
    # larger one is so with all that are left; where it fits, its smaller one finds no better.
    sizes = [entry >> _SHIFT for entry in left]
    low, high = 0, len(left) - 1
    best, pair = -1, (0, 0)
    while low < high:
        both = sizes[low] + sizes[high]
        if both > free:
            high -= 1
        else:
            if both > best:
                best, pair = both, (low, high)
                if both == free:
                    break
            low += 1
    if best < 0:
        return nothing
    chosen += left[pair[0]], left[pair[1]]
    return free - best, chosen
