"""A batch of pictures to draw on: windows, affine frames, soft masks and fields of noise.

All of it is float32 arithmetic of ``+ - * /``, square roots and clipping, which IEEE 754 rounds
alike everywhere: the same traits give the same pixels, whatever else is drawn in the same batch.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

import numpy as np

from facepack.hashing import derive_seed, hash64

# np.clip and np.abs run as SIMD; np.maximum with a scalar is 3 times and np.where 30 times slower.


def clip01(x: np.ndarray) -> np.ndarray:
    """Clip to [0, 1] in place and return the array."""
    return np.clip(x, 0, 1, out=x)


def positive(x: np.ndarray) -> np.ndarray:
    """Return ``max(x, 0)``."""
    return np.clip(x, 0, np.inf)


def dot_square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return ``x² + y²``."""
    return x * x + y * y


def ramp(distance: np.ndarray, width: np.ndarray | float) -> np.ndarray:
    """Turn a distance (positive inside) into coverage: 0.5 at 0, linear over ``width``."""
    coverage = distance / width
    coverage += 0.5
    return clip01(coverage)


def superellipse(x2: np.ndarray, y2: np.ndarray, squareness: np.ndarray) -> np.ndarray:
    """Return the level of a rounded square: 1 in the middle, 0 on the edge, negative outside.

    ``x2`` and ``y2`` are squared coordinates in units of the half-axes. ``squareness`` 0 is an
    ellipse, 1 a rectangle: the FG-squircle of Fernández Guasti (1992), ``x² + y² − s·x²·y² = 1``.
    """
    # Unclipped, the product would win far outside and make corners there come out positive.
    return 1 - x2 - y2 * (1 - squareness * np.clip(x2, 0, 1))


