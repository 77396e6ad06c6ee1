"""Keyed 64-bit hashing of integers: the one source of every seeded order and coin flip.

The mix is splitmix64's finalizer (Steele, Lea and Flood, 2014), applied to the key and then to the
counter. It depends on nothing but integer arithmetic, so an order drawn today is the same under any
NumPy release, on any machine; NumPy's own generators promise no such thing.
"""

from __future__ import annotations

from typing import overload

import numpy as np

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB


def _mix_int(x: int) -> int:
    x = (x + _GOLDEN) & _MASK
    x = ((x ^ (x >> 30)) * _MIX1) & _MASK
    x = ((x ^ (x >> 27)) * _MIX2) & _MASK
    return x ^ (x >> 31)


def _mix_array(x: np.ndarray) -> np.ndarray:
    # uint64 arrays wrap around without a warning, as the mix wants.
    x = x + np.uint64(_GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX2)
    return x ^ (x >> np.uint64(31))


def derive_seed(seed: int, *parts: int) -> int:
    """Fold ``parts`` (an epoch, a purpose, a round) into ``seed``; each chain is a new key."""
    key = _mix_int(seed & _MASK)
    for part in parts:
        key = _mix_int(key ^ _mix_int(part & _MASK))
    return key


@overload
def hash64(seed: int, x: int) -> int: ...
@overload
def hash64(seed: int, x: np.ndarray) -> np.ndarray: ...
def hash64(seed: int, x: int | np.ndarray) -> int | np.ndarray:
    """Hash ``x`` under ``seed``: an int for an int, a uint64 array for an integer array."""
    key = _mix_int(seed & _MASK)
    if isinstance(x, np.ndarray):
        return _mix_array(x.astype(np.uint64) ^ np.uint64(key))
    return _mix_int((x & _MASK) ^ key)
