#!/bin/bash
# scann 1.4.2 (NumPy 2.4.6, Python 3.11): where neighbours are missing, search_batched names the gallery's first image.
#
# One would guess: a probe whose searched leaves hold fewer images than were asked for gets fewer, or places marked as empty, as
#                  faiss marks them by id -1.
# What happens:    search, of one probe, gives fewer. search_batched and search_batched_parallel fill up with id 0 and distance
#                  NaN. Ids are unsigned, so that none means nobody; with names given as docids it is the first name.
# Why it matters:  leaves of few images and long lists of candidates are usual where a person has a handful of images. Image 0 is
#                  then a neighbour of most probes, many times over: duplicates, votes and hits at rank k that are counted by
#                  id are its person's, and the more so the fewer leaves are searched. A threshold that drops scores below it
#                  keeps NaN. Look for numpy.isnan(distances) first.
#
# Seen when written (1,000 people of 10 images, 1,000 probes; each run builds a slightly different tree):
#   leaves  searched    k    rows with NaN    ids at NaN    image 0 in row, truly    alone, fewest
#      100        10  100                0            []                11      7              100
#      100         1  100              455           [0]               455      7               54
#     1000        10  100              728           [0]               730      7               40
#     1000         1   20              802           [0]               802      1                0
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check scann==1.4.2 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import numpy as np
import scann

PEOPLE, IMAGES, WIDTH = 1000, 10, 128
random = np.random.default_rng(0)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


people = unit(random.standard_normal((PEOPLE, WIDTH), dtype=np.float32))


def images(labels):
    return unit(people[labels] + 0.08 * random.standard_normal((len(labels), WIDTH), dtype=np.float32))


gallery = images(np.repeat(np.arange(PEOPLE), IMAGES))
probes = images(np.arange(PEOPLE))
scores = probes @ gallery.T
print("leaves  searched    k    rows with NaN    ids at NaN    image 0 in row, truly    alone, fewest")
for leaves, searched, k in ((100, 10, 100), (100, 1, 100), (1000, 10, 100), (1000, 1, 20)):
    index = (
        scann.scann_ops_pybind.builder(gallery, k, "dot_product")
        .tree(num_leaves=leaves, num_leaves_to_search=searched, training_sample_size=len(gallery))
        .score_ah(2, anisotropic_quantization_threshold=0.2)
        .reorder(2 * k)
        .build()
    )
    ids, distances = index.search_batched(probes)
    empty = np.isnan(distances)
    first = (ids == 0).any(axis=1).sum()
    truly = (np.partition(scores, -k, axis=1)[:, -k] <= scores[:, 0]).sum()
    alone = [len(index.search(probe)[0]) for probe in probes[:300]]
    marks = sorted(set(ids[empty].tolist()))
    print(
        f"{leaves:6} {searched:9} {k:4} {empty.any(axis=1).sum():16} {str(marks):>13} {first:17} {truly:6} {min(alone):16}"
    )
    assert ids.dtype == np.uint32 and ids.shape == distances.shape == (PEOPLE, k)
    assert empty.any() == ((leaves, searched) != (100, 10)) and marks == ([0] if empty.any() else [])
    assert (min(alone) < k) == empty.any()
    both = index.search_batched_parallel(probes)
    assert (both[0][np.isnan(both[1])] == 0).all() and np.isnan(both[1]).sum() == empty.sum()
    assert not empty.any() or first > 2 * truly
PY
"$tmp/venv/bin/python" "$tmp/see.py" 2> "$tmp/log" || { cat "$tmp/log" >&2; exit 1; }
