#!/bin/bash
# torchmetrics 1.9.0 (torch 2.13.0; Python 3.11): MRR, MAP, precision and recall of a search leave out every mate whose score is not above 0.
#
# One would guess: RetrievalMRR, RetrievalMAP, RetrievalPrecision and RetrievalRecall look at the order of the scores, as
#                  RetrievalHitRate, RetrievalRPrecision and RetrievalNormalizedDCG do: cosines, cosines − 1 and negative distances
#                  are the same.
# What happens:    a mate with a score of 0 or less counts as a stranger, at whatever rank it stands. With negative distances each
#                  of the four is 0.0, where the hit rate is 1.0; with cosines the mates below 0 are lost, one in eleven here, and
#                  MAP rises from 0.893 to 0.975, since it is divided by the mates that are left.
# Why it matters:  preds are "a float tensor", and a search's scores are cosines or distances, for which minus is the usual turn.
#                  0.0 is found at once, a MAP of cosines that leaves out the hardest mates is not. Add a number that lifts all
#                  scores above 0.
#
# Seen when written (200 probes, each with 5 mates among 500 images; hard ones, at a mean cosine of 0.2):
#                      MRR     MAP    P@10    R@10   Hit@1  R-Prec    nDCG
#   by the order    1.0000  0.8929  0.4490  0.8980  1.0000  0.8640  0.9550
#   cosine + 1      1.0000  0.8929  0.4490  0.8980  1.0000  0.8640  0.9550
#   cosine          1.0000  0.9751  0.4490  0.8980  1.0000  0.8640  0.9550
#   cosine - 1      0.0000  0.0000  0.0000  0.0000  1.0000  0.8640  0.9550
#   -distance       0.0000  0.0000  0.0000  0.0000  1.0000  0.8640  0.9550
#   mates at a cosine of 0 or less: 0.092
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import numpy as np
import torch
from torchmetrics.retrieval import (
    RetrievalHitRate,
    RetrievalMAP,
    RetrievalMRR,
    RetrievalNormalizedDCG,
    RetrievalPrecision,
    RetrievalRecall,
    RetrievalRPrecision,
)

random = np.random.default_rng(0)
probes, images, mates = 200, 500, 5
right = np.zeros((probes, images), bool)
right[:, :mates] = True
cosines = np.where(right, random.normal(0.2, 0.15, right.shape), random.normal(-0.1, 0.05, right.shape))
order = np.argsort(-cosines, axis=1)
hits = np.take_along_axis(right, order, 1)


def defined():
    """The same figures from the order of the scores alone."""
    first = hits.argmax(1)
    ranks = np.arange(1, images + 1)
    average = (hits * hits.cumsum(1) / ranks).sum(1) / mates
    gains = 1 / np.log2(ranks + 1)
    return (
        (1 / (first + 1)).mean(),
        average.mean(),
        hits[:, :10].mean(),
        hits[:, :10].sum(1).mean() / mates,
        hits[:, 0].mean(),
        hits[:, :mates].mean(),
        ((hits * gains).sum(1) / gains[:mates].sum()).mean(),
    )


metrics = {
    "MRR": RetrievalMRR,
    "MAP": RetrievalMAP,
    "P@10": lambda: RetrievalPrecision(top_k=10),
    "R@10": lambda: RetrievalRecall(top_k=10),
    "Hit@1": lambda: RetrievalHitRate(top_k=1),
    "R-Prec": RetrievalRPrecision,
    "nDCG": RetrievalNormalizedDCG,
}
scores = {
    "cosine + 1": cosines + 1,
    "cosine": cosines,
    "cosine - 1": cosines - 1,
    "-distance": -np.sqrt(2 - 2 * cosines),
}
number = torch.arange(probes).repeat_interleave(images)
target = torch.from_numpy(right).flatten()
by_order = np.array(defined())
print("              " + "".join(f"{name:>8}" for name in metrics))
print("by the order  " + "".join(f"{value:8.4f}" for value in by_order))
seen = {}
for name, values in scores.items():
    preds = torch.from_numpy(values).flatten()
    seen[name] = np.array([make()(preds, target, indexes=number).item() for make in metrics.values()])
    print(f"{name:<14}" + "".join(f"{value:8.4f}" for value in seen[name]))
    assert np.allclose(seen[name][4:], by_order[4:], atol=1e-5)
print(f"mates at a cosine of 0 or less: {(cosines[right] <= 0).mean():.3f}")
assert np.allclose(seen["cosine + 1"], by_order, atol=1e-5)
assert (seen["cosine - 1"][:4] == 0).all() and (seen["-distance"][:4] == 0).all()
assert seen["cosine"][1] > by_order[1] + 0.01
PY
"$tmp/venv/bin/python" "$tmp/see.py" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
