"""The ``cpu`` backend: threads that decode into a ring of preallocated batches."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import torch

from facepack.errors import DecodeError
from facepack.images import SKIPPED, empty_pixels, skip_to_decode
from facepack.loading.changes import change_images
from facepack.loading.kernels import choose_kernels
from facepack.loading.pixels import MEAN, SCALE, decode_rows
from facepack.loading.plan import Draw
from facepack.loading.readahead import NOTHING_AHEAD, Ahead
from facepack.loading.stream import Batch, Stream, StreamSettings, broken_image

# Two batches stay valid with the consumer.
_HELD = 2
# Images a thread reads at once, and decodes before it looks at the shared state again. Reading many
# costs less for each: with caches full of pixels, to begin takes longer than to find a record.
_LEAST_CHUNK = 32
_MOST_CHUNK = 128
# Images that are decoded, then normalized together while they are in the processor's cache.
_TILE = 8


class _Slot:
    """Memory of one batch: a tensor (batch_size, H, W, 3) and the same memory as an array."""

    def __init__(self, rows: int, size: tuple[int, int], dtype: torch.dtype, pin: bool) -> None:
        shape = (rows, *size, 3)
        if dtype == torch.uint8:
            memory = torch.empty(math.prod(shape) + SKIPPED, dtype=dtype, pin_memory=pin)
            skipped = skip_to_decode(memory.data_ptr())
            self.tensor = memory[skipped : skipped + math.prod(shape)].view(shape)
        else:
            self.tensor = torch.empty(shape, dtype=dtype, pin_memory=pin)
        self.array: np.ndarray = self.tensor.numpy()
        self.rows = list(self.array)  # indexing an array takes a hundredth of decoding a row
        self.copied: torch.cuda.Event | None = None

    def wait_until_copied(self) -> None:
        """Wait until the device has read this memory, so that it may be written again."""
        if self.copied is not None:
            self.copied.synchronize()


@dataclass
class _Work:
    """A batch in preparation."""

    draw: Draw
    slot: _Slot
    handed_out: int = 0
    unfinished: int = 0
    broken: dict[int, DecodeError] = field(default_factory=dict)
    failures: dict[int, Exception] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return len(self.draw.positions)


class CpuStream(Stream):
    """Batches decoded by simplejpeg (other formats: Pillow) in threads, ahead of the consumer.

    The threads take chunks of the batches in turn and never wait for each other, only for a free
    slot of the ring. On a GPU's behalf the slots are pinned, uint8 is copied without blocking,
    and the device normalizes.
    """

    def __init__(self, settings: StreamSettings, first: int, ahead: Ahead = NOTHING_AHEAD) -> None:
        super().__init__(settings, first)
        self._ahead = ahead
        self._next_draw = first
        on_device = settings.device.type == "cuda"
        self._normalize_here = settings.normalize and not on_device
        dtype = torch.float32 if self._normalize_here else torch.uint8
        # Here, not in the threads: a fork must not find one of them in the middle of an import.
        self._kernels = choose_kernels(settings.image_size)
        self._held: deque[_Slot] = deque()  # with the consumer
        self._changed = threading.Condition()  # guards what follows
        # Every thread finds a chunk in the batches in preparation, besides one that is ready.
        batch_size = settings.plan.rows
        fair = -(-2 * batch_size // settings.threads)
        self._chunk = min(batch_size, max(_LEAST_CHUNK, min(fair, _MOST_CHUNK)))
        prepared = 1 + -(-settings.threads * self._chunk // batch_size)
        self._free = [
            _Slot(batch_size, settings.image_size, dtype, on_device)
            for _ in range(_HELD + prepared)
        ]
        self._works: deque[_Work] = deque()
        self._crash: BaseException | None = None
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"facepack-loader-{number}", daemon=True)
            for number in range(settings.threads)
        ]
        for thread in self._threads:
            thread.start()

    # The consumer's side --------------------------------------------------------------------

    def next(self) -> tuple[Batch, list[int]]:
        """Return the next batch, and the positions that were left out of it."""
        while len(self._held) >= _HELD:
            slot = self._held.popleft()
            slot.wait_until_copied()
            with self._changed:
                self._free.append(slot)
                self._changed.notify_all()
        with self._changed:
            while not (self._works and self._works[0].unfinished == 0):
                if self._crash is not None:
                    raise self._crash
                self._changed.wait()
            work = self._works.popleft()
        if work.failures:
            raise work.failures[min(work.failures)]
        self._held.append(work.slot)
        self.index += 1
        return self._deliver(work)

    def _deliver(self, work: _Work) -> tuple[Batch, list[int]]:
        positions, slot = work.draw.positions, work.slot
        skipped: list[int] = []
        if work.broken:
            skipped = positions[sorted(work.broken)].tolist()
            kept = work.draw.complete(work.broken)
            positions = positions[kept]
            slot.array[: len(kept)] = slot.array[kept]
        images = slot.tensor[: len(positions)]
        labels = torch.from_numpy(self._settings.pack.labels[positions])
        device = self._settings.device
        if device.type == "cuda":
            images = images.to(device, non_blocking=True)
            labels = labels.to(device, non_blocking=True)
            slot.copied = torch.cuda.Event()
            slot.copied.record(torch.cuda.current_stream(device))
            if self._settings.normalize:
                images = images.float().sub_(float(MEAN)).mul_(float(SCALE))
        return Batch(images.permute(0, 3, 1, 2), labels, positions), skipped

    def close(self) -> None:
        """Stop the threads and wait for them."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            # The garbage collector may close a forgotten stream from one of its own threads.
            if thread is not threading.current_thread():
                thread.join()
        for slot in (*self._free, *self._held):
            slot.wait_until_copied()

    # The workers' side ----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            tile = empty_pixels(_TILE, *self._settings.image_size, 3)
            rows = list(tile)
            while (taken := self._take()) is not None:
                work, start, stop = taken
                try:
                    self._fill(work, start, stop, tile, rows)
                except Exception as error:  # raised where the batch would be returned
                    work.failures[start] = error
                self._finish(work, stop - start)
        except BaseException as error:
            with self._changed:
                self._crash = error
                self._changed.notify_all()

    def _take(self) -> tuple[_Work, int, int] | None:
        """The next chunk to be decoded, or None when the stream is closed."""
        with self._changed:
            while not self._closed:
                work = self._works[-1] if self._works else None
                if work is None or work.handed_out == work.rows:
                    if not self._free:
                        self._changed.wait()
                        continue
                    work = self._begin()
                start = work.handed_out
                work.handed_out = min(start + self._chunk, work.rows)
                if start < work.rows:
                    return work, start, work.handed_out
        return None

    def _begin(self) -> _Work:
        work = _Work(self._draws[self._next_draw], self._free.pop())
        work.unfinished = work.rows
        self._next_draw += 1
        self._works.append(work)
        self._changed.notify_all()  # for the consumer, should the batch be empty
        return work

    def _finish(self, work: _Work, rows: int) -> None:
        with self._changed:
            work.unfinished -= rows
            if work.unfinished == 0:
                self._changed.notify_all()

    def _fill(
        self, work: _Work, start: int, stop: int, tile: np.ndarray, tile_rows: list[np.ndarray]
    ) -> None:
        """Decode a chunk, by way of ``tile`` (and its rows) where it is normalized here."""
        self._ahead.wait(work.draw.index)
        settings = self._settings
        positions = work.draw.positions[start:stop]
        mirrored = work.draw.flips[start:stop].tolist()
        changes = settings.draw_changes(work.draw.index, work.draw.keys[start:stop])
        with settings.pack.views(positions) as views:
            for low in range(start, stop, _TILE):
                here = slice(low - start, min(low + _TILE, stop) - start)
                slot = work.slot.array[low:stop][:_TILE]
                pixels, rows = slot, work.slot.rows[low:stop][:_TILE]
                if self._normalize_here:
                    pixels, rows = tile[: len(slot)], tile_rows[: len(slot)]
                reverse, broken = decode_rows(
                    views[here], rows, mirrored[here], settings.pack.channels
                )
                for row, error in broken.items():
                    if settings.skip:
                        work.broken[low + row] = error
                    else:
                        position = positions[low - start + row]
                        work.failures[low + row] = broken_image(settings, position, error)
                self._kernels.reverse_rows(pixels, reverse)
                if changes is not None:
                    change_images(pixels, changes[here])
                if self._normalize_here:
                    self._kernels.normalize(pixels, slot)
