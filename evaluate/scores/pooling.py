"""Templates: several images of one person as one unit vector, as IJB-B and IJB-C define it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from facepack.evaluate.scores.pairs import look_up

_IMAGES = 1 << 15  # embeddings that are summed up together


@dataclass(frozen=True, eq=False)
class Templates:
    """Pooled embeddings."""

    ids: np.ndarray  # int64 (T,), ascending: the templates that have a usable image
    # float32 (T, F), of unit length; zeros where the weighted images cancel out or weigh nothing,
    # as with a detector score of 0
    units: Tensor

    @property
    def empty(self) -> np.ndarray:
        """bool (T,): whether a template is all zeros, and scores 0 with every other."""
        zero: np.ndarray = (torch.linalg.vector_norm(self.units, dim=1) == 0).numpy()
        return zero

    def positions(self, ids: np.ndarray) -> np.ndarray:
        """int32 (m,): the row of each template of ``ids`` (m,); -1 where there is none."""
        if not len(self.ids):
            return np.full(len(ids), -1, np.int32)
        # Ids are small numbers: a table of all of them is quicker than a search for each.
        table = np.full(int(max(self.ids[-1], np.max(ids, initial=0))) + 1, -1, np.int32)
        table[self.ids] = np.arange(len(self.ids))
        return look_up(table, ids)


def pool_templates(
    embeddings: np.ndarray,
    *,
    template_ids: np.ndarray,
    media_ids: np.ndarray,
    weights: np.ndarray,
    usable: np.ndarray,
) -> Templates:
    """The mean within each media, the sum over a template's media, normalised.

    That is one weighted sum of a template's images, an image's weight divided by the number of its
    template's images in its media. Sums are in float32, in the order of the images.

    Args:
        embeddings: (n, F) floating point; may be mapped from a file.
        template_ids: (n,) integers from 0.
        media_ids: (n,) integers: images of one video, or a still.
        weights: (n,) of each image: its detector score, or 1 over the norm, or 1.
        usable: bool (n,): the images that have an embedding; others are not there.
    """
    images = np.flatnonzero(usable)
    ids, template = np.unique(template_ids[images], return_inverse=True)
    _, media, sizes = np.unique(
        template.astype(np.int64) << 32 | media_ids[images].astype(np.int64),
        return_inverse=True,
        return_counts=True,
    )
    shares = (weights[images] / sizes[media]).astype(np.float32)
    sums = torch.zeros(len(ids), embeddings.shape[1])
    for start in range(0, len(images), _IMAGES):
        some = slice(start, start + _IMAGES)
        rows = embeddings[_range_or_list(images[some])].astype(np.float32, copy=False)
        _add_weighted(sums, rows, template[some], shares[some])
    norms = torch.linalg.vector_norm(sums, dim=1, keepdim=True)
    return Templates(ids.astype(np.int64), sums.div_(torch.where(norms > 0, norms, 1)))


def _range_or_list(ascending: np.ndarray) -> slice | np.ndarray:
    """As a slice, which copies nothing, where no number is left out."""
    first, last = int(ascending[0]), int(ascending[-1])
    return slice(first, last + 1) if last - first == len(ascending) - 1 else ascending


def _add_weighted(sums: Tensor, rows: np.ndarray, template: np.ndarray, shares: np.ndarray) -> None:
    """Add each row, times its share, to its template's sum."""
    # A product with a sparse matrix: nine times as fast as index_add_, which has one thread, and
    # no copy of the rows times their shares is made.
    order = np.argsort(template, kind="stable")
    here, first = np.unique(template[order], return_index=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR|The given NumPy array is not writ")
        matrix = torch.sparse_csr_tensor(
            torch.from_numpy(np.append(first, len(order))),
            torch.from_numpy(order),
            torch.from_numpy(shares[order]),
            (len(here), len(rows)),
            check_invariants=False,
        )
        sums[torch.from_numpy(here)] += matrix @ torch.from_numpy(rows)
