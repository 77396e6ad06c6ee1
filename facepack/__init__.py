"""facepack: pack face data sets once, feed a GPU from the pack, train and evaluate from it.

The names below are the public interface; they load on first use, so that ``import facepack`` and
``facepack --help`` stay quick and torch is imported only by what needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from facepack.version import __version__ as __version__

if TYPE_CHECKING:
    from facepack.loading.augment import Augment as Augment
    from facepack.loading.loader import Batch as Batch
    from facepack.loading.loader import Loader as Loader
    from facepack.loading.torch_view import TorchBatches as TorchBatches
    from facepack.loading.torch_view import TorchDataset as TorchDataset
    from facepack.store.pack import Pack as Pack
    from facepack.store.pack import Record as Record
    from facepack.store.pack import open as open
    from facepack.store.writer import PackWriter as PackWriter

_HOMES = {
    "open": "facepack.store.pack",
    "Pack": "facepack.store.pack",
    "Record": "facepack.store.pack",
    "PackWriter": "facepack.store.writer",
    "Loader": "facepack.loading.loader",
    "Batch": "facepack.loading.loader",
    "Augment": "facepack.loading.augment",
    "TorchBatches": "facepack.loading.torch_view",
    "TorchDataset": "facepack.loading.torch_view",
}

__all__ = [
    "Augment",
    "Batch",
    "Loader",
    "Pack",
    "PackWriter",
    "Record",
    "TorchBatches",
    "TorchDataset",
    "__version__",
    "open",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'facepack' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
