"""Compiled twins of the passes over pixels in :mod:`facepack.loading.pixels`, by numba.

They give the same bits as the NumPy code, which serves where numba is not installed, and hold no
lock of the interpreter while they run. Compiled once for a machine: numba keeps the result on disk.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from facepack.loading.pixels import MEAN, SCALE, WORD, normalize, reverse_rows

_compiling = threading.Lock()


@dataclass(frozen=True)
class Kernels:
    """Passes over pixels, compiled or NumPy's; each takes C-contiguous arrays."""

    reverse_rows: Callable[[np.ndarray, np.ndarray], None]
    """As :func:`.pixels.reverse_rows`; the width must be a multiple of 8."""
    normalize: Callable[[np.ndarray, np.ndarray], None]
    """As :func:`.pixels.normalize`, of arrays (n, height, width, 3)."""


PLAIN = Kernels(reverse_rows=reverse_rows, normalize=normalize)
"""NumPy's."""


def choose_kernels(size: tuple[int, int]) -> Kernels:
    """The fastest passes that there are for images of ``size`` = (height, width)."""
    kernels = load_kernels()
    if kernels is None:
        return PLAIN
    return kernels if size[1] % WORD == 0 else replace(kernels, reverse_rows=reverse_rows)


def load_kernels() -> Kernels | None:
    """The compiled passes, compiled on first use; None where numba is absent or does not work."""
    with _compiling:
        return _load()


@functools.cache
def _load() -> Kernels | None:
    try:
        import numba
    except ImportError:  # also of a numba that does not know this NumPy
        return None
    try:
        return _compile(numba, cache=True)
    except RuntimeError:  # no folder to keep the result in can be written
        return _compile(numba, cache=False)


def _compile(numba: Any, *, cache: bool) -> Kernels:
    def reverse(pixels: np.ndarray, marked: np.ndarray) -> None:
        low_bytes = np.uint64(0x00FF00FF00FF00FF)
        low_pairs = np.uint64(0x0000FFFF0000FFFF)
        byte, pair, half = np.uint64(8), np.uint64(16), np.uint64(32)
        count, height = pixels.shape[:2]
        words = pixels.reshape(-1).view(np.uint64).reshape(count * height, -1)
        last = words.shape[1] - 1
        for y in range(count * height):
            if not marked[y // height]:
                continue
            for x in range((last + 2) // 2):
                left, right = words[y, x], words[y, last - x]
                # The compiler knows these lines for one instruction.
                left = (left & low_bytes) << byte | left >> byte & low_bytes
                left = (left & low_pairs) << pair | left >> pair & low_pairs
                right = (right & low_bytes) << byte | right >> byte & low_bytes
                right = (right & low_pairs) << pair | right >> pair & low_pairs
                words[y, last - x] = left << half | left >> half
                words[y, x] = right << half | right >> half

    def normalize_pixels(pixels: np.ndarray, out: np.ndarray) -> None:
        # Stores past the cache, 60 lines of LLVM IR, took 1 % less of the loader's time, wall or
        # CPU (medians of 120 pairs of 12 batches, loader, 2 threads, 112×112): below its spread.
        values, target = pixels.reshape(-1), out.reshape(-1)
        for place in range(target.size):
            target[place] = (np.float32(values[place]) - MEAN) * SCALE

    compiled = functools.partial(numba.njit, nogil=True, cache=cache)
    return Kernels(
        reverse_rows=compiled("void(u1[:, :, :, ::1], b1[::1])")(reverse),
        normalize=compiled("void(u1[:, :, :, ::1], f4[:, :, :, ::1])")(normalize_pixels),
    )
