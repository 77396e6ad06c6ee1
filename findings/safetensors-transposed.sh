#!/bin/bash
# safetensors 0.8.0 (NumPy 2.4.6, Python 3.11): a transposed array comes back with its values in other places.
#
# One would guess: safetensors.numpy.save_file stores the values of any array, as numpy.save does and as 0.7.0 did, or refuses
#                  a view, as safetensors.torch does for a tensor that is not contiguous.
# What happens:    it writes so many bytes from the array's address, in the order of memory, under the shape of the view. Of a
#                  transposed matrix, an array in Fortran's order or the first columns of a wider one the file has right
#                  names, types, shapes and sizes, and values in other places. Byte order is looked after, strides are not.
# Why it matters:  Paddle and MXNet keep the class centres as (512, classes) or its transpose, and scikit-learn's PCA gives
#                  Fortran's order: converted with .T, every centre is a mixture of all. Norms and histograms of all values
#                  are as before. Pass numpy.ascontiguousarray(…).
#
# Seen when written (1,000 centres of 64 values, cosine of each to what comes back):
#   as they are        1.000
#   transposed (.T)    0.004 on average, 0 of 1000 equal
#   Fortran's order    0.004 on average, 0 of 1000 equal
#   first 32 columns   each other row is one that was left out
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

path = f"{sys.argv[1]}/centres.safetensors"
centres = np.random.default_rng(0).standard_normal((1000, 64), np.float32)
centres /= np.linalg.norm(centres, axis=1, keepdims=True)


def stored(array):
    save_file({"centres": array}, path)
    loaded = load_file(path)["centres"]
    assert loaded.shape == array.shape and loaded.dtype == array.dtype
    return loaded


assert (stored(centres) == centres).all()
print("as they are        1.000")
columns = np.ascontiguousarray(centres.T)
for name, array in (("transposed (.T)", columns.T), ("Fortran's order", np.asfortranarray(centres))):
    assert (array == centres).all()
    back = stored(array)
    cosine = (back * centres).sum(axis=1) / np.linalg.norm(back, axis=1)
    equal = int((back == centres).all(axis=1).sum())
    print(f"{name:<18} {cosine.mean():.3f} on average, {equal} of {len(centres)} equal")
    assert abs(cosine.mean()) < 0.05 and not equal
    assert np.array_equal(np.sort(back, axis=None), np.sort(centres, axis=None))
half = stored(centres[:, :32])
assert (half[0::2] == centres[:500, :32]).all() and (half[1::2] == centres[:500, 32:]).all()
print("first 32 columns   each other row is one that was left out")
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp"
