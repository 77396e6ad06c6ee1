"""Packs and loaders under torch's DataLoader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from facepack.errors import ConfigError, DecodeError
from facepack.loading.loader import Loader
from facepack.loading.torch_view import TorchBatches, TorchDataset
from facepack.store.pack import Pack

SlowBatch = Callable[..., tuple[torch.Tensor, torch.Tensor, np.ndarray]]


def keep(batch: Any) -> tuple[torch.Tensor, list[int], list[int]]:
    images, labels, positions = batch
    return images.clone(), labels.tolist(), positions.tolist()


def equal(ours: list[Any], theirs: list[Any]) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(a[0], b[0]) and a[1:] == b[1:] for a, b in zip(ours, theirs, strict=True)
    )


def stripes(image: Image.Image) -> torch.Tensor:
    """A transform that processes can be given: the image's middle row."""
    assert image.mode == "RGB"
    return torch.from_numpy(np.array(image)[image.height // 2])


class TestBatches:
    def test_a_data_loader_gives_the_loaders_batches(
        self, faces: Pack, slow_batch: SlowBatch
    ) -> None:
        with Loader(faces, batch_size=10, seed=3) as loader:
            batches = DataLoader(TorchBatches(loader), batch_size=None)
            assert len(batches) == 5
            for epoch in range(2):
                for number, (images, labels, positions) in enumerate(batches):
                    expected = slow_batch(faces, epoch * 5 + number, batch_size=10, seed=3)
                    assert torch.equal(images, expected[0])
                    assert torch.equal(labels, expected[1])
                    assert positions.tolist() == expected[2].tolist()
                assert number == 4

    def test_resume_amid_an_epoch(self, faces: Pack) -> None:
        with Loader(faces, batch_size=10, seed=3) as loader:
            whole = [keep(batch) for _ in range(2) for batch in loader]
        with Loader(faces, batch_size=10, seed=3) as loader:
            dataset = TorchBatches(loader)
            for number, _ in enumerate(DataLoader(dataset, batch_size=None)):
                if number == 2:
                    state = dataset.state_dict()
                    break
        with Loader(faces, batch_size=10, seed=3) as loader:
            dataset = TorchBatches(loader)
            dataset.load_state_dict(state)
            again = DataLoader(dataset, batch_size=None)
            rest = [keep(batch) for _ in range(2) for batch in again]
        assert equal(rest, whole[3:])

    def test_resume_by_torchdatas_loader(self, faces: Pack) -> None:
        stateful = pytest.importorskip(
            "torchdata.stateful_dataloader", reason="torchdata is not installed"
        ).StatefulDataLoader
        with Loader(faces, batch_size=10, seed=3) as loader:
            whole = [keep(batch) for _ in range(2) for batch in loader]
        for stop in (1, 3, 5):
            with Loader(faces, batch_size=10, seed=3) as loader:
                batches = stateful(TorchBatches(loader), batch_size=None)
                for number, batch in enumerate(batches, 1):
                    assert equal([keep(batch)], [whole[number - 1]])
                    if number == stop:
                        state = batches.state_dict()
                        break
            with Loader(faces, batch_size=10, seed=3) as loader:
                batches = stateful(TorchBatches(loader), batch_size=None)
                batches.load_state_dict(state)
                rest = [keep(batch) for _ in range(2) for batch in batches]
                rest += [keep(batch) for batch in batches] if len(rest) < 10 - stop else []
            assert equal(rest[: 10 - stop], whole[stop:])

    def test_worker_processes_are_refused(self, faces: Pack) -> None:
        with Loader(faces, batch_size=10) as loader:
            batches = DataLoader(TorchBatches(loader), batch_size=None, num_workers=1)
            with pytest.raises(ConfigError, match="num_workers is 1; TorchBatches needs"):
                next(iter(batches))


class TestDataset:
    @pytest.mark.parametrize("start", [None, "fork", "spawn"])
    def test_under_a_data_loader(self, faces: Pack, start: str | None) -> None:
        if start not in (None, *torch.multiprocessing.get_all_start_methods()):
            pytest.skip(f"this system has no {start}")
        dataset = TorchDataset(faces)
        assert len(dataset) == 53
        dataset[0]  # the files are open when the workers start
        workers: dict[str, Any] = {}
        if start is not None:
            workers = {"num_workers": 2, "multiprocessing_context": start}
        seen = 0
        for images, labels in DataLoader(dataset, batch_size=20, **workers):
            assert images.dtype == torch.uint8
            for image, label in zip(images, labels.tolist(), strict=True):
                expected = np.asarray(faces.decode(seen)).transpose(2, 0, 1)
                assert np.array_equal(image.numpy(), expected)
                assert label == faces.labels[seen]
                seen += 1
        assert seen == 53

    def test_transforms_get_pillows_images(self, mixed: Pack) -> None:
        dataset = TorchDataset(mixed, transform=stripes)
        for place in range(len(mixed)):
            stripe, label = dataset[place]
            assert stripe.tolist() == mixed.decode(place)[20].tolist()
            assert label == mixed.labels[place]
        assert torch.equal(dataset[-1][0], stripe)

    def test_errors_name_the_key(self, damaged: Pack) -> None:
        with pytest.raises(DecodeError, match="shard-000/0000000004: the jpeg image does not"):
            TorchDataset(damaged)[4]
        with pytest.raises(IndexError):
            TorchDataset(damaged)[30]
