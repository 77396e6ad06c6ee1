"""Small packs of real, encoded images."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image, features

import facepack
from facepack.errors import DamageError
from facepack.loading.loader import Batch
from facepack.loading.plan import Draws, Plan
from facepack.store.pack import Pack

HEIGHT, WIDTH = 40, 48

MakePack = Callable[..., Pack]


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A smooth picture with a little noise, unlike its mirror image: uint8 (height, width, 3)."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:height, :width].astype(float)
    waves = [np.sin(x * a + y * b + c) for a, b, c in rng.uniform(0.05, 0.4, (3, 3))]
    pixels = 128 + 90 * np.stack(waves, axis=-1) + rng.normal(0, 4, (height, width, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def encode(pixels: np.ndarray, kind: str = "420") -> bytes:
    """Encode a picture as one of the kinds of files that packs hold."""
    if kind in ("444", "422", "420", "440"):
        return simplejpeg.encode_jpeg(pixels, quality=90, colorsubsampling=kind)
    image = Image.fromarray(pixels)
    out = io.BytesIO()
    if kind == "grey":
        image.convert("L").save(out, "JPEG", quality=90)
    elif kind == "cmyk":
        image.convert("CMYK").save(out, "JPEG", quality=90)
    elif kind == "progressive":
        image.save(out, "JPEG", quality=90, progressive=True)
    elif kind == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(out, "JPEG", quality=90, exif=exif)
    else:
        image.save(out, kind)
    return out.getvalue()


# Pillow and pillow-simd are built with WebP or without it.
KINDS = (
    *("420", "444", "422", "440", "grey", "cmyk", "progressive", "rotated", "PNG"),
    *(("WEBP",) if features.check("webp") else ()),
)


@pytest.fixture(scope="session")
def make_image() -> Callable[..., bytes]:
    """Make one encoded image: ``make_image(number, kind, height, width)``."""

    def make(number: int, kind: str = "420", height: int = HEIGHT, width: int = WIDTH) -> bytes:
        return encode(picture(number, height, width), kind)

    return make


@pytest.fixture(scope="session")
def damage() -> Callable[[bytes], bytes]:
    """Cut a JPEG and close it with an end marker: many decoders make the rest of it grey."""

    def spoil(jpeg: bytes) -> bytes:
        return jpeg[:-100] + b"\xff\xd9"

    return spoil


@pytest.fixture(scope="session")
def make_pack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakePack]:
    """Write images, labelled 0, 1, 2, 0, …, as a pack in the order given, and open it."""
    opened: list[Pack] = []

    def make(images: Sequence[bytes], **options: Any) -> Pack:
        folder = tmp_path_factory.mktemp("pack") / "faces"
        with facepack.PackWriter(folder, order="source", **options) as writer:
            for number, image in enumerate(images):
                writer.add(image, number % 3)
        opened.append(facepack.open(folder))
        return opened[-1]

    yield make
    for pack in opened:
        pack.close()


@pytest.fixture(scope="session")
def faces(make_pack: MakePack) -> Pack:
    """53 JPEGs of 48×40 (width×height) pixels in three shards."""
    return make_pack([encode(picture(number)) for number in range(53)], shard_records=20)


@pytest.fixture(scope="session")
def mixed(make_pack: MakePack) -> Pack:
    """Four images of each kind that packs hold."""
    return make_pack(
        [encode(picture(number), kind) for number in range(4) for kind in KINDS], shard_records=15
    )


@pytest.fixture(scope="session")
def damaged(make_pack: MakePack, damage: Callable[[bytes], bytes]) -> Pack:
    """30 JPEGs, of which 4, 5 and 21 do not decode."""
    images = [encode(picture(number)) for number in range(30)]
    for number in (4, 5, 21):
        images[number] = damage(images[number])
    return make_pack(images)


@pytest.fixture()
def torn(faces: Pack) -> Pack:
    """The pack ``faces``, but its record 21 is damage to whoever reads it."""

    class Torn(Pack):
        @contextmanager
        def views(self, positions: Sequence[int] | np.ndarray) -> Iterator[list[memoryview]]:
            if 21 in positions:
                raise DamageError("shard-001 has no record 0000000001")
            with super().views(positions) as views:
                yield views

    return Torn(faces.path)


@pytest.fixture(scope="session")
def odd_images() -> Path:
    """Pillow's folder of odd images, beside the repository on some machines."""
    folder = Path(__file__).parents[2] / ".." / "shared" / "data" / "odd-images"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder


# Seconds after which a process is taken to hang: many, for others may stop or starve it.
_FOREVER = 600


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script by itself: ``run_python(script, *words)``; one that fails or hangs is an error.

    What it forks ends with it.
    """

    def run(script: str, *words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, *map(str, words)]
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(timeout=_FOREVER)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)  # or its children keep the pipes open
                raise
        assert process.returncode == 0, err
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    return run


@pytest.fixture(scope="session")
def assert_equal() -> Callable[[Batch, tuple[torch.Tensor, torch.Tensor, np.ndarray]], None]:
    """Compare a batch with what :func:`slow_batch` made, or another batch: bit for bit."""

    def compare(batch: Batch, slow: tuple[torch.Tensor, torch.Tensor, np.ndarray]) -> None:
        images, labels, positions = slow
        assert batch.positions.tolist() == positions.tolist()
        assert batch.labels.dtype == torch.int64
        assert batch.labels.tolist() == labels.tolist()
        assert batch.images.dtype == images.dtype
        assert torch.equal(batch.images, images)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)

    return compare


@pytest.fixture(scope="session")
def slow_batch() -> Callable[..., tuple[torch.Tensor, torch.Tensor, np.ndarray]]:
    """Make a batch record by record with Pillow: the twin of every backend.

    ``slow_batch(pack, index, dtype, on_error, **plan)`` gives images, labels and positions of
    batch ``index`` of all epochs in a row; under ``skip``, damaged JPEGs are left out.
    """

    def make(
        pack: Pack, index: int, dtype: str = "uint8", on_error: str = "raise", **changes: Any
    ) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        base = {"seed": 0, "rank": 0, "world": 1, "shuffle": True, "mirror": True}
        plan = Plan(**{"records": len(pack), "drop_last": True, **base, **changes})
        draw = Draws(plan)[index]
        images, labels, positions = [], [], []
        for position, flip in zip(draw.positions.tolist(), draw.flips.tolist(), strict=True):
            record = pack[position]
            if on_error == "skip":
                try:
                    simplejpeg.decode_jpeg(record.image, strict=True)  # Pillow conceals damage
                except ValueError:
                    continue
            pixels = np.asarray(Image.open(io.BytesIO(record.image)).convert("RGB"))
            if flip:
                pixels = np.fliplr(pixels)
            if dtype == "float32":
                pixels = (pixels - np.float32(127.5)) * np.float32(1 / 127.5)
            images.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
            labels.append(record.label)
            positions.append(position)
        empty = torch.empty(0, 3, *(pack.image_size or (0, 0)), dtype=getattr(torch, dtype))
        return (
            torch.stack(images) if images else empty,
            torch.tensor(labels, dtype=torch.int64),
            np.array(positions, np.int64),
        )

    return make
