#!/bin/bash
# grain 0.2.18 (NumPy 2.4.6, Python 3.11): with sharding, IndexSampler's shuffle never leaves the shard, and is the same in each.
#
# One would guess: IndexSampler(…, shard_options, shuffle=True), whose documentation says "globally shuffle", deals out a shuffled
#                  set in every epoch, as torch's DistributedSampler does: each process sees each record in time.
# What happens:    the records are cut into one range for each process first, and each shuffles its range alone. Epochs change the
#                  order and nothing else: process 0 of 4 has the first quarter for ever. As the seed is the same, so is the
#                  permutation: in every step the processes stand at the same places of their ranges.
# Why it matters:  face sets lie sorted by identity: each process has a quarter of the people for the whole training, and its
#                  batches, their statistics and whatever is mined in them never hold the others. The loss looks well, and one
#                  process alone shows nothing of it. MapDataset.shuffle(seed).repeat(epochs)[rank::ranks] deals out all.
#
# Seen when written (1,000 identities of 10 images in order; 4 processes, 8 epochs):
#                             people of process 0: in one epoch   in all   also in process 1   at the same place as there
#   IndexSampler                                            250      250                   0                        100 %
#   MapDataset[rank::ranks]                                 944     1000                1000                          0 %
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check grain==0.2.18 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import grain
import grain.python as python
import numpy as np

PEOPLE, IMAGES, PROCESSES, EPOCHS = 1000, 10, 4, 8
RECORDS = PEOPLE * IMAGES
SHARE = RECORDS // PROCESSES


def by_sampler(rank):
    sampler = python.IndexSampler(
        num_records=RECORDS,
        shard_options=python.ShardOptions(rank, PROCESSES, drop_remainder=True),
        shuffle=True,
        num_epochs=EPOCHS,
        seed=0,
    )
    return np.array(list(python.DataLoader(data_source=range(RECORDS), sampler=sampler, worker_count=0)))


def by_dataset(rank):
    dataset = grain.MapDataset.range(RECORDS).shuffle(seed=0).repeat(EPOCHS)
    return np.array(list(dataset[rank::PROCESSES]))


print(f"{'':<25} people of process 0: in one epoch   in all   also in process 1   at the same place as there")
for name, way in (("IndexSampler", by_sampler), ("MapDataset[rank::ranks]", by_dataset)):
    orders = [way(rank) for rank in range(PROCESSES)]
    for epoch in range(EPOCHS):  # whatever the way, an epoch holds each record once
        seen = np.concatenate([order[epoch * SHARE :][:SHARE] for order in orders])
        assert sorted(seen.tolist()) == list(range(RECORDS))
    assert not np.array_equal(orders[0][:SHARE], orders[0][SHARE : 2 * SHARE])
    people = [set((order // IMAGES).tolist()) for order in orders]
    once, shared = len(set((orders[0][:SHARE] // IMAGES).tolist())), len(people[0] & people[1])
    same = (orders[0] % SHARE == orders[1] % SHARE).mean()
    print(f"{name:<25} {once:>33} {len(people[0]):>8} {shared:>19} {100 * same:>26.0f} %")
    if way is by_sampler:
        assert len(people[0]) == once == PEOPLE // PROCESSES and shared == 0 and same == 1
    else:
        assert len(people[0]) == shared == PEOPLE and once > 0.8 * PEOPLE and same < 0.01
PY
"$tmp/venv/bin/python" "$tmp/see.py" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
