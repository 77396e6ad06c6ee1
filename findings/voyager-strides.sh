#!/bin/bash
# voyager 2.2.3 (NumPy 2.4.6, Python 3.11): of a view, add_items and query read other numbers than the array has.
#
# One would guess: Index.add_items(vectors) takes the rows of any float32 array, or refuses one that is not contiguous.
# What happens:    it reads rows × dimensions numbers from the array's address, in the order of memory. Of a transposed
#                  array, one in Fortran's order, the first columns of a wider one or each second row, the index holds
#                  vectors that no row is like. query of many vectors does the same. Types are looked after (float64 and float16
#                  are converted), strides are not.
# Why it matters:  embeddings are often views: the half of a file that holds image and mirrored image side by side, each second
#                  row, PCA's output. The check that everybody makes, the items of an array asked of the same array, finds
#                  each at distance 0, for both sides are mixed alike. Probes that come one by one find nobody.
#                  Pass numpy.ascontiguousarray(…).
#
# Seen when written (1,000 gallery vectors of 128 values, cosine of the vector held to the row, own row found first):
#                                    cosine   asked together   asked one by one
#   as they are                       1.000          100.0 %            100.0 %
#   Fortran's order                  -0.001          100.0 %              0.0 %
#   first half of 256 columns         0.000          100.0 %              0.2 %
#   each second row                   0.005          100.0 %              0.2 %
#   Fortran's order, float64         -0.001          100.0 %              0.0 %
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check voyager==2.2.3 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import numpy as np
import voyager

COUNT, WIDTH = 1000, 128
random = np.random.default_rng(0)
wide = random.standard_normal((2 * COUNT, 2 * WIDTH), dtype=np.float32)
plain = np.ascontiguousarray(wide[:COUNT, :WIDTH])
galleries = {
    "as they are": plain,
    "Fortran's order": np.asfortranarray(plain),
    "first half of 256 columns": wide[:COUNT, :WIDTH],
    "each second row": np.ascontiguousarray(wide[:, :WIDTH])[::2],
    "Fortran's order, float64": np.asfortranarray(plain.astype(np.float64)),
}

print(f"{'':<30} {'cosine':>8}   asked together   asked one by one")
for name, gallery in galleries.items():
    index = voyager.Index(voyager.Space.Cosine, num_dimensions=WIDTH)
    ids = np.array(index.add_items(gallery))
    rows = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    cosine = (index.get_vectors(ids) * rows).sum(axis=1).mean()
    together = (index.query(gallery, k=1)[0][:, 0] == ids).mean()
    single = [index.query(np.ascontiguousarray(row), k=1)[0][0] for row in gallery]
    alone = (np.array(single) == ids).mean()
    print(f"{name:<30} {cosine:8.3f} {100 * together:14.1f} % {100 * alone:16.1f} %")
    assert together > 0.98
    assert (cosine > 0.99 and alone > 0.98) == (name == "as they are")
    assert name == "as they are" or (abs(cosine) < 0.1 and alone < 0.05)
PY
"$tmp/venv/bin/python" "$tmp/see.py"
