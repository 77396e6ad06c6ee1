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

# Pixel values that are normalized at once: 16 float32 fill a cache line, which is then written
# past the cache as a whole.
_LANES = 16
_LINE = 64

_compiling = threading.Lock()


@dataclass(frozen=True)
class Kernels:
    """Passes over pixels, compiled or NumPy's; each takes C-contiguous arrays."""

    # as pixels.reverse_rows; the width must be a multiple of 8
    reverse_rows: Callable[[np.ndarray, np.ndarray], None]
    # as pixels.normalize, of arrays (n, height, width, 3)
    normalize: Callable[[np.ndarray, np.ndarray], None]


PLAIN = Kernels(reverse_rows=reverse_rows, normalize=normalize)  # NumPy's


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
    normalize_line = _line_normalizer()

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
        values, target = pixels.reshape(-1), out.reshape(-1)
        size = target.size
        start = min(-out.ctypes.data % _LINE // 4, size)  # float32 before the first whole line
        stop = start + (size - start) // _LANES * _LANES
        for index in range(start):
            target[index] = (np.float32(values[index]) - MEAN) * SCALE
        for index in range(start, stop, _LANES):
            normalize_line(values, target, index)
        for index in range(stop, size):
            target[index] = (np.float32(values[index]) - MEAN) * SCALE

    compiled = functools.partial(numba.njit, nogil=True, cache=cache)
    return Kernels(
        reverse_rows=compiled("void(u1[:, :, :, ::1], b1[::1])")(reverse),
        normalize=compiled("void(u1[:, :, :, ::1], f4[:, :, :, ::1])")(normalize_pixels),
    )


def _line_normalizer() -> Any:
    """``normalize_line(pixels, out, index)``: 16 values, written past the cache to a whole line.

    An image that goes through the cache on its way to memory is read from there first and drives
    out what the decoder works on: together that costs as much again as the arithmetic. A plain loop
    compiled by numba took 4.8 % more of the processor's time for float32 batches of 112×112 (95 %:
    2.4 to 8.0; medians of 200 pairs in turns, 2 threads, beside other work); 1.1 % in a run of 120.
    """
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    bytes16 = ir.VectorType(ir.IntType(8), _LANES)
    floats16 = ir.VectorType(ir.FloatType(), _LANES)

    def constant(value: np.float32) -> Any:
        return ir.Constant(floats16, [ir.Constant(ir.FloatType(), float(value))] * _LANES)

    @intrinsic
    def normalize_line(typing: Any, pixels: Any, out: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            source, target = (
                builder.gep(
                    cgutils.create_struct_proxy(kind)(context, builder, array).data, [arguments[2]]
                )
                for kind, array in zip(signature.args[:2], arguments[:2], strict=True)
            )
            read = builder.load(builder.bitcast(source, bytes16.as_pointer()))
            read.align = 1
            values = builder.fsub(builder.uitofp(read, floats16), constant(MEAN))
            values = builder.fmul(values, constant(SCALE))
            written = builder.store(values, builder.bitcast(target, floats16.as_pointer()))
            written.align = _LINE
            one = ir.Constant(ir.IntType(32), 1)
            written.set_metadata("nontemporal", builder.module.add_metadata([one]))
            return context.get_dummy_value()

        return types.void(pixels, out, types.intp), generate

    return normalize_line
