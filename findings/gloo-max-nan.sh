#!/bin/bash
# torch 2.13.0 (CPU), gloo, Python 3.11: whether all_reduce with MAX shows a NaN depends on the rank that holds it.
#
# One would guess: MAX over ranks spreads a NaN, as torch.amax over elements does, or ignores it, as fmax does; in any case it
#                  does not matter on which rank it is.
# What happens:    a comparison with NaN is false, so NaN stays where it comes first in the ring's order and is lost where it
#                  comes later. A single number keeps the NaN of rank 0 only; of a long tensor that is NaN throughout on one
#                  rank, one element in as many as there are ranks stays NaN. MIN behaves likewise, SUM spreads every NaN.
# Why it matters:  "has the loss gone to NaN anywhere" and "largest gradient norm of all ranks" are MAX reductions of one number.
#                  A test with the NaN on rank 0 passes; the run in which rank 2 diverges goes on. Reduce isnan() as
#                  an integer, or use SUM.
#
# Seen when written (3 ranks, NaN on one of them, 1.0 elsewhere; how many of the result's elements are NaN):
#   MAX    1 element    NaN on rank 0: 1, on rank 1: 0, on rank 2: 0
#   MAX  999 elements   NaN on rank 0: 334, on rank 1: 334, on rank 2: 331
#   MIN    1 element    NaN on rank 0: 1, on rank 1: 0, on rank 2: 0
#   SUM    1 element    NaN on rank 0: 1, on rank 1: 1, on rank 2: 1
#   torch.amax of the same three numbers is NaN each time
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

RANKS, NAN = 3, float("nan")
CASES = {  # (operation, elements) -> how many are NaN, by the rank that held it
    ("MAX", 1): [1, 0, 0],
    ("MAX", 999): None,
    ("MIN", 1): [1, 0, 0],
    ("SUM", 1): [1, 1, 1],
}


def run(rank, folder):
    store = dist.FileStore(f"{folder}/store", RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    for (name, size), expected in CASES.items():
        seen = []
        for holder in range(RANKS):
            values = torch.full((size,), NAN if rank == holder else 1.0)
            dist.all_reduce(values, op=getattr(dist.ReduceOp, name))
            seen.append(int(values.isnan().sum()))
        if rank == 0:
            where = ", ".join(f"on rank {holder}: {count}" for holder, count in enumerate(seen))
            print(f"{name} {size:>4} element{'s' * (size > 1):<1}   NaN {where}", flush=True)
        assert seen == expected if expected else all(0 < count < size for count in seen)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(run, (sys.argv[1],), nprocs=RANKS)
    assert all(torch.ones(RANKS).index_fill_(0, torch.tensor([k]), NAN).amax().isnan() for k in range(RANKS))
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp"
