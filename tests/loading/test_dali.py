"""The ``dali`` backend: the same batches as the twin's, on DALI's CPU pipelines and on a GPU."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import features

from facepack.errors import ConfigError, DecodeError
from facepack.images import read_header
from facepack.loading import dali_decoder
from facepack.loading.augment import Augment, draw_changes
from facepack.loading.dali_pipeline import Decoder
from facepack.loading.loader import Batch, Loader
from facepack.store.pack import Pack

pytest.importorskip("nvidia.dali", reason="DALI is not installed")

MakeImage = Callable[..., bytes]
MakePack = Callable[..., Pack]
SlowBatch = Callable[..., tuple[torch.Tensor, torch.Tensor, np.ndarray]]
AssertEqual = Callable[..., None]
ForkInUse = Callable[[Pack, str], list[str]]

# nvJPEG's inverse DCT and colour conversion round otherwise than libjpeg-turbo's: in grey levels.
GPU_LARGEST = 8
GPU_MEAN = 1.0


def native_threads() -> int:
    """Threads of this process, those outside Python included."""
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        pytest.skip("this system does not list a process's threads in /proc")
    return len(list(tasks.iterdir()))


def ends_with_threads(most: int) -> bool:
    """Whether ``most`` threads are left: the system lists one for a moment after it was joined."""
    deadline = time.monotonic() + 60
    while native_threads() > most and time.monotonic() < deadline:
        time.sleep(0.01)
    return native_threads() <= most


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_batches_equal_the_twin(
    mixed: Pack, slow_batch: SlowBatch, dtype: str, assert_equal: AssertEqual
) -> None:
    with Loader(mixed, backend="dali", batch_size=12, seed=5, dtype=dtype) as loader:
        assert loader.backend == "dali"
        for epoch in range(3):
            for number, batch in enumerate(loader):
                index = epoch * len(loader) + number
                assert_equal(batch, slow_batch(mixed, index, dtype, batch_size=12, seed=5))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_resumes_at_any_batch_of_the_cpu_backend(
    faces: Pack, dtype: str, assert_equal: AssertEqual
) -> None:
    options: dict[str, Any] = {"batch_size": 9, "seed": 3, "dtype": dtype, "drop_last": False}
    with Loader(faces, backend="cpu", **options) as loader:
        whole = [
            Batch(batch.images.clone(), batch.labels, batch.positions)
            for _ in range(2)
            for batch in loader
        ]
    batches = len(whole) // 2
    with Loader(faces, backend="cpu", **options) as saved:
        for stop in range(batches + 1):
            saved.seek(0, stop)
            with Loader(faces, backend="dali", **options) as loader:
                loader.load_state_dict(saved.state_dict())
                rest = list(loader)
            assert len(rest) == (batches - stop or batches)
            for batch, expected in zip(rest, whole[stop:], strict=False):
                assert_equal(batch, expected)


def test_odd_images_equal_pillow(
    odd_images: Path, make_pack: MakePack, slow_batch: SlowBatch, assert_equal: AssertEqual
) -> None:
    names = (
        "hopper.jpg",
        "hopper.png",
        *(("hopper.webp",) if features.check("webp") else ()),
        "hopper_16bit_qtables.jpg",
        "hopper_gray.jpg",
        "hopper_orientation_6.jpg",
    )
    for group in (names, ("pil_sample_cmyk.jpg",)):
        pack = make_pack([(odd_images / name).read_bytes() for name in group])
        with Loader(pack, backend="dali", batch_size=len(pack)) as loader:
            for index in range(4):
                (batch,) = loader
                assert_equal(batch, slow_batch(pack, index, batch_size=len(pack)))


@pytest.mark.parametrize("kind", ["420", "422", "440", "444", "progressive"])
def test_chroma_is_upsampled_as_by_the_cpu_backend(
    make_pack: MakePack,
    make_image: MakeImage,
    slow_batch: SlowBatch,
    kind: str,
    assert_equal: AssertEqual,
) -> None:
    pack = make_pack([make_image(number, kind) for number in range(4)])
    with Loader(pack, backend="dali", batch_size=4) as loader:
        (batch,) = loader
    assert_equal(batch, slow_batch(pack, 0, batch_size=4))


@pytest.mark.parametrize("backend", ["cpu", "dali"])
def test_exif_orientation_is_ignored(
    make_pack: MakePack, make_image: MakeImage, backend: str
) -> None:
    plain, turned = make_image(3, "420", 48, 48), make_image(3, "rotated", 48, 48)
    assert read_header(turned).orientation == 6
    pack = make_pack([turned, plain])
    options: dict[str, Any] = {"shuffle": False, "mirror": False, "batch_size": 2}
    with Loader(pack, backend=backend, **options) as loader:
        (batch,) = loader
    # Their encoders differ a little; a picture that was turned would be another one.
    apart = (batch.images[0].double() - batch.images[1].double()).abs()
    assert apart.mean() < 3
    assert (batch.images[0].double() - batch.images[1].double().rot90(1, (1, 2))).abs().mean() > 30


class TestAugment:
    # How far DALI's changes are from the CPU backend's, in grey levels: where an image was scaled
    # down and back, rounded twice before more light makes more of it, and elsewhere.
    resized = 6
    elsewhere = 2

    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    @pytest.mark.parametrize("interpolation", ["antialiased", "any"])
    def test_changes_equal_the_cpu_backends_within_the_tolerance(
        self, mixed: Pack, dtype: str, interpolation: Literal["antialiased", "any"]
    ) -> None:
        augment = Augment(
            crop=0.3,
            resize=0.5,
            scale=(0.2, 1.0),
            interpolation=interpolation,
            blur=0.5,
            color=0.5,
            grey=0.2,
            light=0.5,
        )
        options: dict[str, Any] = {"batch_size": 12, "seed": 5, "dtype": dtype, "augment": augment}
        with (
            Loader(mixed, backend="dali", **options) as loader,
            Loader(mixed, backend="cpu", **options) as cpu,
        ):
            for epoch in range(3):
                for batch, expected in zip(loader, cpu, strict=True):
                    assert batch.positions.tolist() == expected.positions.tolist()
                    assert batch.images.dtype == expected.images.dtype
                    assert batch.images.is_contiguous(memory_format=torch.channels_last)
                    apart = (batch.images.double() - expected.images.double()).abs()
                    apart *= 1 if dtype == "uint8" else 127.5
                    changes = draw_changes(augment, 5, epoch, batch.positions, (40, 48))
                    for row, scaled in enumerate(changes.resized.tolist()):
                        limit = self.resized if scaled else self.elsewhere
                        assert apart[row].max() <= limit + 1e-3
                    assert apart.mean() < 0.3

    def test_what_is_left_alone_equals_the_twin(
        self, faces: Pack, slow_batch: SlowBatch, assert_equal: AssertEqual
    ) -> None:
        with Loader(faces, backend="dali", batch_size=10, augment=Augment()) as loader:
            for index, batch in enumerate(loader):
                assert_equal(batch, slow_batch(faces, index, batch_size=10))

    def test_broken_images_are_left_out(self, damaged: Pack) -> None:
        options: dict[str, Any] = {"on_error": "skip", "drop_last": False, "batch_size": 8}
        options["augment"] = "arcface_torch"
        with (
            Loader(damaged, backend="dali", **options) as loader,
            Loader(damaged, backend="cpu", **options) as cpu,
        ):
            for batch, expected in zip(loader, cpu, strict=True):
                assert batch.positions.tolist() == expected.positions.tolist()
                apart = (batch.images.double() - expected.images.double()).abs()
                assert apart.max() <= self.resized

    def test_a_batch_of_broken_images_is_empty(
        self, make_pack: MakePack, make_image: MakeImage, damage: Callable[[bytes], bytes]
    ) -> None:
        images = [make_image(number) for number in range(12)]
        images[4:8] = map(damage, images[4:8])
        options: dict[str, Any] = {"batch_size": 4, "shuffle": False, "on_error": "skip"}
        options["augment"] = Augment(crop=1.0, resize=1.0, blur=1.0, grey=1.0, light=1.0)
        with Loader(make_pack(images), backend="dali", **options) as loader:
            assert [len(batch.labels) for batch in loader] == [4, 0, 4]


class TestDecoder:
    def test_on_the_cpu_is_the_cpus(self, faces: Pack) -> None:
        for asked in ("auto", "cpu"):
            loader = Loader(faces, backend="dali", batch_size=4, dali_decoder=asked)
            assert dali_decoder.choose_decoder(loader._settings) == Decoder("cpu")

    def test_on_the_cpu_cannot_be_the_gpus(self, faces: Pack) -> None:
        with pytest.raises(ConfigError, match="dali_decoder is 'mixed', which needs a GPU"):
            Loader(faces, backend="dali", batch_size=4, dali_decoder="mixed")

    def test_the_fastest_is_taken_and_remembered(
        self, damaged: Pack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = Loader(damaged, backend="dali", batch_size=8)._settings
        # Two of the kind that runs everywhere; the second is made to lose.
        candidates = [Decoder("cpu"), Decoder("cpu", 1.0)]
        timed: list[Decoder] = []

        def speed(settings: Any, decoder: Decoder, sample: list[np.ndarray]) -> float:
            timed.append(decoder)
            assert len(sample) == 8  # the sound ones among the first eight, repeated
            assert len({data.tobytes() for data in sample}) == 6
            return dali_decoder_speed(settings, decoder, sample) / (1 + 1e3 * decoder.hw_load)

        dali_decoder_speed = dali_decoder._speed
        monkeypatch.setattr(dali_decoder, "_candidates", lambda settings: candidates)
        monkeypatch.setattr(dali_decoder, "_speed", speed)
        monkeypatch.setattr(dali_decoder, "_chosen", {})
        assert dali_decoder.choose_decoder(settings) == Decoder("cpu")
        assert timed == candidates
        assert dali_decoder.choose_decoder(settings) == Decoder("cpu")
        assert timed == candidates


class TestBrokenImages:
    @pytest.mark.parametrize("kind", ["420", "PNG"])
    def test_another_size_is_named(
        self, make_pack: MakePack, make_image: MakeImage, kind: str
    ) -> None:
        images = [make_image(number) for number in range(8)]
        images[6] = make_image(6, kind, 30, 56)
        pack = make_pack(images)
        options: dict[str, Any] = {"batch_size": 4, "shuffle": False, "image_size": (40, 48)}
        with Loader(pack, backend="dali", **options) as loader:
            iterator = iter(loader)
            next(iterator)  # what is wrong with the next batch does not show before its turn
            with pytest.raises(DecodeError) as caught:
                next(iterator)
        assert "shard-000/0000000006" in str(caught.value)
        assert "has 56×30 pixels (width×height); 48×40 are expected" in str(caught.value)
        with Loader(pack, backend="dali", on_error="skip", **options) as loader:
            assert [len(batch.labels) for batch in loader] == [4, 3]


class TestLife:
    def test_batches_stay_valid_after_closing(
        self, faces: Pack, slow_batch: SlowBatch, assert_equal: AssertEqual
    ) -> None:
        with Loader(faces, backend="dali", batch_size=4) as loader:
            batches = list(loader)
        for index, batch in enumerate(batches):
            assert_equal(batch, slow_batch(faces, index, batch_size=4))

    def test_breaking_off_and_closing_leave_no_threads(self, faces: Pack) -> None:
        with Loader(faces, backend="dali", batch_size=4) as loader:
            next(iter(loader))  # DALI keeps some threads for the whole process
        before = native_threads()
        for _ in range(3):
            loader = Loader(faces, backend="dali", batch_size=4, threads=3)
            for _ in loader:
                break
            assert native_threads() > before
            loader.close()
            assert ends_with_threads(before)
            for _ in loader:
                break
            del loader
            gc.collect()
            assert ends_with_threads(before)

    def test_an_error_that_is_kept_keeps_no_threads(self, faces: Pack, damaged: Pack) -> None:
        with Loader(faces, backend="dali", batch_size=4) as loader:
            next(iter(loader))
        before = native_threads()
        with Loader(damaged, backend="dali", batch_size=30) as loader:
            with pytest.raises(DecodeError) as caught:
                next(iter(loader))
            assert ends_with_threads(before)
        assert caught.value.__traceback__ is not None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
class TestGpu:
    @pytest.mark.parametrize("decoder", ["auto", "mixed", "cpu"])
    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    def test_batches_equal_the_cpus_within_the_tolerance(
        self, mixed: Pack, slow_batch: SlowBatch, dtype: str, decoder: str
    ) -> None:
        options: dict[str, Any] = {"batch_size": 12, "seed": 5}
        with Loader(mixed, device="cuda", dtype=dtype, dali_decoder=decoder, **options) as loader:
            assert loader.backend == "dali"
            for epoch in range(3):
                for number, batch in enumerate(loader):
                    index = epoch * len(loader) + number
                    images, labels, positions = slow_batch(mixed, index, dtype, **options)
                    assert batch.images.device == batch.labels.device == torch.device("cuda", 0)
                    assert batch.images.is_contiguous(memory_format=torch.channels_last)
                    assert batch.images.dtype == images.dtype
                    assert batch.positions.tolist() == positions.tolist()
                    assert batch.labels.tolist() == labels.tolist()
                    apart = (batch.images.cpu().double() - images.double()).abs()
                    apart *= 1 if dtype == "uint8" else 127.5
                    assert apart.max() <= (1e-3 if decoder == "cpu" else GPU_LARGEST)
                    assert apart.mean() <= GPU_MEAN

    def test_auto_times_the_decoders_once(
        self, faces: Pack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        timed: list[Decoder] = []
        speed = dali_decoder._speed

        def note(settings: Any, decoder: Decoder, sample: list[np.ndarray]) -> float:
            timed.append(decoder)
            return speed(settings, decoder, sample)

        monkeypatch.setattr(dali_decoder, "_speed", note)
        monkeypatch.setattr(dali_decoder, "_chosen", {})
        for _ in range(2):
            with Loader(faces, device="cuda", batch_size=10) as loader:
                assert len(list(loader)) == 5
        assert {decoder.device for decoder in timed} == {"cpu", "mixed"}
        assert len(set(timed)) == len(timed)
        with Loader(faces, device="cuda", batch_size=10, dali_decoder="mixed") as loader:
            assert len(list(loader)) == 5
        assert dali_decoder.choose_decoder(loader._settings).device == "mixed"

    @pytest.mark.parametrize("decoder", ["mixed", "cpu"])
    def test_changes_equal_the_cpu_backends_within_the_tolerance(
        self, mixed: Pack, decoder: str
    ) -> None:
        options: dict[str, Any] = {"batch_size": 12, "seed": 5}
        options["augment"] = Augment(resize=0.5, blur=0.5, color=0.5, grey=0.2)
        with (
            Loader(mixed, device="cuda", dali_decoder=decoder, **options) as loader,
            Loader(mixed, backend="cpu", **options) as cpu,
        ):
            for batch, expected in zip(loader, cpu, strict=True):
                assert batch.positions.tolist() == expected.positions.tolist()
                apart = (batch.images.cpu().double() - expected.images.double()).abs()
                assert apart.max() <= GPU_LARGEST + TestAugment.resized
                assert apart.mean() <= GPU_MEAN

    def test_skip_and_count(self, damaged: Pack, slow_batch: SlowBatch) -> None:
        options: dict[str, Any] = {"batch_size": 8, "on_error": "skip", "drop_last": False}
        with Loader(damaged, device="cuda", **options) as loader:
            for index, batch in enumerate(loader):
                _, labels, positions = slow_batch(damaged, index, **options)
                assert batch.positions.tolist() == positions.tolist()
                assert batch.labels.tolist() == labels.tolist()
            assert loader.skipped == 3
