#!/bin/bash
# torch 2.13.0 (CPU), gloo, Python 3.11: all_reduce and broadcast of a view with gaps change other elements than the view's.
#
# One would guess: a view such as x[:, :2] is reduced in place, or refused, as NCCL refuses it.
# What happens:    gloo takes the view's first address and its number of elements and works on that many neighbours in memory. The
#                  first rows are reduced whole, columns outside the view included; the last rows of the view stay as they
#                  were. Nothing is raised. all_gather copies views in and out correctly, and a transpose without gaps is
#                  right, too, so a test of one says nothing about the other.
# Why it matters:  a class head that is shared among ranks, a queue of features or one column of counters is reduced through a
#                  slice. On CPUs this runs and is wrong; on GPUs the same line raises. Reduce a contiguous copy and write it back.
#
# Seen when written (2 ranks, rank r holds a 4 × 4 of 10^r, all_reduce of x[:, :2]; rank 1 afterwards):
#   [[11, 11, 11, 11], [11, 11, 11, 11], [10, 10, 10, 10], [10, 10, 10, 10]]
#   expected: [[11, 11, 10, 10], [11, 11, 10, 10], [11, 11, 10, 10], [11, 11, 10, 10]]
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing


def show(name, values):
    print(f"{name}:", values.int().tolist(), flush=True)


def run(rank, folder):
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)

    def ranks_values():
        return torch.full((4, 4), 10.0**rank)

    reduced, sent, transposed = ranks_values(), ranks_values(), ranks_values()
    dist.all_reduce(reduced[:, :2])
    dist.broadcast(sent[:, :2], src=0)
    dist.all_reduce(transposed.t())
    gathered = [torch.zeros(4, 2) for _ in range(2)]
    source = torch.arange(16.0).reshape(4, 4)
    dist.all_gather(gathered, source[:, :2])
    if rank == 1:
        show("all_reduce of x[:, :2]", reduced)
        show("broadcast of x[:, :2] ", sent)
        rows = torch.tensor([True, True, False, False])
        assert (reduced[rows] == 11).all() and (reduced[~rows] == 10).all()
        assert (sent[rows] == 1).all() and (sent[~rows] == 10).all()
        assert (transposed == 11).all()
        assert all(torch.equal(part, source[:, :2]) for part in gathered)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(run, (sys.argv[1],), nprocs=2)
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp"
