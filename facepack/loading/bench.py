"""What each stage of loading a pack yields on this machine, beside the limit: decoding alone.

The limit is ``simplejpeg.decode_jpeg`` in as many threads as the loader has, of the same images
held in memory, with nothing else to do; each thread takes the next image that is left, as the
loader's threads do. It has simplejpeg take the memory for the pixels, as programs do that know
nothing better. The stage ``decode into`` is the same in memory as the loader chooses it
(:func:`facepack.images.skip_to_decode`): that is what the loader cannot exceed.

Limit and stages take turns in short rounds, and only shares within a round count, so that other
work on the machine disturbs them little. All is warm: each round loads what the page cache holds.

The consumer of the loaders' batches touches nothing. One that works on the same cores takes its
time from the loader; one that only reads the batches finds them in memory, not in the caches.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import simplejpeg
import torch

from facepack.errors import DecodeError, MissingExtraError
from facepack.images import empty_pixels
from facepack.loading.kernels import choose_kernels, load_kernels
from facepack.loading.loader import Loader
from facepack.loading.pixels import decode_rows, is_common_jpeg
from facepack.loading.plan import Draws, Plan
from facepack.processors import usable_processors
from facepack.settings import Count, check
from facepack.store.pack import Pack

LIMIT = "decode"
_WARM_UP = 8  # batches not timed, so that nothing prepared while others ran is counted
_ROUND_SECONDS = 0.25  # that decoding takes in a round
_PAUSE = 0.1  # seconds in which a loader prepares its batches, before the next stage is timed
_TILE = 8  # images decoded before they are normalized
_READ = 128  # records read at once


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Images a second of one stage in every round, and the limit's in the same rounds."""

    name: str
    what: str
    rates: list[float]
    limits: list[float]

    @property
    def shares(self) -> list[float]:
        """Of the limit in the same round, in ascending order."""
        return sorted(rate / limit for rate, limit in zip(self.rates, self.limits, strict=True))

    @property
    def quartiles(self) -> tuple[float, float]:
        """Half of the shares lie between them."""
        low, high = np.quantile(self.shares, (0.25, 0.75)).tolist()
        return low, high

    def as_json(self) -> dict[str, Any]:
        """Medians, spread, and the rounds."""
        return {
            "name": self.name,
            "what": self.what,
            "images_per_s": statistics.median(self.rates),
            "share": statistics.median(self.shares),
            "share_quartiles": self.quartiles,
            "rates": self.rates,
        }


@dataclass(frozen=True, kw_only=True)
class LoadBench:
    """The stages of loading a pack, and what they were measured with."""

    setting: dict[str, Any]
    stages: list[Stage]

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        return {"setting": self.setting, "stages": [stage.as_json() for stage in self.stages]}

    def rows(self) -> Iterator[list[str]]:
        """Lines of a table with :attr:`COLUMNS`."""
        for stage in self.stages:
            shares = (statistics.median(stage.shares), *stage.quartiles)
            yield [
                f"{stage.name}: {stage.what}",
                f"{statistics.median(stage.rates):,.0f}",
                *(f"{share:.2f}" for share in shares),
            ]

    COLUMNS = ("", "images/s", "share", "25 %", "75 %")


