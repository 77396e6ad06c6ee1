"""Random changes to the training images: those of arcface_torch's DALI pipeline and of AdaFace.

What happens to an image is a pure function of (seed, epoch, record): :func:`draw_changes` decides
for a batch, whichever backend, rank or thread then makes the changes.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Annotated, Any, Literal

import numpy as np

from facepack.errors import ConfigError
from facepack.hashing import derive_seed, hash64
from facepack.loading.resampling import ANTIALIASED, CUBIC, LANCZOS, LINEAR, NEAREST
from facepack.settings import Fraction, Range, Settings

# Separates these draws from the order's and the flips', which share the seed.
_AUGMENT = int.from_bytes(b"augment", "big")
# One key for each draw, so that turning one change off leaves the others as they were.
_RESIZE, _SCALE, _BLUR, _RADIUS, _COLOR, _HUE, _SATURATION, _GREY = range(8)
_CROP, _AREA, _RATIO, _TOP, _LEFT, _SHRINK, _ENLARGE = range(8, 15)
_LIGHT, _BRIGHTNESS, _CONTRAST, _CHROMA, _STEPS = range(15, 20)
# How often another area and ratio are drawn where the box would not lie within the image.
_ATTEMPTS = 10

FILTERS = (ANTIALIASED, NEAREST, LINEAR, CUBIC, LANCZOS)
"""What images are scaled with; :attr:`Changes.filters` counts in these."""

# Brightness, contrast and chroma, in each order that there is.
_ORDERS = np.array(list(permutations(range(3))))

_Scale = Annotated[float, Range(above=0, high=1)]
_Ratio = Annotated[float, Range(above=0, high=100)]
_Radius = Annotated[int, Range(low=1, high=7)]
_Hue = Annotated[float, Range(low=-360, high=360)]
_Factor = Annotated[float, Range(low=0, high=10)]


@dataclass(frozen=True, kw_only=True)
class Augment(Settings):
    """Which random changes are made, how often and how strongly, in this order.

    The default ranges are arcface_torch's, or AdaFace's where only that makes such changes;
    :data:`PRESETS` have their probabilities too.

    Raises:
        ConfigError: a value is out of range.
    """

    crop: Fraction = 0.0
    """Probability of making all black but a box, which stays in its place."""
    area: tuple[_Scale, _Scale] = (0.2, 1.0)
    """The box's area as a share of the image's, uniform between these."""
    ratio: tuple[_Ratio, _Ratio] = (0.75, 4 / 3)
    """Its width by its height, its logarithm uniform between these ends'."""
    resize: Fraction = 0.0
    """Probability of scaling an image down and back up."""
    scale: tuple[_Scale, _Scale] = (0.5, 0.8)
    """Height and width of the small image as a share of the image's, uniform between these."""
    interpolation: Literal["antialiased", "any"] = "antialiased"
    """Linear and antialiased; or, for each way, any of this, nearest, linear, cubic and Lanczos'
    without antialiasing."""
    blur: Fraction = 0.0
    """Probability of a Gaussian blur."""
    radius: tuple[_Radius, _Radius] = (1, 2)
    """Radius of its window in pixels, one of low…high; sigma is 0.3 · radius + 0.5."""
    color: Fraction = 0.0
    """Probability of turning the hue and scaling the saturation, both in YIQ."""
    hue: tuple[_Hue, _Hue] = (0.0, 20.0)
    """Angle in degrees, uniform between these."""
    saturation: tuple[_Factor, _Factor] = (1.0, 1.2)
    """Factor, uniform between these."""
    grey: Fraction = 0.0
    """Probability of taking all colour out."""
    light: Fraction = 0.0
    """Probability of scaling brightness, contrast and chroma, one after the other in any order,
    clipped after each."""
    brightness: tuple[_Factor, _Factor] = (0.5, 1.5)
    """Factor, uniform between these."""
    contrast: tuple[_Factor, _Factor] = (0.5, 1.5)
    """Factor on the distance to the mean luma, uniform between these."""
    chroma: tuple[_Factor, _Factor] = (0.5, 1.5)
    """Factor on the distance to each pixel's luma, uniform between these."""

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except ConfigError as error:
            raise ConfigError(f"Augment: {error}") from None
        for name, value in asdict(self).items():
            if isinstance(value, tuple) and value[0] > value[1]:
                raise ConfigError(f"Augment: {name} = {value} must be (low, high)")

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain data, that files can hold."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


