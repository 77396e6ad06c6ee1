#!/bin/bash
# numba 0.68.1 (NumPy 2.4.6), Python 3.11: sum and mean of a float32 array stand still at 2^24 inside @njit.
#
# One would guess: numba compiles NumPy's functions, so a.sum() and a.mean() give what NumPy gives, to the last digits.
# What happens:    NumPy adds float32 in pairs of blocks; numba adds one after the other in float32. From 16,777,216 on,
#                  adding 1 changes nothing, and long before that each addend loses its low bits. The mean of 16.8 million
#                  scores that are all 0.3 is 0.274, the sum of as many ones is 16,777,216 whatever their number.
# Why it matters:  all pairs of 6,000 images are 18 million scores, of a gallery billions. A FAR counted as the sum of a
#                  float32 0/1 array, or the mean of scores for z-norm, written in numba for speed, is wrong by per cents,
#                  and right on every small test. Sum a boolean, or float64.
#
# Seen when written (16,778,216 elements):
#   ones    numpy 16778216.0  numba 16777216.0
#   0.3     numpy mean 0.300000  numba mean 0.273778
#   boolean numba 16778216
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check numba==0.68.1 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import numba
import numpy as np


@numba.njit
def total(a):
    return a.sum()


@numba.njit
def mean(a):
    return a.mean()


n = 2**24 + 1000
ones, scores = np.ones(n, np.float32), np.full(n, 0.3, np.float32)
print(f"ones    numpy {ones.sum()}  numba {total(ones)}")
print(f"0.3     numpy mean {scores.mean():.6f}  numba mean {mean(scores):.6f}")
print(f"boolean numba {total(ones > 0)}")
assert ones.sum() == n and total(ones) == 2**24
assert abs(scores.mean() - 0.3) < 1e-6 and mean(scores) < 0.28
assert total(ones > 0) == n
PY
"$tmp/venv/bin/python" "$tmp/see.py"
