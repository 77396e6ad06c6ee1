#!/bin/bash
# torch 2.13.0 (gloo, Python 3.11): a DTensor turned into a Python number, or asked by an if, answers for this rank's part alone.
#
# One would guess: w.norm(), w.sum() and w.isnan().any() of a sharded tensor are those of the whole: printed, compared or multiplied
#                  they are a DTensor of one element, and item(), float() and bool() read it, or refuse.
# What happens:    the reduction over ranks is put off until an operation needs it (placement Partial). item(), float() and
#                  bool() need it and do not ask for it: each rank gets the reduction of its own rows, without a word. Whether
#                  it is so depends on the last operation: sum() * 1 and max() are parts, sum() + 1, norm() * 1 and w[5, 5] are
#                  right, and so is what clip_grad_norm_ returns. full_tensor().item() always is.
# Why it matters:  the class centres of a large softmax are sharded by rows. "if centres.isnan().any(): stop" stops the one rank
#                  that holds the NaN, and the others wait for it in their next collective. A step scaled by norm().item() is
#                  another on each rank, and replicas of the backbone drift apart. A log shows rank 0's share as the whole.
#
# Seen when written (8 × 6 in two shards; a NaN among the rows of rank 1 for the last two lines):
#   norm().item()           whole    6.698   rank 0    5.037   rank 1    4.415
#   (norm() * 1).item()     whole    6.698   rank 0    6.698   rank 1    6.698
#   sum().item()            whole    1.241   rank 0   -3.042   rank 1    4.283
#   (sum() * 1).item()      whole    1.241   rank 0   -3.042   rank 1    4.283
#   (sum() + 1).item()      whole    2.241   rank 0    2.241   rank 1    2.241
#   float(mean())           whole    0.026   rank 0   -0.127   rank 1    0.178
#   max().item()            whole    2.302   rank 0    1.853   rank 1    2.302
#   [5, 5].item()           whole    0.248   rank 0    0.248   rank 1    0.248
#   (> 0).sum().item()      whole       27   rank 0       12   rank 1       15
#   bool(isnan().any())     whole     True   rank 0    False   rank 1     True
#   bool(isfinite().all())  whole    False   rank 0     True   rank 1    False
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
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

ASKED = {  # what is asked of the centres, and whether the ranks agree with the whole tensor
    "norm().item()": (lambda t: t.norm().item(), False),
    "(norm() * 1).item()": (lambda t: (t.norm() * 1).item(), True),
    "sum().item()": (lambda t: t.sum().item(), False),
    "(sum() * 1).item()": (lambda t: (t.sum() * 1).item(), False),
    "(sum() + 1).item()": (lambda t: (t.sum() + 1).item(), True),
    "float(mean())": (lambda t: float(t.mean()), False),
    "max().item()": (lambda t: t.max().item(), False),
    "[5, 5].item()": (lambda t: t[5, 5].item(), True),
    "(> 0).sum().item()": (lambda t: (t > 0).sum().item(), False),
    "bool(isnan().any())": (lambda t: bool(t.isnan().any()), False),
    "bool(isfinite().all())": (lambda t: bool(t.isfinite().all()), False),
}


def close(a, b):
    return abs(a - b) <= 1e-5 * max(1, abs(b))


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    centres = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    broken = centres.clone()
    broken[6, 2] = float("nan")
    for name, (ask, right) in ASKED.items():
        whole = broken if name.startswith("bool") else centres
        sharded = distribute_tensor(whole, mesh, [Shard(0)])
        assert torch.equal(sharded.full_tensor().nan_to_num(), whole.nan_to_num())
        answers = [None, None]
        dist.all_gather_object(answers, ask(sharded))
        expected = ask(whole)
        if rank == 0:
            told = [f"{value:>8.3f}" if isinstance(value, float) else f"{value!s:>8}" for value in (expected, *answers)]
            print(f"{name:<22}  whole {told[0]}   rank 0 {told[1]}   rank 1 {told[2]}", flush=True)
        assert all(close(answer, expected) for answer in answers) == right, name
        assert right or answers[0] != answers[1], name
    assert close(sharded.isnan().sum().full_tensor().item(), 1)
    weight = torch.nn.Parameter(distribute_tensor(centres, mesh, [Shard(0)]))
    weight.grad = distribute_tensor(centres, mesh, [Shard(0)])
    assert close(torch.nn.utils.clip_grad_norm_([weight], 1.0).item(), centres.norm().item())
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(work, args=(sys.argv[1],), nprocs=2)
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
