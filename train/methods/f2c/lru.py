"""Which identity holds which slot of a pool: the least recently used one gives way."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator


class LRU:
    """A map from keys to the slots 0 … capacity − 1, in the order of their last use.

    Uses can be tried: after :meth:`try_get` everything looks as after :meth:`get`, until
    :meth:`rollback` makes it as it was. Tried uses lie over the map and leave it alone, so that
    taking them back costs nothing, and each call costs the same whatever the capacity.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._slots: OrderedDict[int, int] = OrderedDict()  # the least recently used first
        self._tried: OrderedDict[int, int] = OrderedDict()  # those used on trial, over the others
        self._gone: set[int] = set()  # of the others, those that gave way on trial
        self._oldest: Iterator[int] = iter(())  # of the others, those that may still give way
        self._added = 0  # slots that were free before the trial

    def __len__(self) -> int:
        return len(self._slots) + self._added

    def __contains__(self, key: int) -> bool:
        return self.view(key) is not None

    def get(self, key: int) -> int:
        """The slot of ``key``, which becomes the most recently used.

        A key without one takes the next free slot, or that of the least recently used key.
        """
        if self._tried:
            raise RuntimeError("uses are on trial: roll them back before others are made for good")
        slot = self._slots.get(key)
        if slot is None:
            full = len(self._slots) == self.capacity
            slot = self._slots.popitem(last=False)[1] if full else len(self._slots)
            self._slots[key] = slot
        else:
            self._slots.move_to_end(key)
        return slot

    def try_get(self, key: int) -> int:
        """As :meth:`get`, until :meth:`rollback`."""
        if not self._tried:
            self._oldest = iter(self._slots)
        slot = self.view(key)
        if slot is None:
            slot = self._make_room()
        self._tried[key] = slot
        self._tried.move_to_end(key)
        return slot

    def _make_room(self) -> int:
        """A slot for a key that has none, on trial."""
        if len(self) < self.capacity:
            self._added += 1
            return len(self) - 1
        for key in self._oldest:
            if key not in self._tried and key not in self._gone:
                self._gone.add(key)
                return self._slots[key]
        key, slot = self._tried.popitem(last=False)
        self._gone.add(key)
        return slot

    def rollback(self) -> None:
        """Take back all uses on trial."""
        self._tried.clear()
        self._gone.clear()
        self._oldest, self._added = iter(()), 0

    def view(self, key: int) -> int | None:
        """The slot of ``key``, which stays as recently used as it is; None if it has none."""
        slot = self._tried.get(key)
        if slot is None and key not in self._gone:
            slot = self._slots.get(key)
        return slot

    def keys(self) -> list[int]:
        """All that hold a slot, the most recently used first."""
        lasting = (key for key in reversed(self._slots) if key not in self._tried)
        return [*reversed(self._tried), *(key for key in lasting if key not in self._gone)]

    def state(self) -> list[tuple[int, int]]:
        """Key and slot of each, the most recently used first."""
        return [(key, slot) for key in self.keys() if (slot := self.view(key)) is not None]

    def restore(self, state: Iterable[tuple[int, int]]) -> None:
        """Become what :meth:`state` was taken of, of the same capacity.

        Raises:
            ValueError: keys or slots come twice, or the slots are not the first of the capacity.
        """
        pairs = list(state)
        slots = OrderedDict(reversed(pairs))
        if len(slots) != len(pairs) or sorted(slots.values()) != list(range(len(pairs))):
            raise ValueError("the slots are not each held by one key")
        if len(pairs) > self.capacity:
            raise ValueError(f"{len(pairs)} keys hold slots of {self.capacity}")
        self.rollback()
        self._slots = slots
