"""Decoded images kept in memory: each is decoded once, and every epoch is made from the pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from facepack.errors import ConfigError, DecodeError
from facepack.loading.changes import change_images
from facepack.loading.choice import choose_order
from facepack.loading.kernels import choose_kernels
from facepack.loading.pixels import MEAN, SCALE, decode_checked
from facepack.loading.stream import Batch, Stream, StreamSettings, broken_image
from facepack.memory import free_memory

CACHES = ("none", "host", "device")

# Batches that stay valid with the consumer.
_HELD = 2
# The share of the free memory that the cache may take: others grow, too.
_SHARE = 0.9


def check_fits(settings: StreamSettings, where: torch.device) -> None:
    """Check that the decoded pack fits the memory that is free now.

    Raises:
        ConfigError: it does not; names the bytes that are needed and those that are there.
    """
    height, width = settings.image_size
    needed = settings.plan.records * height * width * 3
    if where.type == "cuda":
        free, name = torch.cuda.mem_get_info(where)[0], f"the memory of {where}"
        cache, remedy = "device", "cache='host' or 'none'"
    else:
        free, name = free_memory(), "memory"
        cache, remedy = "host", "cache='none'"
    room = int(free * _SHARE)
    if needed > room:
        raise ConfigError(
            f"cache is {cache!r}: {settings.plan.records} decoded images of {width}×{height} "
            f"pixels (width×height) take {needed} bytes, and {room} may be had "
            f"({_SHARE:.0%} of what is free in {name}): use {remedy}"
        )


class PixelCache:
    """All images of a pack, decoded, in the memory of one device."""

    def __init__(self, settings: StreamSettings, where: torch.device, stream: Stream) -> None:
        """Fill it from an epoch of ``stream``, which has the ``settings`` to fill it with."""
        plan = settings.plan
        # uint8 (records, H, W, 3), RGB; undefined where broken
        self.pixels = torch.empty(
            (plan.records, *settings.image_size, 3), dtype=torch.uint8, device=where
        )
        self.broken = np.zeros(plan.records, bool)  # those that do not decode
        for _ in range(plan.batches):
            batch, skipped = stream.next()
            images = batch.images.permute(0, 2, 3, 1).to(where)
            if where.type == "cpu":
                self.pixels.numpy()[batch.positions] = images.numpy()
            else:
                rows = torch.from_numpy(batch.positions).to(where)
                self.pixels.index_copy_(0, rows, images)
            self.broken[skipped] = True


def filling_settings(settings: StreamSettings) -> StreamSettings:
    """What to fill a cache with: each image once, in the pack's order, as plain bytes."""
    order = choose_order("auto", settings.pack, shuffle=False)
    plan = replace(
        settings.plan,
        rank=0,
        world=1,
        shuffle=False,
        mirror=False,
        drop_last=False,
        blocks=order.blocks,
        pairs=0,
    )
    return replace(settings, plan=plan, index=None, normalize=False, augment=None, skip=True)


