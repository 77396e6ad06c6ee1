from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facepack.convert.formats.tree.align import SIZE, TEMPLATE, align_face, similarity, warp
from facepack.errors import DecodeError
from facepack.images import decode, read_header

MakeJpeg = Callable[..., bytes]


def slow_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Umeyama 1991, eq. (38) to (42), as it is written."""
    count = len(source)
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    variance = ((source - source_mean) ** 2).sum() / count
    covariance = (target - target_mean).T @ (source - source_mean) / count
    u, singular, vt = np.linalg.svd(covariance)
    signs = np.ones(2)
    if np.linalg.det(u) * np.linalg.det(vt) < 0:
        signs[1] = -1
    rotation = u @ np.diag(signs) @ vt
    scale = (singular * signs).sum() / variance
    return np.column_stack([scale * rotation, target_mean - scale * rotation @ source_mean])


def slow_warp(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Each pixel by itself: where it comes from, and what four pixels there give."""
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    result = np.zeros((size, size, 3))
    for row in range(size):
        for column in range(size):
            x, y, _ = back @ (column, row, 1)
            left, top = int(np.floor(x)), int(np.floor(y))
            for down in (0, 1):
                for right in (0, 1):
                    inside = 0 <= top + down < len(image) and 0 <= left + right < len(image[0])
                    weight = (1 - abs(y - top - down)) * (1 - abs(x - left - right))
                    if inside:
                        result[row, column] += weight * image[top + down, left + right]
    return np.rint(result).astype(np.uint8)


@pytest.mark.parametrize("seed", range(20))
def test_the_transform_is_umeyamas(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = TEMPLATE * rng.uniform(0.2, 5) + rng.normal(0, 10, (5, 2))
    if seed % 4 == 0:
        points = points[:, ::-1] * (-1, 1)  # turned by 90°
    if seed % 4 == 1:
        points[:, 0] *= -1  # mirrored: the best is still no reflection
    matrix = similarity(points)
    np.testing.assert_allclose(matrix, slow_similarity(points, TEMPLATE), rtol=1e-9, atol=1e-9)
    assert np.linalg.det(matrix[:, :2]) > 0


def test_a_moved_template_comes_back_exactly() -> None:
    turn = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    points = 2.5 * TEMPLATE @ turn.T + (30, -12)
    matrix = similarity(points)
    np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], TEMPLATE, atol=1e-9)


@pytest.mark.parametrize(
    "points", [np.ones((5, 2)), np.full((5, 2), np.nan), TEMPLATE * 1e200, TEMPLATE * 1e-200]
)
def test_landmarks_that_span_no_face(points: np.ndarray) -> None:
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(DecodeError, match="no face"):
        similarity(points)


@pytest.mark.parametrize(
    ("scale", "angle", "shift"),
    [(1, 0, (0, 0)), (0.7, 0.3, (3, 5)), (2.3, -1, (-10, 8)), (0.2, 0, (6, 6)), (1, 0, (500, 0))],
)
def test_the_warp_is_bilinear_with_a_black_border(
    scale: float, angle: float, shift: tuple[float, float]
) -> None:
    image = np.random.default_rng(1).integers(0, 256, (17, 23, 3)).astype(np.uint8)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.column_stack([turn, shift])
    fast, slow = warp(image, matrix, 24), slow_warp(image, matrix, 24)
    # The two come to a pixel by other roundings: one that lies between two values may tip.
    assert np.abs(fast.astype(int) - slow.astype(int)).max() <= 1
    assert np.count_nonzero(fast != slow) <= 2


def test_the_identity_changes_no_pixel() -> None:
    image = np.random.default_rng(2).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    np.testing.assert_array_equal(warp(image, np.array([[1, 0, 0], [0, 1, 0]])), image)


def test_an_aligned_face_is_a_jpeg_without_subsampling(make_jpeg: MakeJpeg) -> None:
    image = make_jpeg(0, size=160)
    aligned = align_face(image, TEMPLATE + 20)
    header = read_header(aligned)
    assert (header.format, header.height, header.width) == ("jpeg", 112, 112)
    with Image.open(io.BytesIO(aligned)) as opened:
        assert opened.layer[1][1:3] == opened.layer[0][1:3] == (1, 1)  # sampling of Cb and Y
    crop = decode(image)[20:132, 20:132].astype(int)
    assert np.abs(decode(aligned).astype(int) - crop).mean() < 3
    assert align_face(image, TEMPLATE + 20) == aligned
    with pytest.raises(DecodeError, match="not an image"):
        align_face(b"nothing", TEMPLATE)


def test_real_faces_come_to_lie_on_the_template(shared: Path) -> None:
    """The mean of aligned faces is sharp where eyes are: dark on the template's points."""
    faces = []
    for line in (shared / "ijb-like/meta/ijbc_name_5pts_score.txt").read_text().splitlines()[:100]:
        name, *numbers = line.split()
        points = np.array(numbers[:10], float).reshape(5, 2)
        image = (shared / "ijb-like/loose_crop" / name).read_bytes()
        faces.append(decode(align_face(image, points)).mean(axis=2))
    mean = np.mean(faces, axis=0)

    def around(x: float, y: float) -> float:
        return float(mean[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3].mean())

    left, right = TEMPLATE[:2]
    between = (left + right) / 2
    for eye in (left, right):
        assert around(*eye) < 0.7 * around(*between)
        assert around(*eye) < 0.7 * around(eye[0], eye[1] + 20)  # the cheek below
