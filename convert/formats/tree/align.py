"""Aligning a face: a similarity transform of five landmarks onto ArcFace's template.

The template is that of Deng et al., "ArcFace" (CVPR 2019), for 112×112 pixels: the field's aligned
sets are made with it. The transform is the least-squares one of Umeyama, "Least-squares estimation
of transformation parameters between two point patterns" (TPAMI 13(4), 1991), eq. (39)–(42). In the
plane it has a closed form: with points as complex numbers, z → a z + b has four free numbers and no
reflection, and the best a is that of linear regression.
"""

from __future__ import annotations

import numpy as np

from facepack.encoding import encode_jpeg
from facepack.errors import DecodeError
from facepack.images import decode
from facepack.store.record import Buffer

SIZE = 112  # pixels, height and width
# (5, 2) x and y, in pixels; a pixel's centre has whole coordinates
TEMPLATE = np.array(
    [
        (38.2946, 51.6963),  # eye on the left of the picture
        (73.5318, 51.5014),  # the other eye
        (56.0252, 71.7366),  # tip of the nose
        (41.5493, 92.3655),  # corner of the mouth on the left of the picture
        (70.7299, 92.2041),  # the other corner
    ]
)
_SMALLEST = 1e-5  # a face of ten million pixels


def similarity(points: np.ndarray) -> np.ndarray:
    """The similarity transform that brings ``points``, (5, 2) x and y, nearest to the template.

    Returns:
        float64 (2, 3): a point (x, y) goes to ``matrix @ (x, y, 1)``.

    Raises:
        DecodeError: the points are all the same, or not finite.
    """
    source = np.asarray(points, np.float64) @ (1, 1j)
    target = TEMPLATE @ (1, 1j)
    centered = source - source.mean()
    spread = np.vdot(centered, centered).real
    product = np.vdot(centered, target - target.mean())
    a = product / spread if 0 < spread < np.inf else np.complex128(0)
    if not _SMALLEST < abs(a) < 1 / _SMALLEST:
        raise DecodeError(f"the landmarks {np.asarray(points).tolist()} span no face")
    b = target.mean() - a * source.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def warp(image: np.ndarray, matrix: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Warp ``image`` by a similarity transform: bilinear, black where there was no image.

    It is uint8 (height, width, 3), the result uint8 (size, size, 3); ``matrix`` (2, 3) takes points
    of the one to points of the other.
    """
    rows, columns = np.mgrid[:size, :size]
    a, b = complex(matrix[0, 0], matrix[1, 0]), complex(matrix[0, 2], matrix[1, 2])
    points = (columns + 1j * rows - b) / a
    # One black pixel around the image stands for all that lies outside.
    height, width = image.shape[:2]
    padded = np.zeros((height + 2, width + 2, 3), np.uint8)
    padded[1:-1, 1:-1] = image
    x = np.clip(points.real + 1, 0, width + 1)
    y = np.clip(points.imag + 1, 0, height + 1)
    left = np.minimum(x.astype(np.int64), width)
    top = np.minimum(y.astype(np.int64), height)
    right_share, bottom_share = (x - left)[..., None], (y - top)[..., None]
    upper = padded[top, left] * (1 - right_share) + padded[top, left + 1] * right_share
    lower = padded[top + 1, left] * (1 - right_share) + padded[top + 1, left + 1] * right_share
    return np.rint(upper * (1 - bottom_share) + lower * bottom_share).astype(np.uint8)


def align_face(image: Buffer, landmarks: np.ndarray) -> bytes:
    """An encoded image as an aligned face of 112×112 pixels, a JPEG.

    ``landmarks`` (5, 2) are x and y of eyes, nose and corners of the mouth, in pixels.

    Raises:
        DecodeError: the image does not decode, or the landmarks span no face.
    """
    matrix = similarity(landmarks)
    return encode_jpeg(warp(decode(image), matrix))
