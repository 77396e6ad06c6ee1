"""``facepack.Loader``: shuffled, mirrored, decoded batches of a pack, ready for the network."""

from __future__ import annotations

import functools
import os
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from facepack import system
from facepack.closing import Closing
from facepack.errors import ConfigError, MissingExtraError
from facepack.loading.augment import PRESETS, Augment
from facepack.loading.cache import (
    CACHES,
    CachedStream,
    PixelCache,
    check_fits,
    filling_settings,
)
from facepack.loading.choice import OrderChoice, choose_order
from facepack.loading.cpu import CpuStream
from facepack.loading.device import check_device
from facepack.loading.identities import IdentityIndex
from facepack.loading.order import BlockShape
from facepack.loading.plan import Plan
from facepack.loading.readahead import Ahead, read_ahead
from facepack.loading.source import ImageSource
from facepack.loading.stream import LEAVE_OUT, Stream, StreamSettings, keep_for_good
from facepack.loading.stream import Batch as Batch
from facepack.processors import usable_processors
from facepack.settings import Count, check, check_choice

BACKENDS = ("auto", "cpu", "dali")
DALI_DECODERS = ("auto", "mixed", "cpu")
DTYPES = ("uint8", "float32")
ON_ERROR = ("raise", "skip")


class Loader(Closing):
    """Yields an epoch's batches; what they are depends on (seed, epoch, batch) alone.

    >>> with facepack.Loader(pack, batch_size=128, device="cuda") as loader:
    ...     for epoch in range(loader.epoch, 20):
    ...         for images, labels, positions in loader:
    ...             ...

    Iterating goes on from the loader's position (:attr:`epoch`, :attr:`batch`) to the end of that
    epoch; the position then is the next epoch's first batch. Batches are prepared ahead, across
    epochs too. ``close()`` (or leaving the ``with`` block) ends the threads; iterating again
    starts them anew. In a forked child a loader goes on from its position with threads of its own
    (on the CPU: CUDA does not survive a fork).

    *Memory.* ``Batch.images`` is valid until the next call but one of ``next()``: clone it to keep
    it longer. Labels and positions are yours.

    *Pixels.* The backends agree in labels, order, flips and what ``augment`` decides everywhere,
    and bit for bit in the pixels on the CPU, but for augmented ones: these, and on a GPU those of
    DALI's ``mixed`` decoder, differ by a few grey levels. EXIF orientation is ignored. Damaged
    images are the same to both: what DALI would decode, concealing the damage, does not reach
    it.

    Args:
        pack: the pack; all its images must have one size.
        batch_size: records in a batch of this rank.
        pairs: pairs of images of one identity that come with a batch of this rank, beside its
            ``batch_size`` records: two different ones of each identity (one twice where there is
            no other), in an order in which every identity comes once before any comes again. The
            batch then has two halves of ``pairs + batch_size / 2`` images (:meth:`Batch.halves`),
            as F2C trains with. An epoch has as many batches as without them; the pairs go on
            through it.
        seed: key of order and flips.
        rank: of this process; it takes slice ``rank`` of each global batch.
        world: the number of processes; a global batch is ``world * batch_size`` records.
        shuffle: a new pseudo-random order each epoch; else the pack's own.
        order: of a shuffled epoch: ``global``, a permutation of all records; ``blocks``, runs of
            records that are read together and shuffled in windows, for packs larger than memory;
            ``auto``, ``global`` where the pack's files fit in memory; or the
            :class:`~facepack.loading.order.BlockShape` of ``blocks``, which else follows from the
            size of the memory. All ranks must have the same.
        mirror: mirror each image with probability one half, drawn anew each epoch.
        augment: further random changes, drawn anew each epoch: an :class:`Augment`, the name
            ``"arcface_torch"`` or ``"adaface"`` for what these do, or None.
        drop_last: drop the records behind the last full global batch. Else they are shared out
            evenly as a shorter batch, which may be empty on some ranks.
        backend: ``dali`` (NVIDIA DALI), ``cpu`` (simplejpeg in threads), or ``auto``: DALI where
            it is installed and ``device`` is a GPU.
        dali_decoder: who decodes for DALI when ``device`` is a GPU: ``mixed`` (the GPU), ``cpu``
            (only bytes are copied then; the GPU does the rest), or ``auto``: both are timed on
            this machine for about a second, once in a process, and the faster serves.
        cache: ``none``, or where all images are kept decoded, after a first pass that decodes the
            pack once: ``host`` memory or the GPU's (``device``). They take height · width · 3
            bytes each, in every process; the batches are the same.
        device: ``cpu``, ``cuda`` or ``cuda:N``: where images and labels are wanted.
        dtype: ``uint8`` raw RGB, or ``float32``: (x − 127.5)/127.5.
        on_error: ``raise``, or ``skip``: leave images that do not decode out of their batch (it is
            shorter then, even empty) and count them. With ``pairs``, what stands at the same place
            of the other half is left out with them.
        threads: decoding threads on the CPU; the processors this process may use by default.
        image_size: (height, width) in pixels that every image must have; the pack's by default,
            so it is needed only with packs of mixed sizes (and ``on_error="skip"``).

    Raises:
        ConfigError: a setting is out of range.
        MissingExtraError: ``backend="dali"`` without DALI.
    """

    def __init__(
        self,
        pack: ImageSource,
        *,
        batch_size: int = 128,
        pairs: int = 0,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = True,
        order: str | BlockShape = "auto",
        mirror: bool = True,
        augment: Augment | str | None = None,
        drop_last: bool = True,
        backend: str = "auto",
        dali_decoder: str = "auto",
        cache: str = "none",
        device: str | torch.device = "cpu",
        dtype: str = "uint8",
        on_error: str = "raise",
        threads: int | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        if isinstance(pack, (str, os.PathLike)):
            raise ConfigError(f"pack is the path {os.fspath(pack)!r}: give facepack.open(path)")
        check_choice("backend", backend, BACKENDS)
        check_choice("dali_decoder", dali_decoder, DALI_DECODERS)
        check_choice("cache", cache, CACHES)
        check_choice("dtype", dtype, DTYPES)
        check_choice("on_error", on_error, ON_ERROR)
        threads = check("threads", threads, Count | None)
        self._order_asked = order
        self._order = choose_order(order, pack, shuffle)
        self._settings = StreamSettings(
            pack=pack,
            plan=Plan(
                records=len(pack),
                batch_size=batch_size,
                seed=seed,
                rank=rank,
                world=world,
                shuffle=bool(shuffle),
                mirror=bool(mirror),
                drop_last=bool(drop_last),
                blocks=self._order.blocks,
                pairs=pairs,
            ),
            index=IdentityIndex(pack.labels) if pairs else None,
            image_size=_choose_size(pack, image_size),
            normalize=dtype == "float32",
            device=_numbered_device(device),
            threads=threads or usable_processors(),
            skip=on_error == "skip",
            augment=_check_augment(augment),
            dali_decoder=dali_decoder,
        )
        self._backend = _choose_backend(backend, self._settings.device)
        if dali_decoder == "mixed" and self._settings.device.type == "cpu":
            raise ConfigError("dali_decoder is 'mixed', which needs a GPU: use 'auto', or 'cuda'")
        self._cache_device = _choose_cache_device(cache, self._settings)
        self._cache: PixelCache | None = None
        self._epoch = 0
        self._batch = 0
        self._skipped = 0
        self._skipped_keys: dict[str, None] = {}
        self._stream: Stream | None = None
        self._close_stream = weakref.finalize(self, lambda: None)
        _loaders.add(self)

    # Position ---------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch that iterating goes on with, from 0."""
        return self._epoch

    @property
    def batch(self) -> int:
        """How many of the epoch's batches have been returned."""
        return self._batch

    def __len__(self) -> int:
        """Batches in an epoch, the same for every rank."""
        return self._settings.plan.batches

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Go on with batch ``batch`` of epoch ``epoch``; ``batch`` may be the epoch's length.

        Raises:
            ConfigError: there is no such batch.
        """
        self._epoch, self._batch = self._check_position(epoch, batch)

    def _check_position(self, epoch: Any, batch: Any) -> tuple[int, int]:
        epoch, batch = check("epoch", epoch, int), check("batch", batch, int)
        if epoch < 0 or not 0 <= batch <= len(self):
            raise ConfigError(
                f"no batch {batch} in epoch {epoch}: epochs count from 0 and have {len(self)} "
                "batches"
            )
        return epoch, batch

    def state_dict(self) -> dict[str, Any]:
        """The position, as plain numbers, and the settings that it is a position of."""
        epoch, batch = divmod(self._index, len(self))
        return {"epoch": epoch, "batch": batch, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved position: the batches that follow equal those of the saved loader.

        Another number of ranks is fine as long as the global batch is the same.

        Raises:
            ConfigError: this loader has another pack or order, and names the setting; or it is no
                saved position. The loader is as it was then.
        """
        pack = self._settings.pack
        # Saved before there were these.
        state = {"blocks": "", "augment": None, "global_pairs": 0, **state}
        if isinstance(state["augment"], dict):
            state["augment"] = {**Augment().as_dict(), **state["augment"]}
        missing = {"epoch", "batch", *self._identity()} - set(state)
        if missing:
            raise ConfigError(
                f"the saved position lacks {', '.join(sorted(missing))}: give what state_dict() of "
                "a loader returned"
            )
        if state["content_id"] != pack.content_id:
            raise ConfigError(
                f"the saved position belongs to another pack (content_id {state['content_id']!r}); "
                f"{pack.path} has {pack.content_id!r}: open that pack, or start with epoch 0"
            )
        for name, mine in self._identity().items():
            saved = state[name]
            if saved == mine or (name == "blocks" and self._may_adopt(saved)):
                continue
            if name == "blocks":
                name, saved, mine = "order", *(blocks or "global" for blocks in (saved, mine))
            raise ConfigError(
                f"the saved position belongs to a loader with {name}={saved!r}; this one has "
                f"{mine!r}, and other batches: set it back, or start with epoch 0"
            )
        position = self._check_position(state["epoch"], state["batch"])
        self._adopt_order(state["blocks"])
        self._epoch, self._batch = position

    def _identity(self) -> dict[str, Any]:
        plan, augment = self._settings.plan, self._settings.augment
        return {
            "content_id": self._settings.pack.content_id,
            "records": plan.records,
            "global_batch": plan.global_batch,
            "global_pairs": plan.world * plan.pairs,
            "seed": plan.seed,
            "shuffle": plan.shuffle,
            "mirror": plan.mirror,
            "drop_last": plan.drop_last,
            "augment": None if augment is None else augment.as_dict(),
            "blocks": str(plan.blocks) if self.order == "blocks" and plan.blocks else "",
        }

    def _may_adopt(self, saved: str) -> bool:
        """Whether this loader was free to choose the saved order: its memory may be another."""
        return self._order_asked == "auto" or (self._order_asked == "blocks" and saved != "")

    def _adopt_order(self, saved: str) -> None:
        """Take the order of a saved position: the shape of ``blocks``, or nothing: ``global``."""
        if saved == self._identity()["blocks"]:
            return
        blocks = BlockShape.parse(saved) if saved else None
        name = "global" if blocks is None else "blocks"
        self._order = OrderChoice(name, blocks, "the saved position belongs to it")
        self._end_stream()  # but not the cache, which holds the same in any order
        plan = replace(self._settings.plan, blocks=blocks)
        self._settings = replace(self._settings, plan=plan)

    @property
    def _index(self) -> int:
        return self._epoch * len(self) + self._batch

    # Batches ----------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Batch]:
        self._epoch, self._batch = divmod(self._index, len(self))
        epoch = self._epoch
        while self._epoch == epoch and self._batch < len(self):
            yield self._next()
        if self._epoch == epoch:
            self._epoch, self._batch = epoch + 1, 0

    def _next(self) -> Batch:
        if self._stream is None or self._stream.index != self._index:
            self._end_stream()
            self._stream, end = self._open_stream()
            self._close_stream = weakref.finalize(self, end)
        try:
            batch, skipped = self._stream.next()
        except BaseException:
            self._end_stream()
            raise
        self._batch += 1
        if skipped:
            self._skipped += len(skipped)
            self._skipped_keys.update(
                dict.fromkeys(self._settings.pack.key(position) for position in skipped)
            )
        return batch

    def shorten(self, batch: Batch, images: int) -> Batch:
        """The batch without its last images, down to ``images``: with pairs, those of both halves.

        With pairs an even number is left.
        """
        if not self._settings.plan.pairs:
            return batch.first(images)
        x, y = (half.first(images // 2) for half in batch.halves())
        return Batch(
            torch.cat([x.images, y.images]),
            torch.cat([x.labels, y.labels]),
            np.concatenate([x.positions, y.positions]),
        )

    def _open_stream(self) -> tuple[Stream, Callable[[], None]]:
        """A stream from the loader's position on, and what ends it."""
        settings, first = self._settings, self._index
        if self._cache_device is None:
            return self._open_backend(settings, first)
        if self._cache is None:
            filling = filling_settings(settings)
            stream, end = self._open_backend(filling, 0)
            try:
                self._cache = PixelCache(filling, self._cache_device, stream)
            finally:
                end()
        cached = CachedStream(settings, first, self._cache)
        return cached, cached.close

    def _open_backend(
        self, settings: StreamSettings, first: int
    ) -> tuple[Stream, Callable[[], None]]:
        ahead = read_ahead(settings.pack, settings.plan, first, settings.index)
        stream: Stream
        try:
            if self._backend == "dali":
                from facepack.loading.dali import DaliStream

                stream = DaliStream(settings, first, ahead)
            else:
                stream = CpuStream(settings, first, ahead)
        except BaseException:
            ahead.close()
            raise
        return stream, functools.partial(_close, ahead, stream)

    # What was left out, what serves, the end ----------------------------------------------------

    @property
    def skipped(self) -> int:
        """How many images were left out of batches under ``on_error="skip"`` so far."""
        return self._skipped

    @property
    def skipped_keys(self) -> list[str]:
        """The keys of the images that were left out, each once, in the order they were met."""
        return list(self._skipped_keys)

    @property
    def order(self) -> str:
        """The order that serves: ``global``, ``blocks`` or ``sequential``."""
        return self._order.name

    @property
    def order_reason(self) -> str:
        """Why it is that order, for people to read."""
        return self._order.reason

    @property
    def backend(self) -> str:
        """The backend that serves: ``cpu`` or ``dali``."""
        return self._backend

    def close(self) -> None:
        """End threads and give up memory; the position stays, and iterating starts anew."""
        self._end_stream()
        self._cache = None

    def _end_stream(self) -> None:
        # A finalizer runs once: here, when the loader is garbage, or when the interpreter ends.
        self._close_stream()
        self._stream = None

    def _forget_stream(self) -> None:
        """In a forked child: the stream is the parent's, and a new one opens on the next use."""
        self._close_stream.detach()
        if self._stream is not None:
            self._stream.abandon()
            self._stream = None
        if self._cache is not None and self._cache.pixels.is_cuda:
            keep_for_good(self._cache)
            self._cache = None


def _close(ahead: Ahead, stream: Stream) -> None:
    ahead.close()  # first: the stream's threads may be waiting for it
    stream.close()


_loaders: weakref.WeakSet[Loader] = weakref.WeakSet()


def _forget_streams() -> None:
    for loader in list(_loaders):
        loader._forget_stream()


system.at_fork(after_in_child=_forget_streams)


def _check_augment(given: Any) -> Augment | None:
    if given is None or isinstance(given, Augment):
        return given
    if not isinstance(given, str) or given not in PRESETS:
        raise ConfigError(
            f"augment = {given!r} is not an Augment, None or one of {', '.join(PRESETS)}"
        )
    return PRESETS[given]


def _choose_cache_device(asked: str, settings: StreamSettings) -> torch.device | None:
    """Where decoded images are kept; None for nowhere."""
    if asked == "none":
        return None
    device = torch.device("cpu") if asked == "host" else settings.device
    if asked == "device" and device.type == "cpu":
        raise ConfigError("cache is 'device', but device is 'cpu': use cache='host'")
    if asked == "device" and settings.augment is not None:
        raise ConfigError(
            "cache is 'device', where augment cannot be done: use cache='host' or 'none'"
        )
    check_fits(settings, device)
    return device


def _choose_size(pack: ImageSource, asked: Any) -> tuple[int, int]:
    if asked is not None:
        try:
            size: tuple[int, int] = check("image_size", asked, tuple[Count, Count])
        except ConfigError as error:
            raise ConfigError(f"{error}; give (height, width)") from None
        return size
    if pack.image_size is None:
        raise ConfigError(
            f"{pack.path} holds images of several sizes, a batch needs one: give the Loader "
            f"image_size=(height, width), and leave those of other sizes out {LEAVE_OUT}"
        )
    return pack.image_size


def _numbered_device(name: str | torch.device) -> torch.device:
    device = check_device(name)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _choose_backend(asked: str, device: torch.device) -> str:
    if asked == "cpu" or (asked == "auto" and device.type == "cpu"):
        return "cpu"
    try:
        import nvidia.dali  # noqa: F401
    except ImportError as error:
        if asked == "dali":
            raise MissingExtraError("NVIDIA DALI", "dali") from error
        _say_no_dali()
        return "cpu"
    return "dali"


@functools.cache
def _say_no_dali() -> None:
    """Say it once in a process, however many loaders there are."""
    warnings.warn(
        "NVIDIA DALI is not installed: the processor decodes the images for the GPU. For DALI: "
        "pip install 'facepack[dali]'",
        stacklevel=4,
    )
