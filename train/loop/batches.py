"""The batches of a run: of one size on all ranks, which learn of each other on the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from facepack.errors import TrainingError
from facepack.loading.loader import Batch
from facepack.train.loop.in_flight import StepsInFlight
from facepack.train.loop.interrupt import StopRequest
from facepack.train.loop.parts import RunParts
from facepack.train.loop.stopwatch import Stopwatch
from facepack.train.ranks.agreement import tell


class AgreedBatch(NamedTuple):
    """A rank's batch, and what the ranks have told each other with it."""

    batch: Batch
    is_stop_asked: bool
    """Whether any rank was asked to stop."""
    skipped: int
    """Images that did not decode since the batch before, of all ranks."""


class AgreedBatches:
    """Takes batches from a run's loader."""

    def __init__(self, parts: RunParts) -> None:
        self._parts = parts
        self._seen_skipped = 0

    def endless(self, watch: Stopwatch, in_flight: StepsInFlight) -> Iterator[Batch]:
        """The loader's batches without end, the time for each counted as waiting."""
        while True:
            epoch = iter(self._parts.method_run.loader)
            while True:
                in_flight.wait()
                with watch.waiting():
                    batch = next(epoch, None)
                if batch is None:
                    break
                yield batch

    def next(self, batches: Iterator[Batch], *, step: int, stop: StopRequest) -> AgreedBatch:
        """This rank's batch for ``step``, of those that :meth:`endless` gives.

        Collective: it is here that ranks learn of each other, by way of the processors, while the
        devices still work. All batches have one size: where images do not decode, the other ranks
        leave out as many of their last.
        """
        batch: Batch | None = None
        error: Exception | None = None
        try:
            batch = next(batches)
            self._check(batch, step)
        except Exception as caught:
            if self._parts.ranks.world == 1:
                raise
            error = caught
        size = 0 if batch is None else len(batch.labels)
        skipped = self._parts.method_run.loader.skipped - self._seen_skipped
        told = tell(self._parts.ranks, [int(stop.requested), size, skipped], error=error)
        assert batch is not None
        stops, sizes, skips = zip(*told, strict=True)
        self._seen_skipped += skipped
        all_have = min(sizes)
        if all_have < size:
            batch = self._parts.method_run.loader.shorten(batch, all_have)
        return AgreedBatch(batch, any(stops), sum(skips))

    def _check(self, batch: Batch, step: int) -> None:
        """A batch may have lost images; each pass of the network needs some."""
        parts = self._parts
        if len(batch.labels) < parts.method.fewest_images(parts.config):
            keys = ", ".join(parts.method_run.loader.skipped_keys[-3:])
            expected = parts.method.images_per_step(parts.config) // parts.ranks.world
            raise TrainingError(
                f"step {step}: only {len(batch.labels)} of {expected} images of the batch decode "
                f"(left out: {keys} …). Look at the data with: "
                f"facepack verify --decode {parts.data.path}"
            )
