"""The loader and its ``cpu`` backend."""

from __future__ import annotations

import gc
import io
import pickle
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features

from facepack.errors import ConfigError, DecodeError, MissingExtraError
from facepack.images import (
    SKIPPED,
    ImageHeader,
    check_image,
    decode,
    empty_pixels,
    skip_to_decode,
)
from facepack.loading import loader as loader_module
from facepack.loading.kernels import PLAIN, Kernels, choose_kernels, load_kernels
from facepack.loading.loader import Batch, Loader
from facepack.loading.pixels import decode_checked, decode_rows, normalize, plain_jpeg_size
from facepack.store.pack import Pack

MakeImage = Callable[..., bytes]
MakePack = Callable[..., Pack]
SlowBatch = Callable[..., tuple[torch.Tensor, torch.Tensor, np.ndarray]]
AssertEqual = Callable[..., None]
ForkInUse = Callable[[Pack, str], list[str]]


def keep(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    return batch.images.clone(), batch.labels, batch.positions


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "facepack-loader" in thread.name]


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Iterator[None]:
    yield
    gc.collect()
    assert loader_threads() == []


class TestBatches:
    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    @pytest.mark.parametrize("threads", [1, 3])
    def test_equal_the_twin(
        self,
        mixed: Pack,
        slow_batch: SlowBatch,
        dtype: str,
        threads: int,
        assert_equal: AssertEqual,
    ) -> None:
        with Loader(mixed, batch_size=12, seed=5, dtype=dtype, threads=threads) as loader:
            assert loader.backend == "cpu"
            for epoch in range(3):
                assert (loader.epoch, loader.batch) == (epoch, 0)
                for number, batch in enumerate(loader):
                    assert (loader.epoch, loader.batch) == (epoch, number + 1)
                    index = epoch * len(loader) + number
                    assert_equal(batch, slow_batch(mixed, index, dtype, batch_size=12, seed=5))
                assert number + 1 == len(loader) == 3

    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    def test_larger_than_a_chunk_equal_the_twin(
        self, faces: Pack, slow_batch: SlowBatch, dtype: str, assert_equal: AssertEqual
    ) -> None:
        with Loader(faces, batch_size=45, dtype=dtype) as loader:
            (batch,) = loader
            assert_equal(batch, slow_batch(faces, 0, dtype, batch_size=45))

    def test_in_the_packs_order_unmirrored(
        self, faces: Pack, slow_batch: SlowBatch, assert_equal: AssertEqual
    ) -> None:
        plan = {"batch_size": 8, "shuffle": False, "mirror": False, "drop_last": False}
        with Loader(faces, **plan) as loader:  # type: ignore[arg-type]
            positions = []
            for index, batch in enumerate(loader):
                assert_equal(batch, slow_batch(faces, index, **plan))
                positions += batch.positions.tolist()
        assert positions == list(range(53))

    def test_ranks_take_slices_of_the_global_batch(self, faces: Pack) -> None:
        with Loader(faces, batch_size=6, drop_last=False) as loader:
            alone = [keep(batch) for batch in loader]
        ranks = []
        for rank in range(3):
            with Loader(faces, batch_size=2, rank=rank, world=3, drop_last=False) as loader:
                ranks.append([keep(batch) for batch in loader])
        for whole, *parts in zip(alone, *ranks, strict=True):
            assert torch.equal(whole[0], torch.cat([part[0] for part in parts]))
            assert torch.equal(whole[1], torch.cat([part[1] for part in parts]))

    def test_a_rank_without_records_gets_an_empty_batch(self, faces: Pack) -> None:
        with Loader(faces, batch_size=13, rank=0, world=4, drop_last=False) as loader:
            assert [len(batch.labels) for batch in loader] == [13, 0]
            loader.seek(0, 1)
            (batch,) = loader
            assert batch.images.shape == (0, 3, 40, 48)

    def test_odd_images_equal_pillow(
        self,
        odd_images: Path,
        make_pack: MakePack,
        slow_batch: SlowBatch,
        assert_equal: AssertEqual,
    ) -> None:
        for size in ((128, 128), (100, 100)):
            images = []
            for file in sorted(odd_images.iterdir()):
                if file.suffix in (".jpg", ".png", ".webp"):
                    data = file.read_bytes()
                    try:
                        with Image.open(io.BytesIO(data)) as image:
                            image.load()
                            fits = image.size == size
                    except OSError:
                        continue
                    images += [data] * 3 * fits
            assert images
            pack = make_pack(images)
            with Loader(pack, batch_size=len(images)) as loader:
                for index in range(2):
                    (batch,) = loader
                    assert_equal(batch, slow_batch(pack, index, batch_size=len(images)))


