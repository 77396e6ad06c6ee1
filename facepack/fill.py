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


def fill_pages(costs: np.ndarray, room: int) -> tuple[np.ndarray, list[int]]:
    """Choose an order that fills pages.

    Args:
        costs: bytes of a page that each record takes; none more than ``room``.
        room: usable bytes of a page.

    Returns:
        The order (an int64 permutation) and the place in it at which each page begins.
    """
    count = len(costs)
    pending = deque(enumerate(costs.tolist()))
    window: list[tuple[int, int]] = []  # (cost, record), sorted: the candidates
    ages: deque[tuple[int, int]] = deque()  # the same, oldest first; taken ones linger
    taken = bytearray(count)
    order: list[int] = []
    starts: list[int] = []
    total = 0

    def take(entry: tuple[int, int]) -> None:
        nonlocal total
        del window[bisect_left(window, entry)]
        taken[entry[1]] = 1
        total -= entry[0]
        order.append(entry[1])

    def oldest() -> tuple[int, int]:
        while taken[ages[0][1]]:
            ages.popleft()
        return ages[0]

    while window or pending:
        while pending and len(window) < WINDOW:
            record, cost = pending.popleft()
            insort(window, (cost, record))
            ages.append((cost, record))
            total += cost
        starts.append(len(order))
        free = room
        for _ in range(2):
            if window and oldest()[0] <= free:
                entry = oldest()
                take(entry)
                free -= entry[0]
        while window and window[0][0] <= free:
            wanted = free * len(window) // total
            chosen: list[tuple[int, int]] = []
            for k in (wanted, wanted + 1):
                trial = _choose(window, free, k)
                if sum(cost for cost, _ in trial) > sum(cost for cost, _ in chosen):
                    chosen = trial
            if not chosen:
                chosen = [window[bisect_right(window, (free, count)) - 1]]
            for entry in chosen:
                take(entry)
                free -= entry[0]
    return np.asarray(order, np.int64), starts


def _choose(window: list[tuple[int, int]], free: int, k: int) -> list[tuple[int, int]]:
    """Pick about ``k`` entries of the sorted window that together come close to ``free``."""
    if k < 1 or k > len(window):
        return []
    left = list(window)
    chosen: list[tuple[int, int]] = []
    for still in range(k, 2, -1):
        at = min(bisect_left(left, (free // still, -1)), len(left) - 1)
        if at and free // still - left[at - 1][0] < left[at][0] - free // still:
            at -= 1
        entry = left.pop(at)
        if entry[0] > free:
            return []
        chosen.append(entry)
        free -= entry[0]
    if k == 1:
        at = bisect_right(left, (free, 1 << 62)) - 1
        return [left[at]] if at >= 0 else []
    best, pair = -1, None
    low, high = 0, len(left) - 1
    while low < high:
        both = left[low][0] + left[high][0]
        if both > free:
            high -= 1
        else:
            if both > best:
                best, pair = both, (left[low], left[high])
                if both == free:
                    break
            low += 1
    if pair is None:
        return []
    chosen.extend(pair)
    return chosen
