"""The DALI pipeline: from encoded images to batches, on the processor or on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from facepack.loading.augment import FILTERS, Changes
from facepack.loading.changes import LUMA
from facepack.loading.resampling import ANTIALIASED, CUBIC, LANCZOS, NEAREST, Filter
from facepack.loading.stream import StreamSettings

# Batches in the pipeline ahead of the consumer.
_DEPTH = 2
# Room beyond the decoders' first guess; growing their buffers later would stall the GPU.
_PADDING = 1 << 20

# What the pipeline asks its source for: one entry for each image of the iteration.
Source = Callable[[int], Sequence[Any]]


@dataclass(frozen=True)
class Decoder:
    """Which of DALI's decoders serves."""

    device: str  # cpu, or mixed: the GPU, with the processor's help
    # share of the images that goes to the GPU's JPEG engine, where it has one (mixed)
    hw_load: float = 0.0


def build_pipeline(settings: StreamSettings, decoder: Decoder, source: Source) -> Any:
    """Build the pipeline whose one output is uint8 or normalized float32 (N, H, W, 3).

    ``source(iteration)`` gives an iteration's encoded images (uint8 arrays, read where they lie:
    they must stay until the iteration's output is there), int32 (N,), 1 where an image is to be
    mirrored, and under ``settings.augment`` what :func:`change_inputs` makes.
    """
    dali: Any = import_module("nvidia.dali")
    fn, types = dali.fn, dali.types
    height, width = settings.image_size
    on_device = settings.device.type == "cuda"
    inputs = _input_types(types, settings.augment is not None)
    options = _decoder_options(decoder, height, width)

    @dali.pipeline_def(
        batch_size=settings.plan.rows,
        num_threads=settings.threads,
        device_id=settings.device.index if on_device else None,
        prefetch_queue_depth=_DEPTH,
        enable_conditionals=settings.augment is not None,
    )
    def graph() -> Any:
        encoded, mirror, *changes = fn.external_source(
            source=source,
            num_outputs=len(inputs),
            batch=True,
            no_copy=True,
            dtype=[kind for kind, _ in inputs],
            ndim=[dimensions for _, dimensions in inputs],
        )
        # Pixels as on the CPU: chroma is upsampled the "fancy" way (DALI's default differs
        # between its versions and decoders), and EXIF's orientation is ignored.
        images = fn.decoders.image(
            encoded,
            device=decoder.device,
            output_type=types.RGB if settings.pack.channels == "rgb" else types.BGR,
            adjust_orientation=False,
            jpeg_fancy_upsampling=True,
            use_fast_idct=False,
            **options,
        )
        if on_device and decoder.device == "cpu":
            images = images.gpu()  # as uint8: all that follows is done there
        if changes:
            # Mirrored first, as on the CPU: a box has its place in what comes out.
            images = fn.flip(images, horizontal=mirror)
            images = _change(dali, images, (height, width), *changes)
            mirror = 0
        if not settings.normalize:
            return fn.flip(images, horizontal=mirror)
        return fn.crop_mirror_normalize(
            images,
            mirror=mirror,
            dtype=types.FLOAT,
            output_layout="HWC",
            mean=[127.5] * 3,
            std=[127.5] * 3,
        )

    pipeline = graph()
    pipeline.build()
    return pipeline


def _decoder_options(decoder: Decoder, height: int, width: int) -> dict[str, Any]:
    """What the GPU's decoder is told beforehand of images of one size."""
    if decoder.device != "mixed":
        return {}
    padding = max(_PADDING, height * width * 3)
    return {
        "hw_decoder_load": decoder.hw_load,
        "preallocate_height_hint": height,
        "preallocate_width_hint": width,
        "bytes_per_sample_hint": height * width * 3,
        "host_memory_padding": padding,
        "device_memory_padding": padding,
    }


def _input_types(types: Any, changed: bool) -> list[tuple[Any, int]]:
    """Type and dimensions of each input: images, mirroring, then as :func:`change_inputs`."""
    inputs = [(types.UINT8, 1), (types.INT32, 0)]
    if changed:
        inputs += [
            *((types.BOOL, 0), (types.INT32, 1)),
            *((types.BOOL, 0), (types.BOOL, 0), (types.FLOAT, 1), (types.INT32, 1)),
            *((types.BOOL, 0), (types.INT32, 0)),
            *((types.BOOL, 0), (types.FLOAT, 0), (types.FLOAT, 0)),
            *((types.BOOL, 0), (types.FLOAT, 2)),
        ]
    return inputs


def _change(dali: Any, images: Any, size: tuple[int, int], *inputs: Any) -> Any:
    """The part of the graph that makes the changes, as :mod:`facepack.loading.changes` does."""
    fn, types = dali.fn, dali.types
    cropped, boxes, resized, antialiased, sizes, filters, *others = inputs
    blurred, windows, colored, hues, saturations, lit, lights = others
    # Only the images in question take these ways: DALI parts and joins the batch.
    if cropped:
        inside = fn.slice(images, start=boxes[:2], shape=boxes[2:], axis_names="HW")
        images = fn.slice(
            inside,
            start=-boxes[:2],
            shape=list(size),
            axis_names="HW",
            out_of_bounds_policy="pad",
        )
    if resized:
        filters = fn.cast(filters, dtype=types.INTERP_TYPE)
        if antialiased:
            small = fn.resize(images, size=sizes)
        else:
            small = fn.resize(images, size=sizes, interp_type=filters[0], antialias=False)
        images = fn.resize(small, size=list(size), interp_type=filters[1], antialias=False)
    if blurred:
        images = fn.gaussian_blur(images, window_size=windows)
    if colored:
        images = fn.hsv(images, hue=hues, saturation=saturations)
    if lit:
        pixels = fn.cast(images, dtype=types.FLOAT)
        for step in range(3):
            luma = fn.reductions.sum(pixels * types.Constant(LUMA), axes=[2], keep_dims=True)
            base = lights[step, 1] * fn.reductions.mean(luma) + lights[step, 2] * luma
            pixels = dali.math.clamp(lights[step, 0] * pixels + base, 0.0, 255.0)
        images = fn.cast(pixels, dtype=types.UINT8)
    return images


def change_inputs(changes: Changes) -> list[np.ndarray]:
    """A batch's changes as the pipeline takes them."""
    types: Any = import_module("nvidia.dali").types
    filters = np.array([_interpolation(types, by) for by in FILTERS], np.int32)
    return [
        *(changes.cropped, changes.boxes),
        *(changes.resized, changes.filters[:, 0] == FILTERS.index(ANTIALIASED)),
        *(changes.sizes, filters[changes.filters]),
        *(changes.blurred, 2 * changes.radii + 1),
        *(changes.colored, changes.hues, changes.saturations),
        *(changes.lit, changes.lights),
    ]


def _interpolation(types: Any, by: Filter) -> int:
    """DALI's number for a filter."""
    names = {NEAREST: "NN", CUBIC: "CUBIC", LANCZOS: "LANCZOS3"}
    return int(getattr(types, f"INTERP_{names.get(by, 'LINEAR')}"))
