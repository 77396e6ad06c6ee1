#!/bin/bash
# faiss-cpu 1.15.1 (NumPy 2.4.6, Python 3.11): index_factory forgets the inner product where a graph meets product quantization.
#
# One would guess: index_factory(d, "HNSW16,PQ32x4", METRIC_INNER_PRODUCT) makes an index of inner products, as "HNSW16",
#                  "HNSW16,SQ8", "PQ32x4" and "IVF8,PQ32x4" do, or refuses, as "LSH" does.
# What happens:    HNSW and NSG over PQ take the metric and make an index of squared distances, without a word; metric_type says
#                  so, if asked. search() gives distances, smallest first. "…,RFlat" refines by the wrong metric, too.
# Why it matters:  of unit embeddings the order is the same, so that rank-1 accuracy reveals nothing. The numbers are others:
#                  "score ≥ 0.5" accepts every stranger and refuses the surest mates. Of embeddings whose norms mean something
#                  (MagFace's quality) the best matches are other rows as well.
#
# Seen when written (300 people; medians of the best score of mates and of strangers, who are accepted at 0.5, and how
# often the best of rows of unequal norms is the one of the largest inner product):
#                        metric  rank 1   mates  strangers   accepted: mates  strangers   largest product
#   Flat                     IP   100 %    0.74       0.40             100 %        2 %             100 %
#   HNSW16                   IP   100 %    0.74       0.40             100 %        2 %             100 %
#   HNSW16,SQ8               IP   100 %    0.73       0.40             100 %        2 %              99 %
#   PQ32x4                   IP   100 %    0.68       0.39             100 %        0 %              70 %
#   IVF8,PQ32x4              IP   100 %    0.70       0.40             100 %        1 %              71 %
#   HNSW16,PQ32x4            L2   100 %    0.56       1.13              71 %      100 %               0 %
#   NSG16,PQ32x4             L2   100 %    0.56       1.12              71 %      100 %               0 %
#   HNSW16,PQ32x4,RFlat      L2   100 %    0.54       1.26              69 %      100 %               0 %
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check faiss-cpu==1.15.1 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import faiss
import numpy as np

PEOPLE, IMAGES, WIDTH = 300, 8, 64
faiss.omp_set_num_threads(1)
random = np.random.default_rng(0)


def unit(rows):
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


images = unit(random.standard_normal((PEOPLE, 1, WIDTH)) + 0.7 * random.standard_normal((PEOPLE, IMAGES, WIDTH)))
probes = np.ascontiguousarray(images[:, 0])
gallery = np.ascontiguousarray(images[:, 1:].reshape(-1, WIDTH))
people = np.repeat(np.arange(PEOPLE), IMAGES - 1)
strangers = unit(random.standard_normal((PEOPLE, WIDTH)))
scaled = gallery * random.uniform(0.5, 2, (len(gallery), 1)).astype(np.float32)
best = (probes @ scaled.T).argmax(axis=1)


def index(description, rows):
    made = faiss.index_factory(WIDTH, description, faiss.METRIC_INNER_PRODUCT)
    made.train(rows)
    made.add(rows)
    if description.startswith("IVF"):
        made.nprobe = made.nlist
    return made


print(f"{'':<20} metric  rank 1   mates  strangers   accepted: mates  strangers   largest product")
for description, right in (
    ("Flat", True),
    ("HNSW16", True),
    ("HNSW16,SQ8", True),
    ("PQ32x4", True),
    ("IVF8,PQ32x4", True),
    ("HNSW16,PQ32x4", False),
    ("NSG16,PQ32x4", False),
    ("HNSW16,PQ32x4,RFlat", False),
):
    plain = index(description, gallery)
    scores, found = plain.search(probes, 1)
    others, _ = plain.search(strangers, 1)
    rank1 = (people[found[:, 0]] == np.arange(PEOPLE)).mean()
    accepted = [(values >= 0.5).mean() for values in (scores, others)]
    product = (index(description, scaled).search(probes, 1)[1][:, 0] == best).mean()
    metric = {faiss.METRIC_INNER_PRODUCT: "IP", faiss.METRIC_L2: "L2"}[plain.metric_type]
    print(f"{description:<20} {metric:>6} {100 * rank1:5.0f} % {np.median(scores):7.2f} {np.median(others):10.2f}   "
          f"{100 * accepted[0]:13.0f} % {100 * accepted[1]:8.0f} % {100 * product:15.0f} %", flush=True)
    assert metric == ("IP" if right else "L2"), description
    assert (accepted[0] > 0.9) == right and (accepted[1] < 0.1) == right, description
    assert rank1 > 0.95, description
    assert product > 0.5 if right else product < 0.1, description
try:
    index("LSH", gallery)
    raise SystemExit("LSH takes inner products now")
except RuntimeError:
    pass
PY
"$tmp/venv/bin/python" "$tmp/see.py" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