class CachedStream(Stream):
    """Batches of cached pixels: gathered, mirrored, changed and normalized at once.

    The batches equal those of the backend that filled the cache; changed ones equal those of the
    ``cpu`` backend. There are no threads: a batch is made when it is asked for.
    """

    def __init__(self, settings: StreamSettings, first: int, cache: PixelCache) -> None:
        super().__init__(settings, first)
        self._cache = cache
        self._kernels = choose_kernels(settings.image_size)
        self._slots = [_Slot(settings, cache.pixels.device) for _ in range(_HELD)]

    def next(self) -> tuple[Batch, list[int]]:
        """Return the next batch, and the positions that were left out of it."""
        settings = self._settings
        draw = self._draws[self.index]
        positions = draw.positions
        skipped: list[int] = []
        broken = self._cache.broken[positions]
        if broken.any():
            if not settings.skip:
                raise self._error(int(positions[broken][0]))
            skipped = positions[broken].tolist()
        kept = draw.complete(np.flatnonzero(broken))
        positions, flips = draw.positions[kept], draw.flips[kept]
        slot = self._slots[self.index % _HELD]
        slot.wait_until_copied()
        images = self._gather(slot, positions)
        if images.is_cuda:
            _mirror_there(images, flips)
        else:
            self._mirror(images.numpy(), flips)
        changes = settings.draw_changes(self.index, draw.keys[kept])
        if changes is not None:
            change_images(images.numpy(), changes)
        if images.device != settings.device:
            images = slot.copy_to(settings.device, images)
        if settings.normalize:
            images = self._normalize(slot, images)
        self.index += 1
        labels = torch.from_numpy(settings.pack.labels[positions])
        labels = labels.to(settings.device, non_blocking=True)
        return Batch(images.permute(0, 3, 1, 2), labels, positions), skipped

    def close(self) -> None:
        """Wait until the device has what it copies."""
        for slot in self._slots:
            slot.wait_until_copied()

    # On the host NumPy does what torch could: torch shares even one image out among its threads,
    # which keep a processor busy while they wait for each other. Beside other work that took
    # milliseconds an image.

    def _gather(self, slot: _Slot, positions: np.ndarray) -> torch.Tensor:
        pixels = self._cache.pixels
        if slot.pixels is None:
            rows = torch.from_numpy(positions).to(pixels.device, non_blocking=True)
            return pixels.index_select(0, rows)
        gathered = slot.pixels[: len(positions)]
        # No position is out of range; "raise" would have NumPy make a copy of all.
        np.take(pixels.numpy(), positions, axis=0, out=gathered.numpy(), mode="clip")
        return gathered

    def _mirror(self, pixels: np.ndarray, flips: np.ndarray) -> None:
        """Mirror the images (N, H, W, 3) that ``flips`` (N,) says, in place."""
        self._kernels.reverse_rows(pixels, flips)  # which makes BGR of them
        for row in np.flatnonzero(flips):
            red, _, blue = np.moveaxis(pixels[row], -1, 0)
            first = red.copy()
            red[...] = blue
            blue[...] = first

    def _normalize(self, slot: _Slot, images: torch.Tensor) -> torch.Tensor:
        if slot.normalized is None:
            return images.float().sub_(float(MEAN)).mul_(float(SCALE))
        normalized = slot.normalized[: len(images)]
        self._kernels.normalize(images.numpy(), normalized.numpy())
        return normalized

    def _error(self, position: int) -> DecodeError:
        """What the backends say of an image that does not decode."""
        settings = self._settings
        with settings.pack.views([position]) as (view,):
            try:
                decode_checked(view, settings.image_size)
            except DecodeError as error:
                return broken_image(settings, position, error)
        changed = DecodeError("it did not decode when the cache was filled, and now it does")
        return broken_image(settings, position, changed)


class _Slot:
    """Memory on the host for one batch, as far as it passes through there."""

    def __init__(self, settings: StreamSettings, where: torch.device) -> None:
        shape = (settings.plan.rows, *settings.image_size, 3)
        self.pixels: torch.Tensor | None = None
        self.normalized: torch.Tensor | None = None
        self._copied: torch.cuda.Event | None = None
        if where.type == "cpu":
            pin = settings.device.type == "cuda"
            self.pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=pin)
            if settings.normalize and not pin:
                self.normalized = torch.empty(shape, dtype=torch.float32)

    def copy_to(self, device: torch.device, images: torch.Tensor) -> torch.Tensor:
        """Begin the copy of this memory, and note it."""
        there = images.to(device, non_blocking=True)
        self._copied = torch.cuda.Event()
        self._copied.record(torch.cuda.current_stream(device))
        return there

    def wait_until_copied(self) -> None:
        """Wait until the device has read this memory, so that it may be written again."""
        if self._copied is not None:
            self._copied.synchronize()


def _mirror_there(images: torch.Tensor, flips: np.ndarray) -> None:
    """Mirror the images (N, H, W, 3) that ``flips`` (N,) says, in place, on their device."""
    # By number: to count what a mask holds, the host would have to wait for the device.
    rows = torch.from_numpy(np.flatnonzero(flips)).to(images.device, non_blocking=True)
    images.index_copy_(0, rows, images.index_select(0, rows).flip(2))
