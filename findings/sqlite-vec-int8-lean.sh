#!/bin/bash
# sqlite-vec 0.1.9 (apsw 3.54.1.0; Python 3.11): vec_quantize_int8 cuts off instead of rounding, and strangers come nearer to each other.
#
# One would guess: vec_quantize_int8(…, 'unit') rounds each value × 127 to the nearest level, so that cosines are off by a noise
#                  without direction, as with numpy's rint(127 x).
# What happens:    (x + 1) / 2 × 255 − 128 is cut off towards zero: values above 0 lose a whole level on average, those below none;
#                  all from −0.004 to 0.0117 become 0. Every component leans by half a level to below, which is the same direction
#                  in every embedding, and of 512 values of a unit vector most lie within 6 levels. −x is not the negative of x.
# Why it matters:  cosines of strangers rise together: at a threshold found with floats twice as many of them pass at 512 values,
#                  and 88 times as many at 2,048. The largest change of a cosine is three times that of rounding. Quantise outside
#                  and store by vec_int8.
#
# Seen when written (8 million pairs of strangers, directions drawn at random; threshold at FAR 0.0001 of the floats):
#   value × 127            -2.54  -1.27  -0.38   0.00   0.38   1.27   2.54
#   vec_quantize_int8         -3     -1      0      0      0      0      2
#   values   mean level    mean cosine: floats  sqlite-vec  rint    greatest change: sqlite-vec  rint    FAR: sqlite-vec  rint
#      128        -0.46                0.0000      0.0018 0.0000                      0.0431 0.0163             0.000108 0.000101
#      512        -0.47                0.0000      0.0078 0.0000                      0.0504 0.0169             0.000201 0.000100
#     2048        -0.43                0.0000      0.0298 0.0000                      0.0702 0.0170             0.008852 0.000101
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check sqlite-vec==0.1.9 apsw==3.54.1.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import apsw  # a sqlite3 that loads extensions, which that of Python may not
import numpy as np
import sqlite_vec

random = np.random.default_rng(0)
database = apsw.Connection(":memory:")
database.enable_load_extension(True)
database.load_extension(sqlite_vec.loadable_path())


def quantised(embedding):
    [[code]] = database.execute("SELECT vec_quantize_int8(vec_f32(?), 'unit')", (embedding.tobytes(),))
    return np.frombuffer(code, np.int8)


def cosines(embeddings):
    """Of all pairs."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return (unit @ unit.T)[np.triu_indices(len(unit), 1)]


steps = np.array([-0.02, -0.01, -0.003, 0, 0.003, 0.01, 0.02], np.float32)
print("value × 127          ", *(f"{value:6.2f}" for value in steps * 127))
print("vec_quantize_int8    ", *(f"{level:6}" for level in quantised(steps)))
assert quantised(steps).tolist() == [-3, -1, 0, 0, 0, 0, 2]
print("values   mean level    mean cosine: floats  sqlite-vec  rint    greatest change: sqlite-vec  rint    FAR: sqlite-vec  rint")
for values in (128, 512, 2048):
    embeddings = random.normal(size=(4000, values)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    codes = np.array([quantised(embedding) for embedding in embeddings], np.float32)
    true, leaning, rounded = cosines(embeddings), cosines(codes), cosines(np.rint(embeddings * 127))
    threshold = np.quantile(true, 0.9999)
    change = np.abs(leaning - true).max(), np.abs(rounded - true).max()
    rate, fair = (leaning > threshold).mean(), (rounded > threshold).mean()
    print(
        f"{values:6} {codes.mean():12.2f} {true.mean():21.4f} {leaning.mean():11.4f} {rounded.mean():6.4f}"
        f"{change[0]:28.4f} {change[1]:6.4f} {rate:20.6f} {fair:.6f}".replace("-0.0000", "0.0000")
    )
    assert -0.6 < codes.mean() < -0.35 and abs(rounded.mean()) < 0.001
    if values >= 512:
        assert leaning.mean() > 0.005 and rate > 1.5 * fair and fair < 1.3e-4
assert leaning.mean() > 0.02
PY
"$tmp/venv/bin/python" "$tmp/see.py" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
