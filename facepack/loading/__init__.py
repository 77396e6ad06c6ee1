"""Loading: seeded orders, and backends that turn a pack into batches."""

from __future__ import annotations

from facepack.loading.loader import Batch as Batch
from facepack.loading.loader import Loader as Loader

__all__ = ["Batch", "Loader"]