class TestMemory:
    def test_a_batch_stays_valid_until_the_next_call_but_one(self, faces: Pack) -> None:
        with Loader(faces, batch_size=4) as loader:
            before: tuple[Batch, torch.Tensor] | None = None
            for _ in range(3):
                for batch in loader:
                    if before is not None:
                        time.sleep(0.002)  # let the threads overwrite what they may
                        assert torch.equal(before[0].images, before[1])
                    before = batch, batch.images.clone()

    def test_batches_are_prepared_ahead_across_epochs(self, faces: Pack) -> None:
        asked: list[int] = []

        class Watched(Pack):
            @contextmanager
            def views(self, positions: Sequence[int] | np.ndarray) -> Iterator[list[memoryview]]:
                asked.extend(np.asarray(positions).tolist())
                with super().views(positions) as views:
                    yield views

        with Loader(Watched(faces.path), batch_size=25, threads=1) as loader:
            iterator = iter(loader)
            next(iterator)
            deadline = time.monotonic() + 600  # others may starve this process
            while len(asked) < 4 * 25 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert len(asked) == 4 * 25  # this epoch's two batches and the next epoch's
            assert (loader.epoch, loader.batch) == (0, 1)


class TestPosition:
    @pytest.mark.parametrize("drop_last", [True, False])
    def test_resumes_at_any_batch(self, faces: Pack, drop_last: bool) -> None:
        options: dict[str, Any] = {"batch_size": 9, "seed": 3, "drop_last": drop_last}
        with Loader(faces, **options) as loader:
            whole = [keep(batch) for _ in range(3) for batch in loader]
        batches = len(whole) // 3
        for stop in range(1, 2 * batches + 1):
            with Loader(faces, **options) as loader:
                taken = 0
                while taken < stop:
                    for _ in loader:
                        taken += 1
                        if taken == stop:
                            break
                state = loader.state_dict()
            assert (state["epoch"], state["batch"]) == divmod(stop, batches)
            with Loader(faces, **options) as loader:
                loader.load_state_dict(state)
                rest = [keep(batch) for batch in loader]
            assert len(rest) == batches - stop % batches
            for (images, labels, positions), expected in zip(rest, whole[stop:], strict=False):
                assert torch.equal(images, expected[0])
                assert torch.equal(labels, expected[1])
                assert positions.tolist() == expected[2].tolist()

    def test_breaking_off_and_iterating_again_goes_on(self, faces: Pack) -> None:
        with Loader(faces, batch_size=10) as loader:
            whole = [batch.positions.tolist() for batch in loader]
            loader.seek(0)
            seen = []
            for batch in loader:
                seen.append(batch.positions.tolist())
                if len(seen) == 2:
                    break
            loader.close()  # the position stays
            seen += [batch.positions.tolist() for batch in loader]
            assert seen == whole
            assert (loader.epoch, loader.batch) == (1, 0)

    def test_seek_to_an_epochs_end_is_the_next_ones_start(self, faces: Pack) -> None:
        with Loader(faces, batch_size=10) as loader:
            loader.seek(1)
            expected = [batch.positions.tolist() for batch in loader]
            loader.seek(0, len(loader))
            assert loader.state_dict()["epoch"] == 1
            assert [batch.positions.tolist() for batch in loader] == expected

    @pytest.mark.parametrize(("epoch", "batch"), [(-1, 0), (0, -1), (0, 6)])
    def test_seek_to_nowhere(self, faces: Pack, epoch: int, batch: int) -> None:
        loader = Loader(faces, batch_size=10)
        with pytest.raises(ConfigError, match=f"no batch {batch} in epoch {epoch}: epochs count"):
            loader.seek(epoch, batch)

    def test_state_moves_to_another_number_of_ranks(self, faces: Pack) -> None:
        alone = Loader(faces, batch_size=8)
        alone.seek(2, 3)
        with Loader(faces, batch_size=4, rank=1, world=2) as loader:
            loader.load_state_dict(alone.state_dict())
            assert (loader.epoch, loader.batch) == (2, 3)

    @pytest.mark.parametrize(
        ("changes", "name"),
        [
            ({"seed": 1}, "seed=0"),
            ({"batch_size": 9}, "global_batch=8"),
            ({"shuffle": False}, "shuffle=True"),
            ({"mirror": False}, "mirror=True"),
        ],
    )
    def test_state_of_another_order_is_refused(
        self, faces: Pack, changes: dict[str, Any], name: str
    ) -> None:
        state = Loader(faces, batch_size=8).state_dict()
        other = Loader(faces, **{"batch_size": 8, **changes})
        with pytest.raises(ConfigError) as caught:
            other.load_state_dict(state)
        assert f"belongs to a loader with {name}; this one has" in str(caught.value)

    def test_state_of_another_pack_is_refused(self, faces: Pack, mixed: Pack) -> None:
        state = Loader(faces, batch_size=8).state_dict()
        assert state["content_id"] == faces.content_id
        with pytest.raises(ConfigError) as caught:
            Loader(mixed, batch_size=8).load_state_dict(state)
        message = str(caught.value)
        assert f"belongs to another pack (content_id '{faces.content_id}')" in message
        assert f"{mixed.path} has '{mixed.content_id}': open that pack" in message

    def test_what_is_no_state_is_refused_and_changes_nothing(self, faces: Pack) -> None:
        loader = Loader(faces, batch_size=8)
        loader.seek(1, 2)
        state = loader.state_dict()
        for wrong, message in (
            ({}, "the saved position lacks batch, content_id, drop_last, epoch"),
            ({**state, "blocks": "3x4", "batch": 99}, "no batch 99 in epoch 1"),
            ({**state, "blocks": "3x4", "epoch": "1"}, "epoch = '1' is not a whole number"),
        ):
            with pytest.raises(ConfigError, match=message):
                loader.load_state_dict(wrong)
            assert loader.state_dict() == state


