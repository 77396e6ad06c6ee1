"""The ``dali`` backend: one NVIDIA DALI pipeline that reads straight from the pack's pages."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from facepack.errors import DecodeError
from facepack.loading.dali_decoder import choose_decoder
from facepack.loading.dali_pipeline import build_pipeline, change_inputs
from facepack.loading.pixels import decode_checked, is_common_jpeg
from facepack.loading.plan import Draw
from facepack.loading.readahead import NOTHING_AHEAD, Ahead
from facepack.loading.stream import Batch, Stream, StreamSettings, broken_image, keep_for_good

# Delivered batches whose encoded images stay readable: the GPU may still be at work on the last.
_HELD = 2
# Images that a thread looks at in one go.
_CHUNK = 16
# What is known of a record: whether DALI decodes it as the ``cpu`` backend does.
_UNKNOWN, _FOR_DALI, _DECODED_HERE = range(3)


@dataclass
class _Fed:
    """A batch that the pipeline is at work on, with the memory it reads from."""

    draw: Draw
    positions: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    skipped: list[int] = field(default_factory=list)
    failure: Exception | None = None
    views: ExitStack = field(default_factory=ExitStack)
    arrays: list[np.ndarray] = field(default_factory=list)
    finished: torch.cuda.Event | None = None

    def release(self) -> None:
        """Give the encoded images up, once the device has read them."""
        if self.finished is not None:
            self.finished.synchronize()
        self.arrays.clear()
        self.views.close()


class DaliStream(Stream):
    """Batches decoded, changed, mirrored and normalized by DALI: on the CPU, or for a GPU.

    On a GPU's behalf its own decoder may serve or the processor's; all that follows is done on the
    GPU. DALI gets the pack's pages as they are.

    DALI's decoders conceal damage: of a JPEG that was cut and closed with an end marker they make
    an image that is half grey. So every image is looked at by libjpeg-turbo (which takes two thirds
    of decoding it) when the stream first comes to it, and what was found is remembered, a byte a
    record. What is no common JPEG or is not whole (PNG, CMYK, damaged images, other sizes) is
    decoded here, as the ``cpu`` backend does it, and handed over as uncompressed PPM. An image that
    DALI refuses all the same takes its whole pipeline down: it is started anew at the same batch,
    and all images of that are decoded here.
    """

    def __init__(self, settings: StreamSettings, first: int, ahead: Ahead = NOTHING_AHEAD) -> None:
        super().__init__(settings, first)
        self._ahead = ahead
        self._start = first
        self._pipeline: Any = None
        self._fed: deque[_Fed] = deque()
        self._delivered: deque[_Fed] = deque()
        self._verdicts = np.full(len(settings.pack), _UNKNOWN, np.uint8)
        self._threads = ThreadPoolExecutor(settings.threads, "facepack-look")
        self._blank = _ppm(np.zeros((*settings.image_size, 3), np.uint8))

    def next(self) -> tuple[Batch, list[int]]:
        """Return the next batch, and the positions that were left out of it."""
        while len(self._delivered) >= _HELD:
            self._delivered.popleft().release()
        device = self._settings.device
        on_device = device.type == "cuda"
        current: AbstractContextManager[Any] = (
            torch.cuda.device(device) if on_device else nullcontext()
        )
        with current:
            images = self._run(torch.cuda.current_stream(device) if on_device else None)
        fed = self._fed.popleft()
        self._delivered.append(fed)
        if on_device:
            fed.finished = torch.cuda.Event()
            fed.finished.record(torch.cuda.current_stream(device))
        if fed.failure is not None:
            raise fed.failure
        self.index += 1
        labels = torch.from_numpy(self._settings.pack.labels[fed.positions])
        images = images[: len(fed.positions)].permute(0, 3, 1, 2)
        return (
            Batch(images, labels.to(device, non_blocking=True), fed.positions),
            fed.skipped,
        )

    def close(self) -> None:
        """End all threads and wait for them."""
        self._threads.shutdown()
        self._end_pipeline()

    def _end_pipeline(self) -> None:
        if self._pipeline is not None:
            # The destructor's work, done now: the frames of an error may keep the pipeline alive.
            self._pipeline._shutdown()
            self._pipeline = None
        for fed in (*self._fed, *self._delivered):
            fed.release()
        self._fed.clear()
        self._delivered.clear()

    def abandon(self) -> None:
        """In a forked child: leave the pipeline and the images that it reads to the parent."""
        if self._pipeline is not None:
            # DALI shuts every pipeline down when the interpreter ends: this waits for threads
            # that are not here. It spares a pipeline without a backend.
            keep_for_good(self._pipeline._pipe)
            self._pipeline._pipe = None
        keep_for_good(self)

    def _run(self, stream: torch.cuda.Stream | None) -> torch.Tensor:
        """Run the pipeline until it gives the batch at ``self.index``: (N, H, W, 3)."""
        while True:
            if self._pipeline is None:
                self._start = self.index
                decoder = choose_decoder(self._settings)
                self._pipeline = build_pipeline(self._settings, decoder, self._feed)
            try:
                (images,) = self._pipeline.run(stream)
            except RuntimeError:
                positions = self._fed[0].positions if self._fed else np.empty(0, np.int64)
                if (self._verdicts[positions] != _FOR_DALI).all():
                    raise
                self._verdicts[positions] = _DECODED_HERE
                self._end_pipeline()
            else:
                tensor: torch.Tensor = from_dlpack(images.as_tensor())
                return tensor

    # The pipeline's source ----------------------------------------------------------------------

    def _feed(self, iteration: int) -> tuple[Any, ...]:
        """DALI's source: a batch's encoded images, which to mirror, and what else to change."""
        fed = _Fed(self._draws[self._start + iteration])
        self._fed.append(fed)
        try:
            kept = self._open(fed)
        except Exception as error:  # raised where the batch would be returned
            fed.failure = error
            kept = np.empty(0, np.int64)
        fed.positions = fed.draw.positions[kept]
        # DALI takes no empty batch: one image stands in, and is cut off again.
        samples = fed.arrays if len(kept) else [self._blank]
        mirror = fed.draw.flips[kept] if len(kept) else np.zeros(1)
        changes = self._settings.draw_changes(
            fed.draw.index, fed.draw.keys[kept] if len(kept) else np.zeros(1, np.int64)
        )
        inputs = [mirror.astype(np.int32)]
        if changes is not None:
            inputs += change_inputs(changes)
        fed.arrays = [*samples, *inputs]
        return (samples, *inputs)

    def _open(self, fed: _Fed) -> np.ndarray:
        """Fill ``fed.arrays`` with encoded images; return which rows of the draw they are."""
        self._ahead.wait(fed.draw.index)
        settings = self._settings
        positions = fed.draw.positions
        broken = []
        views = fed.views.enter_context(settings.pack.views(positions))
        for_dali = self._look(positions, views).tolist()
        for row, (position, view) in enumerate(zip(positions.tolist(), views, strict=True)):
            if for_dali[row]:
                sample = np.frombuffer(view, np.uint8)
            else:
                try:
                    # As stored, like what DALI decodes: its decoder puts the colours right.
                    sample = _ppm(decode_checked(view, settings.image_size))
                except DecodeError as error:
                    if not settings.skip:
                        raise broken_image(settings, position, error) from error
                    fed.skipped.append(position)
                    broken.append(row)
                    sample = self._blank
            fed.arrays.append(sample)
        kept = fed.draw.complete(broken)
        if broken:
            fed.arrays = [fed.arrays[row] for row in kept]
        return kept

    def _look(self, positions: np.ndarray, views: list[memoryview]) -> np.ndarray:
        """Which of the images are for DALI, bool (n,); those that are new are looked at first."""
        rows = np.flatnonzero(self._verdicts[positions] == _UNKNOWN)
        chunks = [rows[start : start + _CHUNK].tolist() for start in range(0, len(rows), _CHUNK)]
        size = self._settings.image_size

        def look(chunk: list[int]) -> list[bool]:
            return [is_common_jpeg(views[row], size) for row in chunk]

        for chunk, common in zip(chunks, self._threads.map(look, chunks), strict=True):
            self._verdicts[positions[chunk]] = np.where(common, _FOR_DALI, _DECODED_HERE)
        return self._verdicts[positions] == _FOR_DALI


def _ppm(pixels: np.ndarray) -> np.ndarray:
    """The image in the simplest lossless format that DALI reads, as an array of bytes."""
    height, width, _ = pixels.shape
    return np.frombuffer(b"P6\n%d %d\n255\n" % (width, height) + pixels.tobytes(), np.uint8)
