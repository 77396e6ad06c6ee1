"""What a backend is to the loader: a stream of batches that are prepared ahead."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from facepack.errors import DecodeError
from facepack.loading.augment import Augment, Changes, draw_changes
from facepack.loading.identities import IdentityIndex
from facepack.loading.plan import Draws, Plan
from facepack.loading.source import ImageSource
from facepack.store.pack import Pack

# How messages say what lets a batch do without some images: right wherever they are read.
LEAVE_OUT = '(on_error="skip" of the Loader, on_bad_image = skip in training)'


class Batch(NamedTuple):
    """A batch of images as the network takes them.

    ``images`` may be memory of the loader's ring: it is valid until the next call but one of
    ``next()`` on the iterator. Clone it to keep it longer.
    """

    #: N×3×H×W in channels_last memory: uint8 raw RGB, or float32 (x − 127.5)/127.5
    images: torch.Tensor
    labels: torch.Tensor  #: int64 (N,), on the images' device; −1 is no identity
    positions: np.ndarray  #: int64 (N,): the records' positions in the pack

    def halves(self) -> tuple[Batch, Batch]:
        """Both halves of a batch with pairs, without a copy: rows of one place belong together.

        Each begins with an image of every pair, and goes on with half of the other images.
        """
        middle = len(self.positions) // 2
        second = Batch(self.images[middle:], self.labels[middle:], self.positions[middle:])
        return self.first(middle), second

    def first(self, images: int) -> Batch:
        """The first ``images``, without a copy."""
        return Batch(self.images[:images], self.labels[:images], self.positions[:images])


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """All that the batches of a stream depend on."""

    pack: ImageSource
    plan: Plan
    index: IdentityIndex | None = None  # the identities, if the plan has pairs
    image_size: tuple[int, int]  # height and width that every image must have
    normalize: bool  # float32 (x − 127.5)/127.5 instead of raw uint8
    device: torch.device
    threads: int  # decoding threads on the CPU
    skip: bool  # leave images that do not decode out of their batch instead of raising
    augment: Augment | None = None  # random changes to the images
    dali_decoder: str = "auto"  # the dali backend's on a GPU: mixed, cpu, or auto, the faster

    def draw_changes(self, index: int, keys: np.ndarray) -> Changes | None:
        """What happens to the images of batch ``index`` that have ``keys``; None for nothing."""
        if self.augment is None:
            return None
        epoch = index // self.plan.batches
        return draw_changes(self.augment, self.plan.seed, epoch, keys, self.image_size)


class Stream(ABC):
    """Batches in the order of the plan from some index on, without end.

    Everything that goes wrong with a batch is raised by the ``next()`` that would return it, not
    before; a stream that has raised can only be closed.
    """

    def __init__(self, settings: StreamSettings, first: int) -> None:
        self.index = first  # of the batch that next() returns: epoch * batches an epoch + batch
        self._settings = settings
        self._draws = Draws(settings.plan, settings.index)

    @abstractmethod
    def next(self) -> tuple[Batch, list[int]]:
        """Return the next batch, and the positions that were left out of it."""

    @abstractmethod
    def close(self) -> None:
        """End threads and give up all memory; may be called twice."""

    def abandon(self) -> None:
        """In a forked child: leave threads, locks, pinned memory and the GPU's to the parent."""
        keep_for_good(self)


def keep_for_good(thing: object) -> None:
    """Keep an object from being destroyed, even when the interpreter ends."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def broken_image(settings: StreamSettings, position: int, error: DecodeError) -> DecodeError:
    """The same error with the image's key, and what to do next."""
    pack = settings.pack
    message = f"{pack.path}: {pack.key(int(position))}: {error}; leave such images out {LEAVE_OUT}"
    if isinstance(pack, Pack):
        message += f"; all that do not decode are found by: facepack verify --decode {pack.path}"
    keyed = DecodeError(message)
    keyed.__cause__ = error
    return keyed
