"""Images scaled along one axis after the other, by the filters that DALI has too.

Pixel i of n lies at i + ½ of n. Lines beyond the border are the border's again, and nothing is
rounded between the axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_Weigh = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Filter:
    """How the pixels around a place make the pixel there."""

    weigh: _Weigh | None  # weights at distances in pixels; None takes the nearest pixel
    reach: int = 0  # the distance from which on weights are 0
    antialiased: bool = False  # stretched to cover all pixels of an image that is made smaller


def _triangle(distances: np.ndarray) -> np.ndarray:
    return np.maximum(1.0 - np.abs(distances), 0.0)


def _cubic(distances: np.ndarray) -> np.ndarray:
    """Catmull and Rom's cubic: Keys' (1981) with a = −0.5."""
    x = np.abs(distances)
    near, far = (1.5 * x - 2.5) * x * x + 1.0, ((2.5 - 0.5 * x) * x - 4.0) * x + 2.0
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _lanczos(distances: np.ndarray) -> np.ndarray:
    """Lanczos' window of three lobes."""
    return np.where(np.abs(distances) < 3, np.sinc(distances) * np.sinc(distances / 3), 0.0)


ANTIALIASED = Filter(_triangle, 1, antialiased=True)
NEAREST = Filter(None)
LINEAR = Filter(_triangle, 1)
CUBIC = Filter(_cubic, 2)
LANCZOS = Filter(_lanczos, 3)


def resample(image: np.ndarray, size: tuple[int, int], by: Filter) -> np.ndarray:
    """Scale an image, uint8 (H, W, C), to ``size``, its new height and width."""
    lines = image
    for axis, length in enumerate(size):
        lines = _resample_axis(lines, axis, length, by)
    if lines.dtype != np.uint8:
        np.rint(lines, out=lines)
        np.clip(lines, 0, 255, out=lines)
    return lines.astype(np.uint8)


def _resample_axis(lines: np.ndarray, axis: int, length: int, by: Filter) -> np.ndarray:
    if by.weigh is None:
        return np.take(lines, _nearest(axis, lines.shape[axis], length), axis)
    places, weights = _taps(lines.shape[axis], length, by.weigh, by.reach, by.antialiased)
    shape = [1, 1, 1]
    shape[axis] = length
    total = np.take(lines, places[0], axis) * weights[0].reshape(shape)
    for place, weight in zip(places[1:], weights[1:], strict=True):
        total += np.take(lines, place, axis) * weight.reshape(shape)
    return total


def _nearest(axis: int, before: int, after: int) -> np.ndarray:
    """Of ``before`` lines the nearest to each of ``after``.

    Midway between two, the rounding of float32 decides: as in DALI's kernel for the processor,
    which adds up the places of rows and multiplies those of columns.
    """
    scale = np.float32(before / after)
    if axis == 0:
        exact = np.full(after, scale)
        exact[0] *= np.float32(0.5)
        exact = np.cumsum(exact, dtype=np.float32)
    else:
        exact = (np.arange(after, dtype=np.float32) + np.float32(0.5)) * scale
    return np.minimum(exact.astype(np.intp), before - 1)


@lru_cache(maxsize=1024)
def _taps(
    before: int, after: int, weigh: _Weigh, reach: int, antialiased: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Places among ``before`` lines, and weights there, of each of ``after``: (taps, after)."""
    scale = before / after
    stretch = max(scale, 1.0) if antialiased else 1.0
    centres = (np.arange(after) + 0.5) * scale - 0.5
    first = np.floor(centres - reach * stretch).astype(np.intp) + 1
    places = first + np.arange(math.ceil(2 * reach * stretch))[:, None]
    weights = weigh((places - centres) / stretch)
    weights /= weights.sum(axis=0)
    return places.clip(0, before - 1), weights.astype(np.float32)
