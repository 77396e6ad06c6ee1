#!/bin/bash
# torchmetrics 1.9.0 (torch 2.13.0), Python 3.11: the verification metrics of cosine scores depend on how they were batched.
#
# One would guess: update() collects scores, compute() ranks them all; AUC, EER and ROC do not change with the batches.
# What happens:    each update() that holds a score outside [0, 1] sends its whole batch through a sigmoid; a batch inside
#                  [0, 1] stays as it is. The scores are then ranked together. The documentation speaks of logits; that the
#                  question is asked batch by batch is what one does not expect.
# Why it matters:  cosines live in [-1, 1]. LFW's protocol lists 300 genuine pairs, then 300 impostors: fed in this order and
#                  by 300, genuine cosines stay near 0.55 while impostors of about 0.05 become sigmoids near 0.51. Any batch
#                  size that keeps a negative cosine in each batch is right, so the fault comes and goes with the batch size.
#                  Feed (s + 1) / 2.
#
# Seen when written (6,000 pairs in LFW's order, one set of scores):
#   cosines      batches of 6000:  AUC 0.9985  EER 0.0147
#   cosines      batches of  600:  AUC 0.9985  EER 0.0147
#   cosines      batches of  300:  AUC 0.6255  EER 0.3943
#   cosines      batches of   32:  AUC 0.6557  EER 0.3673
#   (s + 1) / 2  any batches:      AUC 0.9985  EER 0.0147
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import torch
from torchmetrics.classification import BinaryAUROC, BinaryEER

genuine = torch.arange(6000) // 300 % 2 == 0
noise = torch.randn(6000, generator=torch.Generator().manual_seed(0)) * 0.12
scores = (noise + torch.where(genuine, 0.55, 0.05)).clamp(-1, 1)


def measure(scores, size):
    auc, eer = BinaryAUROC(), BinaryEER()
    for part, label in zip(scores.split(size), genuine.long().split(size), strict=True):
        auc.update(part, label)
        eer.update(part, label)
    return auc.compute().item(), eer.compute().item()


rows = {}
for name, values in (("cosines", scores), ("(s + 1) / 2", (scores + 1) / 2)):
    for size in (6000, 600, 300, 32):
        auc, eer = rows[name, size] = measure(values, size)
        print(f"{name:<11}  batches of {size:>4}:  AUC {auc:.4f}  EER {eer:.4f}")
assert rows["cosines", 300][0] < rows["cosines", 600][0] - 0.05
assert rows["cosines", 300][1] > rows["cosines", 600][1] + 0.05
assert len({rows["(s + 1) / 2", size] for size in (6000, 600, 300, 32)}) == 1
PY
"$tmp/venv/bin/python" "$tmp/see.py"
