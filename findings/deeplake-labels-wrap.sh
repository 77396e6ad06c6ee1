#!/bin/bash
# deeplake 4.7.4 (NumPy 2.4.6, Python 3.11): a label that its column cannot hold is stored as another label.
#
# One would guess: append and assignment refuse a number that the column's type does not hold, as NumPy 2 does for Python's
#                  integers, and as deeplake does for text in a column of numbers (InvalidColumnValueError).
# What happens:    the low bits are kept: 300 in uint8 is 44, 70,000 in uint16 is 4,464, −1 is the greatest number.
#                  Fractions are cut off. All ways in do the same, and ClassLabel("uint8") too, though its type is
#                  the place where the number of classes is settled.
# Why it matters:  MS1MV3 has 93,431 identities, Glint360K 360,232: in a uint16 column, made for a set of 10,000 to which others
#                  were added, identity 65,536 + k joins identity k. Counts of images are right, and the loss still falls.
#                  −1, the usual label of distractors, becomes an identity. Hashes of 64 bits in int64 turn negative.
#
# Seen when written (given → read back; a list, rows, a NumPy array and an assignment gave the same):
#   uint8                 300 → 44
#   uint16              70000 → 4464
#   uint16                 -1 → 65535
#   int32          4294967297 → 1
#   int32                 1.7 → 1
#   ClassLabel            300 → 44
#   identities: 93431 given, 65536 read back
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check deeplake==4.7.4 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import sys
from pathlib import Path

import deeplake
import numpy as np

folder = Path(sys.argv[1])


def read_back(kind, value):
    """What a column of this kind gives for the value, put in by each of four ways."""
    dataset = deeplake.create(str(folder / "set"))
    dataset.add_column("label", kind)
    dataset.append({"label": [value]})
    dataset.append([{"label": value}])
    dataset.append({"label": np.array([value])})
    dataset.append({"label": [0]})
    dataset["label"][3] = value
    seen = {int(dataset["label"][k]) for k in range(4)}
    dataset.commit()
    deeplake.delete(str(folder / "set"))
    assert len(seen) == 1, seen
    return seen.pop()


for name, kind, value, expected in (
    ("uint8", "uint8", 300, 44),
    ("uint16", "uint16", 70000, 4464),
    ("uint16", "uint16", -1, 65535),
    ("int32", "int32", 2**32 + 1, 1),
    ("int32", "int32", 1.7, 1),
    ("ClassLabel", deeplake.types.ClassLabel("uint8"), 300, 44),
):
    seen = read_back(kind, value)
    print(f"{name:<12} {value:>12} → {seen}")
    assert seen == expected

dataset = deeplake.create(str(folder / "text"))
dataset.add_column("label", "uint8")
try:
    dataset.append({"label": ["7"]})
except Exception as error:
    assert type(error).__name__ == "InvalidColumnValueError", error
else:
    raise AssertionError("text was taken")

labels = np.arange(93_431)
dataset = deeplake.create(str(folder / "identities"))
dataset.add_column("label", "uint16")
dataset.append({"label": labels})
dataset.commit()
reopened = deeplake.open(str(folder / "identities"))
distinct = len(np.unique(reopened["label"][:]))
print(f"identities: {len(labels)} given, {distinct} read back")
assert distinct == 65_536
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp"
