"""Packs whose images are stored with red and blue swapped are loaded as RGB, by every way."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import facepack
from facepack.errors import DecodeError
from facepack.loading.augment import Augment
from facepack.loading.loader import Loader
from facepack.loading.torch_view import TorchDataset
from facepack.store.checks import ImageCheck
from facepack.store.pack import Pack

MakePack = Callable[..., Pack]
SlowBatch = Callable[..., tuple[torch.Tensor, torch.Tensor, np.ndarray]]

BGR = ImageCheck(channels="bgr")
SWAPPED = [2, 1, 0]

every_backend = pytest.mark.parametrize("backend", ["cpu", "dali"])


@pytest.fixture(scope="module")
def swapped(mixed: Pack, make_pack: MakePack) -> Pack:
    """The images of ``mixed``, said to be BGR."""
    return make_pack([record.image for record in mixed], check=BGR, shard_records=15)


def require(backend: str) -> None:
    if backend == "dali":
        pytest.importorskip("nvidia.dali", reason="the extra 'dali' is not installed")


@every_backend
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_batches_equal_the_twin(
    swapped: Pack, slow_batch: SlowBatch, backend: str, dtype: str
) -> None:
    """The twin decodes the bytes as they are: mirrored and not, JPEGs, PNGs, CMYK and grey."""
    require(backend)
    with Loader(swapped, batch_size=7, backend=backend, dtype=dtype) as loader:
        for index, batch in enumerate(loader):
            images, _, positions = slow_batch(swapped, index, dtype, batch_size=7)
            assert batch.positions.tolist() == positions.tolist()
            assert torch.equal(batch.images, images[:, SWAPPED])


@every_backend
@pytest.mark.parametrize(
    "options",
    [
        {"cache": "host"},
        {"cache": "host", "dtype": "float32"},
        {"batch_size": 4, "pairs": 2},
        {"shuffle": False, "mirror": False, "drop_last": False},
        {"order": "blocks"},
    ],
    ids=str,
)
def test_it_is_so_of_all_batches(
    mixed: Pack, swapped: Pack, backend: str, options: dict[str, Any]
) -> None:
    require(backend)
    options = {"batch_size": 7, "seed": 5, "backend": backend, **options}
    with Loader(mixed, **options) as plain, Loader(swapped, **options) as loader:
        for expected, batch in zip(plain, loader, strict=True):
            assert batch.positions.tolist() == expected.positions.tolist()
            assert torch.equal(batch.images, expected.images[:, SWAPPED])


@every_backend
def test_changes_are_made_to_the_right_colours(make_pack: MakePack, backend: str) -> None:
    """What is swapped is swapped back before anything else: lossless, so nothing differs."""
    require(backend)
    draw = np.random.default_rng(0)
    pictures = [draw.integers(0, 256, (40, 48, 3)).astype(np.uint8) for _ in range(12)]
    right = make_pack(list(map(png, pictures)))
    wrong = make_pack([png(picture[..., ::-1]) for picture in pictures], check=BGR)
    augment = Augment(color=1.0, grey=0.3, resize=0.5)
    options = {"batch_size": 4, "augment": augment, "backend": backend}
    with Loader(right, **options) as plain, Loader(wrong, **options) as loader:
        for expected, batch in zip(plain, loader, strict=True):
            assert torch.equal(batch.images, expected.images)


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG")
    return out.getvalue()


def test_a_part_of_the_records_has_the_order_of_the_whole(swapped: Pack) -> None:
    keep = np.arange(len(swapped)) % 3 == 0
    chosen = swapped.select(keep)
    assert chosen.channels == "bgr"
    assert chosen.manifest["requires"] == ["channels", "selection"]
    some = facepack.open(swapped.path, shards=["shard-001"])
    assert some.channels == "bgr"
    np.testing.assert_array_equal(some.decode(2), swapped.decode(17))
    np.testing.assert_array_equal(chosen.decode(1), swapped.decode(3))


def test_single_images_too(mixed: Pack, swapped: Pack) -> None:
    dataset, plain = TorchDataset(swapped), TorchDataset(mixed)
    for position in range(len(mixed)):
        pixels = swapped.decode(position)
        assert pixels.flags.c_contiguous and pixels.flags.writeable
        np.testing.assert_array_equal(pixels, mixed.decode(position)[..., ::-1])
        image, label = dataset[position]
        assert torch.equal(image, plain[position][0][SWAPPED]) and label == plain[position][1]
        assert swapped[position].image == mixed[position].image


@every_backend
def test_what_does_not_decode_is_told(damaged: Pack, make_pack: MakePack, backend: str) -> None:
    require(backend)
    wrong = make_pack([record.image for record in damaged], check=BGR)
    with pytest.raises(DecodeError, match="0000000004"):
        wrong.decode(4)
    with Loader(wrong, batch_size=10, backend=backend, on_error="skip", shuffle=False) as loader:
        assert sum(len(batch.labels) for batch in loader) == 27


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("decoder", ["cpu", "mixed"])
@every_backend
def test_it_is_so_on_a_gpu(mixed: Pack, swapped: Pack, backend: str, decoder: str) -> None:
    require(backend)
    options = {"batch_size": 7, "backend": backend, "dali_decoder": decoder, "device": "cuda"}
    with Loader(mixed, **options) as plain, Loader(swapped, **options) as loader:
        for expected, batch in zip(plain, loader, strict=True):
            difference = batch.images.int() - expected.images[:, SWAPPED].int()
            assert difference.abs().max() <= (1 if decoder == "mixed" else 0)
