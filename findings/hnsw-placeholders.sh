#!/bin/bash
# faiss-cpu 1.15.1, hnswlib 0.8.0, voyager 2.2.3, usearch 2.26.6 (NumPy 2.4.6, Python 3.11): equal embeddings hide other people.
#
# One would guess: images that are all alike (a site's "no longer available", black crops) cost an index room, and crowd the
#                  answers near themselves. Other people are not concerned: an HNSW graph that found all of them still does.
# What happens:    the nearest neighbours of a copy are the other copies, at distance 0, and its few links go to them alone. The paths
#                  of others that led through it end there: 300 copies beside 5,000 embeddings hide up to a twelfth of all
#                  others, 1,000 of them 2 to 8 %, in each library. Those are not found even by their own embedding, at distance 0. A
#                  search eight times as wide brings some back, in faiss none. As many strangers, each another one, hide nobody.
# Why it matters:  sets crawled from the web have such images by the thousand, and a detector's failures embed alike. The loss
#                  falls on people who have nothing to do with them, and a test on a sample without them finds all. Index each
#                  distinct embedding once.
#
# Seen when written (5,000 embeddings of 500 people beside the copies; how many are found by themselves, k = 1):
#                                 faiss    hnswlib    voyager    usearch  faiss IVF
#       0 copies    ef  64      100.0 %    100.0 %    100.0 %    100.0 %    100.0 %
#       0 copies    ef 512      100.0 %    100.0 %    100.0 %    100.0 %    100.0 %
#     100 copies    ef  64       99.9 %     99.8 %     98.7 %    100.0 %    100.0 %
#     100 copies    ef 512       99.9 %    100.0 %    100.0 %    100.0 %    100.0 %
#     300 copies    ef  64       93.8 %     91.4 %     99.9 %     98.9 %    100.0 %
#     300 copies    ef 512       93.8 %    100.0 %    100.0 %     99.6 %    100.0 %
#    1000 copies    ef  64       91.6 %     94.3 %     97.6 %     91.5 %    100.0 %
#    1000 copies    ef 512       91.6 %     95.9 %     99.4 %     95.8 %    100.0 %
#    1000 strangers ef  64      100.0 %    100.0 %    100.0 %    100.0 %    100.0 %
#    1000 strangers ef 512      100.0 %    100.0 %    100.0 %    100.0 %    100.0 %
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    faiss-cpu==1.15.1 hnswlib==0.8.0 voyager==2.2.3 usearch==2.26.6 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import faiss
import hnswlib
import numpy as np
import voyager
from usearch.index import Index

PEOPLE, IMAGES, WIDTH, PROBES = 500, 10, 64, 1000
faiss.omp_set_num_threads(1)
random = np.random.default_rng(0)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


faces = random.standard_normal((PEOPLE, 1, WIDTH)) + 0.5 * random.standard_normal((PEOPLE, IMAGES, WIDTH))
faces = unit(faces.reshape(-1, WIDTH))
placeholder = unit(random.standard_normal((1, WIDTH)))


def by_faiss(rows, probes, width):
    index = faiss.IndexHNSWFlat(WIDTH, 16, faiss.METRIC_INNER_PRODUCT)
    index.add(rows)
    index.hnsw.efSearch = width
    return index.search(probes, 1)[1]


def by_hnswlib(rows, probes, width):
    index = hnswlib.Index("ip", WIDTH)
    index.init_index(len(rows), M=16, ef_construction=200)
    index.add_items(rows, num_threads=1)
    index.set_ef(width)
    return index.knn_query(probes, 1, num_threads=1)[0]


def by_voyager(rows, probes, width):
    index = voyager.Index(voyager.Space.InnerProduct, num_dimensions=WIDTH, M=16, ef_construction=200)
    index.add_items(rows, num_threads=1)
    return index.query(probes, 1, num_threads=1, query_ef=width)[0]


def by_usearch(rows, probes, width):
    index = Index(ndim=WIDTH, metric="ip", dtype="f32", connectivity=16, expansion_search=width)
    index.add(np.arange(len(rows)), rows, threads=1)
    return index.search(probes, 1, threads=1).keys


def by_inverted_lists(rows, probes, width):
    index = faiss.index_factory(WIDTH, "IVF32,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(rows)
    index.add(rows)
    index.nprobe = 8
    return index.search(probes, 1)[1]


WAYS = {"faiss": by_faiss, "hnswlib": by_hnswlib, "voyager": by_voyager, "usearch": by_usearch, "faiss IVF": by_inverted_lists}
print(f"{'':<24}" + "".join(f"{name:>11}" for name in WAYS))
found = {}
for count, kind in ((0, "copies"), (100, "copies"), (300, "copies"), (1000, "copies"), (1000, "strangers")):
    more = np.repeat(placeholder, count, 0) if kind == "copies" else unit(random.standard_normal((count, WIDTH)))
    order = np.random.default_rng(1).permutation(len(faces) + count)
    rows = np.concatenate([faces, more])[order]
    own = np.argsort(order)[: len(faces)][:: len(faces) // PROBES]
    for width in (64, 512):
        line = f"{count:>5} {kind:<9} ef {width:>3}  "
        for name, way in WAYS.items():
            part = found[count, kind, width, name] = (np.ravel(way(rows, rows[own], width)) == own).mean()
            line += f"{100 * part:>9.1f} %"
        print(line, flush=True)
for (count, kind, width, name), part in found.items():
    if kind == "strangers" or not count or name == "faiss IVF":
        assert part > 0.995, (count, kind, width, name)
    elif count == 1000 and width == 64:
        assert part < 0.99, (count, kind, width, name)
assert found[1000, "copies", 512, "faiss"] < 0.97
PY
"$tmp/venv/bin/python" "$tmp/see.py" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
