"""Images encoded anew: how they are scaled and stored."""

from __future__ import annotations

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from facepack.encoding import encode_as, encode_jpeg, resize
from facepack.loading.resampling import CUBIC, Filter, resample

COVERING = Filter(CUBIC.weigh, CUBIC.reach, antialiased=True)


@pytest.mark.parametrize("size", [(112, 112), (30, 47), (150, 200)])
def test_the_filter_is_keys_cubic_over_all_pixels(size: tuple[int, int]) -> None:
    """But for the border, beyond which Pillow takes nothing, and for rounding between the axes."""
    draw = np.random.default_rng(0)
    for _ in range(4):
        shape = (*draw.integers(60, 180, 2), 3)
        pixels = draw.integers(100, 156, shape).astype(np.uint8)  # nothing is clipped on the way
        twin = resample(pixels, size, COVERING).astype(int)
        found = resize(pixels, size)
        assert found.shape == (*size, 3) and found.flags.c_contiguous and found.flags.writeable
        assert np.abs(found - twin)[6:-6, 6:-6].max() <= 1


def test_a_fine_pattern_becomes_its_mean() -> None:
    checkers = np.indices((224, 224)).sum(axis=0) % 2 * 255
    pixels = np.repeat(checkers[..., None], 3, axis=-1).astype(np.uint8)
    assert np.abs(resize(pixels, (112, 112)).astype(int) - 127.5).max() < 8
    assert np.ptp(pixels[::2, ::2]) == 0  # what skipping pixels would give: black alone


def test_what_was_a_jpeg_becomes_one() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (16, 24, 3)).astype(np.uint8)
    assert encode_as("jpeg", pixels) == encode_jpeg(pixels)
    assert simplejpeg.decode_jpeg_header(encode_jpeg(pixels))[:4] == (16, 24, "YCbCr", "444")
    for kind in ("png", "webp", "bmp"):
        image = Image.open(io.BytesIO(encode_as(kind, pixels)))
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), pixels)
