#!/bin/bash
# polars 2.1.0 (Python 3.11): numbers of pairs and bytes are kept in 32 bits and wrap in silence.
#
# One would guess: pl.len() and the sum of sizes in bytes are 64-bit numbers, as in Python, NumPy, DuckDB and SQL.
# What happens:    pl.len(), count(), n_unique(), rank("min"), the sum of a mask and bin.size() are UInt32, and UInt32 times,
#                  plus or minus UInt32 or a Python integer stays UInt32. n (n - 1) // 2 wraps from 65,537 rows on, differences
#                  below zero become 4 billion, and the sum of bin.size() wraps at 4 GiB of images, though sums of 8 and 16
#                  bits are widened. The same names on Series and in lazy queries do the same.
# Why it matters:  the number of impostor pairs is the denominator of FAR: of LFW's 13,233 images it is right, of IJB-C's 469,375
#                  it is 635 million instead of 110 billion, of MS1MV3's 5,179,510 it is 476 million instead of 13.4 trillion.
#                  A set of 100 GB seems to have less than 4.3 GB. Cast to Int64 first.
#
# Seen when written:
#       images  pairs by polars                true
#       13,233       87,549,528          87,549,528
#       65,536    2,147,450,880       2,147,450,880
#       65,537           32,768       2,147,516,416
#      469,375      634,544,577     110,156,210,625
#    5,179,510      476,464,887  13,413,659,330,295
#   40 people × 5,000: genuine 499,900,000, impostor 172,647,168, true 19,500,000,000
#   15 and 25 images, less 20: [4294967291, 5]
#   500 images of 10 MB: 705,032,704 bytes (UInt32)
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check polars==2.1.0
cat > "$tmp/see.py" <<'PY'
import polars as pl

count = pl.len()
print(f"{'images':>10} {'pairs by polars':>16} {'true':>19}")
for images in (13_233, 65_536, 65_537, 469_375, 5_179_510):
    table = pl.select(pl.int_range(images).alias("image"))
    seen = table.select(pairs=count * (count - 1) // 2)["pairs"]
    lazy = table.lazy().select(pairs=count * (count - 1) // 2).collect()["pairs"]
    cast = table.select(pairs=count.cast(pl.Int64) * (count.cast(pl.Int64) - 1) // 2)["pairs"]
    true = images * (images - 1) // 2
    print(f"{images:>10,} {seen[0]:>16,} {true:>19,}")
    assert seen.dtype == lazy.dtype == pl.UInt32 and seen[0] == lazy[0] and cast[0] == true
    assert seen[0] == images * (images - 1) % 2**32 // 2
    assert (seen[0] == true) == (images <= 65_536)

# Genuine and impostor pairs of 40 people with 5,000 images each.
people = pl.select(person=pl.int_range(200_000) % 40).group_by("person").agg(n=count)
genuine = people.select((pl.col("n") * (pl.col("n") - 1) // 2).sum()).item()
total = people.select(n=pl.col("n").sum()).select(pl.col("n") * (pl.col("n") - 1) // 2).item()
true_total = 200_000 * 199_999 // 2
print(f"40 people × 5,000: genuine {genuine:,}, impostor {total - genuine:,}, true {true_total - genuine:,}")
assert genuine == 40 * 5000 * 4999 // 2 and total != true_total

# Images that a person lacks or has in excess of 20.
lack = pl.DataFrame({"person": ["a"] * 15 + ["b"] * 25}).group_by("person", maintain_order=True).agg(over=count - 20)
print("15 and 25 images, less 20:", lack["over"].to_list())
assert lack["over"].to_list() == [2**32 - 5, 5]

# 500 images of 10 MB, which share their memory here.
images = pl.Series("image", [bytes(10_000_000)]).gather([0] * 500)
size = images.bin.size()
print(f"500 images of 10 MB: {size.sum():,} bytes ({size.dtype})")
assert size.dtype == pl.UInt32 and size.sum() == 5_000_000_000 % 2**32
assert size.cast(pl.Int64).sum() == 5_000_000_000
kinds = pl.DataFrame({"label": [1, 2, 2]}).select(
    unique=pl.col("label").n_unique(),
    count=pl.col("label").count(),
    rank=pl.col("label").rank("min"),
    mask=(pl.col("label") == 2).sum(),
)
assert set(kinds.dtypes) == {pl.UInt32}, kinds.dtypes
small = pl.Series([200, 200], dtype=pl.UInt8)
assert small.sum() == 400
PY
"$tmp/venv/bin/python" "$tmp/see.py"
