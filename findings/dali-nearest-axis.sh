#!/bin/bash
# DALI 2.4.0 (CPU, Python 3.11, NumPy 2.4.6): nearest-neighbour resizing of a transposed image is not the transposed resized image.
#
# One would guess: fn.resize with INTERP_NN treats rows and columns alike, so that a square face keeps a diagonal mirror
#                  symmetry, and picks the source pixel under the centre of each pixel: floor((i + ½) · n / m).
# What happens:    Columns are that. Rows are not wherever (i + ½) · n / m is a whole number or nearly so: they add the
#                  step up in float32 and end a hair below, so that the pixel before is taken.
# Why it matters:  Sides of faces are such numbers: of 16, 32, 64, 96 or 128 pixels to 112 or 56. Backends that must agree bit
#                  for bit (a low-resolution augmentation, a test against another decoder) cannot with one rule for both axes.
#
# Seen when written (a ramp along the axis):
#    96 → 112: rows 5 differ from the formula, columns 0
#    32 → 112: rows 6 differ from the formula, columns 0
#   128 → 224: rows 16 differ from the formula, columns 0
#   sides 2 to 224 to 56, 112 and 224: rows differ at 21 of 669 pairs, columns at 0
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check nvidia-dali-cuda130==2.4.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import numpy as np
from nvidia.dali import fn, pipeline_def, types


def resized(image, height, width):
    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def pipeline():
        images = fn.external_source(source=lambda: [image], layout="HWC")
        return fn.resize(images, size=(height, width), interp_type=types.INTERP_NN, antialias=False)

    run = pipeline()
    run.build()
    return run.run()[0].as_array()[0]


def differing(n, m):
    """How many of the m rows, and of the m columns, are not the source pixel under their centre."""
    ramp = np.arange(n, dtype=np.uint8)
    rows = resized(np.ascontiguousarray(np.tile(ramp[:, None, None], (1, 2, 1))), m, 2)[:, 0, 0]
    columns = resized(np.ascontiguousarray(np.tile(ramp[None, :, None], (2, 1, 1))), 2, m)[0, :, 0]
    under = (2 * np.arange(m) + 1) * n // (2 * m)
    return int((rows != under).sum()), int((columns != under).sum())


for n, m, expected in ((96, 112, 5), (32, 112, 6), (128, 224, 16)):
    rows, columns = differing(n, m)
    print(f"{n:4} → {m}: rows {rows} differ from the formula, columns {columns}")
    assert (rows, columns) == (expected, 0)
pairs = [differing(n, m) for n in range(2, 225) for m in (56, 112, 224)]
rows, columns = (sum(count > 0 for count in counts) for counts in zip(*pairs))
print(f"sides 2 to 224 to 56, 112 and 224: rows differ at {rows} of {len(pairs)} pairs, columns at {columns}")
assert (rows, columns) == (21, 0)
PY
"$tmp/venv/bin/python" "$tmp/see.py" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