class TestBrokenImages:
    def test_only_a_pack_is_to_be_verified(self, damaged: Pack) -> None:
        class Folder:
            def __init__(self, pack: Pack) -> None:
                self.path, self.content_id = pack.path, pack.content_id
                self.labels, self.image_size = pack.labels, pack.image_size
                self.key, self.views, self.channels = pack.key, pack.views, pack.channels

            def __len__(self) -> int:
                return len(self.labels)

        loader = Loader(Folder(damaged), batch_size=10, shuffle=False)
        with loader, pytest.raises(DecodeError) as caught:
            list(loader)
        message = str(caught.value)
        assert f"{damaged.path}: shard-000/0000000004: the jpeg image does" in message
        assert "on_bad_image = skip in training" in message
        assert "facepack verify" not in message

    def test_skipped_ones_count_when_their_batch_is_returned(self, damaged: Pack) -> None:
        with Loader(damaged, batch_size=3, shuffle=False, on_error="skip") as loader:
            iterator = iter(loader)
            sizes = [len(next(iterator).labels)]
            assert loader.skipped == 0
            sizes.append(len(next(iterator).labels))
            assert (sizes, loader.skipped) == ([3, 1], 2)

    @pytest.mark.parametrize("kind", ["420", "PNG"])
    @pytest.mark.parametrize(("height", "width"), [(30, 48), (40, 56), (8, 8)])
    def test_another_size_is_named(
        self, make_pack: MakePack, make_image: MakeImage, kind: str, height: int, width: int
    ) -> None:
        images = [make_image(number) for number in range(4)]
        images[2] = make_image(2, kind, height, width)
        pack = make_pack(images)
        with pytest.raises(ConfigError, match=r"several sizes.*on_bad_image = skip in training"):
            Loader(pack, batch_size=4)
        with (
            Loader(pack, batch_size=4, image_size=(40, 48)) as loader,
            pytest.raises(DecodeError) as caught,
        ):
            list(loader)
        assert "shard-000/0000000002" in str(caught.value)
        assert f"has {width}×{height} pixels (width×height); 48×40 are" in str(caught.value)
        with Loader(pack, batch_size=4, image_size=(40, 48), on_error="skip") as loader:
            (batch,) = loader
            assert sorted(batch.positions.tolist()) == [0, 1, 3]


