"""Alignment in batches, against the alignment of one face by NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import simplejpeg

from facepack.convert.formats.tree.align import TEMPLATE, similarity, warp
from facepack.errors import DecodeError, EvaluationError
from facepack.evaluate.sets.alignment import LandmarkedFaces, similarities, warp_batch


class Listed:
    """Encoded images in a list, as far as alignment asks for them."""

    content_id = "of a list"
    channels = "rgb"

    def __init__(self, images: list[bytes]) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def key(self, position: int) -> str:
        return f"image {position}"

    @contextmanager
    def views(self, positions: range) -> Iterator[list[memoryview]]:
        yield [memoryview(self._images[position]) for position in positions]


def faces_of(images: list[bytes], landmarks: np.ndarray) -> LandmarkedFaces:
    return LandmarkedFaces(Listed(images), landmarks, "listed")  # type: ignore[arg-type]


def pictures(n: int = 40) -> tuple[list[np.ndarray], np.ndarray]:
    """Images of many sizes with landmarks: turned, large, small, partly and wholly outside."""
    rng = np.random.default_rng(0)
    images = [
        rng.integers(0, 256, (*rng.integers(1, 300, 2), 3)).astype(np.uint8) for _ in range(n)
    ]
    turns = np.exp(1j * rng.uniform(-np.pi, np.pi, (n, 1))) * rng.uniform(0.05, 8, (n, 1))
    shifts = rng.uniform(-300, 300, (n, 2)) @ (1, 1j)
    points = (TEMPLATE @ (1, 1j)) * turns + shifts[:, None] + rng.normal(0, 2, (n, 5))
    return images, np.stack([points.real, points.imag], axis=-1)


def test_transforms_are_those_of_single_faces() -> None:
    _, landmarks = pictures()
    transforms, spans = similarities(landmarks)
    assert spans.all()
    for (a, b), points in zip(transforms, landmarks, strict=True):
        matrix = similarity(points)
        np.testing.assert_allclose([a.real, a.imag], matrix[:, 0], rtol=1e-9)
        np.testing.assert_allclose([b.real, b.imag], matrix[:, 2], rtol=1e-9, atol=1e-9)


def test_a_batch_is_warped_as_its_images_are() -> None:
    images, landmarks = pictures()
    found = warp_batch(images, similarities(landmarks)[0]).numpy()
    seen = 0
    for face, image, points in zip(found, images, landmarks, strict=True):
        expected = warp(image, similarity(points))
        difference = np.abs(face.astype(int) - expected)
        assert difference.max() <= 1
        assert np.count_nonzero(difference) <= 0.001 * difference.size
        seen += expected.any()
    assert seen > 10


@pytest.mark.parametrize("points", [np.full((5, 2), 7), np.full((5, 2), np.inf), TEMPLATE * 1e9])
def test_landmarks_that_span_no_face_make_it_black(points: np.ndarray) -> None:
    images, landmarks = pictures(3)
    landmarks[1] = points
    transforms, spans = similarities(landmarks)
    assert spans.tolist() == [True, False, True]
    images[1] = np.full((50, 50, 3), 255, np.uint8)
    assert not warp_batch(images, transforms)[1].any()
    faces = faces_of([simplejpeg.encode_jpeg(image) for image in images], landmarks)
    assert faces.aligned.tolist() == [True, False, True]
    (batch,) = faces.batches(0, 3, batch_size=3, image_size=(112, 112), device="cpu")
    assert not np.asarray(batch)[1].any()
    with np.errstate(invalid="ignore"), pytest.raises(DecodeError):
        similarity(points)


@pytest.mark.parametrize("batch_size", [1, 7, 40, 64])
def test_faces_come_in_order(batch_size: int) -> None:
    images, landmarks = pictures()
    encoded = [simplejpeg.encode_jpeg(image) for image in images]
    faces = faces_of(encoded, landmarks)
    decoded = [simplejpeg.decode_jpeg(image) for image in encoded]
    expected = np.array([warp(i, similarity(p)) for i, p in zip(decoded, landmarks, strict=True)])
    start = batch_size if batch_size < 40 else 0
    found = [
        np.asarray(batch)
        for batch in faces.batches(
            start, 40, batch_size=batch_size, image_size=(112, 112), device="cpu"
        )
    ]
    assert {len(batch) for batch in found[:-1]} <= {batch_size}
    assert (np.concatenate(found) == expected[start:]).all()
    assert len(faces) == 40 and faces.key(3) == "image 3"


def test_what_does_not_decode_is_named() -> None:
    images, landmarks = pictures(5)
    encoded = [simplejpeg.encode_jpeg(image) for image in images]
    encoded[3] = encoded[3][:40]
    faces = faces_of(encoded, landmarks)
    with pytest.raises(DecodeError, match="listed: image 3"):
        list(faces.batches(0, 5, batch_size=2, image_size=(112, 112), device="cpu"))
    bad: dict[int, str] = {}
    _, second, _ = faces.batches(0, 5, batch_size=2, image_size=(112, 112), device="cpu", bad=bad)
    assert list(bad) == [3] and bad[3].startswith("listed: image 3: ")
    assert not np.asarray(second)[1].any()


def test_another_size_is_refused() -> None:
    faces = faces_of([b""], pictures(1)[1])
    with pytest.raises(EvaluationError, match="224×224"):
        list(faces.batches(0, 1, batch_size=1, image_size=(224, 224), device="cpu"))


def test_keys_of_a_folder_number_no_pack() -> None:
    """Of a folder they are file names, by which embeddings are found, or none is."""
    landmarks = pictures(1)[1]
    assert faces_of([b""], landmarks).source_id == ""
    packed = Listed([b""])
    packed.pack_id = "0123"  # type: ignore[attr-defined]
    assert LandmarkedFaces(packed, landmarks, "packed").source_id == "0123 aligned"  # type: ignore[arg-type]
