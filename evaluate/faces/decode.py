"""Decode aligned faces in threads, ahead of the network that consumes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from facepack.errors import DecodeError
from facepack.images import decode
from facepack.processors import usable_processors

FACE_SIZE = (112, 112)  # height and width in pixels, of the sets as published

_CHUNK = 16  # images a task: long enough to hide the hand-over, short enough to share out a batch
_BATCHES_AHEAD = 2
T = TypeVar("T")


def decode_face(
    image: bytes | memoryview, size: tuple[int, int], what: str, channels: str = "rgb"
) -> np.ndarray:
    """The face in an encoded image: uint8 RGB (H, W, 3).

    Raises:
        DecodeError: it does not decode, or not to ``size`` (H, W); calls it ``what``.
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


def in_threads(
    begin: Callable[[int, int], Callable[[int, int], T]],
    start: int,
    stop: int,
    batch_size: int,
    threads: int | None = None,
) -> Iterator[list[T]]:
    """Make the batches of [start, stop) in threads, two ahead of the one that is handed out.

    ``begin`` is given a batch's [first, end) and returns what makes a part of it, which is called
    in a thread with the part's; what it makes of all of them is yielded in order. The threads are
    as many as the process may use processors, at most 8, when None.
    """
    pending: deque[list[Future[T]]] = deque()
    pool = ThreadPoolExecutor(threads or min(8, usable_processors()))
    try:
        for first in range(start, stop, batch_size):
            end = min(first + batch_size, stop)
            make, parts = begin(first, end), range(first, end, _CHUNK)
            pending.append([pool.submit(make, at, min(at + _CHUNK, end)) for at in parts])
            if len(pending) > _BATCHES_AHEAD:
                yield [task.result() for task in pending.popleft()]
        while pending:
            yield [task.result() for task in pending.popleft()]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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

    They are made :func:`in_threads`, so that the caller's network need not wait. Each array is new
    and the caller's to keep.

    Args:
        images: encoded images, of which ``keys`` are what errors call each, ``name`` all.
        size: (H, W) of the images in pixels; none is scaled.
        first: the position of the first image, as ``bad`` counts.
        bad: takes the position of each image that does not decode, or not to ``size``, and why: it
            is black then. None raises.
        channels: the order of the colours in the encoded images.

    Raises:
        DecodeError: an image does not decode, or not to ``size``; names the set and the image.
    """

    def begin(start: int, stop: int) -> Callable[[int, int], np.ndarray]:
        batch = np.empty((stop - start, *size, 3), np.uint8)

        def decode_part(low: int, high: int) -> np.ndarray:
            for at in range(low, high):
                try:
                    face = decode_face(images[at], size, f"{name}: {keys[at]}", channels)
                except DecodeError as error:
                    if bad is None:
                        raise
                    bad[first + at] = str(error)
                    batch[at - start] = 0
                else:
                    batch[at - start] = face
            return batch

        return decode_part

    for batch, *_ in in_threads(begin, 0, len(images), batch_size, threads):
        yield batch
