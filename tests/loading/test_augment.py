"""Random changes: what is drawn, and each change against its slow twin."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from facepack.errors import ConfigError
from facepack.loading.augment import (
    ADAFACE,
    ARCFACE_TORCH,
    FILTERS,
    Augment,
    Changes,
    draw_changes,
)
from facepack.loading.changes import change_images, color_matrix
from facepack.loading.loader import Batch, Loader
from facepack.loading.resampling import ANTIALIASED, CUBIC, LANCZOS, LINEAR, NEAREST, Filter
from facepack.store.pack import Pack

SIZE = (40, 48)
STRONG = Augment(
    crop=0.5, resize=0.5, interpolation="any", blur=0.5, color=0.5, grey=0.2, light=0.5
)

SlowBatch = Callable[..., tuple[torch.Tensor, torch.Tensor, np.ndarray]]


def noise(count: int = 1) -> np.ndarray:
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, *SIZE, 3)).astype(np.uint8)


def changes_of(size: tuple[int, int] = SIZE, **values: Any) -> Changes:
    """The changes of one image of ``size``; by default none."""
    steps = [[1.0, 0.0, 0.0]] * 3
    return Changes(
        size,
        np.array([values.get("box", (0, 0, *size))], np.int32),
        np.array([values.get("small", size)], np.float32),
        np.array([[FILTERS.index(by) for by in values.get("by", (ANTIALIASED,) * 2)]], np.int32),
        np.array([values.get("radius", 0)], np.int32),
        np.array([values.get("hue", 0)], np.float32),
        np.array([values.get("saturation", 1)], np.float32),
        np.array([values.get("steps", steps)], np.float32),
    )


def changed(pixels: np.ndarray, **values: Any) -> np.ndarray:
    images = pixels[None].copy()
    change_images(images, changes_of(pixels.shape[:2], **values))
    return images[0]


def fields(changes: Changes) -> list[list[Any]]:
    return [
        changes.boxes.tolist(),
        changes.sizes.tolist(),
        changes.filters.tolist(),
        changes.radii.tolist(),
        changes.hues.tolist(),
        changes.saturations.tolist(),
        changes.lights.tolist(),
    ]


class TestDraws:
    def test_belong_to_seed_epoch_and_record(self) -> None:
        positions = np.arange(500)
        whole = draw_changes(STRONG, 3, 1, positions, SIZE)
        some = np.array([480, 7, 33])
        assert fields(draw_changes(STRONG, 3, 1, some, SIZE)) == fields(whole[some])
        for seed, epoch in ((4, 1), (3, 2)):
            other = draw_changes(STRONG, seed, epoch, positions, SIZE)
            assert all(a != b for a, b in zip(fields(other), fields(whole), strict=True))

    def test_have_the_frequencies_and_ranges_that_are_asked(self) -> None:
        count = 40_000
        changes = draw_changes(ARCFACE_TORCH, 0, 0, np.arange(count), (112, 112))
        near = {"abs": 4 * math.sqrt(0.25 / count)}
        assert changes.resized.mean() == pytest.approx(0.1, **near)
        assert changes.blurred.mean() == pytest.approx(0.2, **near)
        assert (changes.saturations == 0).mean() == pytest.approx(0.1, **near)
        turned = (changes.hues != 0) & (changes.saturations >= 1)
        assert turned.mean() == pytest.approx(0.2 * 0.9, **near)
        small = changes.sizes[changes.resized]
        assert (small[:, 0] == small[:, 1]).all()
        assert (small.min(), small.max()) == (56, 90)
        assert np.unique(changes.radii[changes.blurred], return_counts=True)[1] == pytest.approx(
            [4000, 4000], rel=0.1
        )
        assert 0 < changes.hues[turned].min() < 0.1
        assert 19.9 < changes.hues[turned].max() < 20
        assert 1 <= changes.saturations[turned].min() < 1.001
        assert 1.199 < changes.saturations[turned].max() < 1.2

    def test_have_the_frequencies_and_ranges_of_adaface(self) -> None:
        count = 40_000
        changes = draw_changes(ADAFACE, 0, 0, np.arange(count), (112, 112))
        near = {"abs": 4 * math.sqrt(0.25 / count)}
        whole = changes.boxes[changes.cropped][:, 2:].prod(axis=1) / 112**2
        # Boxes of (nearly) the whole image are among those that were to be cropped.
        assert changes.cropped.mean() == pytest.approx(0.2, **near)
        assert 0.19 < whole.min() < 0.21
        assert whole.max() > 0.98
        assert changes.resized.mean() == pytest.approx(0.2, **near)
        small = changes.sizes[changes.resized]
        assert (small.min(), small.max()) == (22, 111)
        pairs = np.unique(changes.filters[changes.resized] @ [5, 1], return_counts=True)[1]
        assert pairs == pytest.approx(np.full(25, 0.2 * count / 25), rel=0.25)
        assert not changes.blurred.any()
        assert not changes.colored.any()
        assert changes.lit.mean() == pytest.approx(0.2, **near)
        lights = changes.lights[changes.lit]
        assert 0.5 <= lights[:, :, 0].min() < 0.501
        assert 1.499 < lights[:, :, 0].max() <= 1.5
        # Contrast goes by the mean, chroma by the pixel's luma, brightness by neither.
        kinds = (lights[:, :, 1] != 0) + 2 * (lights[:, :, 2] != 0)
        orders = np.unique(kinds @ [9, 3, 1], return_counts=True)
        assert orders[0].tolist() == sorted([5, 7, 11, 15, 19, 21])
        assert orders[1] == pytest.approx(np.full(6, 0.2 * count / 6), rel=0.15)
        assert lights[:, :, 0] + lights[:, :, 1] + lights[:, :, 2] == pytest.approx(
            np.where(kinds == 0, lights[:, :, 0], 1), abs=1e-6
        )

    @pytest.mark.parametrize("size", [(112, 112), (40, 90), (90, 40)])
    def test_boxes_are_spread_as_the_slow_twins(self, size: tuple[int, int]) -> None:
        count = 6000
        boxes = draw_changes(Augment(crop=1), 1, 0, np.arange(count), size).boxes
        rng = np.random.default_rng(0)
        slow = np.array([slow_box(rng, *size) for _ in range(count)])
        assert (boxes >= [0, 0, 1, 1]).all()
        assert (boxes[:, :2] + boxes[:, 2:] <= size).all()
        for mine, twins in zip(boxes.T, slow.T, strict=True):
            values = np.arange(max(size) + 1)
            apart = np.abs(
                np.searchsorted(np.sort(mine), values, "right")
                - np.searchsorted(np.sort(twins), values, "right")
            )
            assert apart.max() / count < 1.95 * math.sqrt(2 / count)  # Kolmogorov's 0.1 %

    def test_of_boxes_that_never_fit_are_as_large_as_they_may_be(self) -> None:
        wide = Augment(crop=1, area=(1, 1), ratio=(8, 8))
        boxes = draw_changes(wide, 0, 0, np.arange(200), SIZE).boxes
        assert np.unique(boxes[:, 2:], axis=0).tolist() == [[6, 48]]
        assert (boxes[:, 0].min(), boxes[:, 0].max()) == (0, 34)
        assert (boxes[:, 1] == 0).all()

    def test_are_independent(self) -> None:
        changes = draw_changes(
            Augment(resize=0.5, blur=0.5, color=0.5), 0, 0, np.arange(20_000), SIZE
        )
        drawn = np.stack([changes.resized, changes.blurred, changes.colored]).astype(float)
        assert np.abs(np.corrcoef(drawn) - np.eye(3)).max() < 0.03

    def test_of_one_change_do_not_depend_on_the_others(self) -> None:
        positions = np.arange(100)
        alone = draw_changes(Augment(blur=0.5), 0, 0, positions, SIZE)
        among = draw_changes(STRONG, 0, 0, positions, SIZE)
        assert alone.radii.tolist() == among.radii.tolist()
        assert not alone.resized.any()
        assert not alone.colored.any()


class TestChanges:
    def test_none_leave_the_pixels(self) -> None:
        (pixels,) = noise()
        assert np.array_equal(changed(pixels), pixels)

    @pytest.mark.parametrize("box", [(0, 0, 40, 48), (3, 5, 20, 30), (39, 47, 1, 1)])
    def test_crop_leaves_a_box_in_its_place(self, box: tuple[int, int, int, int]) -> None:
        (pixels,) = noise()
        top, left, height, width = box
        slow = pixels.copy()
        for row, column in np.ndindex(*SIZE):
            if not (top <= row < top + height and left <= column < left + width):
                slow[row, column] = 0
        assert np.array_equal(changed(pixels, box=box), slow)

    @pytest.mark.parametrize("small", [(20, 24), (31, 25), (40, 30), (39, 48), (3, 5)])
    @pytest.mark.parametrize("by", FILTERS)
    def test_resize_is_two_filters(self, small: tuple[int, int], by: Filter) -> None:
        (pixels,) = noise()
        slow = slow_resize(slow_resize(pixels, small, by), SIZE, by)
        apart = np.abs(changed(pixels, small=small, by=(by, by)) - slow)
        # Where the middle of two levels is rounded in float32, the other one may come out.
        assert apart.max() <= (0 if by is NEAREST else 2)
        assert apart.mean() < 0.05

    def test_ways_have_filters_of_their_own(self) -> None:
        (pixels,) = noise()
        slow = slow_resize(slow_resize(pixels, (21, 25), CUBIC), SIZE, LANCZOS)
        apart = np.abs(changed(pixels, small=(21, 25), by=(CUBIC, LANCZOS)) - slow)
        assert apart.max() <= 2
        assert apart.mean() < 0.05

    @pytest.mark.parametrize(
        ("kinds", "factors"),
        [("bcs", (1.4, 0.6, 1.3)), ("scb", (0.5, 1.5, 1.5)), ("csb", (1.5, 0, 0.5))],
    )
    def test_light_blends_with_black_mean_and_luma_in_turn(
        self, kinds: str, factors: tuple[float, float, float]
    ) -> None:
        (pixels,) = noise()
        steps = [
            [factor, (1 - factor) * (kind == "c"), (1 - factor) * (kind == "s")]
            for kind, factor in zip(kinds, factors, strict=True)
        ]
        slow = pixels.astype(float)
        for kind, factor in zip(kinds, factors, strict=True):
            luma = 0.299 * slow[..., 0] + 0.587 * slow[..., 1] + 0.114 * slow[..., 2]
            base = {"b": 0 * luma, "c": 0 * luma + luma.mean(), "s": luma}[kind]
            slow = np.clip(base[..., None] + factor * (slow - base[..., None]), 0, 255)
        assert np.abs(changed(pixels, steps=steps) - slow).max() <= 0.5 + 1e-3

    @pytest.mark.parametrize("radius", [1, 2, 5])
    def test_blur_is_a_gaussian_of_mirrored_borders(self, radius: int) -> None:
        (pixels,) = noise()
        apart = np.abs(changed(pixels, radius=radius) - slow_blur(pixels, radius))
        assert apart.max() <= 0.5 + 1e-3  # the twin does not round

    @pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 40), (8, 7)])
    def test_images_smaller_than_the_window_are_mirrored_to_and_fro(
        self, size: tuple[int, int]
    ) -> None:
        (pixels,) = noise()
        pixels = np.ascontiguousarray(pixels[: size[0], : size[1]])
        apart = np.abs(changed(pixels, radius=7) - slow_blur(pixels, 7))
        assert apart.max() <= 0.5 + 1e-3

    @pytest.mark.parametrize(("hue", "saturation"), [(20, 1), (0, 1.2), (-50, 0.5), (180, 1)])
    def test_color_is_a_turn_in_yiq(self, hue: float, saturation: float) -> None:
        (pixels,) = noise()
        apart = np.abs(
            changed(pixels, hue=hue, saturation=saturation) - slow_color(pixels, hue, saturation)
        )
        assert apart.max() <= 0.5 + 1e-3

    def test_grey_is_the_luma_in_all_channels(self) -> None:
        (pixels,) = noise()
        grey = changed(pixels, saturation=0)
        luma = pixels @ np.array([0.299, 0.587, 0.114])
        assert np.abs(grey - luma[..., None]).max() <= 1.25  # by the three digits of the matrix
        assert np.allclose(color_matrix(123, 0), color_matrix(0, 0))

    def test_are_made_in_order_and_in_place(self) -> None:
        pixels = noise(3)
        augment = Augment(crop=1, resize=1, interpolation="any", blur=1, color=1, light=1)
        changes = draw_changes(augment, 0, 0, np.arange(3), SIZE)
        steps = pixels.copy()
        for row in range(3):
            for values in (
                {"box": changes.boxes[row]},
                {
                    "small": changes.sizes[row],
                    "by": [FILTERS[at] for at in changes.filters[row]],
                },
                {"radius": changes.radii[row]},
                {"hue": changes.hues[row], "saturation": changes.saturations[row]},
                {"steps": changes.lights[row]},
            ):
                steps[row] = changed(steps[row], **values)
        change_images(pixels, changes)
        assert np.array_equal(pixels, steps)


def slow_box(rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    """One of AdaFace's boxes, drawn until it fits."""
    while True:
        area = height * width * rng.uniform(0.2, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w


def slow_resize(pixels: np.ndarray, size: tuple[int, int], by: Filter) -> np.ndarray:
    """Weighted means, along one axis after the other, over repeated border pixels; rounded."""
    lines = pixels.astype(float)
    for axis, length in enumerate(size):
        lines = np.moveaxis(lines, axis, 0)
        last = len(lines) - 1
        scale = len(lines) / length
        width = max(scale, 1.0) if by is ANTIALIASED else 1.0
        out = []
        for place in range(length):
            centre = (place + 0.5) * scale - 0.5
            if by is NEAREST:
                # No place is midway between two lines, with the sizes that are tried here.
                out.append(lines[min(math.floor(centre + 0.5), last)])
                continue
            taps = range(math.floor(centre - 3 * width), math.ceil(centre + 3 * width) + 1)
            weights = [slow_weight((tap - centre) / width, by) for tap in taps]
            rows = [lines[min(max(tap, 0), last)] for tap in taps]
            total = sum(weight * row for weight, row in zip(weights, rows, strict=True))
            out.append(total / sum(weights))
        lines = np.moveaxis(np.array(out), 0, axis)
    return np.clip(np.rint(lines), 0, 255)


def slow_weight(distance: float, by: Filter) -> float:
    x = abs(distance)
    if by in (LINEAR, ANTIALIASED):
        return max(0.0, 1 - x)
    if by is CUBIC:  # Keys, with a = -0.5
        if x < 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0
    if x >= 3:
        return 0.0
    sine = math.sin(math.pi * x) * math.sin(math.pi * x / 3)
    return 1.0 if x == 0 else 3 * sine / (math.pi * x) ** 2


def slow_blur(pixels: np.ndarray, radius: int) -> np.ndarray:
    sigma = (radius - 1) * 0.3 + 0.8
    height, width, _ = pixels.shape
    out = np.zeros(pixels.shape)
    total = 0.0
    for down in range(-radius, radius + 1):
        for right in range(-radius, radius + 1):
            weight = math.exp(-(down**2 + right**2) / (2 * sigma**2))
            total += weight
            rows = [mirrored(row + down, height) for row in range(height)]
            columns = [mirrored(column + right, width) for column in range(width)]
            out += weight * pixels[rows][:, columns]
    return out / total


def mirrored(place: int, length: int) -> int:
    while length > 1 and not 0 <= place < length:
        place = -place if place < 0 else 2 * (length - 1) - place
    return place if length > 1 else 0


def slow_color(pixels: np.ndarray, hue: float, saturation: float) -> np.ndarray:
    """Turn and scale the chroma as one complex number."""
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
    out = np.zeros(pixels.shape)
    for row, column in np.ndindex(*pixels.shape[:2]):
        luma, i, q = to_yiq @ pixels[row, column]
        turned = complex(i, q) * saturation * np.exp(-1j * math.radians(hue))
        out[row, column] = np.linalg.solve(to_yiq, [luma, turned.real, turned.imag])
    return np.clip(out, 0, 255)


class TestSettings:
    @pytest.mark.parametrize(
        ("values", "text"),
        [
            ({"blur": 1.5}, "Augment: blur = 1.5 is not allowed: it must be from 0 to 1"),
            ({"grey": True}, "Augment: grey = True is not a number from 0 to 1"),
            ({"resize": math.nan}, "Augment: resize = nan is not a finite number"),
            (
                {"scale": (0.0, 0.5)},
                "scale[0] = 0.0 is not allowed: it must be above 0 and at",
            ),
            ({"area": (0.0, 0.5)}, "area[0] = 0.0 is not allowed: it must be above 0 and at"),
            ({"ratio": (2.0, 1.0)}, "Augment: ratio = (2.0, 1.0) must be (low, high)"),
            ({"interpolation": "cubic"}, "interpolation = 'cubic' is not one of antialiased, any"),
            ({"light": 2.0}, "Augment: light = 2.0 is not allowed: it must be from 0 to 1"),
            ({"scale": (0.6, 0.5)}, "Augment: scale = (0.6, 0.5) must be (low, high)"),
            ({"radius": (1.0, 2.0)}, "radius[0] = 1.0 is not a whole number from 1 to 7"),
            ({"radius": (0, 2)}, "radius[0] = 0 is not allowed: it must be from 1 to 7"),
            ({"hue": 20.0}, "Augment: hue = 20.0 is not a list of 2"),
            (
                {"saturation": (-1.0, 2.0)},
                "saturation[0] = -1.0 is not allowed: it must be from 0",
            ),
        ],
    )
    def test_are_checked(self, values: dict[str, Any], text: str) -> None:
        with pytest.raises(ConfigError) as caught:
            Augment(**values)
        assert text in str(caught.value)

    def test_of_another_name_are_refused(self, faces: Pack) -> None:
        with pytest.raises(ConfigError, match=r"augment = 'strong' is not an Augment, None or one"):
            Loader(faces, batch_size=4, augment="strong")


def expected_images(
    pack: Pack, slow_batch: SlowBatch, index: int, dtype: str, batch_size: int
) -> torch.Tensor:
    """The twin's batch, changed image by image."""
    images, _, positions = slow_batch(pack, index, batch_size=batch_size, seed=5)
    epoch = index // (len(pack) // batch_size)
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    for row, position in enumerate(positions):
        changes = draw_changes(STRONG, 5, epoch, np.array([position]), SIZE)
        change_images(pixels[row : row + 1], changes)
    if dtype == "float32":
        pixels = (pixels - np.float32(127.5)) * np.float32(1 / 127.5)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


OPTIONS: dict[str, Any] = {"batch_size": 12, "seed": 5, "augment": STRONG}


class TestLoader:
    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    @pytest.mark.parametrize("cache", ["none", "host"])
    def test_batches_equal_the_twin(
        self, mixed: Pack, slow_batch: SlowBatch, dtype: str, cache: str
    ) -> None:
        with Loader(mixed, dtype=dtype, cache=cache, threads=2, **OPTIONS) as loader:
            for epoch in range(2):
                for number, batch in enumerate(loader):
                    index = epoch * len(loader) + number
                    expected = expected_images(mixed, slow_batch, index, dtype, 12)
                    assert torch.equal(batch.images, expected)

    def test_larger_than_a_chunk_equal_the_twin(self, faces: Pack, slow_batch: SlowBatch) -> None:
        options = {**OPTIONS, "batch_size": 50}
        with Loader(faces, dtype="float32", **options) as loader:
            (batch,) = loader
        assert torch.equal(batch.images, expected_images(faces, slow_batch, 0, "float32", 50))

    def test_ranks_make_the_same_changes(self, faces: Pack) -> None:
        options: dict[str, Any] = {"drop_last": False, "augment": STRONG}
        with Loader(faces, batch_size=6, **options) as loader:
            alone = [batch.images.clone() for batch in loader]
        ranks = []
        for rank in range(3):
            with Loader(faces, batch_size=2, rank=rank, world=3, **options) as loader:
                ranks.append([batch.images.clone() for batch in loader])
        for whole, *parts in zip(alone, *ranks, strict=True):
            assert torch.equal(whole, torch.cat(parts))

    @pytest.mark.parametrize("backend", ["cpu", "dali"])
    def test_resuming_amid_an_epoch_gives_the_same_batches(self, faces: Pack, backend: str) -> None:
        if backend == "dali":
            pytest.importorskip("nvidia.dali", reason="DALI is not installed")
        options = {**OPTIONS, "backend": backend, "batch_size": 9}
        with Loader(faces, **options) as loader:
            whole = [keep(batch) for _ in range(2) for batch in loader]
        with Loader(faces, **options) as loader:
            for number, _ in enumerate(loader):
                if number == 2:
                    break
            state = loader.state_dict()
        with Loader(faces, **options) as loader:
            loader.load_state_dict(state)
            rest = [keep(batch) for _ in range(2) for batch in loader]
        assert len(rest) == len(whole) - 3
        for (images, positions), expected in zip(rest, whole[3:], strict=True):
            assert torch.equal(images, expected[0])
            assert positions == expected[1]

    def test_state_of_other_changes_is_refused(self, faces: Pack) -> None:
        state = Loader(faces, batch_size=8).state_dict()
        assert state["augment"] is None
        other = Loader(faces, batch_size=8, augment="arcface_torch")
        assert other.state_dict()["augment"]["resize"] == 0.1
        other.load_state_dict(other.state_dict())
        with pytest.raises(ConfigError, match="belongs to a loader with augment=None; this one"):
            other.load_state_dict(state)

    def test_state_saved_before_there_were_crops_is_taken(self, faces: Pack) -> None:
        loader = Loader(faces, batch_size=8, augment="arcface_torch")
        state = loader.state_dict()
        before = ("resize", "scale", "blur", "radius", "color", "hue", "saturation", "grey")
        state["augment"] = {name: state["augment"][name] for name in before}
        loader.load_state_dict({**state, "batch": 2})
        assert loader.state_dict()["batch"] == 2
        with pytest.raises(ConfigError, match="belongs to a loader with augment="):
            Loader(faces, batch_size=8, augment="adaface").load_state_dict(state)


def keep(batch: Batch) -> tuple[torch.Tensor, list[int]]:
    return batch.images.clone(), batch.positions.tolist()
