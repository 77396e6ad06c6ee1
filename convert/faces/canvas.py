"""A batch of pictures to draw on: windows, affine frames, soft masks and fields of noise.

All of it is float32 arithmetic of ``+ - * /``, square roots and clipping, which IEEE 754 rounds
alike everywhere: the same traits give the same pixels, whatever else is drawn in the same batch.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields

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


@dataclass(frozen=True)
class Frame:
    """An affine map from pixels to a feature's own coordinates, one a picture.

    ``u = ux·px + uy·py + u0`` and ``v = vx·px + vy·py + v0``; every field is (n, 1, 1).
    """

    ux: np.ndarray
    uy: np.ndarray
    u0: np.ndarray
    vx: np.ndarray
    vy: np.ndarray
    v0: np.ndarray

    @classmethod
    def of_image(cls, count: int, size: int) -> Frame:
        """Return the frame whose origin is the middle of the picture and whose unit its half."""
        half = size / 2
        unit = np.full((count, 1, 1), 1 / half, dtype=np.float32)
        zero = np.zeros_like(unit)
        start = np.full_like(unit, (0.5 - half) / half)
        return cls(ux=unit, uy=zero, u0=start, vx=zero, vy=unit, v0=start)

    def moved(self, x: np.ndarray | float, y: np.ndarray | float) -> Frame:
        """Put the origin at (x, y) of this frame."""
        return Frame(self.ux, self.uy, self.u0 - x, self.vx, self.vy, self.v0 - y)

    def stretched(self, x: np.ndarray | float, y: np.ndarray | float) -> Frame:
        """Make the new frame's units ``x`` and ``y`` units of this one; negative ones mirror."""
        return Frame(self.ux / x, self.uy / x, self.u0 / x, self.vx / y, self.vy / y, self.v0 / y)

    def turned(self, cosine: np.ndarray, sine: np.ndarray) -> Frame:
        """Turn the axes by an angle, from x towards y."""
        return Frame(
            cosine * self.ux + sine * self.vx,
            cosine * self.uy + sine * self.vy,
            cosine * self.u0 + sine * self.v0,
            cosine * self.vx - sine * self.ux,
            cosine * self.vy - sine * self.uy,
            cosine * self.v0 - sine * self.u0,
        )

    def take(self, rows: np.ndarray) -> Frame:
        """Keep the pictures ``rows``."""
        return Frame(*(getattr(self, field.name)[rows] for field in fields(self)))

    def origin(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixel coordinates (x, y) of the origin, each (n, 1, 1)."""
        determinant = self.ux * self.vy - self.uy * self.vx
        x = (self.uy * self.v0 - self.vy * self.u0) / determinant
        y = (self.vx * self.u0 - self.ux * self.v0) / determinant
        return x, y

    def coordinates(self, px: np.ndarray, py: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (u, v) on the grid of ``px`` (…, 1, width) and ``py`` (…, height, 1)."""
        u = self.ux * px + (self.uy * py + self.u0)
        v = self.vx * px + (self.vy * py + self.v0)
        return u, v


class Patch:
    """A window of one size in each picture, with its coordinates in a frame.

    ``pixels`` (n, 3, height, width) is drawn on in place; ``u`` and ``v`` are (n, height, width).
    """

    def __init__(self, pixels: np.ndarray, u: np.ndarray, v: np.ndarray) -> None:
        self.pixels = pixels
        self.u = u
        self.v = v

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


class CutPatch(Patch):
    """A patch that was copied out of a canvas; :meth:`paste` puts it back."""

    def __init__(
        self, canvas: Canvas, frame: Frame, width: float, height: float, rows: np.ndarray
    ) -> None:
        columns = min(canvas.size, round(width * canvas.size))
        lines = min(canvas.size, round(height * canvas.size))
        x, y = frame.origin()
        left = _corner(x, columns, canvas.size)
        top = _corner(y, lines, canvas.size)
        self._windows = [
            canvas.pixels[row, :, line : line + lines, column : column + columns]
            for row, line, column in zip(rows.tolist(), top.tolist(), left.tolist(), strict=True)
        ]
        px = (left[:, None, None] + np.arange(columns)).astype(np.float32)
        py = (top[:, None, None] + np.arange(lines)[:, None]).astype(np.float32)
        super().__init__(np.stack(self._windows), *frame.coordinates(px, py))

    def paste(self) -> None:
        """Write the pixels back where they came from."""
        for window, pixels in zip(self._windows, self.pixels, strict=True):
            window[...] = pixels


def _corner(center: np.ndarray, extent: int, size: int) -> np.ndarray:
    corner = np.floor(center.reshape(-1) - (extent - 1) / 2 + 0.5)
    return np.clip(corner, 0, size - extent).astype(np.int64)


class Canvas:
    """``count`` square pictures of ``size`` pixels, planar RGB, float32 of 0 to 255.

    ``shade`` (count, size, size) is a factor on all three channels, kept apart so that texture and
    light cost a third; :meth:`expose` brings both together.
    """

    def __init__(self, count: int, size: int) -> None:
        self.size = size
        self.pixels = np.empty((count, 3, size, size), dtype=np.float32)
        self.shade = np.ones((count, size, size), dtype=np.float32)
        self._axis = np.arange(size, dtype=np.float32)

    def below(self, top: float, frame: Frame) -> Patch:
        """Return all that is below ``top`` (a fraction) as a patch of the canvas itself."""
        first = self.first_line(top)
        u, v = frame.coordinates(self._axis, self._axis[first:, None])
        return Patch(self.pixels[:, :, first:], u, v)

    def first_line(self, top: float) -> int:
        """Return the line at the height ``top``, a fraction of the picture."""
        return round(top * self.size)

    def cut(self, frame: Frame, width: float, height: float, rows: np.ndarray) -> CutPatch:
        """Cut a window around the frame's origin out of each of the pictures ``rows``.

        ``width`` and ``height`` are fractions of the picture; ``frame`` has one map for each of
        ``rows``. A window that would leave the picture is moved inside.
        """
        return CutPatch(self, frame, width, height, rows)

    def texture(self, mask: np.ndarray, target: np.ndarray | float, first: int = 0) -> None:
        """Bring ``shade``, from line ``first`` on, to ``target`` by ``mask`` in [0, 1]."""
        shade = self.shade[:, first:]
        difference = target - shade
        difference *= mask
        shade += difference

    def expose(self, gain: np.ndarray) -> None:
        """Multiply the pixels by ``shade`` and by ``gain`` (count, 3, 1, 1)."""
        self.pixels *= self.shade[:, None]
        self.pixels *= gain

    def write(self, images: np.ndarray) -> None:
        """Round into ``images``, uint8 RGB (count, size, size, 3); the canvas is used up."""
        np.clip(self.pixels, 0, 255, out=self.pixels)
        # 2^23 + x, as a float32, holds the rounded x in its lowest byte: that byte is copied.
        self.pixels += 2.0**23
        octets = self.pixels.view(np.uint8)[..., 0 if sys.byteorder == "little" else 3 :: 4]
        for channel in range(3):
            images[..., channel] = octets[:, channel]


# Noise fields -------------------------------------------------------------------------------------

TILE = 512
"""Side of the noise fields, pixels."""

_FIELD_SEED = 0x66616365  # the fields belong to the program, not to a data set


def _grid(key: int, lines: int, columns: int) -> np.ndarray:
    bits = hash64(derive_seed(_FIELD_SEED, key), np.arange(lines * columns))
    unit = (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return unit.reshape(lines, columns)


def _interpolate(grid: np.ndarray) -> np.ndarray:
    """Stretch the first axis of a grid to ``TILE`` points, smoothly."""
    place = np.arange(TILE) * ((len(grid) - 1) / TILE)
    low = place.astype(np.int64)
    part = (place - low)[:, None]
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
