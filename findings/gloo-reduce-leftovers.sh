#!/bin/bash
# torch 2.13.0 (CPU), gloo, Python 3.11: dist.reduce leaves partial sums in the tensors of the ranks that receive nothing.
#
# One would guess: reduce(t, dst=0) reads t on the other ranks, as MPI's reduce does with its send buffer: their t stays.
# What happens:    gloo uses t as working memory. On the other ranks it holds a mixture afterwards: elements of their own, partial
#                  sums and finished sums, side by side. Which element gets what depends on the number of ranks and on the
#                  size of the tensor. A single element between two ranks comes through untouched, which is what a small
#                  test tries.
# Why it matters:  running counters (loss, images, hits by identity) that are reduced to rank 0 for a log line and go on
#                  counting on every rank are wrong from the second line on, on CPUs only, and more so with more ranks. Reduce a
#                  clone, or all_reduce.
#
# Seen when written (rank r holds 10^r everywhere; values found after reduce to rank 0):
#   2 ranks,       1 elements, rank 1: [10]
#   2 ranks,       4 elements, rank 1: [10, 11]
#   2 ranks, 1000000 elements, rank 1: [10, 11]
#   3 ranks,       1 elements, rank 1: [110]
#   3 ranks, 1000000 elements, rank 1: [10, 110, 111]
#   3 ranks, 1000000 elements, rank 2: [100, 101, 111]
#   rank 0 always holds the sum, 11 or 111
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing


def reduce(rank, ranks, folder, sizes, results):
    store = dist.FileStore(str(folder / f"store{ranks}"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    for size in sizes:
        values = torch.full((size,), 10.0**rank)
        dist.reduce(values, dst=0)
        results.put((ranks, size, rank, [int(value) for value in values.unique()]))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    folder, sizes = Path(sys.argv[1]), (1, 4, 1_000_000)
    results = torch.multiprocessing.get_context("spawn").SimpleQueue()
    seen = {}
    for ranks in (2, 3):
        torch.multiprocessing.spawn(reduce, (ranks, folder, sizes, results), nprocs=ranks)
        for _ in range(ranks * len(sizes)):
            *key, values = results.get()
            seen[tuple(key)] = values
    for (ranks, size, rank), values in sorted(seen.items()):
        print(f"{ranks} ranks, {size:>7} elements, rank {rank}: {values}")
    for ranks in (2, 3):
        assert all(seen[ranks, size, 0] == [sum(10**rank for rank in range(ranks))] for size in sizes)
    assert seen[2, 1, 1] == [10]
    assert all(seen[ranks, size, 1] != [10] for ranks in (2, 3) for size in sizes[1:])
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp"
