"""Which class centres a step uses: all positive classes and a random sample of the others."""

from __future__ import annotations

import math

import torch

from facepack.hashing import derive_seed

_ROUNDS = 8
_SIDES_TRIED = 256

# Odd constants of the finalizer of splitmix64 (Steele, Lea and Flood, 2014), as signed integers.
_MIX1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX2 = 0x94D049BB133111EB - (1 << 64)


def sample_rows(labels: torch.Tensor, classes: int, size: int, seed: int) -> torch.Tensor:
    """Draw the classes of one micro-batch (Partial FC, An et al., 2021, section 3.2).

    The classes besides the positive ones are a sample without replacement, each set of them as
    likely as any other. They are the first few of a permutation of all classes that is computed one
    entry at a time (see :func:`permuted`): work and memory follow the number of rows drawn, and as
    nothing is drawn twice, nothing has to be looked at by the host. The same rows come out on every
    device, and nothing waits for the device as long as ``size`` is at least the number of labels.

    Args:
        labels: (B,) int64: those in [0, C) must be among the rows, all others are passed over.
        classes, seed: the number of classes C; and what keys the draw.
        size: number of rows wanted, at most C; if the labels name more, all of those and no others.

    Returns:
        Sorted distinct class ids, int64, on the device of ``labels``.
    """
    if not classes:
        return labels.new_empty(0)
    known = (labels >= 0) & (labels < classes)
    positives = torch.where(known, labels, classes).sort().values
    first = positives < classes
    first[1:] &= positives[1:] != positives[:-1]
    count = first.sum()
    ids = permuted(classes, size, seed, labels.device)
    following = torch.searchsorted(positives, ids).clamp_(max=len(positives) - 1)
    free = (ids < classes) & (positives[following] != ids)
    free &= free.cumsum(0) <= size - count
    # Sorted, with everything that is not wanted at the end, where a cut at a known length drops it.
    chosen = torch.cat(
        [torch.where(first, positives, classes), torch.where(free, ids, classes)]
    ).sort()
    rows = size if size >= len(labels) else max(size, int(count))
    return chosen.values[:rows]


def permuted(classes: int, size: int, seed: int, device: torch.device) -> torch.Tensor:
    """At least ``size`` distinct ids of [0, C) in random order, among some of C and above.

    A Feistel network over pairs (l, r), 0 ≤ l < a, 0 ≤ r < b, permutes [0, a·b) for any round
    function (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). With a·b just above
    C, no more than a·b − C of its values are none of a class, so as many more are computed.
    """
    a, b = _sides(classes)
    entries = torch.arange(min(size + a * b - classes, a * b), device=device)
    left, right = entries // b, entries % b
    for turn in range(_ROUNDS):
        # By turns, so that neither side has to change its size.
        if turn % 2:
            right = (right + _scrambled(left, derive_seed(seed, turn))).remainder_(b)
        else:
            left = (left + _scrambled(right, derive_seed(seed, turn))).remainder_(a)
    return left.mul_(b).add_(right)


def _sides(classes: int) -> tuple[int, int]:
    """a, b near √C with a·b ≥ C, and little above it."""
    root = max(1, math.isqrt(classes))
    a = min(range(root, root + _SIDES_TRIED), key=lambda side: -classes % side)
    return a, -(-classes // a)


def _scrambled(values: torch.Tensor, key: int) -> torch.Tensor:
    """Hash of each value under ``key``, in [0, 2⁴³)."""
    # int64 products wrap around, and their low bits are those of unsigned ones.
    mixed = (values + (key >> 1)).mul_(_MIX1)
    mixed ^= (mixed >> 31) & 0x1_FFFF_FFFF
    mixed.mul_(_MIX2)
    return (mixed >> 21) & 0x7FF_FFFF_FFFF
