"""Faces that are aligned by their landmarks on the way to the model, a batch at a time.

Images of any size are decoded in threads. Where the model is on a GPU a batch is warped there at
once, else each image in its thread, which takes a third of the time of a batch on the CPU.
Transform and template are those of :mod:`facepack.convert.formats.tree.align`, whose ``warp`` is
the twin of :func:`warp_batch`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
import xxhash
from torch import Tensor

from facepack.convert.formats.tree.align import SIZE, TEMPLATE, warp
from facepack.errors import DecodeError, EvaluationError
from facepack.evaluate.faces.decode import in_threads
from facepack.images import decode
from facepack.loading.source import ImageSource, pack_of

if TYPE_CHECKING:
    from facepack.evaluate.faces.faces import Pixels

_SMALLEST = 1e-5  # a face of ten million pixels


class LandmarkedFaces:
    """Images, aligned by five landmarks each: :class:`facepack.evaluate.faces.faces.Faces`.

    The images are encoded, as they were found, of any sizes; landmarks (n, 5, 2) are x and y in
    pixels of the image.

    Attributes:
        aligned: bool (n,), False where landmarks span no face: such an image is black.
    """

    def __init__(self, images: ImageSource, landmarks: np.ndarray, name: str) -> None:
        self.name = name
        # Another's embeddings of the images as they were found are not those of these faces.
        digest = xxhash.xxh3_128(images.content_id.encode())
        digest.update(np.ascontiguousarray(landmarks, "<f8").tobytes())
        self.content_id = digest.hexdigest()
        pack_id = pack_of(images)
        self.source_id = f"{pack_id} aligned" if pack_id else ""  # keys of a folder are file names
        self._images = images
        self._transforms, self.aligned = similarities(landmarks)

    def __len__(self) -> int:
        return len(self._images)

    def key(self, position: int) -> str:
        """The image's key."""
        return self._images.key(position)

    def batches(
        self,
        start: int,
        stop: int,
        *,
        batch_size: int,
        image_size: tuple[int, int],
        device: str | torch.device,
        bad: dict[int, str] | None = None,
    ) -> Iterator[Pixels]:
        """As :meth:`facepack.evaluate.faces.faces.Faces.batches`; pixels are on the device."""
        if image_size != (SIZE, SIZE):
            raise EvaluationError(
                f"{self.name}: faces are aligned to {SIZE}×{SIZE} pixels, but the model takes "
                f"{image_size[1]}×{image_size[0]}: give one that takes {SIZE}×{SIZE}"
            )
        if torch.device(device).type == "cpu":
            align = partial(self._align, bad)
            for parts in in_threads(lambda *_: align, start, stop, batch_size):
                yield np.stack(list(chain(*parts)))
            return
        at, decode_part = start, partial(self._decode, bad)
        for parts in in_threads(lambda *_: decode_part, start, stop, batch_size):
            images = list(chain(*parts))
            yield warp_batch(images, self._transforms[at : at + len(images)], device=device)
            at += len(images)

    def _decode(self, bad: dict[int, str] | None, start: int, stop: int) -> list[np.ndarray]:
        decoded = []
        with self._images.views(range(start, stop)) as images:
            for position, image in enumerate(images, start):
                try:
                    decoded.append(decode(image, self._images.channels))
                except DecodeError as error:
                    reason = f"{self.name}: {self.key(position)}: {error}"
                    if bad is None:
                        raise DecodeError(reason) from error
                    bad[position] = reason
                    decoded.append(np.zeros((1, 1, 3), np.uint8))
        return decoded

    def _align(self, bad: dict[int, str] | None, start: int, stop: int) -> list[np.ndarray]:
        images = self._decode(bad, start, stop)
        transforms = self._transforms[start:stop]
        return [warp(image, _matrix(*each)) for image, each in zip(images, transforms, strict=True)]


def _matrix(a: complex, b: complex) -> np.ndarray:
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def similarities(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least-squares similarity transform of each face's landmarks onto ArcFace's template.

    Landmarks (n, 5, 2) are x and y of each point.

    Returns:
        complex128 (n, 2), a and b of z → a z + b with points as complex numbers; and bool (n,),
        whether the landmarks span a face: where not, a is 1 and b so far off that nothing is seen.
    """
    target = TEMPLATE @ (1, 1j)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        source = np.asarray(landmarks, np.float64) @ (1, 1j)
        middle = source.mean(axis=1)
        centered = source - middle[:, None]
        spread = np.square(np.abs(centered)).sum(axis=1)
        a = (centered.conj() @ (target - target.mean())) / spread
        b = target.mean() - a * middle
        spans = (np.abs(a) > _SMALLEST) & (np.abs(a) < 1 / _SMALLEST) & np.isfinite(b)
    return np.where(spans[:, None], np.column_stack([a, b]), (1, 2.0**40)), spans


def warp_batch(
    images: Sequence[np.ndarray], transforms: np.ndarray, *, device: str | torch.device = "cpu"
) -> Tensor:
    """Warp images, uint8 (h, w, 3) of any sizes, to uint8 (n, 112, 112, 3) on ``device``.

    Bilinear, black where there was no image, by the transforms that :func:`similarities` gives.
    Places are float64 and colours float32, so that a colour is that of the twin, or where that is
    half-way between two levels at most one level off.
    """
    # One row of all images' pixels, so that one index reaches any pixel of any.
    pixels = torch.from_numpy(np.concatenate([image.reshape(-1, 3) for image in images]))
    pixels = pixels.to(device)
    heights, widths = (
        torch.tensor([image.shape[axis] for image in images], device=device)[:, None, None]
        for axis in (0, 1)
    )
    offsets = (heights * widths).cumsum(0) - heights * widths
    left, top, right_share, bottom_share = _places(transforms, heights, widths)
    total = torch.zeros(*left.shape, 3, device=device)
    for right, x_share in ((0, 1 - right_share), (1, right_share)):
        for below, y_share in ((0, 1 - bottom_share), (1, bottom_share)):
            x, y = left + right, top + below
            inside = (x >= 0) & (x < widths) & (y >= 0) & (y < heights)
            index = torch.where(inside, offsets + y * widths + x, 0)
            share = torch.where(inside, x_share * y_share, 0.0).float()
            total += pixels[index] * share[..., None]
    return total.round_().to(torch.uint8)


def _places(
    transforms: np.ndarray, heights: Tensor, widths: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where each pixel of a result comes from: the pixel above and left of it, and the shares.

    The first two are int64 (n, 112, 112), the others float64.
    """
    device = heights.device
    grid = torch.arange(SIZE, dtype=torch.float64, device=device)
    a, b = torch.from_numpy(transforms).to(device).T[..., None, None]
    column, row = grid - b.real, grid[:, None] - b.imag
    size = a.real.square() + a.imag.square()
    x = (column * a.real + row * a.imag) / size
    y = (row * a.real - column * a.imag) / size
    # From one pixel outside on all is black, however far it is.
    x = torch.minimum(x.clamp(min=-1), widths.double())
    y = torch.minimum(y.clamp(min=-1), heights.double())
    left, top = x.floor(), y.floor()
    return left.long(), top.long(), x - left, y - top
