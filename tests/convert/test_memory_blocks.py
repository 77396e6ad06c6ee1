"""Memory that is used again, but never while anything refers to it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from facepack.convert import blocks as module
from facepack.convert.blocks import Blocks, free_blocks


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    free_blocks()
    monkeypatch.setattr(module, "_BLOCK", 4096)
    yield
    free_blocks()


def test_pieces_that_are_held_share_no_bytes() -> None:
    blocks, other = Blocks(), Blocks()
    rng = np.random.default_rng(0)
    held: dict[int, memoryview] = {}
    for number in range(2000):
        piece = (blocks, other)[number % 2].take(int(rng.integers(1, 900)))
        piece[:] = bytes([number % 251]) * len(piece)
        held[number] = piece[len(piece) // 3 :]  # part of a piece holds it too
        if len(held) > 40:
            del held[int(rng.choice(list(held)))]
        for k, view in held.items():
            assert set(bytes(view)) == {k % 251}
    assert len(module._blocks) < 30  # 40 pieces of 450 bytes on average, and what was let go


def test_a_block_is_taken_again_once_nothing_refers_to_it() -> None:
    blocks = Blocks()
    pieces = [blocks.take(3000) for _ in range(5)]
    assert len(module._blocks) == 5
    del pieces
    pieces = [blocks.take(3000) for _ in range(5)]
    assert len(module._blocks) == 5
    free_blocks()
    for number, piece in enumerate(pieces):  # what is held stays
        piece[:] = bytes([number]) * 3000
    assert [piece[-1] for piece in pieces] == [0, 1, 2, 3, 4]


def test_pieces_begin_where_numbers_may() -> None:
    blocks = Blocks()
    for count in (1, 3, 64, 100, 5000):
        piece = blocks.take(count)
        assert len(piece) == count
        assert np.frombuffer(piece, np.uint8).ctypes.data % 8 == 0
