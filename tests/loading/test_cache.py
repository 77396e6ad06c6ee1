"""The cache of decoded images: the same batches as without one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facepack.errors import ConfigError, DamageError
from facepack.loading import cache as cache_module
from facepack.loading.loader import Batch, Loader
from facepack.store.pack import Pack

MakePack = Callable[..., Pack]
SlowBatch = Callable[..., tuple[torch.Tensor, torch.Tensor, np.ndarray]]
AssertEqual = Callable[..., None]


class Counting(Pack):
    """A pack that counts how often each image is read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked: list[int] = []

    @contextmanager
    def views(self, positions: Sequence[int] | np.ndarray) -> Iterator[list[memoryview]]:
        self.asked.extend(np.asarray(positions).tolist())
        with super().views(positions) as views:
            yield views


class TestBatches:
    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    @pytest.mark.parametrize("backend", ["cpu", "dali"])
    def test_equal_the_twin(
        self,
        mixed: Pack,
        slow_batch: SlowBatch,
        dtype: str,
        backend: str,
        assert_equal: AssertEqual,
    ) -> None:
        if backend == "dali":
            pytest.importorskip("nvidia.dali", reason="DALI is not installed")
        options: dict[str, Any] = {"batch_size": 12, "seed": 5, "drop_last": False}
        with Loader(mixed, cache="host", backend=backend, dtype=dtype, **options) as loader:
            for epoch in range(3):
                for number, batch in enumerate(loader):
                    index = epoch * len(loader) + number
                    assert_equal(batch, slow_batch(mixed, index, dtype, **options))

    def test_resume_amid_an_epoch(
        self, faces: Pack, slow_batch: SlowBatch, assert_equal: AssertEqual
    ) -> None:
        with Loader(faces, batch_size=9) as uncached:
            uncached.seek(1, 2)
            state = uncached.state_dict()
        with Loader(faces, batch_size=9, cache="host") as loader:
            loader.load_state_dict(state)
            for number, batch in enumerate(loader):
                index = len(loader) + 2 + number
                assert_equal(batch, slow_batch(faces, index, batch_size=9))
            assert number == 2

    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    def test_stay_valid_until_the_next_call_but_one(self, faces: Pack, dtype: str) -> None:
        with Loader(faces, batch_size=4, cache="host", dtype=dtype) as loader:
            before: tuple[Batch, torch.Tensor] | None = None
            for batch in loader:
                if before is not None:
                    assert torch.equal(before[0].images, before[1])
                before = batch, batch.images.clone()


class TestFilling:
    def test_reads_each_image_once(self, faces: Pack) -> None:
        pack = Counting(faces.path)
        with Loader(pack, batch_size=10, rank=1, world=2, cache="host") as loader:
            assert pack.asked == []
            for _ in range(3):
                list(loader)
            loader.seek(0, 1)
            list(loader)
            assert set(pack.asked) == set(range(53))
            read = len(pack.asked)
            assert read <= 53 + 4 * 10  # it is read ahead of what turns out to be the end
            loader.seek(5)
            list(loader)
            assert len(pack.asked) == read
            loader.close()
            list(loader)
            assert len(pack.asked) > read

    def test_damage_shows_at_once(self, torn: Pack) -> None:
        loader = Loader(torn, batch_size=4, shuffle=False, cache="host")
        with loader, pytest.raises(DamageError, match="shard-001 has no record"):
            next(iter(loader))

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
    def test_a_forked_child_has_the_pixels(
        self, faces: Pack, slow_batch: SlowBatch, assert_equal: AssertEqual
    ) -> None:
        pack = Counting(faces.path)
        with Loader(pack, batch_size=4, cache="host") as loader:
            iterator = iter(loader)
            next(iterator)
            read = len(pack.asked)
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    assert_equal(next(iterator), slow_batch(faces, 1, batch_size=4))
                    assert len(pack.asked) == read
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0


class TestSettings:
    def test_what_does_not_fit_is_refused(
        self, faces: Pack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        needed = 53 * 40 * 48 * 3
        monkeypatch.setattr(cache_module, "free_memory", lambda: needed)
        with pytest.raises(ConfigError) as caught:
            Loader(faces, batch_size=4, cache="host")
        assert str(caught.value) == (
            "cache is 'host': 53 decoded images of 48×40 pixels (width×height) take 305280 bytes, "
            "and 274752 may be had (90% of what is free in memory): use cache='none'"
        )
        monkeypatch.setattr(cache_module, "free_memory", lambda: 2 * needed)
        Loader(faces, batch_size=4, cache="host")

    @pytest.mark.parametrize(
        ("cache", "text"),
        [
            ("disk", "cache = 'disk' is not one of none, host, device"),
            ("device", "cache is 'device', but device is 'cpu': use cache='host'"),
        ],
    )
    def test_are_checked(self, faces: Pack, cache: str, text: str) -> None:
        with pytest.raises(ConfigError) as caught:
            Loader(faces, batch_size=4, cache=cache)
        assert str(caught.value) == text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
class TestGpu:
    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    @pytest.mark.parametrize("cache", ["host", "device"])
    def test_batches_equal_the_uncached(
        self, mixed: Pack, dtype: str, cache: str, assert_equal: AssertEqual
    ) -> None:
        options: dict[str, Any] = {"batch_size": 12, "seed": 5, "backend": "cpu", "device": "cuda"}
        with (
            Loader(mixed, dtype=dtype, **options) as uncached,
            Loader(mixed, dtype=dtype, cache=cache, **options) as loader,
        ):
            for _ in range(3):
                for batch, expected in zip(loader, uncached, strict=True):
                    assert batch.images.device == batch.labels.device == torch.device("cuda", 0)
                    assert_equal(batch, (expected.images, expected.labels, expected.positions))

    @pytest.mark.parametrize("cache", ["host", "device"])
    def test_batches_are_made_without_waiting(self, faces: Pack, cache: str) -> None:
        options: dict[str, Any] = {"batch_size": 10, "device": "cuda", "dtype": "float32"}
        with Loader(faces, cache=cache, backend="cpu", **options) as loader:
            iterator = iter(loader)
            batches = [next(iterator), next(iterator)]
            torch.cuda.set_sync_debug_mode("error")
            try:
                batches += list(iterator)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            assert len(batches) == 5

    def test_what_does_not_fit_is_refused(
        self, faces: Pack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2000))
        with pytest.raises(ConfigError, match=r"900 may be had \(90% .* memory of cuda:0\)"):
            Loader(faces, batch_size=4, cache="device", device="cuda")

    def test_augment_is_refused(self, faces: Pack) -> None:
        with pytest.raises(ConfigError, match="augment cannot be done: use cache='host'"):
            Loader(faces, cache="device", device="cuda", augment="arcface_torch", batch_size=4)
