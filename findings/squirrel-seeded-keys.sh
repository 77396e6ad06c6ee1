#!/bin/bash
# squirrel-core 0.20.2 (NumPy 2.4.6, Python 3.11): two packers with the same random.seed write over each other's shards.
#
# One would guess: SquirrelStore.set(shard) gives each shard a name of its own, so that runs that pack one source each can write
#                  into one folder, side by side or one after the other.
# What happens:    the name is sixteen draws of Python's global random. A run that begins with random.seed(0) draws the names of
#                  every other run that does, and its shards take the place of theirs, without a word. Shuffling the images
#                  first does not help where their number is the same. Without a seed all are there. Shards are read
#                  in the order of their names: of an unseeded set, in another order after each writing.
# Why it matters:  packing is seeded so that it can be repeated. What is left is whole, images fit their labels, and only the count
#                  tells that a source is missing. A key=… of source and number, given to set, settles both: every shard stays,
#                  and they are read in the order of writing (LFW's pairs lie side by side).
#
# Seen when written:
#   three sources of 200, 200, 150; no seed      a 200   b 200   c 150
#   random.seed(0) in each                       a   0   b  50   c 150
#   … and random.shuffle of the images           a   0   b 200   c 150
#   … and key=source and number                  a 200   b 200   c 150
#   the same 200 images packed twice without a seed: read in the same order False
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check squirrel-core==0.20.2 numpy==2.4.6
cat > "$tmp/pack.py" <<'PY'
"""Packs one source's images into shards of 10: folder, source, number of images, seed or none, what else it does."""
import random
import sys

import numpy as np
from squirrel.serialization import MessagepackSerializer
from squirrel.store import SquirrelStore

folder, source, count, seed, how = sys.argv[1:]
if seed != "none":
    random.seed(int(seed))
images = [{"source": source, "image": k, "pixels": np.full((8, 8, 3), k, np.uint8)} for k in range(int(count))]
if how == "shuffled":
    random.shuffle(images)
store = SquirrelStore(folder, serializer=MessagepackSerializer())
for start in range(0, len(images), 10):
    key = f"{source}-{start:06d}" if how == "key" else None
    store.set(images[start : start + 10], key=key)
PY
cat > "$tmp/see.py" <<'PY'
import subprocess
import sys
from pathlib import Path

from squirrel.driver import MessagepackDriver

here = Path(sys.argv[1])


def pack(name, *sources):
    """The samples of a folder into which each source was packed by a process of its own."""
    for source, count, seed, how in sources:
        subprocess.run(
            [sys.executable, here / "pack.py", here / name, source, str(count), str(seed), how], check=True
        )
    return [(sample["source"], sample["image"]) for sample in MessagepackDriver(str(here / name)).get_iter().collect()]


def show(title, samples, *wanted):
    counts = [sum(source == name for source, _ in samples) for name in ("a", "b", "c")]
    print(f"{title:<44} a {counts[0]:3}   b {counts[1]:3}   c {counts[2]:3}")
    assert counts == list(wanted), (counts, wanted)


plain = [("a", 200), ("b", 200), ("c", 150)]
show("three sources of 200, 200, 150; no seed", pack("none", *((*s, "none", "") for s in plain)), 200, 200, 150)
show("random.seed(0) in each", pack("seed", *((*s, 0, "") for s in plain)), 0, 50, 150)
show("… and random.shuffle of the images", pack("shuffled", *((*s, 0, "shuffled") for s in plain)), 0, 200, 150)
keyed = pack("key", *((*s, 0, "key") for s in plain))
show("… and key=source and number", keyed, 200, 200, 150)
first, second = (pack(f"order{k}", ("a", 200, "none", "")) for k in (0, 1))
print("the same 200 images packed twice without a seed: read in the same order", first == second)
assert first != second and sorted(first) == sorted(second)
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp"
