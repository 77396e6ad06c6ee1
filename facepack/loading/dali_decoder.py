"""Which of DALI's decoders is the faster on this machine: found by timing both."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from facepack.loading.dali_pipeline import Decoder, build_pipeline
from facepack.loading.pixels import is_common_jpeg
from facepack.loading.stream import StreamSettings

# Time for each candidate, in seconds; batches that it runs before, and between two looks at the
# clock.
_TRIAL = 0.2
_WARM_UP = 5
_AT_ONCE = 2
# Shares that are tried on a GPU with a JPEG engine (A100, A30; H100, H200; B200).
_HW_LOADS = (0.0, 0.35, 0.65, 0.9)
_ENGINES = ((8, 0), (9, 0), (10, 0))

_chosen: dict[tuple[Any, ...], Decoder] = {}


def choose_decoder(settings: StreamSettings) -> Decoder:
    """The decoder that ``settings.dali_decoder`` names, or the fastest, as measured here.

    The measurement takes about a second, with the pack's first images; its result is remembered
    for as long as the process lives.
    """
    candidates = _candidates(settings)
    if len(candidates) == 1:
        return candidates[0]
    size = settings.image_size
    key = (settings.device, settings.threads, settings.plan.rows, size, *candidates)
    if key not in _chosen:
        sample = _sample(settings)
        # Without a JPEG there is nothing to tell the decoders apart: all is decoded here.
        _chosen[key] = _fastest(settings, candidates, sample) if sample else candidates[0]
    return _chosen[key]


def _candidates(settings: StreamSettings) -> list[Decoder]:
    cpu = [Decoder("cpu")]
    if settings.device.type == "cpu" or settings.dali_decoder == "cpu":
        return cpu
    engine = torch.cuda.get_device_capability(settings.device) in _ENGINES
    mixed = [Decoder("mixed", load) for load in (_HW_LOADS if engine else _HW_LOADS[:1])]
    return mixed if settings.dali_decoder == "mixed" else cpu + mixed


def _fastest(
    settings: StreamSettings, candidates: list[Decoder], sample: list[np.ndarray]
) -> Decoder:
    """The fastest of those that run here: for some a library or the JPEG engine may be missing."""
    speeds: dict[Decoder, float] = {}
    for number, candidate in enumerate(candidates, start=1):
        try:
            speeds[candidate] = _speed(settings, candidate, sample)
        except RuntimeError as error:
            if number == len(candidates) and not speeds:
                raise
            reason = " ".join(str(error).split())
            warnings.warn(
                f"DALI does not run here with {candidate}, which is left out: {reason}",
                stacklevel=2,
            )
    return max(speeds, key=speeds.__getitem__)


def _sample(settings: StreamSettings) -> list[np.ndarray]:
    """A batch of the pack's first sound JPEGs, repeated where they are too few."""
    wanted = settings.plan.rows
    found = []
    with settings.pack.views(np.arange(min(wanted, len(settings.pack)))) as views:
        for view in views:
            if is_common_jpeg(view, settings.image_size):
                found.append(np.frombuffer(bytes(view), np.uint8))
    return [found[number % len(found)] for number in range(wanted)] if found else []


def _speed(settings: StreamSettings, decoder: Decoder, sample: list[np.ndarray]) -> float:
    """Images a second."""
    unmirrored = np.zeros(len(sample), np.int32)
    plain = replace(settings, augment=None)
    pipeline = build_pipeline(plain, decoder, lambda _: (sample, unmirrored))

    def run(batches: int) -> None:
        for _ in range(batches):
            pipeline.run()
        if settings.device.type == "cuda":
            torch.cuda.synchronize(settings.device)

    try:
        run(_WARM_UP)
        start, batches = time.perf_counter(), 0
        while (taken := time.perf_counter() - start) < _TRIAL:
            run(_AT_ONCE)
            batches += _AT_ONCE
    finally:
        pipeline._shutdown()
    return batches * len(sample) / taken
