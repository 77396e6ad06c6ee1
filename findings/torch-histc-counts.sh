#!/bin/bash
# torch 2.13.0 (CPU), Python 3.11: torch.histc and torch.histogram lose counts past 2^24 a bin and thread.
#
# One would guess: the counts of a histogram add up to the number of values, on any number of threads.
# What happens:    each thread counts in the type of the input. In float32 a bin stands still at 16,777,216; the threads'
#                  bins are then added, so the error is another on another number of threads. Nothing warns.
# Why it matters:  score histograms are how FAR is read off all-pairs tables that do not fit in memory. The impostor scores
#                  crowd into a few bins, which saturate, while the tail that decides the operating point is counted right:
#                  FAR = tail / total comes out too high (here twice the truth on one thread). Scores in float64 are
#                  counted right, and np.histogram counts in int64.
#
# Seen when written (67,108,864 scores in 20 bins):
#   numpy             total 67108864  FAR(0.2) 3.21e-05
#   torch, 1 thread   total 36609517  FAR(0.2) 5.88e-05
#   torch, 2 threads  total 67108865  FAR(0.2) 3.21e-05
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import numpy as np
import torch

scores = torch.randn(2**26, generator=torch.Generator().manual_seed(0)).mul_(0.05)
truth = np.histogram(scores.numpy(), bins=20, range=(-1, 1))[0]


def far(counts):
    return float(counts[12:].sum() / counts.sum())  # bin 12 begins at 0.2


def show(name, counts):
    print(f"{name:<17} total {int(counts.sum())}  FAR(0.2) {far(counts):.2e}")


show("numpy", truth)
seen = {}
for threads in (1, 2):
    torch.set_num_threads(threads)
    seen[threads] = torch.histc(scores, bins=20, min=-1, max=1).double()
    show(f"torch, {threads} thread{'s' * (threads > 1)}", seen[threads])
assert seen[1].max() == 2**24 < truth.max()
assert far(seen[1]) > 1.7 * far(truth)
assert seen[1].sum() != seen[2].sum()
PY
"$tmp/venv/bin/python" "$tmp/see.py"
