#!/bin/bash
# scikit-learn 1.9.1, jax 0.10.2, optax 0.2.8 (NumPy 2.4.6, torch 2.13.0; Python 3.11): float16 embeddings of a norm above 256 are normalised to zeros.
#
# One would guess: normalising a float16 embedding, whose every value is small, gives norm 1 to three digits, as torch does, or an
#                  inf or NaN that somebody finds.
# What happens:    squares are summed in float16, whose greatest number is 65,504: from a norm of 256 on the norm is inf, and the
#                  embedding divided by it zeros. sklearn.preprocessing.normalize and Normalizer, jax.numpy.linalg.norm and
#                  optax.cosine_similarity do so without a word; NumPy's norm does with a warning. torch's normalize, and sklearn's
#                  cosine_similarity of the same rows, are right.
# Why it matters:  embeddings are stored in float16, and features that no layer has normalised, or pixels taken as a vector (a face
#                  of 112 × 112 has a norm above 10⁴), may be that long. The longest ones, often of the best pictures, become
#                  zeros, at cosine 0 to everybody, their own twin too. Normalise in float32.
#
# Seen when written (norm of an embedding of 512 values before, and after, by each):
#   norm     sklearn      jax    torch    numpy   cosine to itself: optax   sklearn   warnings
#   1         1.0000   1.0000   1.0000   1.0000                    1.0000    1.0000
#   25        1.0000   1.0002   1.0000   1.0000                    1.0000    1.0000
#   250       1.0001   1.0004   1.0001   1.0001                    1.0010    1.0000
#   260       0.0000   0.0000   1.0000   0.0000                    0.0000    1.0000   numpy
#   1000      0.0000   0.0000   1.0001   0.0000                    0.0000    1.0000   numpy
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 jax==0.10.2 optax==0.2.8 \
    torch==2.13.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import warnings

import jax.numpy as jnp
import numpy as np
import optax
import torch
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import normalize

direction = np.random.default_rng(0).normal(size=512)
direction /= np.linalg.norm(direction)


def by_jax(row):
    values = jnp.asarray(row)
    return values / jnp.linalg.norm(values, axis=1, keepdims=True)


ways = {
    "sklearn": normalize,
    "jax": by_jax,
    "torch": lambda row: torch.nn.functional.normalize(torch.from_numpy(row)),
    "numpy": lambda row: row / np.linalg.norm(row, axis=1, keepdims=True),
}
print("norm   " + "".join(f"{name:>9}" for name in ways) + "   cosine to itself: optax   sklearn   warnings")
for norm in (1, 25, 250, 260, 1000):
    row = (direction * norm).astype(np.float16)[None]
    after, warned = {}, []
    for name, way in ways.items():
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            after[name] = float(np.linalg.norm(np.asarray(way(row), np.float64)))
        if told:
            warned.append(name)
    own = float(optax.cosine_similarity(jnp.asarray(row), jnp.asarray(row))[0]), float(cosine_similarity(row)[0, 0])
    print(f"{norm:<7}" + "".join(f"{value:9.4f}" for value in after.values()), end="")
    print(f"{own[0]:26.4f} {own[1]:9.4f}   {' '.join(warned)}".rstrip())
    assert abs(after["torch"] - 1) < 0.002 and abs(own[1] - 1) < 0.002
    if norm < 256:
        assert all(abs(value - 1) < 0.002 for value in after.values()) and abs(own[0] - 1) < 0.01 and not warned
    else:
        assert after["sklearn"] == after["jax"] == after["numpy"] == own[0] == 0 and warned == ["numpy"]
PY
"$tmp/venv/bin/python" "$tmp/see.py" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
