"""What ``torch.utils.data`` expects: a pack as a map-style dataset, a loader as an iterable one."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from facepack.errors import ConfigError
from facepack.loading.loader import Batch, Loader
from facepack.store.pack import Pack


class TorchDataset(Dataset[tuple[Any, int]]):
    """A pack's images and labels by position, for a ``DataLoader`` with a sampler of its own.

    >>> dataset = facepack.TorchDataset(facepack.open(path), transform)
    >>> batches = torch.utils.data.DataLoader(dataset, batch_size=128, num_workers=8)

    Worker processes may be forked or spawned: a pack opens its files in each anew. For speed take
    :class:`~facepack.Loader`; this is for code that is built on datasets.

    Args:
        transform: makes the item's image from a ``PIL.Image`` in RGB, as torchvision's transforms
            do. Without one, an image is a uint8 tensor (3, H, W), RGB.
    """

    def __init__(self, pack: Pack, transform: Callable[[Image.Image], Any] | None = None) -> None:
        self.pack = pack
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pack)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Image and label at a position; negative ones count from the end.

        Raises:
            DecodeError: the image does not decode; names its key.
        """
        position = operator.index(index)
        pixels = self.pack.decode(position)
        label = int(self.pack.labels[position])
        if self.transform is not None:
            return self.transform(Image.fromarray(pixels)), label
        return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C")), label


class TorchBatches(IterableDataset[Batch]):
    """A loader's batches as an iterable dataset that knows its position.

    >>> batches = torch.utils.data.DataLoader(facepack.TorchBatches(loader), batch_size=None)

    Give the ``DataLoader`` ``batch_size=None`` and leave ``num_workers`` at 0: batches come whole,
    and the loader has threads of its own. (Its conversion makes tensors of the positions.) Each
    pass over the dataset is the rest of the loader's epoch. :meth:`state_dict` is what torchdata's
    ``StatefulDataLoader`` asks for, and what a plain one leaves to its user.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        """Go on from the loader's position to the end of its epoch.

        Raises:
            ConfigError: in a worker process, each of which would give all batches again.
        """
        worker = get_worker_info()
        if worker is not None:
            raise ConfigError(
                f"num_workers is {worker.num_workers}; TorchBatches needs num_workers=0: "
                "the loader decodes in threads of its own (its option threads)"
            )
        return iter(self.loader)

    def state_dict(self) -> dict[str, Any]:
        """The position after the batch that was last returned: the loader's."""
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved position.

        Raises:
            ConfigError: it belongs to another pack or order.
        """
        self.loader.load_state_dict(state)
