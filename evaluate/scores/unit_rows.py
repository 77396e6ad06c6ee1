"""Embeddings as unit rows of float32, sorted by label: what blocked products are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from facepack.errors import EvaluationError

CHUNK = 64
"""Columns whose largest score is looked at first; every tile is whole chunks wide and high."""

_ROWS = 16_384  # embeddings that are cast and normalised together


@dataclass(frozen=True, eq=False)
class UnitRows:
    """Embeddings of unit length, those of one label side by side."""

    units: Tensor  # float32 (n rounded up to a multiple of CHUNK, F); rows of zeros at the end
    labels: np.ndarray  # int64 (n,), ascending; below zero: a face of nobody, who has no mate
    order: np.ndarray  # int64 (n,): which of the embeddings given each row is

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def from_embeddings(
        cls,
        embeddings: np.ndarray | Tensor,
        labels: np.ndarray,
        *,
        name: str = "embeddings",
        device: torch.device | str = "cpu",
    ) -> UnitRows:
        """Cast, check, normalise and sort: one float32 copy, in blocks.

        Values are cast to float32 before anything is computed, as half-precision squares overflow.
        A row of zeros stays one: its score is 0 with every other. Embeddings are (n, F) of any
        float type, a memory map for instance, labels (n,) integers; errors call the set ``name``.

        Raises:
            EvaluationError: not two-dimensional, as many labels as rows are missing, or a value is
                not finite.
        """
        labels = np.asarray(labels)
        if embeddings.ndim != 2 or not len(embeddings) or not embeddings.shape[1]:
            raise EvaluationError(
                f"{name}: embeddings {tuple(embeddings.shape)} were given; (n, features) of at "
                "least one row are needed"
            )
        if labels.shape != (len(embeddings),) or labels.dtype.kind not in "iu":
            raise EvaluationError(
                f"{name}: labels {labels.dtype} {labels.shape} for {len(embeddings)} embeddings; "
                f"integers ({len(embeddings)},) are needed"
            )
        labels = labels.astype(np.int64)
        order = np.argsort(labels, kind="stable")
        n, features = embeddings.shape
        units = torch.zeros(-(-n // CHUNK) * CHUNK, features, device=device)
        for start in range(0, n, _ROWS):
            rows = embeddings[order[start : start + _ROWS]]
            # Two steps: NumPy casts types that torch lacks, and torch those that NumPy lacks.
            block = rows if isinstance(rows, Tensor) else torch.from_numpy(np.float32(rows))
            block = block.to(device, torch.float32)
            norms = torch.linalg.vector_norm(block, dim=1, keepdim=True)
            if not torch.isfinite(norms).all():
                raise _not_finite(name, embeddings)
            units[start : start + len(block)] = block / torch.where(norms > 0, norms, 1)
        return cls(units, labels[order], order)


def filled(rows: Tensor, multiple: int = CHUNK) -> Tensor:
    """Rows of zeros up to whole chunks, for which a product gives any pair the same score."""
    missing = -len(rows) % multiple
    return torch.nn.functional.pad(rows, (0, 0, 0, missing)) if missing else rows


def _not_finite(name: str, embeddings: np.ndarray | Tensor) -> EvaluationError:
    count, first = 0, -1
    for start in range(0, len(embeddings), _ROWS):
        block = torch.as_tensor(embeddings[start : start + _ROWS]).float()
        bad = (~torch.isfinite(torch.linalg.vector_norm(block, dim=1))).nonzero()
        if len(bad) and first < 0:
            first = start + int(bad[0])
        count += len(bad)
    return EvaluationError(
        f"{name}: {count} of {len(embeddings)} embeddings are not finite or too long for float32, "
        f"the first is row {first}: leave these rows out, or embed the images again; the model's "
        "weights may have diverged"
    )
