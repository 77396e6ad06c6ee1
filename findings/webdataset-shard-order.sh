#!/bin/bash
# webdataset 1.0.2 (torch 2.13.0, Python 3.11): shardshuffle gives one order of shards, which every epoch repeats.
#
# One would guess: WebDataset(…, shardshuffle=100) draws a new order of the shards in each epoch, or at least detshuffle=True
#                  does, whose order is made of a seed and the epoch.
# What happens:    the seed is drawn once, at the start of the run, and each epoch begins with it anew: same shards, same order.
#                  detshuffle counts epochs in the process that reads, and the DataLoader's workers are new ones in each
#                  epoch: they all count to 0, unless workers persist. Shards are dealt to workers before they are
#                  shuffled, so that a worker reads the same ones in each.
# Why it matters:  Face sets are packed identity by identity, and a buffer of 1,000 images reaches over a few people: which
#                  identities meet in a batch is settled in the first epoch, and the losses look as usual. Workers that
#                  persist, with detshuffle=True, draw new orders; a DataPipeline with detshuffle before the splits deals
#                  the shards anew, too.
#
# Seen when written (8 shards, 3 epochs; how many different orders of shards):
#   shardshuffle=100                             1
#   shardshuffle=100, detshuffle                 3
#   shardshuffle=100, 2 workers                  1
#   shardshuffle=100, detshuffle, 2 workers      1
#   shardshuffle=100, detshuffle, 2 persistent   3, worker 0 reads shards 0 2 4 6 in each
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check webdataset==1.0.2 torch==2.13.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import sys

import webdataset
from torch.utils.data import DataLoader

shards = f"{sys.argv[1]}/{{0..7}}.tar"
for shard in range(8):
    with webdataset.TarWriter(f"{sys.argv[1]}/{shard}.tar") as tar:
        for image in range(3):
            tar.write({"__key__": f"person{shard}/{image}", "cls": str(shard).encode()})


def orders(workers=0, persistent=False, **options):
    """The orders of shards that three epochs have: of each worker, which take turns sample by sample."""
    dataset = webdataset.WebDataset(
        shards, shardshuffle=100, nodesplitter=webdataset.split_by_node, workersplitter=webdataset.split_by_worker, **options
    )
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=persistent)
    epochs = []
    for _ in range(3):
        labels = [int(sample["cls"]) for sample in loader]
        assert sorted(labels) == sorted([*range(8)] * 3)
        epochs.append([tuple(labels[k :: max(workers, 1)][::3]) for k in range(max(workers, 1))])
    return epochs


def told(name, epochs, expected):
    count = len({str(epoch) for epoch in epochs})
    print(f"{name:<44} {count}", end="")
    assert count == expected


told("shardshuffle=100", orders(), 1)
print()
told("shardshuffle=100, detshuffle", orders(detshuffle=True, seed=0), 3)
print()
told("shardshuffle=100, 2 workers", orders(workers=2), 1)
print()
told("shardshuffle=100, detshuffle, 2 workers", orders(workers=2, detshuffle=True, seed=0), 1)
print()
epochs = orders(workers=2, persistent=True, detshuffle=True, seed=0)
told("shardshuffle=100, detshuffle, 2 persistent", epochs, 3)
assert all(sorted(epoch[0]) == [0, 2, 4, 6] for epoch in epochs)
print(", worker 0 reads shards 0 2 4 6 in each")
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
