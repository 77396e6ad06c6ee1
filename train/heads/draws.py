"""Random numbers of faces, which do not depend on how a batch is spread over ranks and parts."""

from __future__ import annotations

import numpy as np

from facepack.hashing import derive_seed, hash64

# Separates these draws from those of weights and samples, which share the seed.
_FOR_NORMALS = int.from_bytes(b"normals", "big")


def draw_normals(seed: int, step: int, records: np.ndarray) -> np.ndarray:
    """N(0, 1) for each record (n,), a position in a pack, in that step: float64 (n,).

    A function of the three alone, by the transform of Box and Muller (1958).
    """
    radius, angle = (
        ((hash64(derive_seed(seed, _FOR_NORMALS, step, part), records) >> np.uint64(11)) + 0.5)
        / (1 << 53)
        for part in range(2)
    )
    return np.sqrt(-2.0 * np.log(radius)) * np.cos(2.0 * np.pi * angle)
