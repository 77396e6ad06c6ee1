#!/bin/bash
# pytorch-metric-learning 2.9.0 (torch 2.13.0, gloo, Python 3.11): on N ranks the class centres of ArcFaceLoss learn N times as fast.
#
# One would guess: DistributedLossWrapper gives the gradients of one process with the whole batch, as its documentation has it
#                  for efficient=False, those of the class centres too. (The page speaks of losses of pairs and triplets;
#                  the wrapper takes ArcFaceLoss without a word.)
# What happens:    it gathers all embeddings on each rank and multiplies the loss by the number of ranks, to make up for the
#                  mean over ranks that DistributedDataParallel takes of the backbone's gradients: there it is right. The
#                  centres lie in the loss, each rank has the whole batch's gradient for them, and it stays multiplied.
#                  DistributedDataParallel around the wrapper takes the mean of N equal gradients and changes nothing.
#                  Each rank adds in an order of its own, so that unwrapped copies of the centres drift apart, too.
# Why it matters:  ArcFace's backbone and centres share one learning rate of SGD; with 0.1 on 8 GPUs the centres have 0.8.
#                  DistributedDataParallel around the plain ArcFaceLoss, each rank on its own part, is right.
#
# Seen when written (gradient in terms of one process's with the batch of 16):
#   2 ranks  wrapper                  backbone 1.000  centres 2.000
#   2 ranks  DDP around the wrapper   backbone 1.000  centres 2.000
#   2 ranks  DDP around ArcFaceLoss   backbone 1.000  centres 1.000
#   4 ranks  wrapper                  backbone 1.000  centres 4.000
#   4 ranks  DDP around the wrapper   backbone 1.000  centres 4.000
#   4 ranks  DDP around ArcFaceLoss   backbone 1.000  centres 1.000
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    pytorch-metric-learning==2.9.0 torch==2.13.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing
from pytorch_metric_learning.losses import ArcFaceLoss
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch.nn.parallel import DistributedDataParallel

WAYS = {
    "wrapper": DistributedLossWrapper,
    "DDP around the wrapper": lambda loss: DistributedDataParallel(DistributedLossWrapper(loss)),
    "DDP around ArcFaceLoss": DistributedDataParallel,
}


def gradients(part, wrap_backbone=lambda module: module, wrap_loss=lambda module: module):
    """Gradients of a backbone and of the class centres, begun alike, for this part of the batch."""
    torch.manual_seed(0)
    images, labels = torch.randn(16, 8), torch.arange(16) % 4
    backbone, loss = torch.nn.Linear(8, 6), ArcFaceLoss(num_classes=4, embedding_size=6)
    outer, criterion = wrap_backbone(backbone), wrap_loss(loss)
    criterion(outer(images[part]), labels[part]).backward()
    return backbone.weight.grad, loss.W.grad


def work(rank, ranks, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet{ranks}", rank=rank, world_size=ranks)
    whole = gradients(slice(None))
    for name, wrap in WAYS.items():
        part = slice(16 * rank // ranks, 16 * (rank + 1) // ranks)
        seen = gradients(part, DistributedDataParallel, wrap)
        ratios = [((a * b).sum() / (b * b).sum()).item() for a, b in zip(seen, whole)]
        for grad, one, ratio in zip(seen, whole, ratios):
            torch.testing.assert_close(grad, one * ratio, rtol=1e-4, atol=1e-4)
        if rank == 0:
            print(f"{ranks} ranks  {name:<24} backbone {ratios[0]:.3f}  centres {ratios[1]:.3f}")
        expected = 1 if wrap is DistributedDataParallel else ranks
        assert abs(ratios[0] - 1) < 1e-3 and abs(ratios[1] - expected) < 1e-3
    dist.destroy_process_group()


if __name__ == "__main__":
    for ranks in (2, 4):
        torch.multiprocessing.spawn(work, (ranks, sys.argv[1]), nprocs=ranks)
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
