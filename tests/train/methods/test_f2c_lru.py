"""The pool's LRU beside a plain list, in random sequences of operations."""

from __future__ import annotations

import random

import pytest

from facepack.train.methods.f2c import LRU


class PlainLRU:
    """A list of (key, slot), the most recently used first; a trial is a copy of it."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held: list[tuple[int, int]] = []
        self.before: list[tuple[int, int]] | None = None

    def get(self, key: int) -> int:
        found = [pair for pair in self.held if pair[0] == key]
        if found:
            slot = found[0][1]
            self.held.remove(found[0])
        elif len(self.held) < self.capacity:
            slot = len(self.held)
        else:
            slot = self.held.pop()[1]
        self.held.insert(0, (key, slot))
        return slot

    def try_get(self, key: int) -> int:
        if self.before is None:
            self.before = list(self.held)
        return self.get(key)

    def rollback(self) -> None:
        if self.before is not None:
            self.held, self.before = self.before, None


@pytest.mark.parametrize("capacity", [1, 2, 5, 20])
@pytest.mark.parametrize("seed", range(6))
def test_every_operation_equals_that_of_a_plain_list(capacity: int, seed: int) -> None:
    draw = random.Random(f"{capacity} {seed}")
    lru, plain = LRU(capacity), PlainLRU(capacity)
    for _ in range(400):
        for _ in range(draw.randrange(12)):
            key = draw.randrange(2 * capacity + 3)
            assert lru.try_get(key) == plain.try_get(key)
            assert lru.state() == plain.held
            assert lru.keys() == [key for key, _ in plain.held]
            assert len(lru) == len(plain.held)
            other = draw.randrange(2 * capacity + 3)
            assert lru.view(other) == dict(plain.held).get(other)
            assert (other in lru) == (other in dict(plain.held))
        lru.rollback()
        plain.rollback()
        assert lru.state() == plain.held
        for _ in range(draw.randrange(4)):
            key = draw.randrange(2 * capacity + 3)
            assert lru.get(key) == plain.get(key)
        assert lru.state() == plain.held
        if draw.random() < 0.1:
            state = lru.state()
            lru = LRU(capacity)
            lru.restore(state)


def test_a_use_for_good_waits_for_the_end_of_a_trial() -> None:
    lru = LRU(2)
    lru.try_get(1)
    with pytest.raises(RuntimeError, match="roll them back"):
        lru.get(2)


@pytest.mark.parametrize("state", [[(1, 0), (1, 1)], [(1, 0), (2, 0)], [(1, 1)], [(1, 0), (2, 1)]])
def test_a_state_that_is_none_is_refused(state: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="slot"):
        LRU(1).restore(state)