def bench_load(
    pack: Pack,
    *,
    batch_size: int = 128,
    threads: int | None = None,
    rounds: int = 5,
    on_round: Callable[[int], None] = lambda _: None,
) -> LoadBench:
    """Measure every stage of loading ``pack`` that this machine has the means for.

    Args:
        pack: a pack of JPEGs of one size.
        batch_size: of the loaders; the pack's records at most.
        threads: that decode; the processors this process may use by default.
        rounds: that count; one more, the first, warms up.
        on_round: is told each round that is done, from 0.

    Raises:
        ConfigError: a number is out of range, or the images' sizes differ.
        DecodeError: an image is no JPEG, or broken; names its key.
    """
    check("batch_size", batch_size, Count)
    check("threads", threads, Count | None)
    check("rounds", rounds, Count)
    threads = threads or usable_processors()
    batch_size = min(batch_size, len(pack))
    with ExitStack() as stack:
        # First of all: it has the last word on packs that cannot be loaded.
        loader = partial(_open_loader, stack, pack, batch_size=batch_size, threads=threads)
        loaders = {
            "loader uint8": loader(backend="cpu", dtype="uint8"),
            "loader float32": loader(backend="cpu", dtype="float32"),
        }
        sample = _Sample(pack, batch_size, threads)
        measures: dict[str, tuple[str, Callable[[], float]]] = {
            LIMIT: ("simplejpeg alone, images in memory: the limit", sample.decode),
            "decode into": ("the same, into memory that is written fast", sample.decode_into),
            "check": ("read whole, no pixels made: what dali does with new images", sample.check),
            "order": ("positions and flips of the batches", sample.order),
            "read": ("every record copied out of the page cache, in one thread", sample.read),
            "mirror": ("decoded and mirrored, images in memory", sample.mirror),
            "normalize": ("decoded, mirrored and normalized, images in memory", sample.normalize),
        }
        gpu = None
        if torch.cuda.is_available():
            gpu = torch.device("cuda", torch.cuda.current_device())
            loaders[f"loader {gpu}"] = loader(backend="cpu", dtype="uint8", device=gpu)
            measures[f"copy {gpu}"] = (
                "uint8 batches from pinned memory",
                partial(sample.copy, gpu),
            )
        for dtype in ("uint8", "float32"):
            try:
                dali = loader(backend="dali", dtype=dtype, device=gpu or "cpu")
            except MissingExtraError:
                continue
            loaders[f"dali {dtype}"] = dali
        for name, opened in loaders.items():
            measures[name] = ("batches", partial(_time_loading, opened, sample.batches))
        rates: dict[str, list[float]] = {name: [] for name in measures}
        for turn in range(rounds + 1):
            for name, (_, measure) in measures.items():
                rate = 1 / measure()
                time.sleep(_PAUSE)
                if turn:
                    rates[name].append(rate)
            on_round(turn)
    return LoadBench(
        setting={
            "threads": threads,
            "batch_size": batch_size,
            "rounds": rounds,
            "images_a_round": sample.batches * batch_size,
            "bytes_an_image": round(pack.manifest["payload_bytes"] / len(pack)),
            "kernels": "NumPy" if load_kernels() is None else "numba",
        },
        stages=[
            Stage(name=name, what=what, rates=rates[name], limits=rates[LIMIT])
            for name, (what, _) in measures.items()
        ],
    )


