"""How the processor changes images: as drawn by :mod:`facepack.loading.augment`."""

from __future__ import annotations

import math

import numpy as np

from facepack.loading.augment import FILTERS, Changes
from facepack.loading.resampling import resample

# RGB to YIQ with the three digits that DALI's hsv operator computes with, for equal results.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
_RGB = np.linalg.inv(_YIQ)

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in the luma (ITU-R BT.601)."""


def change_images(pixels: np.ndarray, changes: Changes) -> None:
    """Make the changes in place: ``pixels`` is uint8 (N, H, W, 3), RGB, mirrored already.

    DALI's results differ by at most some grey levels (by its own intermediate rounding).
    """
    for row in np.flatnonzero(changes.cropped).tolist():
        _blacken_around(pixels[row], *changes.boxes[row].tolist())
    for row in np.flatnonzero(changes.resized).tolist():
        shrink, enlarge = (FILTERS[at] for at in changes.filters[row].tolist())
        height, width = changes.sizes[row].astype(int).tolist()
        small = resample(pixels[row], (height, width), shrink)
        pixels[row] = resample(small, pixels.shape[1:3], enlarge)
    for row in np.flatnonzero(changes.blurred).tolist():
        _blur(pixels[row], int(changes.radii[row]))
    for row in np.flatnonzero(changes.colored).tolist():
        matrix = color_matrix(float(changes.hues[row]), float(changes.saturations[row]))
        pixels[row] = _apply_color(pixels[row], matrix)
    for row in np.flatnonzero(changes.lit).tolist():
        pixels[row] = _light(pixels[row], changes.lights[row])


def _blacken_around(image: np.ndarray, top: int, left: int, height: int, width: int) -> None:
    image[:top] = 0
    image[top + height :] = 0
    image[:, :left] = 0
    image[:, left + width :] = 0


def _blur(image: np.ndarray, radius: int) -> None:
    """Convolve with a Gaussian, mirrored at the border pixels, along each axis in turn."""
    sigma = 0.3 * radius + 0.5
    taps = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    weights = (taps / (2 * taps.sum() - 1)).astype(np.float32)
    blurred = image.astype(np.float32)
    height, width, _ = image.shape
    high = _extend(blurred, 0, radius)
    _weigh([high[tap : tap + height] for tap in range(2 * radius + 1)], weights, blurred)
    wide = _extend(blurred, 1, radius)
    _weigh([wide[:, tap : tap + width] for tap in range(2 * radius + 1)], weights, blurred)
    np.rint(blurred, out=blurred)
    image[...] = blurred


def _weigh(shifted: list[np.ndarray], weights: np.ndarray, out: np.ndarray) -> None:
    """Sum shifted images, each weighted by its distance from the middle one."""
    middle = len(shifted) // 2
    np.multiply(shifted[middle], weights[0], out=out)
    for tap in range(1, middle + 1):
        pair = shifted[middle - tap] + shifted[middle + tap]
        pair *= weights[tap]
        out += pair


def _extend(image: np.ndarray, axis: int, width: int) -> np.ndarray:
    """Add lines at both ends of an axis: those inside, mirrored at the border's."""
    shape = list(image.shape)
    shape[axis] += 2 * width
    extended = np.empty(shape, image.dtype)
    inside, lines = np.moveaxis(image, axis, 0), np.moveaxis(extended, axis, 0)
    lines[width:-width] = inside
    last = len(inside) - 1
    for away in range(1, width + 1):
        # To and fro between the borders, where the image is smaller than what is added.
        step = last - abs(last - away % (2 * last)) if last else 0
        lines[width - away] = inside[step]
        lines[away - width - 1] = inside[-1 - step]
    return extended


def color_matrix(hue: float, saturation: float) -> np.ndarray:
    """The linear map of RGB, (3, 3), that turns the hue by degrees and scales the saturation."""
    angle = math.radians(hue)
    across, along = saturation * math.sin(angle), saturation * math.cos(angle)
    turned = np.array([[1, 0, 0], [0, along, across], [0, -across, along]])
    matrix: np.ndarray = _RGB @ turned @ _YIQ
    return matrix


def _apply_color(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    changed = image.astype(np.float32) @ matrix.T.astype(np.float32)
    np.clip(changed, 0, 255, out=changed)
    return np.rint(changed, out=changed)


def _light(image: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Scale the distances to black, to the mean luma or to each pixel's, clipped after each."""
    lit = image.astype(np.float32)
    for factor, of_mean, of_luma in steps.tolist():
        base: float | np.ndarray = 0.0
        if of_mean or of_luma:
            luma = lit @ LUMA
            base = of_mean * float(luma.mean(dtype=np.float64)) + of_luma * luma[..., None]
        lit *= factor
        lit += base
        np.clip(lit, 0, 255, out=lit)
    return np.rint(lit, out=lit)
