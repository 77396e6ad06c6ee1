#!/bin/bash
# accelerate 1.15.0 (torch 2.13.0, gloo; Python 3.11): gather_for_metrics cuts the last batch by the length of the data set, not of the sampler.
#
# One would guess: gather_for_metrics leaves out what was added to fill the last batch, and only on several processes: every image
#                  that the sampler names comes back once.
# What happens:    the last batch is cut to len(dataset) % (batch size × processes), whatever the sampler. Where the sampler names
#                  fewer images than the data set holds, images are lost or the added ones stay, by the accident of the two
#                  lengths; a single process, where nothing was added, loses them too. Without a sampler, with a Subset of the data
#                  set or if the remainder is 0, the number is right.
# Why it matters:  one pack and a sampler over the identities held out, or over the images that a list of pairs names, is the usual
#                  way to evaluate. Up to a whole batch of embeddings is missing, or some are there twice; shapes fit each other,
#                  as labels are cut alike, and the figure differs a little with the batch size.
#
# Seen when written (1,003 images, of which a sampler names some; embeddings that come back, and different ones among them):
#              named  batch   one process   two processes
#   sampler      500     32        491  491        491  491
#   sampler      500     64        491  491        491  491
#   Subset       500     32        500  500        500  500
#   sampler      600     32        587  587        619  600
#   sampler      600     64        600  600        619  600
#   Subset       600     32        600  600        600  600
#   sampler      512     32        491  491        491  491
#   sampler      512     64        491  491        491  491
#   Subset       512     32        512  512        512  512
#   all         1003     32       1003 1003       1003 1003
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check accelerate==1.15.0 torch==2.13.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import os
import socket
import sys

import torch
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler, TensorDataset

images = TensorDataset(torch.arange(1003))


def work(rank, processes, port, path):
    from accelerate import Accelerator

    if processes > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    accelerator = Accelerator(cpu=True)

    def gathered(loader):
        parts = [accelerator.gather_for_metrics(images) for (images,) in accelerator.prepare(loader)]
        together = torch.cat(parts)
        return len(together), len(together.unique())

    seen = {}
    for named in (500, 600, 512):
        for batch in (32, 64):
            sampler = SubsetRandomSampler(range(0, named))
            seen["sampler", named, batch] = gathered(DataLoader(images, batch_size=batch, sampler=sampler))
        seen["Subset", named, 32] = gathered(DataLoader(Subset(images, range(named)), batch_size=32, shuffle=True))
    seen["all", 1003, 32] = gathered(DataLoader(images, batch_size=32))
    if rank == 0:
        torch.save(seen, path)
    accelerator.end_training()


def run(processes):
    """What comes back from each loader, on this many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = f"{sys.argv[1]}/{processes}.pt"
    torch.multiprocessing.spawn(work, (processes, port, path), nprocs=processes)
    return torch.load(path)


if __name__ == "__main__":
    alone, two = run(1), run(2)
    print("           named  batch   one process   two processes")
    for case in alone:
        print("{:<8} {:7} {:6}".format(*case), "      {:4} {:4}       {:4} {:4}".format(*alone[case], *two[case]))
        way, named, batch = case
        if way != "sampler":
            assert alone[case] == two[case] == (named, named)
    for named, lone, both in ((500, 491, (491, 491)), (600, 587, (619, 600)), (512, 491, (491, 491))):
        assert alone["sampler", named, 32] == (lone, lone) and two["sampler", named, 32] == both
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
