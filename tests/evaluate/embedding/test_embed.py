"""Embedding: equal to one image at a time, exact in precision, and without a trace on the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from facepack.errors import DecodeError, EvaluationError
from facepack.evaluate.embedding.embed import embed, normalize
from facepack.evaluate.faces.decode import decode_batches
from facepack.images import decode
from facepack.train.backbones import build
from facepack.train.precision import float32_products


def batches_of(faces: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (faces[at : at + size] for at in range(0, len(faces), size))


@pytest.fixture
def faces() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (10, 112, 112, 3)).astype(np.uint8)


class Recorder(nn.Module):
    """Keeps what it is given; its embedding is the top left and top right red value."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images)
        return images[:, 0, 0, [0, -1]]


# --- decoding ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 40, 64])
def test_batches_are_the_images_in_order(
    pair_images: tuple[list[bytes], np.ndarray], batch_size: int
) -> None:
    images, _ = pair_images
    keys = [str(i) for i in range(len(images))]
    batches = list(decode_batches(images, keys=keys, name="set", batch_size=batch_size, threads=3))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    np.testing.assert_array_equal(np.concatenate(batches), np.stack([*map(decode, images)]))


def test_a_broken_image_is_named_with_its_set(
    pair_images: tuple[list[bytes], np.ndarray],
) -> None:
    images = list(pair_images[0])
    images[25] = images[25][:900]
    keys = [f"image {i} (k{i})" for i in range(len(images))]
    with pytest.raises(DecodeError, match=r"^lfw: image 25 \(k25\): .*jpeg"):
        list(decode_batches(images, keys=keys, name="lfw", batch_size=8))


def test_an_image_of_another_size_is_named(encode_jpeg: Callable[[np.ndarray], bytes]) -> None:
    image = encode_jpeg(np.zeros((96, 120, 3), np.uint8))
    with pytest.raises(DecodeError, match=r"lfw: image 0 is 120×96 pixels; .* of 112×112"):
        list(decode_batches([image], keys=["image 0"], name="lfw", batch_size=8))


def test_decoding_may_be_left_unfinished(pair_images: tuple[list[bytes], np.ndarray]) -> None:
    images, _ = pair_images
    batches = decode_batches(images, keys=[""] * len(images), name="set", batch_size=4)
    next(batches)
    batches.close()  # type: ignore[attr-defined]


# --- embedding ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_embeddings_equal_one_image_at_a_time(faces: np.ndarray, batch_size: int) -> None:
    torch.manual_seed(0)
    model = build("tiny", features=32)
    raw = embed(model, batches_of(faces, batch_size))
    model.eval()
    slow = []
    for face in faces:
        total = np.zeros(32)
        for image in (face, face[:, ::-1]):
            pixels = (image.transpose(2, 0, 1)[None].astype(np.float32) - 127.5) / 127.5
            with torch.no_grad():
                total += model(torch.from_numpy(np.ascontiguousarray(pixels)))[0].numpy()
        slow.append(total)
    assert raw.shape == (10, 32) and raw.dtype == np.float32
    np.testing.assert_allclose(raw, slow, rtol=1e-4, atol=1e-5 * np.abs(slow).max())


def test_the_model_gets_exact_pixels_and_their_mirror_in_channels_last(faces: np.ndarray) -> None:
    model = Recorder()
    raw = embed(model, [faces])
    direct, mirrored = model.seen
    wanted = (faces.transpose(0, 3, 1, 2).astype(np.float32) - np.float32(127.5)) / np.float32(
        127.5
    )
    np.testing.assert_array_equal(direct.numpy(), wanted)
    np.testing.assert_array_equal(mirrored.numpy(), wanted[..., ::-1])
    assert direct.is_contiguous(memory_format=torch.channels_last)
    assert mirrored.is_contiguous(memory_format=torch.channels_last)
    corners = wanted[:, 0, 0, [0, -1]]
    np.testing.assert_array_equal(raw, corners + corners[:, ::-1])


def test_a_training_model_is_left_as_it_was(faces: np.ndarray) -> None:
    model = build("tiny", features=16, dropout=0.5).train()
    frozen = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    frozen.eval()
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    drawn = torch.get_rng_state()

    first = embed(model, [faces])
    assert np.array_equal(first, embed(model, [faces]))  # dropout and batch statistics are off

    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_training_model_is_restored_after_an_error() -> None:
    def broken() -> Iterator[np.ndarray]:
        raise DecodeError("broken")
        yield

    model = build("tiny", autocast=torch.bfloat16).train()
    with pytest.raises(DecodeError, match="broken"):
        embed(model, broken())
    assert model.training and model.autocast is torch.bfloat16


def test_a_model_trained_under_autocast_is_evaluated_in_float32(faces: np.ndarray) -> None:
    full = build("tiny")
    reduced = build("tiny", autocast=torch.bfloat16)
    reduced.load_state_dict(full.state_dict())
    wanted = embed(full, [faces])
    assert np.array_equal(embed(reduced, [faces]), wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(embed(full, [faces]), wanted)
    assert reduced.autocast is torch.bfloat16


def test_ieee_products_turn_rounding_off_and_on_again() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with float32_products(tf32=False):
            if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
                cudnn: Any = torch.backends.cudnn
                assert torch.backends.cuda.matmul.fp32_precision == "ieee"
                assert cudnn.conv.fp32_precision == "ieee"
            else:
                assert not torch.backends.cuda.matmul.allow_tf32
                assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32 == before[0]
    finally:
        torch.set_float32_matmul_precision(before[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_embeds_as_the_cpu_does(faces: np.ndarray) -> None:
    model = build("tiny", features=32)
    on_cpu = embed(model, [faces])
    on_gpu = embed(model.cuda(), batches_of(faces, 4))
    # IEEE float32 on both sides: sums in another order, 1e-4 of the largest value at most.
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-4 * np.abs(on_cpu).max())


def test_progress_counts_images(faces: np.ndarray, averages: nn.Module) -> None:
    counts: list[int] = []
    embed(averages, batches_of(faces, 4), on_batch=counts.append)
    assert counts == [4, 4, 2]


def test_a_model_that_does_not_embed_is_refused(faces: np.ndarray) -> None:
    with pytest.raises(EvaluationError, match=r"made \(10, 3, 112, 112\) of 10 faces"):
        embed(nn.Identity(), [faces])
    with pytest.raises(EvaluationError, match="no images"):
        embed(nn.Identity(), [])


def test_normalize_gives_unit_rows_and_their_norms() -> None:
    unit, norms = normalize(np.array([[3.0, 4.0], [0.0, 0.0]]))
    assert unit.tolist() == [[0.6, 0.8], [0.0, 0.0]]
    assert norms.tolist() == [5.0, 0.0]