class _Sample:
    """Images by chance, held in memory, and the stages that need no loader.

    Each of the methods below gives seconds an image.
    """

    def __init__(self, pack: Pack, batch_size: int, threads: int) -> None:
        assert pack.image_size is not None  # a loader was opened
        self._pack = pack
        self._size = pack.image_size
        self._batch_size = batch_size
        self._threads = threads
        draw = np.random.default_rng(0)
        self._images = self._read_images(draw.integers(0, len(pack), 256))
        seconds = min(self.decode() for _ in range(3))
        self.batches = max(2, round(_ROUND_SECONDS / seconds / batch_size))
        self._positions = draw.integers(0, len(pack), self.batches * batch_size)
        self._images = self._read_images(self._positions)
        self._flips = (draw.random(len(self._images)) < 0.5).tolist()

    def _read_images(self, positions: np.ndarray) -> list[bytes]:
        images = [record.image for record in self._pack.batch(positions)]
        for image, position in zip(images, positions.tolist(), strict=True):
            try:
                simplejpeg.decode_jpeg(image)
            except (ValueError, KeyError) as error:
                raise DecodeError(
                    f"{self._pack.path}: {self._pack.key(position)}: no JPEG that decodes "
                    f"({error}): the limit is that of JPEGs; take a pack of JPEGs"
                ) from error
        return images

    def decode(self) -> float:
        return self._time_each(lambda: simplejpeg.decode_jpeg)

    def decode_into(self) -> float:
        """As :meth:`decode`, into memory that the decoder writes fast."""
        into = partial(empty_pixels, *self._size, 3)
        return self._time_each(lambda: partial(simplejpeg.decode_jpeg, buffer=into()))

    def check(self) -> float:
        return self._time_each(lambda: partial(is_common_jpeg, size=self._size))

    def order(self) -> float:
        plan = Plan(
            records=len(self._pack),
            batch_size=self._batch_size,
            seed=0,
            rank=0,
            world=1,
            shuffle=True,
            mirror=True,
            drop_last=True,
        )
        draws = Draws(plan)
        start = time.perf_counter()
        for index in range(self.batches):
            draws[index]
        return (time.perf_counter() - start) / (self.batches * self._batch_size)

    def read(self) -> float:
        start = time.perf_counter()
        for low in range(0, len(self._positions), _READ):
            with self._pack.views(self._positions[low : low + _READ]) as views:
                for view in views:
                    bytes(view)
        return (time.perf_counter() - start) / len(self._positions)

    def mirror(self) -> float:
        return self._time_tiles(np.dtype(np.uint8))

    def normalize(self) -> float:
        return self._time_tiles(np.dtype(np.float32))

    def copy(self, device: torch.device) -> float:
        batch = torch.zeros((self._batch_size, *self._size, 3), dtype=torch.uint8, pin_memory=True)
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(self.batches):
            batch.to(device, non_blocking=True)
        torch.cuda.synchronize(device)
        return (time.perf_counter() - start) / (self.batches * self._batch_size)

    def _time_tiles(self, dtype: np.dtype[Any]) -> float:
        """Decode into memory of a batch's size for each thread, as the loader does."""
        size = self._size
        kernels = choose_kernels(size)
        slot_rows = -(-self._batch_size // _TILE) * _TILE
        starts = iter(range(0, len(self._images), _TILE))

        def work(_thread: int) -> None:
            tile = empty_pixels(_TILE, *size, 3)
            if dtype == np.uint8:
                slot = empty_pixels(slot_rows, *size, 3)
            else:
                slot = np.empty((slot_rows, *size, 3), dtype)
            for number, low in enumerate(starts):
                part = [memoryview(image) for image in self._images[low : low + _TILE]]
                rows = slot[number * _TILE % slot_rows :][: len(part)]
                pixels = tile[: len(part)] if dtype == np.float32 else rows
                flips = self._flips[low : low + _TILE]
                reverse, _ = decode_rows(part, list(pixels), flips, self._pack.channels)
                kernels.reverse_rows(pixels, reverse)
                if dtype == np.float32:
                    kernels.normalize(pixels, rows)

        return self._time_threads(work)

    def _time_each(self, prepare: Callable[[], Callable[[bytes], object]]) -> float:
        """Have threads call what ``prepare`` gives each of them, with the next image left."""
        images = iter(self._images)

        def work(_: int) -> None:
            call = prepare()
            for image in images:
                call(image)

        return self._time_threads(work)

    def _time_threads(self, work: Callable[[int], None]) -> float:
        with ThreadPoolExecutor(self._threads) as pool:
            start = time.perf_counter()
            list(pool.map(work, range(self._threads)))
            return (time.perf_counter() - start) / len(self._images)


def _open_loader(stack: ExitStack, pack: Pack, **settings: Any) -> Loader:
    return stack.enter_context(Loader(pack, **settings))


def _time_loading(loader: Loader, batches: int) -> float:
    """Seconds an image takes the loader, over ``batches`` batches after the warm-up."""
    seen, start = 0, 0.0
    while True:
        for batch in loader:
            if seen == _WARM_UP:
                _wait_for(batch.images.device)
                start = time.perf_counter()
            seen += 1
            if seen > _WARM_UP + batches:
                _wait_for(batch.images.device)
                return (time.perf_counter() - start) / (batches * len(batch.labels))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