ARCFACE_TORCH = Augment(resize=0.1, blur=0.2, color=0.2, grey=0.1)
"""arcface_torch's ``dali_aug`` (recognition/arcface_torch/dataset.py). There, sizes are fractions
of a pixel and pixels are clipped between colour and grey; all else agrees."""

ADAFACE = Augment(crop=0.2, resize=0.2, scale=(0.2, 1.0), interpolation="any", light=0.2)
"""AdaFace's ``Augmenter`` (dataset/augmenter.py) as its training scripts set it. There, OpenCV
scales: areas are averaged where this is antialiased, the cubic is steeper (a = −0.75), Lanczos'
has four lobes, and the nearest pixel is the one at or above and left; sides are rounded down;
pixels are rounded after each step of light, and red and blue are taken for each other in the
luma."""

PRESETS = {"arcface_torch": ARCFACE_TORCH, "adaface": ADAFACE}


@dataclass(frozen=True)
class Changes:
    """What happens to the N images of a batch."""

    image_size: tuple[int, int]  # height and width of the images
    # int32 (N, 4): top, left, height and width of what does not become black, after mirroring
    boxes: np.ndarray
    # float32 (N, 2): height and width that an image is scaled down to; the image's for none
    sizes: np.ndarray
    filters: np.ndarray  # int32 (N, 2): with which of FILTERS it is scaled down and up
    radii: np.ndarray  # int32 (N,): of the blur; 0 for none
    hues: np.ndarray  # float32 (N,): in degrees; 0 for none
    saturations: np.ndarray  # float32 (N,): 1 for none, 0 for grey
    # float32 (N, 3, 3): three steps of three numbers. A pixel becomes the first times itself, plus
    # the second times the image's mean luma, plus the third times its own luma
    lights: np.ndarray

    @property
    def cropped(self) -> np.ndarray:
        """bool (N,)."""
        return (self.boxes[:, 2:] != self.image_size).any(axis=1)

    @property
    def resized(self) -> np.ndarray:
        """bool (N,)."""
        return (self.sizes != self.image_size).any(axis=1)

    @property
    def blurred(self) -> np.ndarray:
        """bool (N,)."""
        return self.radii > 0

    @property
    def colored(self) -> np.ndarray:
        """bool (N,)."""
        return (self.hues != 0) | (self.saturations != 1)

    @property
    def lit(self) -> np.ndarray:
        """bool (N,)."""
        return (self.lights[:, :, 0] != 1).any(axis=1)

    def __getitem__(self, rows: slice | list[int] | np.ndarray) -> Changes:
        image_size, *columns = vars(self).values()
        return Changes(image_size, *(column[rows] for column in columns))


