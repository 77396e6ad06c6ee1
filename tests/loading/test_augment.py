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
    ARCFACE_TORCH,
    Augment,
    Changes,
    change_images,
    color_matrix,
    draw_changes,
)
from facepack.loading.loader import Batch, Loader
from facepack.store.pack import Pack

SIZE = (40, 48)
STRONG = Augment(resize=0.5, blur=0.5, color=0.5, grey=0.2)

SlowBatch = Callable[..., tuple[torch.Tensor, torch.Tensor, np.ndarray]]


def noise(count: int = 1) -> np.ndarray:
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, *SIZE, 3)).astype(np.uint8)


def changes_of(**values: Any) -> Changes:
    """One image's changes; by default none."""
    size = np.array([values.get("size", SIZE)], np.float32)
    return Changes(
        size,
        np.array(["size" in values and "radius" not in values]),
        np.array([values.get("radius", 0)], np.int32),
        np.array([values.get("hue", 0)], np.float32),
        np.array([values.get("saturation", 1)], np.float32),
    )


def changed(pixels: np.ndarray, **values: Any) -> np.ndarray:
    images = pixels[None].copy()
    change_images(images, changes_of(**values))
    return images[0]


def fields(changes: Changes) -> list[list[Any]]:
    return [
        changes.sizes.tolist(),
        changes.resized.tolist(),
        changes.radii.tolist(),
        changes.hues.tolist(),
        changes.saturations.tolist(),
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

    @pytest.mark.parametrize("size", [(20, 24), (31, 25), (40, 30), (39, 48), (3, 5)])
    def test_resize_is_two_triangle_filters(self, size: tuple[int, int]) -> None:
        (pixels,) = noise()
        small = slow_resize(slow_resize(pixels, size[0], 0), size[1], 1)
        slow = slow_resize(slow_resize(small, SIZE[0], 0), SIZE[1], 1)
        apart = np.abs(changed(pixels, size=size) - slow)
        assert apart.max() <= 2  # levels: Pillow rounds after each axis
        assert apart.mean() < 0.5

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
        apart = np.abs(changed(pixels, size=size, radius=7) - slow_blur(pixels, 7))
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
        changes = draw_changes(Augment(resize=1, blur=1, color=1, grey=0), 0, 0, np.arange(3), SIZE)
        steps = pixels.copy()
        for row in range(3):
            for values in (
                {"size": changes.sizes[row]},
                {"radius": changes.radii[row]},
                {"hue": changes.hues[row], "saturation": changes.saturations[row]},
            ):
                steps[row] = changed(steps[row], **values)
        change_images(pixels, changes)
        assert np.array_equal(pixels, steps)


def slow_resize(pixels: np.ndarray, length: int, axis: int) -> np.ndarray:
    """A triangle filter as wide as the scale, over repeated border pixels; rounded."""
    lines = np.moveaxis(pixels, axis, 0).astype(float)
    scale = len(lines) / length
    width = max(scale, 1.0)
    out = []
    for place in range(length):
        centre = (place + 0.5) * scale - 0.5
        taps = range(math.ceil(centre - width), math.floor(centre + width) + 1)
        weights = [1 - abs(tap - centre) / width for tap in taps]
        rows = [lines[min(max(tap, 0), len(lines) - 1)] for tap in taps]
        total = sum(weight * row for weight, row in zip(weights, rows, strict=True))
        out.append(total / sum(weights))
    return np.moveaxis(np.rint(out), 0, axis)


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


def keep(batch: Batch) -> tuple[torch.Tensor, list[int]]:
    return batch.images.clone(), batch.positions.tolist()
