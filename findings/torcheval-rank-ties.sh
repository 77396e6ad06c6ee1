#!/bin/bash
# torcheval 0.0.7 (torch 2.13.0; Python 3.11): rank-1 and rank-k count a probe whose score ties, or is NaN, as found.
#
# One would guess: hit_rate, reciprocal_rank and multiclass_accuracy(k=…) look for the right identity among the k that topk gives,
#                  of which equal scores share the places, and that NaN is no hit.
# What happens:    the rank is the number of identities with a score greater than the right one's. Equal scores cost nothing, and a
#                  comparison with NaN is false: of a row of NaN the right identity is rank 1. multiclass_accuracy with k=1 takes
#                  the argmax, with k=2 this rank: a network that gives everybody one embedding has 0.1 % and then 100 %.
# Why it matters:  identification is reported as rank-1 and rank-5. The probes that a network fails on, zeros that 0 / 0 made NaN
#                  or embeddings that overflowed in float16, raise it; codes of 4 bits, whose scores often tie, look better than
#                  codes of 64. Ask with topk, and check for finite scores.
#
# Seen when written (2,000 probes of 1,000 identities):
#                           hit_rate(k=1)  reciprocal_rank  accuracy(k=1)  accuracy(k=2)   rank 1 and 2 by sorting
#   cosines                        0.8480         0.8990         0.8480         0.9185         0.8480         0.9185
#   a quarter NaN                  0.8905         0.9267         0.6405         0.9405         0.6405         0.6905
#   one embedding for all          1.0000         1.0000         0.0005         1.0000         0.0020         0.0015
#   codes of 64 bits               0.1265         0.2120         0.0995         0.1820         0.0980         0.1535
#   codes of 16 bits               0.0360         0.0747         0.0185         0.0570         0.0215         0.0270
#   codes of 4 bits                0.1445         0.1517         0.0025         0.1445         0.0015         0.0045
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check torcheval==0.0.7 torch==2.13.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import numpy as np
import torch
from torcheval.metrics.functional import hit_rate, multiclass_accuracy, reciprocal_rank

random = np.random.default_rng(0)
gallery = random.normal(size=(1000, 128)).astype(np.float32)
labels = random.integers(0, 1000, 2000)
probes = gallery[labels] + random.normal(size=(2000, 128)).astype(np.float32) * 2.5


def unit(embeddings):
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def first(scores, k):
    """The share of probes whose identity is among the k greatest scores, ties in the order of a draw; NaN is last."""
    order = random.permutation(1000)
    places = np.argsort(-np.nan_to_num(scores[:, order], nan=-np.inf), axis=1, kind="stable")[:, :k]
    hits = (order[places] == labels[:, None]).any(axis=1)
    return float((hits & np.isfinite(scores).all(axis=1)).mean())


def signs(embeddings, bits):
    return np.where(embeddings[:, :bits] > 0, 1, -1).astype(np.float32)


plain = unit(probes) @ unit(gallery).T
blank = probes.copy()
blank[:500] = 0  # no face was found: an embedding of zeros
with np.errstate(invalid="ignore"):
    failed = unit(blank) @ unit(gallery).T
tables = {"cosines": plain, "a quarter NaN": failed, "one embedding for all": np.ones_like(plain)}
tables |= {f"codes of {bits} bits": signs(probes, bits) @ signs(gallery, bits).T for bits in (64, 16, 4)}
print("                        hit_rate(k=1)  reciprocal_rank  accuracy(k=1)  accuracy(k=2)   rank 1 and 2 by sorting")
seen = {}
target = torch.from_numpy(labels)
for name, scores in tables.items():
    given = torch.from_numpy(scores)
    seen[name] = (
        hit_rate(given, target, k=1).mean().item(),
        reciprocal_rank(given, target).mean().item(),
        multiclass_accuracy(given, target, k=1).item(),
        multiclass_accuracy(given, target, k=2).item(),
        first(scores, 1),
        first(scores, 2),
    )
    print(f"{name:<22}" + "".join(f"{value:15.4f}" for value in seen[name]))
hits, reciprocal, one, two, first_one, first_two = zip(*seen.values())
assert np.isclose(hits[0], first_one[0]) and np.isclose(two[0], first_two[0])
assert hits[1] > hits[0] > first_one[1] and reciprocal[1] > reciprocal[0]
assert hits[2] == reciprocal[2] == two[2] == 1 and one[2] < 0.01 and first_two[2] < 0.01
assert hits[5] > hits[4] and first_one[5] < first_one[4] < first_one[3]
PY
"$tmp/venv/bin/python" "$tmp/see.py" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
