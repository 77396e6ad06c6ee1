"""The dynamic class pool: K slots of two rows each, features of the identities lately met."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from facepack.hashing import derive_seed
from facepack.train.methods.f2c.lru import LRU

_SLOTS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Written:
    """What a pass of gallery features has made of the pool."""

    again: list[int]
    """H: the slots whose identity was in the pool when a feature came."""
    hits: int
    """Features whose identity was in the pool."""
    evicted: int
    """Identities that gave way."""


class Pool:
    """Features of up to K identities, and which identity has which slot.

    A feature of an identity that has no slot goes to row 0 of the one that it is given, of one that
    has, to the row that was not written last; the two rows then are features of two images. All
    ranks make the same changes to pools of their own. The first rows, keyed by ``seed``, are
    uniform in [0, 1), normalised, as released.

    Attributes:
        rows: 2×K×F, each of norm 1.
        lru: identity → slot.
    """

    def __init__(
        self,
        slots: int,
        features: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        self.rows = torch.empty(2, slots, features, dtype=dtype, device=device)
        self.lru = LRU(slots)
        self._next_row = [0] * slots
        generator = torch.Generator().manual_seed(derive_seed(seed))
        for start in range(0, slots, _SLOTS_AT_ONCE):
            part = self.rows[:, start : start + _SLOTS_AT_ONCE]
            part.copy_(F.normalize(torch.rand(part.shape, generator=generator), dim=2))

    def write(self, features: Tensor, identities: Sequence[int]) -> Written:
        """Take in the features (n×F, of norm 1) of ``identities`` (n,), in their order."""
        places, written = self._place(identities, self.lru.get, self._next_row)
        slots, rows, last = self._last_writes(places)
        self.rows[rows, slots] = features[last]
        return written

    @contextmanager
    def trying(self, features: Tensor, identities: Sequence[int]) -> Iterator[Written]:
        """As :meth:`write` within the block; after it all is as it was, bit for bit.

        The backward pass belongs into the block too: it reads the rows.
        """
        # A copy that holds what the trial changes alone: it may be large, what is tried is not.
        next_row = _Overlay(self._next_row)
        places, written = self._place(identities, self.lru.try_get, next_row)
        slots, rows, last = self._last_writes(places)
        before = self.rows[rows, slots]
        self.rows[rows, slots] = features[last]
        try:
            yield written
        finally:
            self.rows[rows, slots] = before
            self.lru.rollback()

    def _place(
        self, identities: Sequence[int], use: Any, next_row: Any
    ) -> tuple[list[tuple[int, int]], Written]:
        """The slot and row that each feature goes to."""
        places = []
        again: dict[int, None] = {}
        hits, held = 0, len(self.lru)
        for identity in identities:
            is_known = identity in self.lru
            slot = use(identity)
            row = next_row[slot] if is_known else 0
            next_row[slot] = 1 - row
            places.append((slot, row))
            if is_known:
                again[slot] = None
                hits += 1
        evicted = len(places) - hits - (len(self.lru) - held)
        return places, Written(list(again), hits, evicted)

    def _last_writes(self, places: list[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Slots and rows without repetition, and which feature is the last that goes there.

        Several writes to one place are done in no certain order where threads share the work.
        """
        last = {place: number for number, place in enumerate(places)}
        table = [(slot, row, number) for (slot, row), number in last.items()]
        slots, rows, numbers = torch.tensor(table, device=self.rows.device).unbind(1)
        return slots, rows, numbers

    def cosines(self, probes: Tensor, again: list[int]) -> tuple[Tensor, Tensor]:
        """Each probe's cosines (n×K) to both views of the pool.

        The first view is row 0 of each slot; the second is row 1 of the slots in ``again``, and row
        0 elsewhere, so that only those are multiplied once more.
        """
        first = probes @ self.rows[0].T
        if not again:
            return first, first
        slots = torch.tensor(again, device=probes.device)
        return first, first.index_copy(1, slots, probes @ self.rows[1, slots].T)

    def state_dict(self) -> dict[str, Any]:
        """Rows, slots and which row of each is next, on the CPU."""
        held = torch.tensor(self.lru.state(), dtype=torch.int64).view(-1, 2)
        next_row = torch.tensor(self._next_row, dtype=torch.uint8)
        return {"rows": self.rows.cpu().clone(), "held": held, "next_row": next_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`.

        Raises:
            ValueError: it is of a pool of another shape.
        """
        if state["rows"].shape != self.rows.shape:
            raise ValueError(
                f"a pool of {tuple(state['rows'].shape)}, where this is {tuple(self.rows.shape)}"
            )
        self.rows.copy_(state["rows"])
        self.lru.restore((key, slot) for key, slot in state["held"].tolist())
        self._next_row = state["next_row"].tolist()


class _Overlay(dict[int, int]):
    """Values of a list, those that were set excepted."""

    def __init__(self, below: list[int]) -> None:
        super().__init__()
        self._below = below

    def __missing__(self, key: int) -> int:
        return self._below[key]
