#!/bin/bash
# duckdb 2.0.1 (NumPy 2.4.6, Python 3.11): an embedding of zeros is the best match of every face, and passes every threshold.
#
# One would guess: the cosine of an image without embedding, stored as zeros, is 0, NULL or NaN, and so never matches: a NaN
#                  is at or above no threshold.
# What happens:    array_cosine_similarity, list_cosine_similarity and 1 - array_cosine_distance give NaN, and SQL orders NaN
#                  here above all numbers, as Postgres does: NaN >= 0.99 is true, ORDER BY … DESC begins with it, max
#                  and arg_max take it. Ordered by the distance, ascending, the same rows come last. With
#                  array_inner_product of unit vectors they score 0.
# Why it matters:  zeros are often stored where no face was found. One such row among 1,000 takes rank 1 from all probes, and
#                  its pairs are false matches at every threshold: FAR does not fall below 1e-3. The query by distance, or a
#                  count of the same scores in NumPy, shows nothing of it. Leave such rows out, or take the inner product.
#
# Seen when written (1,000 gallery faces, one of them zeros, and 200 probes of the same people):
#                                own face first   by arg_max   false matches at 0.99
#   array_cosine_similarity                 0 %          0 %              200  (NumPy: 0)
#   list_cosine_similarity                  0 %          0 %              200  (NumPy: 0)
#   1 - array_cosine_distance               0 %          0 %              200  (NumPy: 0)
#   array_inner_product                   100 %        100 %                0  (NumPy: 0)
#   array_cosine_distance, ASC            100 %
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==2.0.1 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import duckdb
import numpy as np

WIDTH, GALLERY, PROBES, EMPTY = 64, 1000, 200, 777
random = np.random.default_rng(0)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


gallery = unit(random.standard_normal((GALLERY, WIDTH)))
probes = unit(gallery[:PROBES] + random.normal(0, 0.05, (PROBES, WIDTH)))
gallery[EMPTY] = 0
db = duckdb.connect()
db.execute("SET threads = 1")
for table, rows in (("gallery", gallery), ("probe", probes)):
    db.execute(f"CREATE TABLE {table} (id INTEGER, e FLOAT[{WIDTH}])")
    db.executemany(f"INSERT INTO {table} VALUES (?, ?)", [(k, row.tolist()) for k, row in enumerate(rows)])

SCORES = {
    "array_cosine_similarity": "array_cosine_similarity(p.e, g.e)",
    "list_cosine_similarity": "list_cosine_similarity(p.e::FLOAT[], g.e::FLOAT[])",
    "1 - array_cosine_distance": "1 - array_cosine_distance(p.e, g.e)",
    "array_inner_product": "array_inner_product(p.e, g.e)",
}
print(f"{'':<28} own face first   by arg_max   false matches at 0.99")
for name, score in SCORES.items():
    db.execute(f"CREATE OR REPLACE TABLE pair AS SELECT p.id p, g.id g, {score} s FROM probe p, gallery g")
    first = db.execute(
        "SELECT avg((g = p)::INT) FROM (SELECT *, row_number() OVER (PARTITION BY p ORDER BY s DESC) r FROM pair) WHERE r = 1"
    ).fetchone()[0]
    best = db.execute("SELECT avg((g = p)::INT) FROM (SELECT p, arg_max(g, s) g FROM pair GROUP BY p)").fetchone()[0]
    false = db.execute("SELECT count(*), min(g), max(g) FROM pair WHERE s >= 0.99 AND p <> g").fetchone()
    scores = db.execute("SELECT s FROM pair WHERE p <> g").fetchnumpy()["s"]
    numpy_says = int((np.ma.getdata(scores) >= 0.99).sum())
    print(f"{name:<28} {100 * first:12.0f} % {100 * best:10.0f} % {false[0]:16}  (NumPy: {numpy_says})")
    assert numpy_says == 0
    if name == "array_inner_product":
        assert first == best == 1 and false[0] == 0
    else:
        assert first == best == 0 and false == (PROBES, EMPTY, EMPTY)
first = db.execute(
    "SELECT avg((g = p)::INT) FROM (SELECT p.id p, g.id g, row_number() OVER (PARTITION BY p.id"
    " ORDER BY array_cosine_distance(p.e, g.e)) r FROM probe p, gallery g) WHERE r = 1"
).fetchone()[0]
print(f"{'array_cosine_distance, ASC':<28} {100 * first:12.0f} %")
assert first == 1
PY
"$tmp/venv/bin/python" "$tmp/see.py"