class TestLife:
    def test_an_abandoned_loader_ends_its_threads(self, faces: Pack) -> None:
        loader = Loader(faces, batch_size=4, threads=3)
        iterator = iter(loader)
        next(iterator)
        assert len(loader_threads()) == 3
        del loader, iterator
        gc.collect()
        assert loader_threads() == []

    def test_close_twice_and_without_use(self, faces: Pack) -> None:
        loader = Loader(faces, batch_size=4)
        loader.close()
        next(iter(loader))
        loader.close()
        loader.close()
        assert loader_threads() == []

    def test_an_error_in_the_consumer_passes(self, faces: Pack) -> None:
        with pytest.raises(ZeroDivisionError), Loader(faces, batch_size=4) as loader:
            for _ in loader:
                raise ZeroDivisionError
        assert loader_threads() == []


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"backend": "gpu"}, "backend = 'gpu' is not one of auto, cpu, dali"),
            ({"dtype": "float16"}, "dtype = 'float16' is not one of uint8, float32"),
            ({"on_error": "ignore"}, "on_error = 'ignore' is not one of raise, skip"),
            ({"threads": 0}, "threads = 0 is not allowed: it must be at least 1"),
            ({"threads": 1.5}, "threads = 1.5 is not a whole number at least 1"),
            ({"batch_size": 1.5}, "batch_size = 1.5 is not a whole number at least 1"),
            ({"batch_size": "8"}, "batch_size = '8' is not a whole number"),
            ({"batch_size": True}, "batch_size = True is not a whole number"),
            ({"seed": None}, "seed = None is not a whole number"),
            ({"rank": 0.0}, "rank = 0.0 is not a whole number"),
            ({"world": "2"}, "world = '2' is not a whole number"),
            ({"image_size": (40.5, 48)}, "image_size[0] = 40.5 is not a whole number at least 1"),
            ({"image_size": (40, 0)}, "image_size[1] = 0 is not allowed: it must be at least 1"),
            ({"image_size": 112}, "image_size = 112 is not a list of 2; give (height, width)"),
            (
                {"image_size": (1, 2, 3)},
                "image_size = (1, 2, 3) is not a list of 2; give (height",
            ),
            ({"device": "gpu"}, "device 'gpu' is not one of cpu, cuda, cuda:N"),
            ({"device": "meta"}, "device 'meta' is not one of cpu, cuda, cuda:N"),
            ({"device": None}, "device 'None' is not one of cpu, cuda, cuda:N"),
            ({"augment": {"blur": 0.2}}, "augment = {'blur': 0.2} is not an Augment, None or one"),
            ({"batch_size": 99}, "fewer than one global batch of 99"),
        ],
    )
    def test_out_of_range_are_named(
        self, faces: Pack, changes: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            Loader(faces, **{"batch_size": 4, **changes})
        assert message in str(caught.value)

    def test_a_path_is_no_pack(self, faces: Pack) -> None:
        for path in (faces.path, str(faces.path)):
            with pytest.raises(
                ConfigError, match=r"pack is the path '.*': give facepack.open\(path"
            ):
                Loader(path)  # type: ignore[arg-type]

    def test_integers_of_other_libraries_are_plain_in_the_state(
        self, faces: Pack, slow_batch: SlowBatch, assert_equal: AssertEqual
    ) -> None:
        options: dict[str, Any] = {
            "batch_size": np.int64(4),
            "seed": np.uint8(3),
            "image_size": [40, np.int32(48)],
        }
        with Loader(faces, **options) as loader:
            assert_equal(next(iter(loader)), slow_batch(faces, 0, batch_size=4, seed=3))
            state = loader.state_dict()
        assert {type(value) for value in state.values()} <= {int, bool, str, type(None)}

    @pytest.mark.parametrize("name", ["epoch", "batch"])
    def test_seek_takes_integers(self, faces: Pack, name: str) -> None:
        place: dict[str, Any] = {"epoch": 0, "batch": 0, name: "1"}
        with pytest.raises(ConfigError, match=f"{name} = '1' is not a whole number"):
            Loader(faces, batch_size=4).seek(**place)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
    def test_a_gpu_that_is_not_there(self, faces: Pack) -> None:
        with pytest.raises(ConfigError, match="torch sees no CUDA device here; use cpu"):
            Loader(faces, batch_size=4, device="cuda")

    def test_without_dali(self, faces: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "nvidia.dali", None)  # makes the import fail
        with pytest.raises(MissingExtraError, match=r"pip install 'facepack\[dali\]'"):
            Loader(faces, batch_size=4, backend="dali")
        loader_module._say_no_dali.cache_clear()
        gpu = torch.device("cuda", 0)
        with pytest.warns(UserWarning, match="DALI is not installed: the processor decodes"):
            assert loader_module._choose_backend("auto", gpu) == "cpu"
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it is said once
            assert loader_module._choose_backend("auto", gpu) == "cpu"
            assert Loader(faces, batch_size=4).backend == "cpu"


def odd_jpeg(factors: tuple[int, ...], seed: int) -> bytes:
    """A JPEG of 48×40 pixels in coarse blocks, of any chroma sampling: no encoder offers these.

    Args:
        factors: horizontal and vertical one of Y, Cb and Cr, four bits each.
        seed: draws the blocks.
    """
    out = io.BytesIO()
    Image.new("RGB", (48, 40)).save(out, "JPEG", quality=75, subsampling=0)
    head = bytearray(out.getvalue())
    frame, scan = head.index(b"\xff\xc0"), head.index(b"\xff\xda")
    head[frame + 11 : frame + 20 : 3] = bytes(factors)
    across, down = max(factor >> 4 for factor in factors), max(factor & 15 for factor in factors)
    draw, bits = np.random.default_rng(seed), ""
    for _ in range(-(-48 // (8 * across)) * -(-40 // (8 * down))):
        for factor, codes, end in zip(
            factors,
            # One step up, one down, none, in the Huffman codes of the standard's annex K.
            (("0101", "0100", "00"), *[("011", "010", "00")] * 2),
            ("1010", "00", "00"),
            strict=True,
        ):
            for _ in range((factor >> 4) * (factor & 15)):
                bits += codes[draw.integers(3)] + end
    bits += "1" * (-len(bits) % 8)
    body = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    return bytes(head[: scan + 14]) + body + b"\xff\xd9"


class TestPixels:
    @pytest.mark.parametrize("width", [1, 7, 8, 30, 31, 48, 112])
    @pytest.mark.parametrize("compiled", [False, True])
    def test_rows_of_any_width(self, make_image: MakeImage, width: int, compiled: bool) -> None:
        mirrored = [True, False, False, True, True]
        images = [make_image(number, "420", 16, width) for number in range(5)]
        images[3] = make_image(3, "PNG", 16, width)
        pixels = np.zeros((5, 16, width, 3), np.uint8)
        reverse, broken = decode_rows([memoryview(image) for image in images], pixels, mirrored)
        kernels = choose_kernels((16, width)) if compiled else PLAIN
        kernels.reverse_rows(pixels, reverse)
        assert broken == {}
        for row, image, mirror in zip(pixels, images, mirrored, strict=True):
            expected = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
            assert np.array_equal(row, expected[:, ::-1] if mirror else expected)

    def test_decoders_write_into_memory_where_it_is_fast(
        self, faces: Pack, make_image: MakeImage
    ) -> None:
        for shape in ((1, 1, 3), (40, 48, 3), (3, 112, 112, 3)):
            pixels = empty_pixels(*shape)
            assert pixels.shape == shape and pixels.flags.c_contiguous and pixels.flags.writeable
            assert pixels.ctypes.data % 16 == 8
        assert all(0 <= skip_to_decode(address) < SKIPPED for address in range(64))
        assert decode(make_image(0)).ctypes.data % 16 == 8
        with Loader(faces, batch_size=4, dtype="uint8", backend="cpu") as loader:
            assert {batch.images.data_ptr() % 16 for batch in loader} == {8}

    @pytest.mark.parametrize("kind", ["420", "444", "422", "grey", "progressive"])
    def test_pixels_are_the_same_wherever_they_lie(self, make_image: MakeImage, kind: str) -> None:
        image = make_image(5, kind, 112, 112)
        memory = np.zeros(112 * 112 * 3 + 64, np.uint8)
        first = -memory.ctypes.data % 32
        expected = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
        for skipped in (0, 1, 8, 16, 24):
            row = memory[first + skipped :][: 112 * 112 * 3].reshape(112, 112, 3)
            row[...] = 0
            decode_rows([memoryview(image)], [row], [False])
            assert np.array_equal(row, expected)
        assert np.array_equal(decode(image), expected)

    @pytest.mark.parametrize("width", [1, 30, 96, 112, 250])
    def test_decoded_pixels_are_the_callers(self, make_image: MakeImage, width: int) -> None:
        for kind in ("420", "grey", "cmyk", "progressive", "PNG"):
            image = make_image(0, kind, 40, width)
            pixels = decode(image)
            expected = np.array(Image.open(io.BytesIO(image)).convert("RGB"))
            assert pixels.flags.writeable and pixels.flags.c_contiguous
            others = [decode(make_image(number, kind, 40, width)) for number in range(1, 9)]
            assert np.array_equal(pixels, expected)  # its memory is still its own
            assert np.array_equal(pickle.loads(pickle.dumps(pixels)), expected)
            tensor = torch.from_numpy(pixels)  # warns of what cannot be written
            tensor += 1
            assert np.array_equal(pixels, expected + np.uint8(1)) and len(others) == 8

    @pytest.mark.parametrize(
        "factors", [(0x22, 0x21, 0x12), (0x31, 0x11, 0x11), (0x14, 0x11, 0x11)]
    )
    @pytest.mark.parametrize("backend", ["cpu", "dali"])
    def test_chroma_samplings_without_a_name(
        self,
        make_pack: MakePack,
        slow_batch: SlowBatch,
        factors: tuple[int, ...],
        backend: str,
        assert_equal: AssertEqual,
    ) -> None:
        if backend == "dali":
            pytest.importorskip("nvidia.dali", reason="DALI is not installed")
        images = [odd_jpeg(factors, seed) for seed in range(4)]
        assert check_image(images[0]) == ImageHeader(format="jpeg", height=40, width=48, channels=3)
        pack = make_pack(images)
        with Loader(pack, batch_size=4, backend=backend) as loader:
            assert_equal(next(iter(loader)), slow_batch(pack, 0, batch_size=4))

    def test_plain_jpegs_are_told_from_all_else(self, make_image: MakeImage) -> None:
        for kind in ("420", "444", "422", "grey", "progressive", "rotated"):
            assert plain_jpeg_size(memoryview(make_image(0, kind))) == (40, 48)
        for kind in ("cmyk", "PNG", *(("WEBP",) if features.check("webp") else ())):
            assert plain_jpeg_size(memoryview(make_image(0, kind))) is None
        whole = make_image(0)
        for end in range(len(whole)):
            assert plain_jpeg_size(memoryview(whole[:end])) in (None, (40, 48))
        assert plain_jpeg_size(b"\xff\xd8" + b"\xff\xe0\x00\x00" * 9) is None
        assert plain_jpeg_size(b"") is None

    def test_no_damage_passes_the_decoder_unseen(self, make_image: MakeImage) -> None:
        whole = make_image(3)
        row = np.empty((40, 48, 3), np.uint8)
        smaller = make_image(3, "420", 8, 8)
        for data in (
            b"",
            b"\x00" * 99,
            whole[: len(whole) // 2],
            whole[:-300] + b"\xff\xd9",
            smaller,
        ):
            for mirror in (False, True):
                reverse, broken = decode_rows([memoryview(data)], [row], [mirror])
                assert (reverse.tolist(), list(broken)) == ([False], [0])
            with pytest.raises(DecodeError):
                decode_checked(data, (40, 48))
        # The size of one image must not be taken for that of the next.
        others = [
            make_image(0, kind, *size) for kind in ("420", "444") for size in ((8, 8), (40, 48))
        ]
        for _ in range(2):
            assert [plain_jpeg_size(image) for image in others] == [(8, 8), (40, 48)] * 2

    def test_normalize_every_value(self) -> None:
        pixels = np.arange(256, dtype=np.uint8).reshape(1, 4, 64)
        out = np.empty(pixels.shape, np.float32)
        normalize(pixels, out)
        expected = (pixels.astype(np.float64) - 127.5) / 127.5
        assert np.abs(out - expected).max() <= 2**-23
        assert (out.min(), out.max()) == (-1, 1)


class TestKernels:
    @pytest.fixture
    def compiled(self) -> Kernels:
        pytest.importorskip("numba")
        kernels = load_kernels()
        assert kernels is not None
        return kernels

    @pytest.mark.parametrize("shape", [(1, 1, 8), (3, 5, 8), (2, 40, 48), (8, 112, 112)])
    def test_reversed_rows_equal_the_plain_ones(
        self, compiled: Kernels, shape: tuple[int, int, int]
    ) -> None:
        draw = np.random.default_rng(0)
        pixels = draw.integers(0, 256, (*shape, 3), np.uint8)
        reverse = draw.random(len(pixels)) < 0.5
        for kernels in (compiled, PLAIN):
            turned = pixels.copy()
            kernels.reverse_rows(turned, reverse)
            for image, before, marked in zip(turned, pixels, reverse, strict=True):
                assert np.array_equal(image, before[:, ::-1, ::-1] if marked else before)

    @pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 5), (1, 1, 6), (3, 7, 11), (8, 16, 24)])
    @pytest.mark.parametrize("offset", [0, 1, 15, 16, 17])
    def test_normalized_bits_equal_the_plain_ones(
        self, compiled: Kernels, shape: tuple[int, int, int], offset: int
    ) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
        expected = np.empty(pixels.shape, np.float32)
        PLAIN.normalize(pixels, expected)
        memory = np.full(pixels.size + 40, np.float32(7))
        out = memory[offset : offset + pixels.size]
        compiled.normalize(pixels, out.reshape(pixels.shape))
        assert out.tobytes() == expected.tobytes()
        assert set(memory[:offset]) | set(memory[offset + pixels.size :]) == {7}

    def test_every_value(self, compiled: Kernels) -> None:
        pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
        expected, out = np.empty((2, *pixels.shape), np.float32)
        PLAIN.normalize(pixels, expected)
        compiled.normalize(pixels, out)
        assert out.tobytes() == expected.tobytes()

    def test_a_loader_without_numba_gives_the_same(
        self,
        faces: Pack,
        slow_batch: SlowBatch,
        tmp_path: Path,
        run_python: Callable[..., object],
    ) -> None:
        script = (
            "import sys, torch\n"
            "sys.modules['numba'] = None\n"  # makes the import fail
            "import facepack\n"
            "from facepack.loading.kernels import PLAIN, choose_kernels\n"
            "assert choose_kernels((40, 48)) is PLAIN\n"
            "pack = facepack.open(sys.argv[1])\n"
            "with facepack.Loader(pack, batch_size=45, dtype='float32') as loader:\n"
            "    torch.save(next(iter(loader)).images, sys.argv[2])\n"
        )
        run_python(script, faces.path, tmp_path / "images")
        images = torch.load(tmp_path / "images")
        assert torch.equal(images, slow_batch(faces, 0, "float32", batch_size=45)[0])

    @pytest.mark.parametrize("threads", [1, 2, 5, 40])
    def test_batches_larger_than_a_chunk(
        self, faces: Pack, slow_batch: SlowBatch, threads: int, assert_equal: AssertEqual
    ) -> None:
        options: dict[str, Any] = {"batch_size": 53, "seed": 2}
        with Loader(faces, dtype="float32", threads=threads, **options) as loader:
            for epoch in range(3):
                (batch,) = loader
                assert_equal(batch, slow_batch(faces, epoch, "float32", **options))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
class TestGpu:
    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    def test_equals_the_cpu(
        self, mixed: Pack, slow_batch: SlowBatch, dtype: str, assert_equal: AssertEqual
    ) -> None:
        options: dict[str, Any] = {"batch_size": 6, "seed": 5}
        with Loader(mixed, backend="cpu", device="cuda", dtype=dtype, **options) as loader:
            for index in range(3 * len(loader)):
                epoch, number = divmod(index, len(loader))
                if number == 0:
                    batches = iter(loader)
                assert loader.epoch == epoch
                batch = next(batches)
                assert batch.images.device == batch.labels.device == torch.device("cuda", 0)
                here = Batch(batch.images.cpu(), batch.labels.cpu(), batch.positions)
                assert_equal(here, slow_batch(mixed, index, dtype, **options))
                if number == len(loader) - 1:
                    assert next(batches, None) is None
