"""Centre dispersion: the centres of different identities are to have cosine 0."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def centre_dispersion(
    embeddings: torch.Tensor, images_per_identity: int, block: int
) -> torch.Tensor:
    """Mean squared cosine between centres, over blocks of identities that follow each other.

    Of each identity, the mean of its unit embeddings, made unit length again, is its centre; of a
    block of n centres C (n×F), S = C·Cᵀ − I and the loss is the mean of S² over all n² entries
    (Zhong et al., "Unequal-training for Deep Face Recognition with Long-tailed Noisy Data", CVPR
    2019, equation 7). The released code has a block on each of 8 GPUs, 15 identities that mining
    put next to each other: one matrix of all 120 would dilute the hard pairs eightfold.

    Of embeddings (I·K)×F of any norm, the K images of an identity behind each other; the last block
    may have fewer identities. The mean over the blocks is a scalar; 0 where there are none.
    """
    if not len(embeddings):
        return embeddings.sum()
    with torch.autocast(embeddings.device.type, enabled=False):
        units = F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)))
        centres = F.normalize(units.view(-1, images_per_identity, units.shape[1]).mean(1))
        losses = [_squared_cosines(part) for part in centres.split(block)]
        return torch.stack(losses).mean()


def _squared_cosines(centres: torch.Tensor) -> torch.Tensor:
    similar = centres @ centres.T - torch.eye(len(centres), device=centres.device)
    return similar.square().mean()
