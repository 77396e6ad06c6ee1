"""What a source passes over without a record of it: how many of each kind, and the first of them.

A count alone leaves the user to look for what it counts: the first name says where.
"""

from __future__ import annotations

from collections import Counter


class PassedOver:
    """Counts of what is passed over, by kind in words, and the name of each kind's first.

    The first is that whose name sorts first: folders give what they hold in no order.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._firsts: dict[str, str] = {}

    def add(self, kind: str, name: str, count: int = 1) -> None:
        """Count ``count`` more of ``kind``, of which ``name`` is the first."""
        self._counts[kind] += count
        self._firsts[kind] = min(name, self._firsts.get(kind, name))

    def add_all(self, other: PassedOver) -> None:
        """Count what ``other`` has counted, too."""
        for kind, count in other._counts.items():
            self.add(kind, other._firsts[kind], count)

    def total(self) -> int:
        """How many, of whatever kind."""
        return self._counts.total()

    def notices(self) -> list[str]:
        """A sentence of each kind, in the order of their words."""
        return [
            f"{count:,} {kind} were passed over, first {self._firsts[kind]!r}"
            for kind, count in sorted(self._counts.items())
        ]