class Frame:
    """An affine map from pixels to a feature's own coordinates, one a picture.

    ``u[0]·x + u[1]·y + u[2]`` and the same of ``v``, both float32 (3, n, 1, 1), are the coordinates
    of the pixel (x, y).
    """

    def __init__(self, u: np.ndarray, v: np.ndarray) -> None:
        self.u = u
        self.v = v

    @classmethod
    def of_image(cls, count: int, size: int) -> Frame:
        """Return the frame whose origin is the middle of the picture and whose unit its half."""
        half = size / 2
        u, v = np.zeros((2, 3, count, 1, 1), dtype=np.float32)
        u[0] = v[1] = 1 / half
        u[2] = v[2] = (0.5 - half) / half
        return cls(u, v)

    def moved(self, x: np.ndarray | float, y: np.ndarray | float) -> Frame:
        """Put the origin at (x, y) of this frame."""
        moved = Frame(self.u.copy(), self.v.copy())
        moved.u[2] -= x
        moved.v[2] -= y
        return moved

    def stretched(self, x: np.ndarray | float, y: np.ndarray | float) -> Frame:
        """Make the new frame's units ``x`` and ``y`` units of this one; negative ones mirror."""
        return Frame(self.u / x, self.v / y)

    def turned(self, cosine: np.ndarray, sine: np.ndarray) -> Frame:
        """Turn the axes by an angle, from x towards y."""
        return Frame(cosine * self.u + sine * self.v, cosine * self.v - sine * self.u)

    def take(self, rows: np.ndarray) -> Frame:
        """Keep the pictures ``rows``."""
        return Frame(self.u[:, rows], self.v[:, rows])

    def origin(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixel coordinates (x, y) of the origin, each (n, 1, 1)."""
        (ux, uy, u0), (vx, vy, v0) = self.u, self.v
        determinant = ux * vy - uy * vx
        return (uy * v0 - vy * u0) / determinant, (vx * u0 - ux * v0) / determinant

    def coordinates(self, px: np.ndarray, py: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (u, v) on the grid of ``px`` (…, 1, width) and ``py`` (…, height, 1)."""
        (ux, uy, u0), (vx, vy, v0) = self.u, self.v
        return ux * px + (uy * py + u0), vx * px + (vy * py + v0)


class Patch:
    """A window of one size in each picture, with its coordinates in a frame.

    ``pixels`` (n, 3, height, width) is drawn on in place; ``u`` and ``v`` are (n, height, width).
    Where ``pixels`` is a copy, ``windows`` are the places in the pictures that it was copied from.
    """

    def __init__(
        self, pixels: np.ndarray, u: np.ndarray, v: np.ndarray, windows: Sequence[np.ndarray] = ()
    ) -> None:
        self.pixels = pixels
        self.u = u
        self.v = v
        self._windows = windows

    def take(self, rows: np.ndarray) -> Patch:
        """Copy the pictures ``rows`` out."""
        windows = [self.pixels[row] for row in rows]
        return Patch(np.stack(windows), self.u[rows], self.v[rows], windows)

    def below(self, line: int) -> Patch:
        """Return the part from ``line`` on."""
        windows = [window[:, line:] for window in self._windows]
        return Patch(self.pixels[:, :, line:], self.u[:, line:], self.v[:, line:], windows)

    def blend(self, mask: np.ndarray, color: np.ndarray | float) -> None:
        """Cover with ``color``, (n, 3, 1, 1) or a grey, by ``mask`` in [0, 1].

        ``mask`` is (n, height, width).
        """
        difference = color - self.pixels
        difference *= mask[:, None]
        self.pixels += difference

    def shade(self, tone: np.ndarray) -> None:
        """Darken or lighten by ``tone`` (n, height, width): −0.4 takes away 40 % of the light."""
        self.pixels *= np.clip(1 + tone, 0.2, 1.6)[:, None]

    def paste(self) -> None:
        """Write a copy back where it came from."""
        for window, pixels in zip(self._windows, self.pixels, strict=True):
            window[...] = pixels


class Canvas:
    """``count`` square pictures of ``size`` pixels, planar RGB, float32 of 0 to 255.

    ``shade`` (count, size, size) is a factor on all three channels, kept apart so that texture and
    light cost a third.
    """

    def __init__(self, count: int, size: int) -> None:
        self.size = size
        self.pixels = np.empty((count, 3, size, size), dtype=np.float32)
        self.shade = np.ones((count, size, size), dtype=np.float32)
        self._axis = np.arange(size, dtype=np.float32)

    def coordinates(self, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        """Return (u, v) of all pixels, each (count, size, size)."""
        return frame.coordinates(self._axis, self._axis[:, None])

    def cut(self, frame: Frame, width: float, height: float, rows: np.ndarray) -> Patch:
        """Copy a window around the frame's origin out of each of the pictures ``rows``.

        ``width`` and ``height`` are fractions of the picture; ``frame`` has one map for each of
        ``rows``. A window that would leave the picture is moved inside.
        """
        columns = min(self.size, round(width * self.size))
        lines = min(self.size, round(height * self.size))
        x, y = frame.origin()
        left, top = self._corner(x, columns), self._corner(y, lines)
        windows = [
            self.pixels[row, :, line : line + lines, column : column + columns]
            for row, line, column in zip(rows.tolist(), top.tolist(), left.tolist(), strict=True)
        ]
        px = (left[:, None, None] + np.arange(columns)).astype(np.float32)
        py = (top[:, None, None] + np.arange(lines)[:, None]).astype(np.float32)
        return Patch(np.stack(windows), *frame.coordinates(px, py), windows)

    def _corner(self, center: np.ndarray, extent: int) -> np.ndarray:
        corner = np.floor(center.reshape(-1) - (extent - 1) / 2 + 0.5)
        return np.clip(corner, 0, self.size - extent).astype(np.int64)

    def write(self, images: np.ndarray) -> None:
        """Round into ``images``, uint8 RGB (count, size, size, 3); the canvas is used up."""
        np.clip(self.pixels, 0, 255, out=self.pixels)
        # 2^23 + x, as a float32, holds the rounded x in its lowest byte: that byte is copied.
        self.pixels += 2.0**23
        octets = self.pixels.view(np.uint8)[..., 0 if sys.byteorder == "little" else 3 :: 4]
        for channel in range(3):
            images[..., channel] = octets[:, channel]


# Noise fields -------------------------------------------------------------------------------------

TILE = 512  # side of the noise fields, pixels

_FIELD_SEED = 0x66616365  # the fields belong to the program, not to a data set


def _grid(key: int, lines: int, columns: int) -> np.ndarray:
    bits = hash64(derive_seed(_FIELD_SEED, key), np.arange(lines * columns))
    unit = (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return unit.reshape(lines, columns)


def _interpolate(grid: np.ndarray) -> np.ndarray:
    """Stretch the first axis of a grid to ``TILE`` points, smoothly."""
    point = np.arange(TILE) * ((len(grid) - 1) / TILE)
    low = point.astype(np.int64)
    part = (point - low)[:, None]
    part = part * part * (3 - 2 * part)
    return grid[low] * (1 - part) + grid[low + 1] * part


def _value_noise(key: int, octaves: Sequence[tuple[int, int, float]]) -> np.ndarray:
    """Sum value noise of several grids (lines, columns, weight), to mean 0 and deviation 1."""
    total = np.zeros((TILE, TILE))
    for level, (lines, columns, weight) in enumerate(octaves):
        grid = _grid(derive_seed(key, level), lines + 1, columns + 1).astype(np.float64)
        total += weight * _interpolate(_interpolate(grid).T).T
    return ((total - total.mean()) / total.std()).astype(np.float32)


@functools.cache
def noise_field(name: str) -> np.ndarray:
    """Return a noise field, float32 (TILE, TILE) of mean 0 and deviation 1.

    ``grain`` is white and close to Gaussian, ``clouds`` is smooth, ``curls`` has blobs of a few
    pixels, ``strands`` has streaks down the columns and ``sheet`` along the lines.
    """
    if name == "grain":
        total = sum((_grid(term, TILE, TILE) for term in range(4)), np.float32(-2.0))
        return np.asarray(total * np.float32(3.0**0.5), dtype=np.float32)
    octaves = {
        "clouds": [(8, 8, 1.0), (16, 16, 0.7), (32, 32, 0.5), (64, 64, 0.35)],
        "curls": [(64, 64, 1.0), (128, 128, 0.8), (256, 256, 0.4)],
        "strands": [(8, 64, 0.8), (16, 128, 1.0), (32, 256, 0.8)],
        "sheet": [(64, 8, 0.8), (128, 16, 1.0), (256, 32, 0.8)],
    }
    return _value_noise(100 + list(octaves).index(name), octaves[name])


def cut_field(
    field: np.ndarray, x: np.ndarray, y: np.ndarray, lines: int, columns: int
) -> np.ndarray:
    """Cut one window a picture out of a noise field; ``x`` and ``y`` in [0, 1) say where."""
    left = (x.reshape(-1) * (field.shape[1] - columns + 1)).astype(np.int64)
    top = (y.reshape(-1) * (field.shape[0] - lines + 1)).astype(np.int64)
    windows = np.empty((len(left), lines, columns), dtype=np.float32)
    for window, line, column in zip(windows, top.tolist(), left.tolist(), strict=True):
        window[...] = field[line : line + lines, column : column + columns]
    return windows
