#!/bin/bash
# torch 2.13.0 (gloo, Python 3.11): torch.distributed.checkpoint keeps one rank's tensor of each name, of one this, of another that.
#
# One would guess: dcp.save writes a file for each rank, so dcp.load gives each rank back what it saved; or, as it shares out
#                  DTensors only, it stops at plain tensors that have one name and other values; or keeps those of rank 0.
# What happens:    of a plain tensor (or a number, a list) that several ranks have under one name one rank's is kept, without
#                  a word, and every rank loads it. Names are dealt out by size, so that the copies come from different
#                  ranks: all get the class centres of rank 1 with the momentum of rank 0. Where the ranks' shapes differ,
#                  save is as quiet; load raises, when the other rank's values are gone.
# Why it matters:  Partial FC holds on each rank the centres of its own classes, and their momentum, as plain tensors; as one
#                  state_dict with the backbone they look like everything else. The other half of the classes is gone, for
#                  both ranks. A name with the rank in it (or a DTensor) is right.
#
# Seen when written (ranks 0 and 1, of 2 classes each, saved 10 and 20 as centres, 1 and 2 as momentum, 5 and 6 as seed):
#   one name         rank 0: centres 20 momentum 1 seed 6    rank 1: centres 20 momentum 1 seed 6
#   rank in the name rank 0: centres 10 momentum 1 seed 5    rank 1: centres 20 momentum 2 seed 6
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
import torch.distributed.checkpoint as dcp
import torch.multiprocessing

folder = Path(sys.argv[1])
SAVED = [(10, 1, 5), (20, 2, 6)]


def state(prefix, centres, momentum, seed, classes=2):
    """The part of one rank, beside a backbone that all ranks have alike."""
    own = {"centres": torch.full((classes, 3), float(centres)), "momentum": torch.full((classes, 3), float(momentum))}
    return {"backbone": torch.ones(4), **{prefix + name: value for name, value in {**own, "seed": seed}.items()}}


def saved_and_loaded(name, rank, prefix=""):
    """Centres, momentum and seed as this rank loads them."""
    dcp.save(state(prefix, *SAVED[rank]), checkpoint_id=folder / name)
    dist.barrier()
    loaded = state(prefix, 0, 0, 0)
    dcp.load(loaded, checkpoint_id=folder / name)
    assert (loaded["backbone"] == 1).all()
    values = [loaded[prefix + name] for name in ("centres", "momentum", "seed")]
    assert all(len(value.unique()) == 1 for value in values[:2])
    return int(values[0][0, 0]), int(values[1][0, 0]), values[2]


def work(rank):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for name, prefix in (("one name", ""), ("rank in the name", f"{rank}.")):
        rows = [None, None]
        dist.all_gather_object(rows, saved_and_loaded(name, rank, prefix))
        if rank == 0:
            told = (f"rank {k}: centres {c} momentum {m} seed {s}" for k, (c, m, s) in enumerate(rows))
            print(f"{name:<16} {'    '.join(told)}")
        if prefix:
            assert rows == SAVED
        else:
            assert rows[0] == rows[1] and rows[0] not in SAVED
            assert all(value in pair for value, pair in zip(rows[0], zip(*SAVED)))
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(work, nprocs=2)
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
