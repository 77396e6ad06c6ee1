#!/bin/bash
# deltalake 1.6.6 (pyarrow 26.0.1, NumPy 2.4.6, Python 3.11): in lists of fixed size, bytes above 127 become null.
#
# One would guess: Delta has no unsigned types, so write_deltalake refuses a uint8 above 127, as it does for a plain column and
#                  for lists of any length ("Can't cast value 200 to type Int8"), or widens the column.
# What happens:    under a fixed_size_list each value that the signed type cannot hold is written as null, without a word: uint8
#                  above 127, uint16 above 32,767, in nested lists (H × W × 3) and in structs too. With a list of any length
#                  as the outermost part and a fixed one inside it is the same. Once in the table they are gone.
# Why it matters:  fixed lists are how Arrow holds pixels of aligned 112 × 112 faces, embeddings quantised to uint8, codes of a
#                  product quantiser and hashes. Of a face the light part is null afterwards, of such codes about half; the
#                  number of rows, their lengths and the types look right. Store bytes as binary, or cast to int16.
#
# Seen when written:
#   uint8                        refused: Can't cast value 128 to type Int8
#   list<uint8>                  refused: Can't cast value 128 to type Int8
#   list<uint8>[256]             int8   128 of 256 values null, first at 128
#   list<list<uint8>[16]>[16]    int8   128 of 256 values null, first at 128
#   list<list<uint8>[16]>        int8   128 of 256 values null, first at 128
#   struct<list<uint8>[256]>     int8   128 of 256 values null, first at 128
#   list<uint16>[256]            int16  128 of 256 values null, first at 128
#   drawn face, 112 × 112: 6,916 of 37,632 bytes null, mean of the rest 51.5, was 73.0
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check deltalake==1.6.6 pyarrow==26.0.1 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import shutil
import sys
from pathlib import Path

import deltalake
import numpy as np
import pyarrow as pa

folder = Path(sys.argv[1]) / "table"


def flat(value):
    """The numbers of nested lists and dictionaries, in their order."""
    if isinstance(value, dict):
        value = list(value.values())
    return [number for part in value for number in flat(part)] if isinstance(value, list) else [value]


def read_back(column):
    """The column as a new table gives it, or the error that writing it raises."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        deltalake.write_deltalake(str(folder), pa.table({"x": column}))
    except deltalake.exceptions.DeltaError as error:
        return str(error).rpartition(": ")[2]
    return deltalake.DeltaTable(str(folder)).to_pyarrow_table()["x"]


def fixed(numbers, *sizes):
    """Lists of fixed sizes, the last one innermost."""
    for size in reversed(sizes):
        numbers = pa.FixedSizeListArray.from_arrays(numbers, size)
    return numbers


numbers = pa.array(np.arange(256, dtype=np.uint8))
wide = pa.array(np.arange(256, dtype=np.uint16) * 256)
inner = fixed(numbers, 16)
whole = fixed(numbers, 256)
for name, column in (
    ("uint8", numbers),
    ("list<uint8>", pa.ListArray.from_arrays(pa.array([0, 256], pa.int32()), numbers)),
    ("list<uint8>[256]", whole),
    ("list<list<uint8>[16]>[16]", fixed(numbers, 16, 16)),
    ("list<list<uint8>[16]>", pa.ListArray.from_arrays(pa.array([0, 16], pa.int32()), inner)),
    ("struct<list<uint8>[256]>", pa.StructArray.from_arrays([whole], ["codes"])),
    ("list<uint16>[256]", fixed(wide, 256)),
):
    back = read_back(column)
    if isinstance(back, str):
        print(f"{name:<28} refused: {back}")
        assert name in ("uint8", "list<uint8>") and "Can't cast value" in back
        continue
    seen = flat(back.to_pylist())
    kind = "int16" if "int16" in str(back.type) else "int8"
    lost = [place for place, number in enumerate(seen) if number is None]
    print(f"{name:<28} {kind:<6} {len(lost)} of {len(seen)} values null, first at {lost[0]}")
    assert f": {kind}>" in str(back.type) and lost == list(range(128, 256)), (back.type, lost)
    assert seen[:128] == [number * (256 if kind == "int16" else 1) for number in range(128)]

side = np.linspace(-1, 1, 112)
disc = np.exp(-2 * (side[:, None] ** 2 + side[None, :] ** 2))
face = (disc[:, :, None] * [250, 205, 170]).astype(np.uint8)
back = read_back(fixed(pa.array(face.reshape(-1)), 112 * 112 * 3))
seen = flat(back.to_pylist())
kept = [number for number in seen if number is not None]
print(
    f"drawn face, 112 × 112: {len(seen) - len(kept):,} of {len(seen):,} bytes null, "
    f"mean of the rest {np.mean(kept):.1f}, was {face.mean():.1f}"
)
assert len(seen) - len(kept) == (face > 127).sum() > 5000
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp"