class _Draw:
    """Random numbers of an epoch, each a function of the seed, its use and the record."""

    def __init__(self, seed: int, epoch: int, positions: np.ndarray) -> None:
        self._seed, self._epoch, self._positions = seed, epoch, positions

    def __getitem__(self, rows: np.ndarray) -> _Draw:
        return _Draw(self._seed, self._epoch, self._positions[rows])

    def uniform(self, use: int, *attempt: int) -> np.ndarray:
        """In [0, 1), float64."""
        seed = derive_seed(self._seed, _AUGMENT, self._epoch, use, *attempt)
        return (hash64(seed, self._positions) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def between(self, ends: tuple[float, float], use: int, *attempt: int) -> np.ndarray:
        """Between both ends, float64."""
        return ends[0] + (ends[1] - ends[0]) * self.uniform(use, *attempt)

    def below(self, counts: int | np.ndarray, use: int) -> np.ndarray:
        """Whole, from 0 up to but without ``counts``."""
        return (self.uniform(use) * counts).astype(np.int32)


def draw_changes(
    augment: Augment, seed: int, epoch: int, positions: np.ndarray, image_size: tuple[int, int]
) -> Changes:
    """Decide what happens to the images at ``positions`` in an epoch.

    Each decision belongs to (seed, epoch, record), as the flips do.
    """
    draw = _Draw(seed, epoch, positions)
    whole = np.array(image_size, np.float64)
    small = np.maximum(np.rint(whole * draw.between(augment.scale, _SCALE)[:, None]), 1)
    sizes = np.where((draw.uniform(_RESIZE) < augment.resize)[:, None], small, whole)
    low, high = augment.radius
    radii = low + draw.below(high - low + 1, _RADIUS)
    colored = draw.uniform(_COLOR) < augment.color
    hues = np.where(colored, draw.between(augment.hue, _HUE), 0)
    saturations = np.where(colored, draw.between(augment.saturation, _SATURATION), 1)
    grey = draw.uniform(_GREY) < augment.grey
    return Changes(
        image_size,
        _draw_boxes(augment, draw, image_size),
        sizes.astype(np.float32),
        _draw_filters(augment, draw),
        np.where(draw.uniform(_BLUR) < augment.blur, radii, 0).astype(np.int32),
        np.where(grey, 0, hues).astype(np.float32),  # grey has no hue
        np.where(grey, 0, saturations).astype(np.float32),
        _draw_lights(augment, draw),
    )


def _draw_boxes(augment: Augment, draw: _Draw, image_size: tuple[int, int]) -> np.ndarray:
    """Top, left, height and width (N, 4), as torchvision's RandomResizedCrop draws them."""
    cropped = draw.uniform(_CROP) < augment.crop
    boxes = np.tile(np.array([0, 0, *image_size], np.int32), (len(cropped), 1))
    height, width = image_size
    low, high = augment.ratio
    logarithms = (math.log(low), math.log(high))
    rows = np.flatnonzero(cropped)
    for attempt in range(_ATTEMPTS):
        if not len(rows):
            break
        some = draw[rows]
        area = height * width * some.between(augment.area, _AREA, attempt)
        ratio = np.exp(some.between(logarithms, _RATIO, attempt))
        sides = np.rint(np.sqrt(np.stack([area / ratio, area * ratio], axis=1))).astype(np.int32)
        fits = ((sides > 0) & (sides <= image_size)).all(axis=1)
        boxes[rows[fits], 2:] = sides[fits]
        rows = rows[~fits]
    # As large as the ratios let it be.
    boxes[rows, 2] = max(1, min(height, round(width / low)))
    boxes[rows, 3] = max(1, min(width, round(height * high)))
    # Where no place is left for it to move to, as with whole images, 0 is drawn.
    boxes[:, 0] = draw.below(height - boxes[:, 2] + 1, _TOP)
    boxes[:, 1] = draw.below(width - boxes[:, 3] + 1, _LEFT)
    return boxes


def _draw_filters(augment: Augment, draw: _Draw) -> np.ndarray:
    count = len(FILTERS) if augment.interpolation == "any" else 1
    return np.stack([draw.below(count, _SHRINK), draw.below(count, _ENLARGE)], axis=1)


def _draw_lights(augment: Augment, draw: _Draw) -> np.ndarray:
    """Steps (N, 3, 3), as :attr:`Changes.lights`."""
    drawn = [
        draw.between(augment.brightness, _BRIGHTNESS),
        draw.between(augment.contrast, _CONTRAST),
        draw.between(augment.chroma, _CHROMA),
    ]
    lit = draw.uniform(_LIGHT) < augment.light
    factors = np.where(lit[:, None], np.stack(drawn, axis=1), 1.0)
    order = _ORDERS[draw.below(len(_ORDERS), _STEPS)]
    factors = np.take_along_axis(factors, order, axis=1)
    rest = 1.0 - factors
    steps = np.stack([factors, rest * (order == 1), rest * (order == 2)], axis=2)
    return steps.astype(np.float32)
