"""Random changes to the training images, of the kinds that arcface_torch's DALI pipeline makes.

What happens to an image is a pure function of (seed, epoch, record): :func:`draw_changes` decides
for a batch, whichever backend, rank or thread then makes the changes, and
:func:`change_images` is how the processor makes them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from PIL import Image

from facepack.errors import ConfigError
from facepack.hashing import derive_seed, hash64
from facepack.settings import Fraction, Range, Settings

# Separates these draws from the order's and the flips', which share the seed.
_AUGMENT = int.from_bytes(b"augment", "big")
# One key for each draw, so that turning one change off leaves the others as they were.
_RESIZE, _SCALE, _BLUR, _RADIUS, _COLOR, _HUE, _SATURATION, _GREY = range(8)

_Scale = Annotated[float, Range(above=0, high=1)]
_Radius = Annotated[int, Range(low=1, high=7)]
_Hue = Annotated[float, Range(low=-360, high=360)]
_Saturation = Annotated[float, Range(low=0, high=10)]

# RGB to YIQ with the three digits that DALI's hsv operator computes with, for equal results.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
_RGB = np.linalg.inv(_YIQ)


@dataclass(frozen=True, kw_only=True)
class Augment(Settings):
    """Which random changes are made, how often and how strongly, in this order.

    The default ranges are arcface_torch's; :data:`ARCFACE_TORCH` has its probabilities too.

    Raises:
        ConfigError: a value is out of range.
    """

    resize: Fraction = 0.0
    """Probability of scaling an image down and back up (both linear, antialiased)."""
    scale: tuple[_Scale, _Scale] = (0.5, 0.8)
    """Height and width of the small image as a share of the image's, uniform between these."""
    blur: Fraction = 0.0
    """Probability of a Gaussian blur."""
    radius: tuple[_Radius, _Radius] = (1, 2)
    """Radius of its window in pixels, one of low…high; sigma is 0.3 · radius + 0.5."""
    color: Fraction = 0.0
    """Probability of turning the hue and scaling the saturation, both in YIQ."""
    hue: tuple[_Hue, _Hue] = (0.0, 20.0)
    """Angle in degrees, uniform between these."""
    saturation: tuple[_Saturation, _Saturation] = (1.0, 1.2)
    """Factor, uniform between these."""
    grey: Fraction = 0.0
    """Probability of taking all colour out."""

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except ConfigError as error:
            raise ConfigError(f"Augment: {error}") from None
        for name in ("scale", "radius", "hue", "saturation"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(f"Augment: {name} = {(low, high)} must be (low, high)")

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain data, that files can hold."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


ARCFACE_TORCH = Augment(resize=0.1, blur=0.2, color=0.2, grey=0.1)
"""arcface_torch's ``dali_aug`` (recognition/arcface_torch/dataset.py). There, sizes are fractions
of a pixel and pixels are clipped between colour and grey; all else agrees."""

PRESETS = {"arcface_torch": ARCFACE_TORCH}


@dataclass(frozen=True)
class Changes:
    """What happens to the N images of a batch."""

    sizes: np.ndarray
    """float32 (N, 2): height and width that an image is scaled down to; the image's for none."""
    resized: np.ndarray
    """bool (N,)."""
    radii: np.ndarray
    """int32 (N,): of the blur; 0 for none."""
    hues: np.ndarray
    """float32 (N,): in degrees; 0 for none."""
    saturations: np.ndarray
    """float32 (N,): 1 for none, 0 for grey."""

    @property
    def blurred(self) -> np.ndarray:
        """bool (N,)."""
        return self.radii > 0

    @property
    def colored(self) -> np.ndarray:
        """bool (N,)."""
        return (self.hues != 0) | (self.saturations != 1)

    def __getitem__(self, rows: slice | list[int] | np.ndarray) -> Changes:
        return Changes(
            self.sizes[rows],
            self.resized[rows],
            self.radii[rows],
            self.hues[rows],
            self.saturations[rows],
        )


def draw_changes(
    augment: Augment, seed: int, epoch: int, positions: np.ndarray, image_size: tuple[int, int]
) -> Changes:
    """Decide what happens to the images at ``positions`` in an epoch.

    Each decision belongs to (seed, epoch, record), as the flips do.
    """

    def draw(use: int) -> np.ndarray:
        """Uniform in [0, 1), float64."""
        bits = hash64(derive_seed(seed, _AUGMENT, epoch, use), positions)
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def between(ends: tuple[float, float], use: int) -> np.ndarray:
        return ends[0] + (ends[1] - ends[0]) * draw(use)

    whole = np.array(image_size, np.float64)
    small = np.maximum(np.rint(whole * between(augment.scale, _SCALE)[:, None]), 1)
    sizes = np.where((draw(_RESIZE) < augment.resize)[:, None], small, whole)
    low, high = augment.radius
    radii = low + (draw(_RADIUS) * (high - low + 1)).astype(np.int32)
    colored = draw(_COLOR) < augment.color
    hues = np.where(colored, between(augment.hue, _HUE), 0)
    saturations = np.where(colored, between(augment.saturation, _SATURATION), 1)
    grey = draw(_GREY) < augment.grey
    return Changes(
        sizes.astype(np.float32),
        (sizes != whole).any(axis=1),
        np.where(draw(_BLUR) < augment.blur, radii, 0).astype(np.int32),
        np.where(grey, 0, hues).astype(np.float32),  # grey has no hue
        np.where(grey, 0, saturations).astype(np.float32),
    )


def change_images(pixels: np.ndarray, changes: Changes) -> None:
    """Make the changes in place: ``pixels`` is uint8 (N, H, W, 3), RGB, mirrored or not yet.

    DALI's results differ by at most some grey levels (by its own intermediate rounding).
    """
    for row in np.flatnonzero(changes.resized).tolist():
        height, width = changes.sizes[row].astype(int).tolist()
        pixels[row] = _resize_down_and_back(pixels[row], height, width)
    for row in np.flatnonzero(changes.blurred).tolist():
        _blur(pixels[row], int(changes.radii[row]))
    for row in np.flatnonzero(changes.colored).tolist():
        matrix = color_matrix(float(changes.hues[row]), float(changes.saturations[row]))
        pixels[row] = _apply_color(pixels[row], matrix)


def _resize_down_and_back(image: np.ndarray, height: int, width: int) -> np.ndarray:
    whole_height, whole_width, _ = image.shape
    # Pillow's filter stops at the border; DALI's goes on over the repeated border pixels, as many
    # as the scale.
    top = math.ceil(whole_height / height) + 1
    left = math.ceil(whole_width / width) + 1
    wide = _extend(_extend(image, 0, top, mirror=False), 1, left, mirror=False)
    small = Image.fromarray(wide).resize(
        (width, height),
        Image.Resampling.BILINEAR,
        box=(left, top, left + whole_width, top + whole_height),
    )
    return np.asarray(small.resize((whole_width, whole_height), Image.Resampling.BILINEAR))


def _blur(image: np.ndarray, radius: int) -> None:
    """Convolve with a Gaussian, mirrored at the border pixels, along each axis in turn."""
    sigma = 0.3 * radius + 0.5
    taps = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    weights = (taps / (2 * taps.sum() - 1)).astype(np.float32)
    blurred = image.astype(np.float32)
    height, width, _ = image.shape
    high = _extend(blurred, 0, radius, mirror=True)
    _weigh([high[tap : tap + height] for tap in range(2 * radius + 1)], weights, blurred)
    wide = _extend(blurred, 1, radius, mirror=True)
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


def _extend(image: np.ndarray, axis: int, width: int, *, mirror: bool) -> np.ndarray:
    """Add lines at both ends of an axis: the border's again, or those inside, mirrored at it."""
    shape = list(image.shape)
    shape[axis] += 2 * width
    extended = np.empty(shape, image.dtype)
    inside, lines = np.moveaxis(image, axis, 0), np.moveaxis(extended, axis, 0)
    lines[width:-width] = inside
    last = len(inside) - 1
    for away in range(1, width + 1):
        # To and fro between the borders, where the image is smaller than what is added.
        step = last - abs(last - away % (2 * last)) if mirror and last else 0
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
