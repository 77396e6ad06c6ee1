"""What holds for every way to load: both backends, and pixels from the cache."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from facepack.errors import DamageError, DecodeError
from facepack.loading.loader import Loader
from facepack.store.pack import Pack

MakeImage = Callable[..., bytes]
MakePack = Callable[..., Pack]
SlowBatch = Callable[..., tuple[torch.Tensor, torch.Tensor, np.ndarray]]
AssertEqual = Callable[..., None]
RunPython = Callable[..., subprocess.CompletedProcess[str]]

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@pytest.fixture(params=["cpu", "dali"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    return str(request.param)


@pytest.fixture(params=["cpu", "dali", "cached"])
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings of a loader."""
    if request.param == "cached":
        return {"backend": "cpu", "cache": "host"}
    if request.param == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    return {"backend": request.param}


def test_ranks_and_empty_batches(
    faces: Pack, slow_batch: SlowBatch, way: dict[str, Any], assert_equal: AssertEqual
) -> None:
    for rank in range(4):
        plan: dict[str, Any] = {"rank": rank, "world": 4, "batch_size": 13, "drop_last": False}
        with Loader(faces, **way, **plan) as loader:
            first, last = loader
            assert_equal(first, slow_batch(faces, 0, **plan))
            assert last.images.shape[1:] == (3, 40, 48)
            assert_equal(last, slow_batch(faces, 1, **plan))
            assert len(last.labels) == (rank == 3)


class TestBrokenImages:
    def test_raise_with_key_at_their_batch(self, damaged: Pack, way: dict[str, Any]) -> None:
        with Loader(damaged, batch_size=10, shuffle=False, **way) as loader:
            for _ in range(2):  # as a pure function does, again
                with pytest.raises(DecodeError) as caught:
                    list(loader)
                assert str(caught.value) == (
                    f"{damaged.path}: shard-000/0000000004: the jpeg image does not decode: "
                    "Corrupt JPEG data: premature end of data segment; leave such images out "
                    '(on_error="skip" of the Loader, on_bad_image = skip in training); all that '
                    f"do not decode are found by: facepack verify --decode {damaged.path}"
                )
                assert (loader.epoch, loader.batch) == (0, 0)
            loader.seek(0, 1)  # going on behind it
            iterator = iter(loader)
            assert next(iterator).positions.tolist() == list(range(10, 20))
            with pytest.raises(DecodeError, match="shard-000/0000000021"):
                next(iterator)
            assert loader.batch == 2
        assert loader.skipped == 0

    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    def test_skip_and_count(
        self,
        damaged: Pack,
        slow_batch: SlowBatch,
        way: dict[str, Any],
        dtype: str,
        assert_equal: AssertEqual,
    ) -> None:
        options: dict[str, Any] = {"batch_size": 8, "on_error": "skip", "drop_last": False}
        with Loader(damaged, dtype=dtype, **way, **options) as loader:
            for epoch in range(2):
                for number, batch in enumerate(loader):
                    index = epoch * len(loader) + number
                    assert_equal(batch, slow_batch(damaged, index, dtype, **options))
                assert loader.skipped == 3 * (epoch + 1)
            assert sorted(loader.skipped_keys) == [
                f"shard-000/{number:010d}" for number in (4, 5, 21)
            ]

    def test_a_batch_of_broken_images_is_empty(
        self,
        make_pack: MakePack,
        make_image: MakeImage,
        damage: Callable[[bytes], bytes],
        way: dict[str, Any],
    ) -> None:
        images = [make_image(number) for number in range(12)]
        images[4:8] = map(damage, images[4:8])
        options: dict[str, Any] = {"batch_size": 4, "shuffle": False, "on_error": "skip"}
        with Loader(make_pack(images), **way, **options) as loader:
            shapes = [tuple(batch.images.shape) for batch in loader]
        assert shapes == [(4, 3, 40, 48), (0, 3, 40, 48), (4, 3, 40, 48)]
        assert loader.skipped == 4

    def test_other_errors_keep_their_type_and_place(self, torn: Pack, backend: str) -> None:
        options: dict[str, Any] = {"batch_size": 10, "shuffle": False, "on_error": "skip"}
        with Loader(torn, backend=backend, **options) as loader:
            iterator = iter(loader)
            next(iterator)
            next(iterator)
            with pytest.raises(DamageError, match="shard-001 has no record"):
                next(iterator)
            assert (loader.batch, loader.skipped) == (2, 0)


# The children: one goes on to the epoch's end, one uses nothing, one lets the loader go.
_FORK = """
import facepack, gc, os, sys

loader = facepack.Loader(facepack.open(sys.argv[1]), batch_size=4, seed=3, backend=sys.argv[2])
batches = iter(loader)
next(batches)

def digest(batch):
    return batch.positions.tolist(), batch.labels.tolist(), int(batch.images.long().sum())

def fork(use):
    child = os.fork()
    if child == 0:
        use()
        sys.exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0, (use, status)

def go_on():
    for batch in batches:
        print(digest(batch), flush=True)

def use_nothing():
    pass

def let_go():
    global loader, batches
    del loader, batches
    gc.collect()

for use in (go_on, use_nothing, let_go):
    fork(use)
go_on()
"""


class TestLife:
    def test_the_pack_may_be_closed_meanwhile(
        self, faces: Pack, slow_batch: SlowBatch, backend: str, assert_equal: AssertEqual
    ) -> None:
        with Loader(faces, backend=backend, batch_size=4) as loader:
            for index, batch in enumerate(loader):
                faces.close()
                assert_equal(batch, slow_batch(faces, index, batch_size=4))

    def test_the_interpreter_ends_though_nobody_closed(
        self, faces: Pack, backend: str, run_python: RunPython
    ) -> None:
        script = (
            "import facepack, sys\n"
            "pack = facepack.open(sys.argv[1])\n"
            "loader = facepack.Loader(pack, batch_size=4, backend=sys.argv[2])\n"
            "batches = iter(loader)\n"
            "print(next(batches).images.shape[0])\n"
        )
        done = run_python(script, faces.path, backend)
        assert done.stdout == "4\n"
        assert backend == "dali" or done.stderr == ""  # DALI may have something to say of the GPU

    @needs_fork
    def test_a_forked_child_goes_on_and_ends(
        self, faces: Pack, slow_batch: SlowBatch, backend: str, run_python: RunPython
    ) -> None:
        expected = []
        for index in range(1, len(faces) // 4):
            images, labels, positions = slow_batch(faces, index, batch_size=4, seed=3)
            digest = (positions.tolist(), labels.tolist(), int(images.long().sum()))
            expected.append(str(digest))
        assert run_python(_FORK, faces.path, backend).stdout.splitlines() == expected * 2
