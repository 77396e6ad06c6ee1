"""Decode aligned faces in threads, ahead of the network that consumes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from facepack.errors import DecodeError
from facepack.images import decode
from facepack.processors import usable_processors

FACE_SIZE = (112, 112)  # height and width in pixels, of the sets as published

_CHUNK = 16  # images a task: long enough to hide the hand-over, short enough to share out a batch
_BATCHES_AHEAD = 2


def decode_face(
    image: bytes | memoryview, size: tuple[int, int], what: str, channels: str = "rgb"
) -> np.ndarray:
    """The face in an encoded image: uint8 RGB (H, W, 3).

    Args:
        image: encoded.
        size: (H, W) that it must have.
        what: what errors call it.
        channels: the order of the colours in it.

    Raises:
        DecodeError: it does not decode, or not to ``size``; names it.
    """
    try:
        face = decode(image, channels)
    except DecodeError as error:
        raise DecodeError(f"{what}: {error}") from error
    if face.shape[:2] != size:
        raise DecodeError(
            f"{what} is {face.shape[1]}×{face.shape[0]} pixels; aligned faces of "
            f"{size[1]}×{size[0]} are needed: align the images to that size first"
        )
    return face


def _decode_into(
    out: np.ndarray,
    images: Sequence[bytes | memoryview],
    keys: Sequence[str],
    name: str,
    first: int,
    bad: dict[int, str] | None,
    channels: str,
) -> None:
    height, width = out.shape[1:3]
    for position, (row, image, key) in enumerate(zip(out, images, keys, strict=True), first):
        try:
            row[...] = decode_face(image, (height, width), f"{name}: {key}", channels)
        except DecodeError as error:
            if bad is None:
                raise
            bad[position] = str(error)
            row[...] = 0


def decode_batches(
    images: Sequence[bytes | memoryview],
    *,
    keys: Sequence[str],
    name: str,
    batch_size: int,
    size: tuple[int, int] = FACE_SIZE,
    threads: int | None = None,
    first: int = 0,
    bad: dict[int, str] | None = None,
    channels: str = "rgb",
) -> Iterator[np.ndarray]:
    """Yield the faces in order: uint8 RGB arrays (n, H, W, 3), n = ``batch_size`` but the last.

    Threads decode two batches ahead of the one that is handed out, so that the caller's network
    need not wait. Each array is new and the caller's to keep.

    Args:
        images: encoded images.
        keys: what errors call each image.
        name: what errors call the set.
        batch_size: images a batch.
        size: (H, W) of the images in pixels; none is scaled.
        threads: decoding threads; as many as the process may use processors, at most 8,
            when None.
        first: the position of the first image, as ``bad`` counts.
        bad: takes the position of each image that does not decode, or not to ``size``, and why: it
            is black then. None raises.
        channels: the order of the colours in the encoded images.

    Raises:
        DecodeError: an image does not decode, or not to ``size``; names the set and the image.
    """
    pending: deque[tuple[np.ndarray, list[Future[None]]]] = deque()
    pool = ThreadPoolExecutor(threads or min(8, usable_processors()))
    try:
        for start in range(0, len(images), batch_size):
            stop = min(start + batch_size, len(images))
            batch = np.empty((stop - start, *size, 3), np.uint8)
            tasks = [
                pool.submit(
                    _decode_into,
                    batch[at - start : at - start + _CHUNK],
                    images[at : min(at + _CHUNK, stop)],
                    keys[at : min(at + _CHUNK, stop)],
                    name,
                    first + at,
                    bad,
                    channels,
                )
                for at in range(start, stop, _CHUNK)
            ]
            pending.append((batch, tasks))
            if len(pending) > _BATCHES_AHEAD:
                yield _finished(*pending.popleft())
        while pending:
            yield _finished(*pending.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finished(batch: np.ndarray, tasks: list[Future[None]]) -> np.ndarray:
    for task in tasks:
        task.result()
    return batch
