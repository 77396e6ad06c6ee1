"""Initial class centres: N(0, 0.01²), each block of rows a function of the seed and its number."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

from facepack.hashing import derive_seed

_DEVIATION = 0.01
_ROWS = 1024
"""Rows that one generator makes; another number would be other centres."""


def fill_centres(weight: torch.Tensor, *, first: int, seed: int) -> None:
    """Fill ``weight`` (n×F) with rows ``first`` to ``first + n`` of the matrix that ``seed`` means.

    Any part of it, float32, can be made without the rest, on any device, to the same bits: the
    numbers are drawn on the CPU, by as many threads as torch computes with.
    """
    stop = first + len(weight)

    def fill(number: int) -> None:
        generator = torch.Generator()
        generator.manual_seed(derive_seed(seed, number))
        # A whole block, also where a part is wanted: its last values would differ otherwise.
        block = torch.empty(_ROWS, weight.shape[1])
        block.normal_(0.0, _DEVIATION, generator=generator)
        start = number * _ROWS
        low, high = max(first, start), min(stop, start + _ROWS)
        weight[low - first : high - first] = block[low - start : high - start]

    numbers = range(first // _ROWS, -(-stop // _ROWS))
    with ThreadPoolExecutor(max(1, min(len(numbers), torch.get_num_threads()))) as pool:
        for _ in pool.map(fill, numbers):
            pass
