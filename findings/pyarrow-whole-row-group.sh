#!/bin/bash
# pyarrow 26.0.1 (Python 3.11, Linux): iter_batches of a few rows holds the whole row group, unless two arguments are given.
#
# One would guess: ParquetFile.iter_batches(batch_size) is the way to read images a few at a time: memory is about a batch,
#                  or a page, whatever the size of the row group. If not, buffer_size, which the documentation calls the
#                  read buffering, makes it so.
# What happens:    With the defaults, all columns of the row group are read before the first batch. buffer_size alone changes
#                  nothing, for pre_buffer is on and wins; pre_buffer=False alone changes nothing either. Only
#                  both together read page after page.
# Why it matters:  Image sets written by write_table have one row group of up to 1,048,576 rows: a set of 100,000 faces of 8 KB
#                  takes 800 MB in each process that reads it "by batches".
#
# Seen when written (one row group of 20,000 images, 160 MB; batches of 256; peak of Arrow's memory):
#   defaults                               170 MB
#   buffer_size=1 MiB                      170 MB
#   pre_buffer=False                       170 MB
#   pre_buffer=False, buffer_size=1 MiB     19 MB
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1 numpy==2.4.6
cat > "$tmp/write.py" <<'PY'
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

draws = np.random.default_rng(0)
images = pa.array([draws.bytes(8000) for _ in range(20_000)], pa.binary())
table = pa.table({"image": images, "label": np.arange(20_000) // 20})
pq.write_table(table, sys.argv[1], compression="none", use_dictionary=False)
assert pq.ParquetFile(sys.argv[1]).num_row_groups == 1
PY
cat > "$tmp/read.py" <<'PY'
import ast
import sys

import pyarrow as pa
import pyarrow.parquet as pq

options = ast.literal_eval(sys.argv[2])
rows = 0
for batch in pq.ParquetFile(sys.argv[1], **options).iter_batches(256, use_threads=False):
    rows += batch.num_rows
    del batch
assert rows == 20_000
print(pa.default_memory_pool().max_memory() // 1_000_000)
PY
"$tmp/venv/bin/python" "$tmp/write.py" "$tmp/faces.parquet"
peak() {  # what it is called, options, least and most megabytes
    seen=$("$tmp/venv/bin/python" "$tmp/read.py" "$tmp/faces.parquet" "$2")
    printf '%-38s%4d MB\n' "$1" "$seen"
    [ "$seen" -ge "$3" ] && [ "$seen" -le "$4" ] || { echo "no longer so"; exit 1; }
}
peak "defaults" "{}" 150 400
peak "buffer_size=1 MiB" "{'buffer_size': 1048576}" 150 400
peak "pre_buffer=False" "{'pre_buffer': False}" 150 400
peak "pre_buffer=False, buffer_size=1 MiB" "{'pre_buffer': False, 'buffer_size': 1048576}" 0 60
echo "as described"
